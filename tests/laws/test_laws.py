"""Laws of the masked network and of the estimates, over a grid of models."""

import itertools

import flat
import keras
import models
import numpy as np
import pytest
import tensorflow as tf

import dropreg as dr
from dropreg.errors import DataError, ParameterError
from dropreg.graph._access import all_layers
from dropreg.network._masked import MaskedNetwork

RELATIVE = 1e-5  # float32 rounding through a few layers
GRID = sorted(models.BUILDERS)


def outputs(network: MaskedNetwork, inputs: list[np.ndarray], masks: np.ndarray | None) -> np.ndarray:
    return np.asarray(network(inputs, masks))


def random_masks(rows: int, n_elements: int, seed: int, keep: float = 0.6) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, n_elements)) < keep


def layer_named(model: keras.Model, name: str) -> keras.layers.Layer:
    return next(layer for layer in model._flatten_layers() if layer.name == name)


def disturb_units(model: keras.Model, units: list[tuple[str, int]], seed: int) -> None:
    """Give units other incoming weights and biases: nothing may notice once they are dropped."""
    rng = np.random.default_rng(seed)
    for name, index in units:
        layer = layer_named(model, name)
        weights = layer.get_weights()
        arrays = weights[1:] if isinstance(layer, keras.layers.SeparableConv2D) else weights
        for array in arrays:
            if hasattr(layer, "cell"):
                at = (..., slice(index, None, layer.units))
                array[at] = rng.normal(scale=3.0, size=array[at].shape)
                continue
            at = (..., index, slice(None)) if "Transpose" in type(layer).__name__ and array.ndim > 1 else (..., index)
            array[at] = rng.normal(scale=3.0, size=array[at].shape)
        layer.set_weights(weights)


@pytest.mark.parametrize("name", GRID)
def test_keeping_everything_is_the_model(name: str) -> None:
    model = models.ready(name)
    network = MaskedNetwork(model, dr.elements(model))
    x = models.inputs_for(model, 7)
    expected = np.asarray(model(x if len(x) > 1 else x[0], training=False))
    everything = np.ones((7, len(network.elements)), dtype=bool)
    np.testing.assert_allclose(outputs(network, x, None), expected, rtol=RELATIVE, atol=1e-6)
    np.testing.assert_allclose(outputs(network, x, everything), expected, rtol=RELATIVE, atol=1e-6)


@pytest.mark.parametrize("name", GRID)
def test_a_dropped_element_is_not_read(name: str) -> None:
    """The output does not depend on what a dropped unit computes."""
    model = models.build(name)
    elements = dr.elements(model)
    x, network = models.inputs_for(model, 5), MaskedNetwork(model, elements)
    for element in range(len(elements)):
        masks = random_masks(5, len(elements), seed=element)
        masks[:, element] = False
        before = outputs(network, x, masks)
        kept = model.get_weights()
        disturb_units(model, list(elements.members[element]), seed=element)
        after = outputs(network, x, masks)
        np.testing.assert_allclose(after, before, rtol=RELATIVE, atol=1e-6)
        model.set_weights(kept)


@pytest.mark.parametrize("name", GRID)
def test_a_kept_element_is_read(name: str) -> None:
    """The other half: while it is kept, another unit in its place shows in the output."""
    model = models.build(name)
    elements = dr.elements(model)
    x, network = models.inputs_for(model, 5), MaskedNetwork(model, elements)
    everything = np.ones((5, len(elements)), dtype=bool)
    before = outputs(network, x, everything)
    for element in range(len(elements)):
        kept = model.get_weights()
        disturb_units(model, list(elements.members[element]), seed=element)
        after = outputs(network, x, everything)
        assert np.abs(after - before).max() > 1e-6, elements.names[element]
        model.set_weights(kept)


