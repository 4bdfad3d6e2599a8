"""Laws of elements that are not channels: heads, layers, branches, weights, and units of subclassed models."""

import importlib

import flat
import keras
import models
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from kinds import ABSOLUTE, RELATIVE, attention, inputs, masked, masks_of, randomized, stacked, subclassed

import dropreg as dr
from dropreg.errors import ParameterError
from dropreg.graph._access import all_layers, variables_of
from dropreg.network._masked import MaskedNetwork

GRID = [
    (attention, "heads"),
    (attention, "branches"),
    (attention, ["heads", "branches", "neurons"]),
    (stacked, "layers"),
    (stacked, "branches"),
    (stacked, ["layers", "neurons"]),
    (subclassed, "neurons"),
    (subclassed, "layers"),
    (subclassed, "heads"),
    (subclassed, ["neurons", "layers", "heads"]),
]
IDS = [f"{build.__name__}-{kind if isinstance(kind, str) else '+'.join(kind)}" for build, kind in GRID]


@pytest.mark.parametrize(("build", "kind"), GRID, ids=IDS)
def test_rows_are_independent(build, kind) -> None:
    model = randomized(build())
    elements, x = dr.elements(model, kind), inputs(model, 6)
    masks = masks_of(elements, 6)
    network = MaskedNetwork(model, elements)
    together = network([x], masks)
    for row in range(6):
        alone = network([x[row : row + 1]], masks[row : row + 1])
        np.testing.assert_allclose(together[row], alone[0], rtol=RELATIVE, atol=ABSOLUTE)


@pytest.mark.parametrize(("build", "kind"), GRID, ids=IDS)
def test_keeping_everything_is_the_model_and_every_element_has_an_effect(build, kind) -> None:
    model = randomized(build())
    elements, x = dr.elements(model, kind), inputs(model, 6)
    whole, network = np.asarray(model(x)), MaskedNetwork(model, elements)
    kept = np.ones((6, len(elements)), bool)
    np.testing.assert_allclose(network([x], kept), whole, rtol=RELATIVE, atol=ABSOLUTE)
    for j in range(len(elements)):
        without = kept.copy()
        without[:, j] = False
        assert np.abs(network([x], without) - whole).max() > 1e-5, elements.names[j]


@pytest.mark.parametrize(("build", "kind"), GRID[2::3], ids=IDS[2::3])
def test_the_callers_model_is_unchanged(build, kind) -> None:
    model = randomized(build())
    elements, x = dr.elements(model, kind), inputs(model, 40)
    before = [(layer, dict(vars(layer))) for layer in all_layers(model)]
    weights = model.get_weights()
    y = np.random.default_rng(1).integers(0, models.N_CLASSES, 40)
    record = flat.sample(model, (x, y), elements, rows=256, gradients=("loss",), fidelity=None, progress=False)
    assert np.isfinite(dr.regress(record, outcome="loss").impact).all()
    with pytest.raises(tf.errors.InvalidArgumentError):
        MaskedNetwork(model, elements)([x], np.ones((3, len(elements)), bool))
    for layer, attributes in before:
        assert {name for name in vars(layer) if name == "call"} == {name for name in attributes if name == "call"}
        assert vars(layer).get("use_cudnn") == attributes.get("use_cudnn")
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("kind", ["heads", "branches"])
def test_dropped_heads_and_branches_contribute_nothing(kind) -> None:
    """The same as zeros in the output projection (and its bias, for a branch)."""
    model = randomized(attention())
    elements, x = dr.elements(model, kind), inputs(model, 5)
    mask = masks_of(elements, 1, seed=2)
    found = masked(model, elements, x, np.repeat(mask, 5, axis=0))
    for name, index, kept in zip(elements.layers, elements.indices, mask[0], strict=True):
        if kept:
            continue
        projection = model.get_layer(name)._output_dense
        kernel, *bias = projection.get_weights()
        kernel[index if kind == "heads" else slice(None)] = 0.0
        projection.set_weights([kernel, *(0 * b if kind == "branches" else b for b in bias)])
    np.testing.assert_allclose(found, np.asarray(model(x)), rtol=RELATIVE, atol=ABSOLUTE)


