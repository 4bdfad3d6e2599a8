"""Rounded and shared weights: errors, zeros, held codes, files, masks."""

from typing import Any, cast

import keras
import numpy as np
import pytest
from conftest import says
from hypothesis import given, settings
from hypothesis import strategies as st
from models import BUILDERS, inputs_for, ready

import dropreg as dr
from dropreg.surgery import settle, with_learning
from dropreg.surgery._rounding._sequential import round_matrix
from dropreg.surgery._storage._range_coder import entropy_bits


def predicted(model: Any, x: Any) -> np.ndarray:
    return model.predict(x, verbose=0)


STRATEGIES = [dr.Quantized(2), dr.Quantized(4), dr.Clustered(2), dr.Clustered(6)]


def output_error(matrix: np.ndarray, rounded: np.ndarray, moment: np.ndarray) -> float:
    change = matrix - rounded
    return float(np.sum(change * (moment @ change)))


def correlated(seed: int, m: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """A kernel (m, n) and the second moment of correlated inputs."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(4 * m, max(m // 2, 2))) @ rng.normal(size=(max(m // 2, 2), m)) + 0.3 * rng.normal(
        size=(4 * m, m)
    )
    return rng.normal(size=(m, n)), x.T @ x / len(x)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**31), m=st.integers(4, 40), n=st.integers(1, 8), which=st.integers(0, 3))
def test_data_lower_the_error_of_the_output_on_average(seed, m, n, which):
    gains = []
    for k in range(8):
        matrix, moment = correlated(seed + k, m, n)
        nearest, fitted = (round_matrix(matrix, each, STRATEGIES[which]).values for each in (None, moment))
        gains.append(np.log(output_error(matrix, nearest, moment) / output_error(matrix, fitted, moment)))
    assert np.mean(gains) > 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_levels_are_refitted_to_the_least_error(strategy):
    matrix, moment = correlated(0, 30, 6)
    found = round_matrix(matrix, moment, strategy)
    damped = moment + np.eye(30) * 0.01 * np.trace(moment) / 30
    least = output_error(matrix, found.values, damped)
    for factor in (0.98, 1.02):
        levels = found.levels * factor
        other = levels[found.codes] if isinstance(strategy, dr.Clustered) else found.codes * levels
        assert output_error(matrix, other, damped) > least


def test_a_rate_lowers_the_entropy_of_codes_and_raises_the_error():
    matrix, moment = correlated(0, 60, 20)
    found = [round_matrix(matrix, moment, dr.Quantized(4), rate) for rate in (0.0, 0.01, 0.1)]
    bits = [entropy_bits(np.unique(each.codes, return_counts=True)[1]) for each in found]
    errors = [output_error(matrix, each.values, moment) for each in found]
    assert bits[0] > bits[1] > bits[2]
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("strategy", [dr.Quantized(3), dr.Clustered(5)])
@pytest.mark.parametrize("with_data", [False, True])
def test_zeros_stay_zero(strategy, with_data):
    matrix, moment = correlated(1, 20, 5)
    matrix[np.random.default_rng(0).random(matrix.shape) < 0.5] = 0.0
    found = round_matrix(matrix, moment if with_data else None, strategy)
    assert (found.values[matrix == 0] == 0).all()


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_weights_are_whole_multiples_of_a_scale_of_their_channel(bits):
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 6)).astype("float32")
    values = dr.Quantized(bits).values(kernel).reshape(-1, 6)
    for column in values.T:
        steps = column / np.abs(column[column != 0]).min()
        multiples = [steps * k for k in range(1, 2 ** (bits - 1))]
        assert any(np.abs(each - np.rint(each)).max() < 1e-3 for each in multiples)
        assert len(np.unique(column)) <= 2**bits - 1


def test_shared_values_are_means_of_their_clusters():
    kernel = np.random.default_rng(0).normal(size=(40, 10))
    values = dr.Clustered(4).values(kernel)
    for level in np.unique(values):
        assert kernel[values == level].mean() == pytest.approx(level, abs=1e-6)


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_models_of_the_grid_are_rounded(name):
    model = ready(name)
    inputs = inputs_for(model, 40)
    x: Any = inputs if len(inputs) > 1 else inputs[0]
    found = dr.quantize(model, dr.Quantized(8), (x, None))
    before, after = (map(np.asarray, keras.tree.flatten(each(x, training=False))) for each in (model, found.model))
    for expected, own in zip(before, after, strict=True):
        assert np.abs(own - expected).max() <= 0.05 * np.abs(expected).max() + 1e-3
    assert (found.layers["bits"] <= 8).all()


@pytest.mark.parametrize("strategy", [dr.Quantized(3), dr.Clustered(4)])
def test_training_keeps_codes(strategy):
    model = ready("mlp")
    x = inputs_for(model, 64)[0]
    rounded = dr.quantize(model, strategy, (x, None)).model
    before = [np.array(w) for w in rounded.get_weights()]
    after = dr.recover(
        rounded, (x, None), teacher=model, recovery=dr.Recovery(epochs=3, distill=1.0)
    ).model.get_weights()
    assert any(not np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    for old, new in zip(before, after, strict=True):
        if old.ndim < 2:
            continue
        if isinstance(strategy, dr.Clustered):
            assert [len(np.unique(new[old == level])) for level in np.unique(old)] == [1] * len(np.unique(old))
        else:
            ratio = np.divide(new, old, out=np.full(old.shape, np.nan), where=old != 0)
            assert np.nanmax(np.nanstd(ratio, axis=0)) < 1e-5
            assert (new[old == 0] == 0).all()


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_rounded_and_trained_models_are_packed_by_scale(bits, tmp_path):
    model = keras.Sequential([keras.Input((30,)), keras.layers.Dense(50, activation="relu"), keras.layers.Dense(3)])
    x = np.random.default_rng(0).normal(size=(80, 30)).astype("float32")
    rounded = dr.quantize(model, dr.Quantized(bits), (x, None)).model
    trained = dr.recover(rounded, (x, None), teacher=model, recovery=dr.Recovery(epochs=2, distill=1.0)).model
    for number, each in enumerate((rounded, trained)):
        packed = dr.pack(each, tmp_path / f"{number}.safetensors")
        assert packed.weights["coding"][0] == "multiples"
        assert packed.weights["stored"][0] < 1.1 * (1500 * bits / 8 + 50 * 4) + 100
        same = dr.unpack(packed.path)
        assert all(np.array_equal(a, b) for a, b in zip(each.get_weights(), same.get_weights(), strict=True))


@pytest.mark.parametrize("groups", [None, "columns", "rows", "layers"])
@pytest.mark.parametrize("strategy", [dr.Quantized(2), dr.Clustered(3)])
def test_masked_equals_replaced(groups, strategy):
    model = ready("cnn")
    x = inputs_for(model, 20)[0]
    elements = dr.elements(model, "weights", groups=groups, replacement=strategy)
    selection = dr.Selection.random(elements, 0.5)
    smaller = dr.remove(model, selection).model
    from dropreg.network import MaskedNetwork

    masked = np.asarray(MaskedNetwork(model, elements)([x], selection.kept[np.newaxis]))
    assert np.abs(predicted(smaller, x) - masked).max() < 1e-5 * np.abs(masked).max()
    assert np.abs(predicted(model, x) - masked).max() > 1e-3


def test_impacts_of_rounded_layers_cover_those_of_all_masks():
    """Over all masks of three kernels, an element's impact is a mean of differences that can be computed."""
    model = ready("mlp")
    x = inputs_for(model, 200)[0]
    y = predicted(model, x).argmax(axis=1)
    elements = dr.elements(model, "weights", groups="layers", replacement=dr.Quantized(2))
    from dropreg.network import MaskedNetwork

    network, truth = MaskedNetwork(model, elements), np.zeros(3)
    masks = np.array([[k >> j & 1 for j in range(3)] for k in range(8)], bool)

    def loss(mask: np.ndarray) -> float:
        logits = np.asarray(network([x], mask[np.newaxis]), np.float64)
        shifted = logits - logits.max(axis=1, keepdims=True)
        return float(np.mean(np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(y)), y]))

    for j in range(3):
        truth[j] = np.mean([loss(m & (np.arange(3) != j)) - loss(m | (np.arange(3) == j)) for m in masks])
    table = dr.estimate(model, (x, y), elements, outcome="loss", rows=40_064, seed=0)
    assert (np.abs(table.impact - truth) < 4 * table.std_error + 1e-4).all()


