"""Several outputs, mixed precision, and data that come in batches or lie on disk."""

import zipfile
from collections.abc import Callable
from typing import Any

import flat
import keras
import models
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from kinds import inputs, masked, randomized, reads_text, two_outputs

import dropreg as dr
from dropreg.data._examples import check_data
from dropreg.errors import DataError, ModelError


def test_an_outcome_is_measured_on_the_output_chosen() -> None:
    model = two_outputs()
    x = inputs(model, 50)
    y = [np.random.default_rng(0).integers(0, 3, 50), np.random.default_rng(1).normal(size=50)]
    elements = dr.elements(model)
    says = r"`data` must name one .*\(first, second\), received labels {}: pass \(x, {{'first': y}}\)"
    with pytest.raises(DataError, match=says.format("without a name")):
        flat.sample(model, (x, y), elements, rows=64, progress=False)
    with pytest.raises(DataError, match=says.format("of third")):
        dr.scorers.taylor(model, (x, {"third": y[0]}), elements)
    first = flat.estimate(model, (x, y), elements, rows=5_000, outcome="loss", output="first", progress=False)
    assert (first.impact != 0).all()
    second = flat.estimate(
        *(model, (x, dict(zip(["first", "second"], y, strict=True))), elements),
        rows=5_000,
        outcome="loss",
        output=1,
        progress=False,
    )
    unread = np.array(elements.layers) == "own"
    assert np.abs(second.impact[unread]).max() < 4 * np.nanmax(second.std_error)
    assert np.abs(second.impact[~unread]).max() > 10 * np.abs(second.impact[unread]).max()


@pytest.mark.parametrize("scorer", [dr.scorers.taylor, dr.scorers.spread, dr.scorers.leave_one_out])
@pytest.mark.parametrize("output", ["first", "second"])
def test_scorers_measure_the_output_that_labels_name(scorer: Callable[..., dr.ImpactTable], output: str) -> None:
    """As if the model had no other."""
    model = two_outputs()
    x = inputs(model, 50)
    y = {"first": np.random.default_rng(0).integers(0, 3, 50), "second": np.random.default_rng(1).normal(size=50)}
    alone = keras.Model(model.input, model.get_layer(output).output)
    of_both = scorer(model, (x, {output: y[output]}), dr.elements(model), outcome="loss")
    of_one = scorer(alone, (x, y[output]), dr.elements(alone), outcome="loss")
    found = dict(zip(of_both.frame["element"], of_both.impact, strict=True))
    read = np.array([found.pop(name) for name in of_one.frame["element"]])
    np.testing.assert_allclose(read, of_one.impact, rtol=1e-4, atol=1e-6)
    assert np.abs(read).max() > 0
    assert list(found.values()) == [0.0] * len(found)  # what only the other output reads


