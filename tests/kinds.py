"""Models of heads, branches, several outputs and text, and inputs and masks for them."""

from typing import Any

import keras
import models
import numpy as np
import tensorflow as tf
from keras import layers

import dropreg as dr
from dropreg.graph._trace import trace_graph
from dropreg.network._masked import MaskedNetwork

RELATIVE, ABSOLUTE = 1e-4, 1e-5  # float32 rounding through a few layers


def attention(query: int = 6, heads: int = 2) -> keras.Model:
    """Self-attention, cross-attention and grouped-query attention, with residual branches."""
    x = inputs = keras.Input((4, query))
    other = layers.Dense(query, name="other")(inputs)
    x = layers.Add(name="add_1")([x, layers.MultiHeadAttention(heads, 3, name="self")(x, x)])
    x = layers.Add(name="add_2")([x, layers.MultiHeadAttention(heads, 3, value_dim=2, name="cross")(x, value=other)])
    x = layers.Add(name="add_3")([x, layers.GroupQueryAttention(3, 4, 2, name="grouped")(x, x)])
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(models.N_CLASSES, name="out")(x))


def stacked() -> keras.Model:
    """Layers that keep the shape of their input, and a block with a projected shortcut."""
    x = inputs = keras.Input((6, 6, 4))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="same")(x)
    x = layers.BatchNormalization(name="bn")(x)
    y = layers.Conv2D(5, 3, padding="same", name="branch_1")(x)
    y = layers.Conv2D(5, 3, padding="same", activation="relu", name="branch_2")(y)
    x = layers.Add(name="add")([y, layers.Conv2D(5, 1, name="project")(x)])
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(5, activation="tanh", name="dense")(x)
    return keras.Model(inputs, layers.Dense(models.N_CLASSES, name="out")(x))


@keras.saving.register_keras_serializable("tests")
class Block(layers.Layer):
    """Two Dense layers that nothing outside sees."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.first, self.second = layers.Dense(5, activation="relu", name="first"), layers.Dense(4, name="second")

    def call(self, inputs: Any) -> Any:
        return self.second(self.first(inputs))


class Subclassed(keras.Model):
    """Layers in a list, one of them called twice, and a function of TensorFlow, so that the call cannot be traced."""

    def __init__(self) -> None:
        super().__init__(name="ours")
        self.blocks = [layers.Dense(4, activation="relu", name="enter"), Block(name="block")]
        self.attend = layers.MultiHeadAttention(2, 3, name="attend")
        self.out = layers.Dense(models.N_CLASSES, name="out")

    def call(self, inputs: Any) -> Any:
        x = self.blocks[0](inputs)
        x = self.blocks[1](self.blocks[1](x))
        x = x + self.attend(x, x)
        return self.out(tf.reduce_mean(x, axis=1))


def randomized(model: keras.Model, seed: int = 0) -> keras.Model:
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        values = rng.normal(scale=0.6, size=variable.shape)
        if variable.dtype.startswith("float"):
            variable.assign(np.abs(values) + 0.5 if "variance" in variable.path else values)
    return model


def subclassed(seed: int = 0) -> keras.Model:
    keras.utils.set_random_seed(seed)
    model = Subclassed()
    model(np.zeros((2, 3, 4), np.float32))
    return randomized(model, seed)


def inputs(model: keras.Model, rows: int, seed: int = 0) -> np.ndarray:
    shape = [size or 1 for size in trace_graph(model).shapes[0][1:]]
    return np.random.default_rng(seed).normal(size=(rows, *shape)).astype(np.float32)


def masks_of(elements: dr.Elements, rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, len(elements))) < 0.6


def masked(model: keras.Model, elements: dr.Elements, x: np.ndarray, masks: np.ndarray) -> np.ndarray:
    return np.asarray(MaskedNetwork(model, elements)([x], masks))


def two_outputs() -> keras.Model:
    x = inputs = keras.Input((6,), name="x")
    x = layers.Dense(5, activation="relu", name="trunk")(x)
    first = layers.Dense(3, name="first")(layers.Dense(4, activation="relu", name="own")(x))
    return randomized(keras.Model(inputs, [first, layers.Dense(1, name="second")(x)]))


def reads_text() -> keras.Model:
    """Classes of texts of up to four words."""
    vocabulary = layers.TextVectorization(output_sequence_length=4, vocabulary=["a", "b", "c"])
    x = inputs_tensor = keras.Input((1,), dtype="string", name="text")
    x = layers.Dense(4, activation="relu", name="a")(layers.Flatten()(layers.Embedding(5, 3)(vocabulary(x))))
    return randomized(keras.Model(inputs_tensor, layers.Dense(3, name="out")(x)))