@pytest.mark.parametrize("name", GRID)
def test_masked_equals_readers_without_the_channels(name: str) -> None:
    """Dropping elements is the same as taking their rows out of every kernel that reads them."""
    model = models.build(name)
    elements = dr.elements(model)
    network = MaskedNetwork(model, elements)
    x = models.inputs_for(model, 6)
    mask = random_masks(1, len(elements), seed=3)[0]
    masked = outputs(network, x, np.broadcast_to(mask, (6, len(mask))))
    for gate in elements.gates:
        gone = (gate.columns >= 0) & ~mask[gate.columns]
        layer = network.graph.calls[gate.call].layer
        weights = layer.get_weights()
        kernel = weights[0]
        if isinstance(layer, keras.layers.Bidirectional):
            weights[3][gone] = 0.0
        if isinstance(layer, keras.layers.Dense):
            kernel[gone] = 0.0
        elif getattr(layer, "groups", 1) > 1:
            width = kernel.shape[-1] // layer.groups
            for group, part in enumerate(np.split(gone, layer.groups)):
                kernel[..., part, group * width : (group + 1) * width] = 0.0
        elif "Transpose" in type(layer).__name__:
            kernel[..., gone] = 0.0
        else:
            kernel[..., gone, :] = 0.0
        layer.set_weights(weights)
    for gate in elements.inner_gates:
        cell = all_layers(model)[gate.layer]
        weights = cell.get_weights()
        weights[1][~mask[gate.columns]] = 0.0
        cell.set_weights(weights)
    rowless = np.asarray(model(x if len(x) > 1 else x[0], training=False))
    np.testing.assert_allclose(masked, rowless, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", GRID)
def test_rows_are_independent(name: str) -> None:
    model = models.ready(name)
    network = MaskedNetwork(model, dr.elements(model))
    x = models.inputs_for(model, 6)
    masks = random_masks(6, len(network.elements), seed=1)
    together = outputs(network, x, masks)
    for row in range(6):
        alone = outputs(network, [array[row : row + 1] for array in x], masks[row : row + 1])
        np.testing.assert_allclose(together[row], alone[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", GRID)
def test_prefix_and_suffix_compose_to_the_network(name: str) -> None:
    """Frontier values computed once an example serve every mask."""
    model = models.ready(name)
    network = MaskedNetwork(model, dr.elements(model))
    x = models.inputs_for(model, 4)
    frontier = network.prefix([tf.constant(array) for array in x])
    for seed in range(3):
        masks = random_masks(4, len(network.elements), seed).astype(np.float32)
        again = np.asarray(network.suffix(frontier, tf.constant(masks)))
        np.testing.assert_allclose(again, outputs(network, x, masks), rtol=RELATIVE, atol=1e-6)


@pytest.mark.parametrize("name", GRID)
def test_the_callers_model_is_never_changed(name: str) -> None:
    model = models.ready(name)
    x, y = models.data_for(model, 20)
    weights = model.get_weights()
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    before = np.asarray(model(x, training=False))
    elements = dr.elements(model)
    flat.sample(model, (x, y), elements, rows=64, progress=False)
    with pytest.raises(DataError):
        flat.sample(model, (x, y[:-1]), elements, rows=64, progress=False)
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert nodes == [len(layer._inbound_nodes) for layer in model.layers]
    assert not model.losses
    np.testing.assert_array_equal(before, np.asarray(model(x, training=False)))


@pytest.mark.parametrize("name", GRID)
def test_costs_add_up_to_the_model(name: str) -> None:
    """An element's parameters are those that a model without it lacks."""
    model = models.ready(name)
    elements = dr.elements(model)
    assert (elements.params > 0).all()
    if name == "recurrent":
        lstm, each, simple = (4 * (3 + 7) + 4 + 3, 4 + 1 + 4, (3 + 7) + 1 + 3 * 3)
        gru = 3 * (4 + 5) + 6 + 3
        assert elements.params.tolist() == [lstm] * 4 + [each] * 3 + [simple] * 4 + [gru] * 3
    assert elements.params.max() < model.count_params()
    if name == "mlp":
        assert elements.params.tolist() == [6 + 1 + 4] * 5 + [5 + 1 + 3] * 4
    if name == "cnn_bn":
        assert elements.params.tolist() == [9 + 4 + 9 * 3] * 4 + [9 * 4 + 1 + 4 + 3] * 3
        assert elements.macs.tolist() == [16 * 9 + 16 * 9 * 3] * 4 + [16 * 9 * 4 + 3] * 3


# Law 4: the closed-form answer by enumeration of every mask


def true_impacts(model: keras.Model, data: tuple, elements: dr.Elements, rate: float) -> dict[str, np.ndarray]:
    """Impact of each element on accuracy and loss, from all 2**n masks on all examples."""
    x, y = data
    network = MaskedNetwork(model, elements)
    n = len(elements)
    masks = np.array(list(itertools.product([True, False], repeat=n)))
    weights = np.prod(np.where(masks, 1 - rate, rate), axis=1)
    arrays = x if isinstance(x, list) else [x]
    n_masks, n_examples = len(masks), len(y)
    rows = [np.repeat(array, n_masks, axis=0) for array in arrays]
    scores = outputs(network, rows, np.tile(masks, (n_examples, 1))).astype(np.float64)
    labels = np.repeat(y, n_masks)
    log_p = scores - np.log(np.exp(scores - scores.max(1, keepdims=True)).sum(1, keepdims=True))
    log_p -= scores.max(1, keepdims=True)
    measured = {"accuracy": (scores.argmax(1) == labels).astype(float), "loss": -log_p[np.arange(len(labels)), labels]}
    impacts = {}
    for outcome, values in measured.items():
        mean = values.reshape(n_examples, n_masks).mean(axis=0)
        dropped = [np.average(mean[~masks[:, j]], weights=weights[~masks[:, j]]) for j in range(n)]
        kept = [np.average(mean[masks[:, j]], weights=weights[masks[:, j]]) for j in range(n)]
        change = np.array(dropped) - np.array(kept)
        impacts[outcome] = -change if outcome == "accuracy" else change
    return impacts


@pytest.mark.parametrize(
    ("name", "rate"), [("mlp", 0.2), ("mlp", 0.5), ("residual", 0.2), ("shared", 0.5), ("two_inputs", 0.2)]
)
def test_estimates_converge_to_the_enumerated_impacts(name: str, rate: float) -> None:
    model = models.ready(name)
    data = models.data_for(model, 25)
    elements = dr.elements(model)
    truth = true_impacts(model, data, elements, rate)
    design = dr.designs.Bernoulli(rate)
    few, many = (
        flat.sample(model, data, elements, rows=rows, design=design, seed=1, fidelity=None, progress=False)
        for rows in (3_000, 100_000)
    )
    for outcome in ("accuracy", "loss"):
        if not truth[outcome].any():
            with pytest.raises(ParameterError, match="must change with the masks"):
                dr.regress(many, outcome=outcome, estimator="ols")
            continue
        for estimator in ("ols", "ridge"):
            table = dr.regress(many, outcome=outcome, estimator=estimator)
            error = np.abs(table.impact - truth[outcome])
            assert (error <= 4.5 * table.std_error + 1e-9).all()
            before = np.abs(dr.regress(few, outcome=outcome, estimator=estimator).impact - truth[outcome])
            assert np.linalg.norm(error) <= np.linalg.norm(before) / 2  # thirty times the rows: a fifth expected


def test_intervals_cover_the_enumerated_impacts() -> None:
    """95 % intervals over 40 seeds x 9 elements x 2 outcomes; the bounds are five standard errors wide."""
    model = models.ready("mlp")
    data = models.data_for(model, 20)
    elements = dr.elements(model)
    truth = true_impacts(model, data, elements, 0.3)
    covered = []
    for seed in range(40):
        record = flat.sample(model, data, elements, rows=600, seed=seed, fidelity=None, progress=False)
        for outcome in ("accuracy", "loss"):
            frame = dr.regress(record, outcome=outcome).frame
            covered.append((frame["ci_low"] < truth[outcome]) & (truth[outcome] < frame["ci_high"]))
    assert 0.915 < np.mean(covered) < 0.985


# Law 5


def test_an_element_that_nothing_reads_has_no_impact() -> None:
    model = models.build("mlp")
    reader = model.get_layer("b")
    kernel, bias = reader.get_weights()
    kernel[2] = 0.0
    reader.set_weights([kernel, bias])
    elements = dr.elements(model)
    record = flat.sample(model, models.data_for(model, 50), elements, rows=20_000, fidelity=None, progress=False)
    for outcome in record.settings.outcomes:
        unread = dr.regress(record, outcome=outcome).frame.set_index("element").loc["a[2]"]
        assert abs(unread["impact"]) < 4 * unread["std_error"]


def test_exact_copies_have_equal_impacts() -> None:
    model = models.build("mlp")
    writer, reader = model.get_layer("a"), model.get_layer("b")
    kernel, bias = writer.get_weights()
    kernel[:, 4], bias[4] = kernel[:, 1], bias[1]
    writer.set_weights([kernel, bias])
    kernel, bias = reader.get_weights()
    kernel[4] = kernel[1]
    reader.set_weights([kernel, bias])
    data, elements = models.data_for(model, 50), dr.elements(model)
    network = MaskedNetwork(model, elements)
    masks = np.ones((2, len(elements)), dtype=bool)
    masks[0, 1] = masks[1, 4] = False
    one = [np.repeat(data[0][:1], 2, axis=0)]
    first, second = outputs(network, one, masks)
    np.testing.assert_allclose(first, second, rtol=RELATIVE)
    record = flat.sample(model, data, elements, rows=20_000, fidelity=None, progress=False)
    table = dr.regress(record, outcome="loss")
    assert abs(table.impact[1] - table.impact[4]) < 5 * np.hypot(table.std_error[1], table.std_error[4])


# Law 9 as far as it reaches


def test_layers_left_out_are_named_with_a_reason() -> None:
    model = models.ready("transformer_block")
    elements = dr.elements(model)
    reasons = dict(elements.left_out)
    assert {"ffn_2", "out"} <= set(reasons)
    assert all(model.get_layer(name).weights for name in reasons)
    assert "cannot be dropped" in reasons["ffn_2"]
    assert "output" in reasons["out"]


def test_tied_channels_are_one_element() -> None:
    residual = dr.elements(models.ready("residual"))
    assert residual.members[0] == (("stem", 0), ("branch_2", 0), ("gate", 0))
    grouped = dr.elements(models.ready("grouped"))
    assert grouped.members[0] == (("c1", 0), ("c1", 2))
    shared = dr.elements(models.ready("shared"))
    assert shared.members[0] == (("encode", 0), ("other", 0))


def test_excluding_a_layer_excludes_what_is_tied_to_it() -> None:
    model = models.ready("residual")
    assert set(dr.elements(model, exclude=["gate"]).layers) == {"branch_1"}
    assert set(dr.elements(model, include=["branch_1"]).layers) == {"branch_1"}
    assert set(dr.elements(model, include=["branch_2"]).layers) == {"stem"}


def test_a_fixed_channel_before_the_first_element_leaves_it_droppable() -> None:
    """Inputs, then units, in one kernel: the fixed channels end where element 0 begins."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((3,))
    units = keras.layers.Dense(4, activation="relu", name="units")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="out")(keras.layers.Concatenate()([inputs, units])))
    network = MaskedNetwork(model, dr.elements(model))
    x = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    masks = np.zeros((5, 4), dtype=bool)
    kernel, bias = model.get_layer("out").get_weights()
    np.testing.assert_allclose(outputs(network, [x], masks), x @ kernel[:3] + bias, rtol=1e-4, atol=1e-5)
