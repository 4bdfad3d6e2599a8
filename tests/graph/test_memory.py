"""Batches count what calls hold, also inside subclassed models, blocks and loops, and the masks."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import dropreg as dr
from dropreg.graph import floats_per_row, rows_that_fit
from dropreg.graph import trace_graph as trace
from dropreg.network import Evaluator, MaskedNetwork, ask_one
from dropreg.network import _masked as masked


def parts() -> list[layers.Layer]:
    same: dict[str, Any] = {"padding": "same", "activation": "relu"}
    hidden = [layers.Conv2D(16, 3, **same), layers.Conv2D(32, 3, **same), layers.MaxPooling2D()]
    return [*hidden, layers.GlobalAveragePooling2D(), layers.Dense(20, activation="relu"), layers.Dense(3)]


class Network(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.parts = parts()

    def call(self, x: Any) -> Any:
        for part in self.parts:
            x = part(x)
        return x


class Sides(layers.Layer):
    """Four convolutions side by side and their mean: one map of output, eight of 32 channels inside."""

    def __init__(self) -> None:
        super().__init__()
        self.sides = [layers.Conv2D(32, 3, padding="same") for _ in range(4)]

    def call(self, x: Any) -> Any:
        together = keras.ops.concatenate([side(x) for side in self.sides], axis=-1)
        return keras.ops.mean(together, axis=-1, keepdims=True)


def batch_of(model: keras.Model, n: int = 4) -> int:
    x = np.zeros((n, *model.input_shape[1:]) if not isinstance(model, Network) else (n, 24, 24, 1), np.float32)
    question = ask_one(model, (x, np.arange(n) % 3), dr.elements(model), outcome="loss", task=None, kept=None, seed=0)
    return Evaluator(question).batch_size


def test_a_subclassed_model_gets_the_batch_of_a_functional_one() -> None:
    functional, subclassed = keras.Sequential([keras.Input((24, 24, 1)), *parts()]), Network()
    subclassed(np.zeros((1, 24, 24, 1), np.float32))
    outputs = 24 * 24 * (16 + 32) + 12 * 12 * 32 + 32 + 20 + 3
    expected = floats_per_row(trace(functional), range(6))
    assert expected == outputs
    assert floats_per_row(trace(subclassed), range(6)) == outputs
    assert batch_of(subclassed) == batch_of(functional) < 800  # 4,096 by the three outputs alone


def test_tensors_inside_a_block_count() -> None:
    inputs = keras.Input((20, 20, 3))
    model = keras.Model(inputs, layers.Dense(3)(layers.Dense(6)(layers.Flatten()(Sides()(inputs)))))
    assert floats_per_row(trace(model), range(6)) == 20 * 20 * (8 * 32 + 1)  # 400 by the block's output


def test_tensors_inside_a_block_that_cannot_be_traced_count() -> None:
    class Opaque(Sides):
        def call(self, x: Any) -> Any:
            return super().call(tf.identity(x))

    inputs = keras.Input((20, 20, 3))
    model = keras.Model(inputs, layers.Dense(3)(layers.Dense(6)(layers.Flatten()(Opaque()(inputs)))))
    assert floats_per_row(trace(model), [0]) >= 20 * 20 * (8 * 32 + 1)


def test_attention_counts_its_scores() -> None:
    inputs = keras.Input((64, 16))
    model = keras.Model(inputs, layers.Dense(3)(layers.MultiHeadAttention(4, 4)(inputs, inputs)))
    assert floats_per_row(trace(model), [0]) >= 4 * 64 * 64


def test_a_recurrent_layer_counts_every_step() -> None:
    def held(steps: int) -> int:
        inputs = keras.Input((steps, 5))
        return floats_per_row(trace(keras.Model(inputs, layers.Dense(3)(layers.GRU(8)(inputs)))), [0])

    assert held(40) > 40 * 8 * 4  # 8 by its output
    assert held(40) == pytest.approx(2 * held(20), rel=0.1)


def test_masks_of_a_wide_layer_count() -> None:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(10_000, activation="relu"), layers.Dense(3)])
    elements = dr.elements(model)
    assert MaskedNetwork(model, elements).floats_per_row(10) == 20_000  # 3 by the outputs of the last layer
    assert batch_of(model) == 2**24 // 20_000
    narrow = keras.Sequential([keras.Input((4,)), layers.Dense(2), layers.Dense(30), layers.Dense(3)])
    assert MaskedNetwork(narrow, dr.elements(narrow, include=narrow.layers[0])).floats_per_row(10) == 33


def test_the_part_before_the_masks_has_a_batch_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    model = keras.Sequential([keras.Input((24, 24, 1)), *parts()])
    x = np.zeros((50, 24, 24, 1), np.float32)
    network = MaskedNetwork(model, dr.elements(model, include=model.layers[-2]))
    examples, sizes, run = dr.data.check_data(model, (x, None)), [], masked.run_batches
    monkeypatch.setattr(masked, "run_batches", lambda *given: (sizes.append(given[2]), run(*given))[1])
    monkeypatch.setattr(masked, "MOST_FLOATS", 2**18)
    assert network.cached_prefix(examples, 4096) is not None
    assert sizes == [2**18 // (24 * 24 * (16 + 32) + 12 * 12 * 32 + 32 + 20)]  # 4,096 by the last layer
    alone = network.floats_per_row(10)
    assert network.floats_per_row(10**9) > alone + 24 * 24 * 48  # too many examples to keep


@pytest.mark.parametrize(
    ("floats", "rows"), [(1, 4096), (2**14, 1024), (2**20, 16), (2**24, 16), (2**26, 4), (2**30, 1), (0, 4096)]
)
def test_rows_that_fit(floats: int, rows: int) -> None:
    assert rows_that_fit(floats, budget=2**24, least=16, most=4096) == rows
