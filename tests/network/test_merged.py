"""The masked network that merges what it drops: predictions of channels and states, and their derivatives."""

from collections.abc import Callable
from typing import Any

import flat
import keras
import models
import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf
from conftest import Labelled
from keras import layers

import dropreg as dr
from dropreg.data._examples import check_data
from dropreg.errors import ParameterError
from dropreg.network._conditional import conditional
from dropreg.network._masked import MaskedNetwork
from dropreg.network._merged import MergedNetwork


def run(model: keras.Model, data: Any, elements: dr.Elements, **more: Any) -> dr.SelectionPath:
    options: dict[str, Any] = {"fractions": (0.5,), "rounds": 4, "rows_per_round": 128}
    return flat.anneal_path(model, data, elements, **(options | more))


def test_masks_of_the_merged_network_that_keep_everything() -> None:
    model = models.ready("cnn")
    x, _ = models.data_for(model, 8)
    elements = dr.elements(model)
    network = MergedNetwork(model, elements, check_data(model, (x, None)))
    got = np.asarray(network([x], np.ones((2, len(elements)), bool)))
    np.testing.assert_allclose(got, np.asarray(model(x)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["recurrent", "bidirectional", "encoder_decoder"])
def test_merged_masks_of_recurrent_networks_that_keep_everything(name: str) -> None:
    model = models.ready(name)
    x, _ = models.data_for(model, 8)
    elements = dr.elements(model)
    network = MergedNetwork(model, elements, check_data(model, (x, None)))
    got = np.asarray(network([x], np.ones((2, len(elements)), bool)))
    np.testing.assert_allclose(got, np.asarray(model(x)), rtol=1e-4, atol=1e-4)


def test_merged_masks_predict_dropped_states() -> None:
    """And the inputs of later layers: a recurrent network of two steps, computed by hand."""
    model = keras.Sequential([keras.Input((2, 3)), layers.SimpleRNN(5, name="a"), layers.Dense(2, name="out")])
    x = np.random.default_rng(0).normal(size=(400, 2, 3)).astype(np.float32)
    elements = dr.elements(model)
    network = MergedNetwork(model, elements, check_data(model, (x, None)), ridge=1e-6)
    kept = np.array([True, False, True, True, False])
    kernel, recurrent, bias = model.get_layer("a").get_weights()
    first = np.tanh(x[:, 0] @ kernel + bias)
    second = np.tanh(x[:, 1] @ kernel + first @ recurrent + bias)

    def predicted(states: np.ndarray, now: np.ndarray) -> np.ndarray:
        centred = states - states.mean(axis=0)
        fit = np.linalg.lstsq(centred[:, kept], centred, rcond=None)[0]
        return (now - states.mean(axis=0))[:, kept] @ fit + states.mean(axis=0)

    states = np.concatenate([np.zeros_like(first), first])  # before either step
    start = predicted(states, np.zeros((1, 5)))
    one = np.tanh(x[:, 0] @ kernel + start @ recurrent + bias)
    two = np.tanh(x[:, 1] @ kernel + predicted(states, one) @ recurrent + bias)
    expected = (
        predicted(second, two) @ model.get_layer("out").get_weights()[0] + model.get_layer("out").get_weights()[1]
    )
    np.testing.assert_allclose(np.asarray(network([x], kept[np.newaxis])), expected, rtol=1e-3, atol=1e-3)


def test_recurrent_units_are_annealed_for_merging() -> None:
    """As many of either direction stay, though masks drop them one by one."""
    keras.utils.set_random_seed(0)
    both = layers.Bidirectional(layers.SimpleRNN(6, name="cells"))
    model = keras.Sequential([keras.Input((4, 3)), both, layers.Dense(3)])
    data, elements = models.data_for(model, 64), dr.elements(model)
    path = run(model, data, elements, ablation="merged", examples_per_mask=16)
    counts = path.selections[0].by_layer().set_index("layer")["kept"]
    assert counts.to_dict() == {"forward_cells": 3, "backward_cells": 3}


@pytest.mark.parametrize("kinds", [["neurons", "heads"], ["neurons", "layers"]])
def test_merged_masks_delete_elements_that_nothing_predicts(kinds: Any) -> None:
    """Each group by its own mask."""
    model = models.ready("transformer_block")
    x, _ = models.data_for(model, 8)
    elements = dr.elements(model, kinds)
    network = MergedNetwork(model, elements, check_data(model, (x, None)))
    masks = np.array([[kind == "neuron" or (j + k) % 2 == 0 for j, kind in enumerate(elements.kinds)] for k in (0, 1)])
    assert 0 < masks.sum() < masks.size - 1
    expected = MaskedNetwork(model, elements)([x], np.repeat(masks, 4, axis=0))
    np.testing.assert_allclose(np.asarray(network([x], masks)), np.asarray(expected), rtol=1e-4, atol=1e-4)


def test_merged_masks_predict_dropped_elements() -> None:
    """A linear network of correlated units computes least squares, as NumPy finds it."""
    model = keras.Sequential([keras.Input((8,)), layers.Dense(6, name="a"), layers.Dense(2, name="out")])
    x = np.random.default_rng(0).normal(size=(500, 8)).astype(np.float32)
    elements = dr.elements(model)
    network = MergedNetwork(model, elements, check_data(model, (x, None)), ridge=1e-6)
    kept = np.array([True, False, True, True, False, False])
    got = np.asarray(network([x], kept[np.newaxis]))
    h = np.asarray(model.get_layer("a")(x), np.float64)
    centred = h - h.mean(axis=0)
    fit = np.linalg.lstsq(centred[:, kept], centred, rcond=None)[0]
    kernel, bias = model.get_layer("out").get_weights()
    expected = (centred[:, kept] @ fit + h.mean(axis=0)) @ kernel + bias
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-3)
    plain = np.asarray(MaskedNetwork(model, elements)([x], kept[np.newaxis]))
    assert np.abs(plain - expected).max() > 0.1