@pytest.mark.parametrize("output", ["first", "second"])
def test_a_model_of_several_outputs_gets_smaller(output: str) -> None:
    """Units that only the other output reads go first; whatever is merged, all outputs stay."""
    model = two_outputs()
    x = inputs(model, 200)
    small = dr.prune(model, data=(x, {output: None}), fraction=1 / 3)
    assert [y.shape for y in small.model(x)] == [(200, 3), (200, 1)]
    gone = np.array(small.selection.elements.layers)[~small.selection.kept]
    assert (set(gone) == {"own"}) == (output == "second")
    labels = [np.zeros(200, int), np.zeros(200)]  # all of them, as fit takes them
    merged, again = (
        dr.remove(model, small.selection, data=data, recovery="none") for data in ((x, {output: None}), (x, labels))
    )
    for one, other in zip(merged.model(x), again.model(x), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
    errors = [
        sum(np.square(np.subtract(y, whole)).mean() / np.var(whole) for y, whole in zip(one(x), model(x), strict=True))
        for one in (small.model, merged.model)
    ]
    assert errors[0] < errors[1]


@pytest.mark.usefixtures("few_rounds")
def test_an_accuracy_limit_measures_the_output_that_labels_name() -> None:
    model = two_outputs()
    model = keras.Model(model.input, model.outputs[::-1])
    x = inputs(model, 400)
    y = np.argmax(model(x)[1], axis=1)
    limit = dr.AccuracyLimit(0.4, (x, {"first": y}))
    small = dr.prune(model, data=(x.copy(), {"first": y}), target=limit, recovery="none")
    wrong = np.argmax(small.model(x)[1], axis=1) != y
    assert wrong.mean() < limit.measure(small) < 0.4
    with pytest.raises(DataError, match=r"`data` of an accuracy limit must be a pair \(x, y\) with labels"):
        dr.AccuracyLimit(0.4, (x, {"first": None}))


def test_fine_tuning_one_output_of_several_is_refused() -> None:
    model = two_outputs()
    with pytest.raises(
        ModelError, match=r"`recover` must have a model of one output to learn.*received 2 \(first, second\)"
    ):
        dr.recover(model, (inputs(model, 20), {"first": np.zeros(20, int)}))


def test_pruning_several_outputs_in_steps_is_refused_before_it_begins_if_it_fine_tunes() -> None:
    model = two_outputs()
    data, tuning = ((inputs(model, 20), {"first": np.zeros(20, int)}) for _ in range(2))
    scorer = dr.scorers.Scorer(lambda *_, **__: pytest.fail("nothing is to be scored"), {})
    with pytest.raises(ModelError, match="`recover` must have a model of one output"):
        flat.prune_iteratively(
            *(model, data, dr.elements(model)), fraction=0.5, scorer=scorer, recovery=dr.Recovery(), tuning=tuning
        )


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(policy: str) -> None:
    """Masked equals zeroed to the precision that the layers compute in."""
    x = inputs_tensor = keras.Input((6,))
    x = layers.Dense(5, activation="relu", name="a", dtype=policy)(x)
    model = keras.Model(inputs_tensor, layers.Dense(3, name="out", dtype=policy)(x))
    randomized(model)
    for kind in ("neurons", "weights"):
        elements, x = dr.elements(model, kind), inputs(model, 5)
        record = flat.sample(*(model, (x, np.arange(5) % 3), elements), rows=1280, gradients=("loss",), progress=False)
        assert np.isfinite(dr.regress(record, outcome="loss").impact).all()
    mask = np.array([[True, False, True, False, True]])
    found = masked(model, dr.elements(model), x, np.repeat(mask, 5, axis=0)).astype(np.float32)
    kernel, bias = model.get_layer("out").get_weights()
    model.get_layer("out").set_weights([kernel * mask.T, bias])
    np.testing.assert_allclose(found, np.asarray(model(x)).astype(np.float32), rtol=0.05, atol=0.05)


class Batches(keras.utils.PyDataset):
    """Batches of 8 of arrays."""

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        super().__init__()
        self.x, self.y = x, y

    def __len__(self) -> int:
        return (len(self.x) + 7) // 8

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        return self.x[8 * index : 8 * index + 8], self.y[8 * index : 8 * index + 8]


@pytest.mark.parametrize(
    "use",
    [
        lambda model, data, elements: flat.anneal(model, data, elements, fraction=0.5, rounds=2).kept,
        lambda model, data, elements: (
            flat.anneal(*(model, data, elements), target=dr.Budget("params", 0.97), rounds=1, ablation="merged").kept
        ),
        lambda model, data, elements: dr.prune(model, data=data, elements=elements, fraction=0.5).selection.kept,
        lambda model, data, elements: dr.compare(
            *(model, data, elements),
            fractions=(0.5,),
            scorers={"spread": dr.scorers.spread, "activation": dr.scorers.activation},
        )["loss"],
    ],
)
@pytest.mark.usefixtures("few_rounds")
def test_a_generator_is_read_once(use: Callable[..., Any]) -> None:
    model = models.ready("mlp")
    x, y = models.data_for(model, 30)
    elements = dr.elements(model)
    batches = ((x[k : k + 4], y[k : k + 4]) for k in range(0, 30, 4))
    np.testing.assert_array_equal(use(model, batches, elements), use(model, (x, y), elements))


@pytest.mark.parametrize("source", ["tf.data", "generator", "PyDataset", "memmap"])
def test_data_may_come_in_batches_or_lie_on_disk(source: str, tmp_path) -> None:
    model = models.ready("cnn")
    x, y = models.data_for(model, 30)
    elements = dr.elements(model)
    if source == "tf.data":
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(7)
    elif source == "generator":
        data = ((x[k : k + 4], y[k : k + 4]) for k in range(0, 30, 4))
    elif source == "PyDataset":
        data = Batches(x, y)
    else:
        np.save(tmp_path / "x.npy", x)
        data = (np.load(tmp_path / "x.npy", mmap_mode="r"), y)
    options = {"rows": 300, "fidelity": None, "progress": False}
    found, expected = (flat.sample(model, d, elements, **options) for d in (data, (x, y)))
    for one, other in zip(found.chunks(), expected.chunks(), strict=True):
        np.testing.assert_array_equal(one.effects, other.effects)


def test_text_may_be_strings_or_bytes() -> None:
    model = reads_text()
    texts, y = np.array([["a b"], ["\N{LATIN SMALL LETTER C WITH CEDILLA}"], ["a c"]] * 4), np.arange(12) % 3
    elements, tables = dr.elements(model), []
    for x in (texts, texts.astype(object), texts.tolist(), np.char.encode(texts, "utf-8"), tf.constant(texts)):
        tables.append(flat.estimate(model, (x, y), elements, rows=300, outcome="loss", progress=False).impact)
        assert check_data(model, (x, y)).fingerprints() == check_data(model, (texts, y)).fingerprints()
    assert tables[0].any()
    for table in tables:
        np.testing.assert_array_equal(table, tables[0])


def test_batches_of_another_dtype_are_taken_where_nothing_is_lost() -> None:
    parts = [np.array([[0.5, np.nan]]), np.array([[1, 2]]), np.array([[True, False]]), np.array([[3, 4]], np.float16)]
    x, y = dr.datasets.stream((part, np.zeros(1)) for part in parts)
    assert x.dtype == np.float64
    np.testing.assert_array_equal(x, np.concatenate(parts))
    assert y.shape == (4,)


@pytest.mark.parametrize("labels", [(), (None,)])
def test_batches_without_labels(labels: tuple[None, ...]) -> None:
    x, y = dr.datasets.stream((np.full((2, 3), k), *labels) for k in range(2))
    assert y is None
    np.testing.assert_array_equal(x[:, 0], [0, 0, 1, 1])


def test_bfloat16_is_read_as_float32() -> None:
    model = models.ready("mlp")
    x, y = models.data_for(model, 10)
    x = tf.cast(x, tf.bfloat16)
    streamed, _ = dr.datasets.stream(tf.data.Dataset.from_tensor_slices((x, y)).batch(4))
    for given in (streamed, x):
        (array,) = check_data(model, (given, y)).inputs
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, tf.cast(x, tf.float32).numpy())


