"""A layer is an obstacle to gradients only if elements change the output through it alone."""

import importlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import dropreg as dr
from dropreg.network import Evaluator, ask_one, non_differentiable

TABLE = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
CASES: dict[str, tuple[Callable[[Any, Any], Any], str | None]] = {
    "a comparison beside the values": (lambda h, z: ops.where(h >= 0.1, h, 0.3 * h), None),
    "a comparison as a factor": (lambda h, z: z * ops.cast(z > 0.0, "float32"), None),
    "the number of the largest as a factor": (lambda h, z: z * ops.one_hot(ops.argmax(z, -1), 3), None),
    "ones of the same shape": (lambda h, z: z * ops.ones_like(z), None),
    "a mask from positions": (
        lambda h, z: z * ops.cast(ops.greater_equal(ops.cumsum(ops.ones_like(z), -1), 2.0), "float32"),
        None,
    ),
    "integers from ones": (lambda h, z: z * ops.cast(ops.cast(ops.ones_like(h[:, :3]), "int32"), "float32"), None),
    "rounding": (lambda h, z: ops.round(z), "Round"),
    "rounding beside the values": (lambda h, z: layers.Dense(3)(h) + ops.round(z), "Round"),
    "a comparison alone": (lambda h, z: ops.cast(z > 0.0, "float32"), "Greater"),
    "a look-up beside a path": (lambda h, z: layers.Dense(3)(h) + ops.take(TABLE, ops.argmax(z, -1), 0), "Argmax"),
}


def model_with(last: Callable[[Any, Any], Any]) -> keras.Model:
    keras.utils.set_random_seed(0)
    x = keras.Input((5,))
    h = layers.Dense(6, activation="tanh", name="first")(x)
    z = layers.Dense(4, activation="tanh", name="second")(h)
    return keras.Model(x, layers.Dense(3, name="out")(last(h, layers.Dense(3, name="third")(z))))


@pytest.mark.parametrize("name", CASES)
def test_only_what_elements_pass_through_alone_is_an_obstacle(name: str) -> None:
    last, expected = CASES[name]
    model = model_with(last)
    x = np.random.default_rng(1).normal(size=(8, 5)).astype(np.float32)
    question = ask_one(model, (x, None), dr.elements(model), outcome="divergence", task=None, seed=0)
    found = non_differentiable(Evaluator(question))
    assert found is None if expected is None else expected in str(found)


def test_a_causal_model_is_pruned_by_gradients() -> None:
    pytest.importorskip("keras_hub", reason="KerasHub is not installed (dropreg[kerashub])", exc_type=ImportError)
    families: Any = importlib.import_module("families")
    keras.utils.set_random_seed(0)
    model = families.causal("GPT2", **families.ENCODER | {"num_layers": 1}, **families.LENGTH)()
    tokens = np.random.default_rng(0).integers(0, 50, (8, 8)).astype(np.int32)
    data = ({"token_ids": tokens, "padding_mask": np.ones_like(tokens)}, None)
    elements = dr.elements(model, ["neurons", "heads"])
    few = dr.Annealing(rounds=2, rows_per_round=32)
    selection = dr.anneal(model, data, elements, fraction=0.3, annealing=few)
    assert len(selection.dropped) == round(0.3 * len(elements))
    pruned = dr.remove(model, selection)
    assert isinstance(pruned.model, type(model))