def test_a_ridge_penalty_shrinks_the_prediction() -> None:
    """It is added to the correlations of standardized channels."""
    model = keras.Sequential([keras.Input((4,)), layers.Dense(6, name="a"), layers.Dense(2, name="out")])
    x = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    elements, ridge = dr.elements(model), 0.5
    network = MergedNetwork(model, elements, check_data(model, (x, None)), ridge=ridge)
    kept = np.array([True, False, True, True, False, False])
    h = np.asarray(model.get_layer("a")(x), np.float64)
    z = (h - h.mean(axis=0)) / h.std(axis=0)
    correlation = z.T @ z / len(z)
    fit = np.linalg.solve(correlation[np.ix_(kept, kept)] + ridge * np.eye(3), correlation[kept])
    read = np.where(kept, z, z[:, kept] @ fit) * h.std(axis=0) + h.mean(axis=0)
    kernel, bias = model.get_layer("out").get_weights()
    np.testing.assert_allclose(np.asarray(network([x], kept[np.newaxis])), read @ kernel + bias, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("n_kept", [5, 2])
@pytest.mark.parametrize("shape", [(8,), (4, 8)])
@pytest.mark.parametrize("flattened", [False, True])
def test_derivatives_of_a_linear_network_are_those_of_drop_and_merge(
    n_kept: int, shape: tuple[int, ...], flattened: bool
) -> None:
    between = [layers.Flatten()] if flattened else []
    hidden, out = layers.Dense(6, name="a"), layers.Dense(2, name="out")
    model = keras.Sequential([keras.Input(shape), hidden, *between, out])
    x = np.random.default_rng(0).normal(size=(100, *shape)).astype(np.float32)
    elements = dr.elements(model)
    network = MergedNetwork(model, elements, check_data(model, (x, None)))
    kept = np.array([np.random.default_rng(seed).permutation(6) < n_kept for seed in (1, 2)])
    few, masks = x[:8], tf.constant(kept, tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(masks)
        outputs = network([few], masks)
    found: Any = tape.jacobian(outputs, masks, experimental_use_pfor=False)
    for j in range(6):
        with_it, without = (np.where(np.arange(6) == j, value, kept) for value in (True, False))
        change = np.asarray(network([few], with_it)) - np.asarray(network([few], without))
        for group, rows in enumerate((slice(4), slice(4, None))):
            np.testing.assert_allclose(found[rows, ..., group, j], change[rows], atol=1e-4)


@pytest.mark.parametrize("n_kept", [[6, 6], [6, 5], [5, 4], [3, 3], [2, 1], [1, 0]])
def test_flips_are_the_difference_between_two_fits(n_kept: list[int]) -> None:
    """Loading times residual is the change of the prediction when one channel is kept or dropped."""
    rng = np.random.default_rng(1)
    correlation: npt.NDArray[np.float64] = np.array(np.corrcoef(rng.normal(size=(20, 6)).T))
    kept = np.array([rng.permutation(6) < n for n in n_kept])

    def reading(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
        fit = np.linalg.solve(correlation[np.ix_(mask, mask)], correlation[mask])
        return np.where(mask, np.eye(6), np.eye(6)[:, mask] @ fit).T

    precision = np.linalg.inv(correlation)
    matrices = tf.constant(correlation, tf.float32), tf.constant(precision, tf.float32)
    found = conditional(*matrices, tf.constant(kept, tf.float32))
    for mask, read, variance, loading in zip(kept, *(np.asarray(part) for part in found), strict=True):
        np.testing.assert_allclose(read, reading(mask), atol=1e-5)
        assert (variance[~mask] == 0).all()
        for j in range(6):
            other = mask.copy()
            other[j] = not other[j]
            change = (reading(mask) - reading(other)) * (1 if mask[j] else -1)
            residual = (precision @ read)[j] * variance[j] if mask[j] else (np.eye(6) - read)[j]
            np.testing.assert_allclose(np.outer(loading[:, j], residual), change, atol=1e-5)


def test_merged_masks_need_channels(make_model: Callable[[], keras.Model], data: Labelled) -> None:
    model = make_model()
    with pytest.raises(ParameterError, match=r"'merged' must have elements that are consumed as channels"):
        run(model, data, dr.elements(model, "weights"), ablation="merged", rows_per_round=2048)
