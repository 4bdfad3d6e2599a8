"""Laws of surgery: the smaller model computes what the masked network computes."""

import dataclasses
import random
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any, cast

import flat
import keras
import models
import numpy as np
import pytest
from cutting import assert_close, check_law, run, selections
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

import dropreg as dr
from dropreg.element._keep import is_allowed
from dropreg.errors import ModelError, ParameterError
from dropreg.network._masked import MaskedNetwork

GRID = sorted(models.BUILDERS)

RELOAD = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "dropreg":
            raise ImportError("dropreg is not installed here")
sys.meta_path.insert(0, Blocked())
import keras, numpy as np
from pathlib import Path
for path in sorted(Path(sys.argv[1]).glob("*.keras")):
    model = keras.saving.load_model(path)
    archive = np.load(path.with_suffix(".npz"))
    inputs = [archive[f"input_{k}"] for k in range(len(model.inputs))]
    found = np.asarray(model(inputs if len(inputs) > 1 else inputs[0], training=False))
    np.testing.assert_allclose(found, archive["outputs"], rtol=1e-5, atol=1e-5)
    print(path.stem)
assert "dropreg" not in sys.modules
"""


def test_files_reload_without_dropreg_and_can_be_trained(tmp_path: Path) -> None:
    for name in GRID:
        model = models.ready(name)
        inputs = models.inputs_for(model, 4)
        small = dr.remove(model, selections(dr.elements(model))[1], on_blocked="keep").model
        small.save(tmp_path / f"{name}.keras")
        arrays: dict[str, Any] = {f"input_{k}": array for k, array in enumerate(inputs)}
        np.savez(tmp_path / f"{name}.npz", outputs=run(small, inputs), **arrays)
    done = subprocess.run([sys.executable, "-c", RELOAD, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == GRID


@pytest.mark.parametrize("name", ["mlp", "separable", "recurrent", "transformer_block"])
def test_the_smaller_model_can_be_trained(name: str) -> None:
    model = models.ready(name)
    x, y = models.data_for(model, 30)
    small = dr.remove(model, dr.Selection.random(dr.elements(model), 0.5)).model
    small.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=models.NO_JIT)
    history = small.fit(x, y, epochs=12, verbose=0).history["loss"]  # type: ignore[arg-type]
    assert history[-1] < history[0]


def test_dropped_weights_stay_zero_in_training_and_after_reloading(tmp_path: Path) -> None:
    model = models.ready("mlp")
    x, y = models.data_for(model, 30)
    selection = dr.Selection.random(dr.elements(model, "weights"), 0.6)
    small = dr.remove(model, selection).model
    gone = [np.asarray(weight) == 0 for weight in small.get_weights()]
    assert sum(int(zeros.sum()) for zeros in gone) == (~selection.kept).sum()

    def train(trained: keras.Model) -> list[np.ndarray]:
        before = trained.get_weights()
        trained.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=models.NO_JIT)
        trained.fit(x, y, epochs=2, verbose=0)  # type: ignore[arg-type]
        assert all((old != new).any() for old, new in zip(before, trained.get_weights(), strict=True))
        return trained.get_weights()

    for zeros, weight in zip(gone, train(small), strict=True):
        assert (weight[zeros] == 0).all()
    small.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    assert isinstance(loaded, keras.Model)
    assert dr.hold_zeros(loaded) == (~selection.kept).sum()
    for zeros, weight in zip(gone, train(loaded), strict=True):
        assert (weight[zeros] == 0).all()


def test_structure_of_inputs_and_outputs_is_kept() -> None:
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((3,), name="b")}
    x = layers.Concatenate()([layers.Dense(5, name="left")(inputs["a"]), layers.Dense(4, name="right")(inputs["b"])])
    outputs = {"one": layers.Dense(2, name="one")(x), "two": layers.Dense(3, name="two")(x)}
    model = keras.Model(inputs, outputs)
    small = dr.remove(model, dr.Selection.random(dr.elements(model), 0.5)).model
    assert {name: tuple(tensor.shape) for name, tensor in small.output.items()} == {"one": (None, 2), "two": (None, 3)}
    assert set(small({"a": np.ones((2, 4)), "b": np.ones((2, 3))})) == {"one", "two"}


def test_arguments_and_configs_that_hold_channels_are_cut() -> None:
    """Constants in expressions, scales by channel, reshapes by function, alphas of PReLU."""
    x = inputs = keras.Input((4, 4, 2))
    x = layers.Conv2D(6, 3, padding="same", name="conv")(x)
    x = x * np.linspace(1, 2, 6, dtype=np.float32) + 0.5
    x = layers.PReLU(shared_axes=[1, 2], alpha_initializer="uniform")(x)
    x = layers.Rescaling(scale=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])(x)
    x = keras.ops.reshape(x, (-1, 16, 6))
    x = layers.PReLU(alpha_initializer="uniform")(x)
    x = layers.Conv1D(4, 3, groups=2, name="grouped")(x)
    x = layers.Flatten()(x)
    model = keras.Model(inputs, layers.Dense(3, name="out")(x))
    for small in check_law(model, "neurons", models.inputs_for(model, 3)):
        assert small.model.count_params() < model.count_params()


def test_copied_layers_keep_their_state() -> None:
    normalize = layers.Normalization()
    normalize.adapt(np.random.default_rng(0).normal(3.0, 2.0, (50, 4)))
    x = inputs = keras.Input((4,))
    x = layers.Lambda(lambda t: t * 2.0)(normalize(x))
    model = keras.Model(inputs, layers.Dense(2, name="out")(layers.Dense(5, name="hidden")(x)))
    check_law(model, "neurons", models.inputs_for(model, 3))


def test_grouped_queries_keep_their_keys() -> None:
    inputs = keras.Input((5, 6))
    x = layers.GroupQueryAttention(3, 4, 2, name="attention")(inputs, inputs)
    model = keras.Model(inputs, layers.Dense(2, name="out")(layers.GlobalAveragePooling1D()(x)))
    elements, x = dr.elements(model, "heads"), models.inputs_for(model, 3)
    for dropped in ([0], [0, 1], [0, 2], [1, 2, 3]):
        selection = dr.Selection.dropping(elements, dropped)
        expected = np.asarray(MaskedNetwork(model, elements)(x, selection.kept[np.newaxis]))
        assert_close(run(dr.remove(model, selection).model, x), expected)


def test_the_report_adds_up() -> None:
    model = models.ready("cnn_bn")
    small = dr.remove(model, dr.Selection.random(dr.elements(model), 0.5))
    layers_table = small.report.layers
    assert layers_table["params_before"].sum() == model.count_params()
    assert layers_table["params_after"].sum() == small.model.count_params()
    assert layers_table["bytes_after"].sum() == 4 * small.model.count_params()
    first = layers_table.set_index("layer").loc["c1"]
    assert np.asarray(first["macs_before"]).item() == 16 * 9 * 4
    assert small.report.bytes_after < small.report.bytes_before
    assert "params" in repr(small)


def test_latency_is_measured_before_and_after() -> None:
    model = models.ready("mlp")
    small = dr.remove(model, dr.Selection.random(dr.elements(model), 0.5))
    frame = small.measure_latency((1, 4), repeats=3, warm_up=1)
    assert frame[["model", "batch"]].to_numpy().tolist() == [["before", 1], ["after", 1], ["before", 4], ["after", 4]]
    assert (frame["p95"].to_numpy() >= frame["median"].to_numpy()).all()
    assert frame["median"].min() > 0
    with pytest.raises(ParameterError, match="`threads` must be an integer of at least 1, received 0"):
        small.measure_latency(threads=0)


# Selections


BOTH = models.ready("bidirectional")  # of the first layer as many units must stay in either direction


@given(st.lists(st.floats(-5, 5), min_size=8, max_size=8), st.floats(0, 0.75), st.integers(1, 3))
def test_selections_keep_the_top_of_both_directions(scores: list[float], fraction: float, least: int) -> None:
    elements = dr.elements(BOTH)
    assert len(elements) == 8
    assert "'forward_gru' and 'backward_gru' must keep equally many" in repr(elements)
    assert not dr.elements(BOTH, "embeddings").equal
    assert not dr.elements(BOTH, include=["forward_gru"]).equal
    floor = {"forward_gru": least}
    asked = 8 - round(8 * fraction)
    if asked < least + 2:
        return
    kept = dr.select(elements, scores, fraction=fraction, floor=floor).kept
    free = dr.select(dataclasses.replace(elements, equal=()), scores, fraction=fraction, floor=floor).kept
    forward, backward = (elements.columns_of(f"{name}_gru") for name in ("forward", "backward"))
    count = kept[forward].sum()
    assert count == kept[backward].sum() == max(-(-free[[*forward, *backward]].sum() // 2), least)
    for columns in (forward, backward):
        top = columns[np.argsort(-np.array(scores)[columns], kind="stable")[:count]]
        assert kept[top].all()
    others = np.setdiff1d(np.arange(8), [*forward, *backward])
    np.testing.assert_array_equal(kept[others], free[others])
    assert is_allowed(elements, kept, floor)
    odd = kept.copy()
    odd[forward[0]] ^= True
    assert not is_allowed(elements, odd, 0)


def test_selections_keep_the_top_and_a_floor() -> None:
    model = models.ready("mlp")
    elements = dr.elements(model)
    scores = np.array([9, 8, 7, 6, 5, 1, 2, 3, 4.0])
    chosen = dr.select(elements, scores, fraction=5 / 9)
    assert np.flatnonzero(chosen.kept).tolist() == [0, 1, 2, 8]
    assert dr.select(elements, scores, fraction=1 / 3, floor=3).by_layer()["kept"].tolist() == [3, 3]
    assert dr.select(elements, scores, fraction=1 / 3, round_to=2).by_layer()["kept"].tolist() == [5, 2]
    signed = np.array([1, 1, 1, 1, -9, 1, 1, 1, 1.0])
    assert not dr.select(elements, signed, fraction=1 / 9).kept[4]
    assert dr.select(elements, signed, fraction=1 / 9, by="absolute").kept[4]
    assert chosen.params == elements.params[~chosen.kept].sum()
    assert chosen.fraction == pytest.approx(5 / 9)
    assert dr.Selection.keeping(elements, [0, 1, 2, 8]).kept.tolist() == chosen.kept.tolist()
    assert dr.Selection.dropping(elements, chosen.dropped.tolist()).kept.tolist() == chosen.kept.tolist()
    with pytest.raises(ValueError, match="read-only"):
        chosen.kept[0] = False


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda e: dr.Selection(e, np.ones(3, bool)), r"`kept` must be booleans of shape \(9,\)"),
        (lambda e: dr.Selection(e, cast(Any, np.ones(9))), "received float64"),
        (lambda e: dr.Selection.dropping(e, [9]), "numbers of elements, 0 to 8, received 9"),
        (lambda e: dr.select(e, np.ones(9), fraction=1.0), r"`fraction` must lie in \[0, 1\), received 1.0"),
        (
            lambda e: dr.select(e, np.ones(8), fraction=0.5),
            r"shape \(9,\), one for each element, received shape \(8,\)",
        ),
        (lambda e: dr.select(e, np.full(9, np.nan), fraction=0.5), "9 that are not finite"),
        (
            lambda e: dr.select(e, np.ones(9), fraction=0.5, floor=-1),
            r"`floor` must be a number .* or 'all', received -1\.",
        ),
        (
            lambda e: dr.select(e, np.ones(9), fraction=0.8, floor=2),
            "leaves 2 of 9 elements, fewer than `floor` asks for",
        ),
        (
            lambda e: dr.select(e, np.ones(9), fraction=0.5, by=cast(Any, "size")),
            "`by` must be one of impact, absolute",
        ),
    ],
)
def test_bad_selections_are_refused(call: Any, text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        call(dr.elements(models.ready("mlp")))


# Bad input


def test_a_selection_for_another_model_is_refused() -> None:
    elements = dr.elements(models.ready("mlp"))
    selection = dr.Selection.random(elements, 0.5)
    with pytest.raises(ModelError, match=r"`selection` was made for elements in another model than .*has changed"):
        dr.remove(models.ready("cnn"), selection)
    changed = keras.Sequential([*models.ready("mlp").layers[:-1], layers.Dense(4, name="out")])
    changed.build((None, 6))
    with pytest.raises(ModelError, match="or it has changed since"):
        dr.remove(changed, selection)
    small = dr.remove(models.ready("mlp"), selection).model
    with pytest.raises(ModelError, match="or it has changed since"):
        dr.remove(small, selection)


def test_global_random_state_is_unchanged() -> None:
    """Keras takes seeds from them for layers that it makes anew."""
    model = models.ready("mlp")
    data, elements = models.data_for(model, 30), dr.elements(model)
    before = random.getstate()
    small = dr.remove(model, dr.Selection.random(elements, 0.4), data=data).model
    dr.recover(small, data, recovery=dr.Recovery(epochs=1))
    for kind in (elements, dr.elements(model, "weights")):
        flat.prune_iteratively(model, data, kind, fraction=0.4, steps=2, scorer=dr.scorers.magnitude)
    with pytest.raises(ModelError, match="must keep at least one"):
        dr.remove(model, dr.Selection.dropping(elements, range(5)))
    assert random.getstate() == before


def test_an_empty_layer_is_refused() -> None:
    model = models.ready("mlp")
    elements = dr.elements(model)
    with pytest.raises(ModelError, match=r"layer 'a' \(Dense\) must keep at least one of its 5 units.*floor=1"):
        dr.remove(model, dr.Selection.dropping(elements, range(5)))
    model = models.ready("transformer_block")
    heads = dr.elements(model, "heads")
    with pytest.raises(ModelError, match="at least one of its 2 heads"):
        dr.remove(model, dr.Selection.dropping(heads, [0, 1]))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"selection": np.ones(9, bool)}, "`selection` must be Selection, received ndarray"),
        ({"merge": "least_squares"}, "`merge` 'least_squares' must have examples to learn from, received none"),
        ({"merge": "best"}, "`merge` must be one of least_squares, none or a LeastSquares, received 'best'"),
        ({"on_blocked": "skip"}, "`on_blocked` must be one of raise, keep, received 'skip'"),
    ],
)
def test_bad_arguments_of_selections_are_refused(arguments: dict[str, Any], text: str) -> None:
    model = models.ready("mlp")
    selection = dr.Selection.random(dr.elements(model), 0.5)
    call = partial(dr.remove, model, **{"selection": selection, **arguments})
    with pytest.raises(ParameterError, match=text):
        call()