def test_activations_are_rounded_where_dropped():
    model = ready("mlp")
    x = inputs_for(model, 30)[0]
    elements = dr.elements(model, "activations", replacement=dr.Quantized(3))
    assert list(elements) == ["a.activation", "b.activation", "out.activation"]
    from dropreg.network import MaskedNetwork

    network = MaskedNetwork(model, elements)
    dropped_last = np.asarray(network([x], np.array([[True, True, False]])))
    exact = predicted(model, x)
    steps = np.abs(exact).max(axis=1, keepdims=True) / 3
    assert np.allclose(dropped_last, np.rint(exact / steps) * steps, atol=1e-5)
    assert np.allclose(network([x], np.ones((1, 3))), exact, atol=1e-5)


def test_weights_with_little_error_are_replaced_first():
    model = ready("mlp")
    elements = dr.elements(model, "weights", replacement=dr.Quantized(2))
    table = dr.scorers.magnitude(model, None, elements)
    kernel = model.get_layer("a").get_weights()[0]
    error = np.abs(kernel - dr.Quantized(2).values(kernel)).reshape(-1)
    order = np.argsort(table.impact[: len(error)])
    assert (np.diff(error[order]) >= -1e-7).all()


def bad(call: Any, *words: str) -> None:
    with pytest.raises(dr.errors.DropregError, match=says(*words)):
        call()