def test_a_dropped_layer_is_bypassed() -> None:
    model = randomized(stacked())
    elements, x = dr.elements(model, "layers"), inputs(model, 5)
    assert elements.names == ("same", "bn", "branch_2", "dense")
    mask = np.array([False, True, False, False])
    found = masked(model, elements, x, np.repeat(mask[None], 5, axis=0))
    y = model.get_layer("branch_1")(model.get_layer("bn")(x))
    y = keras.ops.mean(y + model.get_layer("project")(model.get_layer("bn")(x)), axis=(1, 2))
    np.testing.assert_allclose(found, np.asarray(model.get_layer("out")(y)), rtol=RELATIVE, atol=ABSOLUTE)


@pytest.mark.parametrize("layer", [layers.SimpleRNN, layers.LSTM, layers.GRU])
def test_a_dropped_recurrent_unit_is_not_read_at_the_next_step(layer) -> None:
    """The same as zeros in its rows of the recurrent kernel and of the reader's."""
    sequence = keras.Input((5, 3))
    model = randomized(keras.Model(sequence, layers.Dense(2, name="out")(layer(4, name="cells")(sequence))))
    elements, x = dr.elements(model), inputs(model, 6)
    mask = np.array([True, False, True, False])
    found = masked(model, elements, x, np.repeat(mask[None], 6, axis=0))
    for variable in (model.get_layer("cells").cell.recurrent_kernel, model.get_layer("out").kernel):
        variable.assign(np.asarray(variable) * mask[:, None])
    np.testing.assert_allclose(found, np.asarray(model(x)), rtol=RELATIVE, atol=ABSOLUTE)


def test_the_shortest_branch_with_weights_is_the_shortcut() -> None:
    elements = dr.elements(stacked(), "branches")
    assert elements.names == ("branch_2.branch[0]",)
    assert elements.params.tolist() == [4 * 9 * 5 + 5 + 5 * 9 * 5 + 5]


@pytest.mark.parametrize("name", ["mlp", "cnn", "separable", "shared", "recurrent", "transformer_block"])
@pytest.mark.parametrize("groups", [None, "rows", "columns", dr.Block(2, 3)])
def test_masked_weights_are_zero_weights(name, groups) -> None:
    model = models.build(name)
    elements = dr.elements(model, "weights", groups=groups)
    assert elements.one_mask_a_batch
    x = models.inputs_for(model, 5)
    mask = masks_of(elements, 1)
    found = np.asarray(MaskedNetwork(model, elements)(x, mask))
    assert elements.params.sum() == sum(len(gate.columns) for gate in elements.inner_gates)
    for gate in elements.inner_gates:
        variable = variables_of(all_layers(model)[gate.layer])[gate.variable]
        variable.assign(np.asarray(variable) * mask[0, gate.columns].reshape(variable.shape))
    np.testing.assert_allclose(found, np.asarray(model(x if len(x) > 1 else x[0])), rtol=RELATIVE, atol=ABSOLUTE)


def test_groups_of_weights_are_counted() -> None:
    model = models.ready("mlp")  # 6-5-4-3
    assert len(dr.elements(model, "weights")) == 30 + 20 + 12
    assert dr.elements(model, "weights").names[7] == "a[1,2]"
    assert dr.elements(model, "weights", groups="rows").by_layer()["elements"].tolist() == [6, 5, 4]
    assert dr.elements(model, "weights", groups="columns").by_layer()["elements"].tolist() == [5, 4, 3]
    blocks = dr.elements(model, "weights", groups=dr.Block(4, 2))
    assert blocks.by_layer()["elements"].tolist() == [2 * 3, 2 * 2, 1 * 2]
    assert blocks.params[:6].tolist() == [8, 8, 4, 4, 4, 2]
    own = np.full((6, 5), -1)
    own[0], own[1:3, 2] = 7, 3
    given = dr.elements(model, "weights", groups={"a": own})
    assert (given.params.tolist(), given.names) == ([2, 5], ("a[0]", "a[1]"))


def test_a_shared_or_frozen_kernel_is_one_set_of_elements() -> None:
    model = models.build("shared")
    for layer in model.layers:
        layer.trainable = False
    elements = dr.elements(model, "weights")
    kernels = {id(v) for layer in all_layers(model) for v in variables_of(layer) if v.name == "kernel"}
    assert len(elements.inner_gates) == len(kernels)


