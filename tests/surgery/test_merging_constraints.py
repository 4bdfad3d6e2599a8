"""Law: what is bound to something, such as positive weights, merging leaves as deletion does."""

from collections.abc import Callable
from itertools import product
from typing import Any

import keras
import models
import numpy as np
import pytest
from keras import layers

import dropreg as dr


def dense(**bound: Any) -> keras.Model:
    x = inputs = keras.Input((4,))
    for width in (12, 8):
        x = layers.Dense(width, activation="relu", **bound)(x)
    return keras.Model(inputs, layers.Dense(3, **bound)(x))


def steps(**bound: Any) -> keras.Model:
    x = inputs = keras.Input((5, 4))
    x = layers.TimeDistributed(layers.Dense(8, activation="relu", **bound))(x)
    x = layers.TimeDistributed(layers.Dense(6, activation="relu", **bound))(x)
    return keras.Model(inputs, layers.Dense(3, **bound)(layers.Flatten()(x)))


def separable(**bound: Any) -> keras.Model:
    x = inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(8, 3, activation="relu", **bound)(x)
    pointwise = {name.replace("kernel", "pointwise"): value for name, value in bound.items()}
    x = layers.SeparableConv2D(6, 3, activation="relu", **pointwise)(x)
    return keras.Model(inputs, layers.Dense(3, **bound)(layers.GlobalAveragePooling2D()(x)))


def directions(**bound: Any) -> keras.Model:
    inputs = keras.Input((5, 3))
    x = layers.Bidirectional(layers.GRU(6, return_sequences=True, **bound))(inputs)
    return keras.Model(inputs, layers.Dense(3)(layers.LSTM(6, **bound)(x)))


def attention(**bound: Any) -> keras.Model:
    inputs = keras.Input((6, 4))
    x = layers.Dense(8, activation="relu")(inputs)
    x = layers.MultiHeadAttention(2, 4, **bound)(x, x)
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def bound_weights(model: keras.Model) -> list[np.ndarray]:
    """Values of the weights that are bound to something."""
    return [variable.numpy() for variable in model.weights if variable.constraint is not None]


@pytest.mark.parametrize(
    ("build", "name"), [*product([dense, steps, separable, attention], ["kernel", "bias"]), (directions, "kernel")]
)
def test_constrained_weights_are_only_cut(build: Callable[..., keras.Model], name: str) -> None:
    _check(build, {f"{name}_constraint": "non_neg"})


def test_constrained_recurrent_kernels_are_only_cut() -> None:
    _check(directions, {"recurrent_constraint": "non_neg"})


def _check(build: Callable[..., keras.Model], bound: dict[str, Any]) -> None:
    keras.utils.set_random_seed(0)
    model = build(**bound)
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        values = rng.normal(scale=0.5, size=variable.shape)
        variable.assign(np.abs(values) if variable.constraint is not None else values)
    x, y = models.data_for(model, 60)
    kind = "heads" if build is attention else "neurons"
    selection = dr.Selection.random(dr.elements(model, kind), 0.5, seed=1)
    plain, merged = (dr.remove(model, selection, data=(x, y), merge=how).model for how in ("none", "least_squares"))
    assert len(bound_weights(model)) > 1
    for expected, found in zip(bound_weights(plain), bound_weights(merged), strict=True):
        np.testing.assert_array_equal(found, expected)
    free = [np.abs(a.numpy() - b.numpy()).max() for a, b in zip(plain.weights, merged.weights, strict=True)]
    assert max(free) > 1e-3