def test_errors():
    model = ready("mlp")
    bad(lambda: dr.Quantized(1), "`bits` must be a whole number from 2 to 16, received 1")
    bad(lambda: dr.Clustered(1), "`n_values` must be a whole number from 2 to 65,536, received 1")
    bad(
        lambda: dr.quantize(model, cast("Any", 4)),
        "`replacement` must be dropreg.Quantized or dropreg.Clustered, received 4",
    )
    bad(lambda: dr.quantize(model, {"c": dr.Quantized(4)}), "must name layers with a kernel (a, b, out), received 'c'")
    bad(lambda: dr.quantize(model, dr.Quantized(4), rate=-1.0), "`rate` must be a number of at least 0, received -1.0")
    bad(lambda: dr.elements(model, replacement=dr.Quantized(4)), "must go with kind='weights' or 'activations'")
    bad(lambda: dr.elements(model, "activations"), "`replacement` must be given with kind='activations'")
    bad(lambda: dr.elements(model, "activations", replacement=dr.Clustered(4)), "must be dropreg.Quantized")
    bad(lambda: dr.elements(model, "weights", replacement=cast("Any", "int8")), "received 'int8'")
    rounded = dr.elements(model, "activations", replacement=dr.Quantized(4))
    bad(lambda: dr.remove(model, dr.Selection.random(rounded, 0.5)), "rounded activations", "dropreg.export")


def test_training_may_change_codes_and_then_scales():
    model = ready("mlp")
    x = inputs_for(model, 200)[0]
    rounding = dr.quantize(model, dr.Quantized(2), (x, None))
    learning = with_learning(rounding)
    tuning = dr.Recovery(epochs=20, learning_rate=0.01, distill=1.0, patience=None)
    free = dr.recover(learning, (x, None), teacher=model, recovery=tuning)
    assert free.loss_after < 0.8 * free.loss_before
    settle(free.model)
    tuned = dr.recover(free.model, (x, None), teacher=model, recovery=tuning).model
    changed = False
    for start, code, end in zip(*(each.get_weights() for each in (rounding.model, free.model, tuned)), strict=True):
        if start.ndim == 2:
            scale = np.abs(start).max(axis=0)
            assert np.allclose(np.rint(code / scale) * scale, code)
            changed |= not np.array_equal(np.rint(code / scale), np.rint(start / scale))
            assert np.array_equal(np.sign(end), np.sign(code))
            assert max(len(np.unique(np.abs(column[column != 0]))) for column in end.T) == 1
    assert changed


def test_training_from_the_same_weights_is_the_same():
    """Trials of learning rates leave nothing behind."""
    model = ready("mlp")
    x = inputs_for(model, 100)[0]
    learning = with_learning(dr.quantize(model, dr.Quantized(2), (x, None)))
    rates = dr.Recovery(epochs=20, learning_rate=(0.03, 0.0001), distill=1.0, trial_epochs=10)
    found = dr.recover(learning, (x, None), teacher=model, recovery=rates)
    alone = dr.Recovery(epochs=20, learning_rate=found.learning_rate, distill=1.0)
    again = dr.recover(learning, (x, None), teacher=model, recovery=alone)
    assert found.history["held_out"].tolist() == pytest.approx(again.history["held_out"].tolist())