@pytest.mark.parametrize("name", ["mlp", "two_inputs", "tagger"])
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_examples_and_data_convert_both_ways(name: str, n_outputs: int) -> None:
    model = models.ready(name)
    x, y = models.data_for(model, 12)
    output = model.outputs[0]
    if n_outputs == 2:
        model = keras.Model(model.inputs, [layers.Dense(2, name="other")(output), output])
        y = {model.output_names[1]: y}
    for labels in (y, {model.output_names[1]: None} if n_outputs == 2 else None):
        examples = check_data(model, (x, labels))
        assert examples.output == n_outputs - 1
        part = examples.part(slice(1, None, 3))
        assert part.output == examples.output
        assert len(part) == 4
        for mine, whole in zip(part.inputs, examples.inputs, strict=True):
            np.testing.assert_array_equal(mine, whole[1::3])
        assert (part.labels is None) == (labels is not y)
        if part.labels is not None and examples.labels is not None:
            np.testing.assert_array_equal(part.labels, examples.labels[1::3])


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet", "vit"])
@pytest.mark.parametrize("argument", ["input_axes", "quantization_config", "use_gate", "sliding_window", "renorm"])
def test_shipped_models_load_in_the_oldest_supported_keras(name: str, argument: str) -> None:
    with zipfile.ZipFile(dr.datasets.model_path(name)) as file:
        config = file.read("config.json").decode()
    assert f'"{argument}"' not in config