def test_impacts_of_weights_converge_to_enumeration() -> None:
    """Law 4 with a mask a batch: marginal and assisted regression against all 2**12 masks."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, activation="tanh"), layers.Dense(3)])
    for variable in model.weights:
        variable.assign(np.random.default_rng(len(variable.shape)).normal(size=variable.shape))
    x = np.random.default_rng(1).normal(size=(16, 3)).astype(np.float32)
    y = np.random.default_rng(2).integers(0, 3, 16)
    elements = dr.elements(model, "weights")
    n, rate = len(elements), 0.3
    every = (np.arange(2**n)[:, None] >> np.arange(n)) & 1 == 1
    first, first_bias, second, second_bias = (weight.astype(np.float64) for weight in model.get_weights())
    kernels = first * every[:, :6].reshape(-1, 3, 2), second * every[:, 6:].reshape(-1, 2, 3)
    scores = np.tanh(x @ kernels[0] + first_bias) @ kernels[1] + second_bias
    log_p = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))
    loss = -log_p[:, np.arange(16), y].mean(axis=1)
    chance = np.prod(np.where(every, 1 - rate, rate), axis=1)
    truth = [
        np.average(loss[~every[:, j]], weights=chance[~every[:, j]])
        - np.average(loss[every[:, j]], weights=chance[every[:, j]])
        for j in range(n)
    ]
    design = dr.designs.Bernoulli(rate, examples_per_mask=16)
    record = flat.sample(
        *(model, (x, y), elements),
        rows=16 * 2_000,
        design=design,
        outcomes="loss",
        gradients=("loss",),
        fidelity=None,
        progress=False,
    )
    for estimator in ("marginal", "ols", "assisted"):
        table = dr.regress(record, outcome="loss", estimator=estimator)
        assert (np.abs(table.impact - truth) < 4.5 * table.std_error).all(), estimator
        assert np.corrcoef(table.impact, truth)[0, 1] > 0.99


def test_gradients_under_one_mask_are_those_of_its_mean_outcome() -> None:
    model = models.ready("mlp")
    elements, (x, y) = dr.elements(model, "weights"), models.data_for(model, 8)
    record = flat.sample(
        *(model, (x, y), elements),
        rows=8 * 20,
        design=dr.designs.Bernoulli(0.3, examples_per_mask=8),
        outcomes="loss",
        gradients=("loss",),
        fidelity=None,
        progress=False,
    )
    masks = np.concatenate([chunk.masks for chunk in record.chunks()])
    network, gradients = MaskedNetwork(model, elements), np.zeros(masks.shape)
    for row, mask in enumerate(masks):
        kept = tf.constant(mask[None], tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(kept)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, network([x], kept)))
        gradients[row] = np.asarray(tape.gradient(loss, kept))[0]
    sums = record.gradient_sums("loss")
    for found, expected in (
        (sums.kept, gradients * masks),
        (sums.dropped, gradients * ~masks),
        (sums.kept_squares, gradients**2 * masks),
        (sums.dropped_squares, gradients**2 * ~masks),
    ):
        np.testing.assert_allclose(found, expected.sum(axis=0), rtol=1e-3, atol=ABSOLUTE)


def test_large_and_small_estimators_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """The known covariance of masks in place of the measured one changes little with many rows."""
    regress = importlib.import_module("dropreg.regression._regress")
    model = models.ready("mlp")
    record = flat.sample(
        *(model, models.data_for(model, 50), dr.elements(model)),
        rows=60_000,
        outcomes="loss",
        gradients=("loss",),
        progress=False,
    )
    small = dr.regress(record, outcome="loss")
    monkeypatch.setattr(regress, "MOST_DENSE", 5)
    large = dr.regress(record, outcome="loss")
    assert (np.abs(small.impact - large.impact) < 4 * np.hypot(small.std_error, large.std_error)).all()
    assert dr.regress(record, outcome="loss", estimator="marginal").method == "marginal regression"
    with pytest.raises(ParameterError, match=r"estimator='ols' must have at most 5 elements, received 9"):
        dr.regress(record, outcome="loss", estimator="ols")


def test_a_record_of_many_elements_draws_its_masks_again(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dropreg.sampling import _record as records

    monkeypatch.setattr(records, "MOST_STORED", 5)
    model = models.ready("mlp")
    written = flat.sample(
        *(model, models.data_for(model, 20), dr.elements(model, "weights")),
        rows=128 * 20,
        outcomes="loss",
        gradients=("loss",),
        out=tmp_path / "record",
        progress=False,
    )
    read = dr.Record.load(tmp_path / "record")
    for one, other in zip(written.chunks(), read.chunks(), strict=True):
        np.testing.assert_array_equal(one.masks, other.masks)
    np.testing.assert_array_equal(dr.regress(written, outcome="loss").impact, dr.regress(read, outcome="loss").impact)
    from pyarrow import parquet

    assert "mask" not in parquet.read_schema(tmp_path / "record" / "chunk-000000.parquet").names
