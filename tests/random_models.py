"""Small random Functional models of all families of layers, drawn by hypothesis."""

import random
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import own_layers as own
from hypothesis import reject
from hypothesis import strategies as st
from keras import layers, ops
from random_layers import BY_RANK, CARRIERS, WRITERS, Growing, channels

from dropreg.graph import trace_graph

ROWS = 4
MOST_POSITIONS = 60
"""Tensors with more positions are pooled before anything else, so that models remain small."""


@dataclass(frozen=True)
class Drawn:
    """A random model with its inputs.

    Attributes
    ----------
    model : keras.Model
    inputs : list of ndarray
        One array for each input, `ROWS` examples each.
    families : tuple of str
        Families of its layers, in the order in which they were added.
    dtype : str
        Dtype policy of its layers.
    """

    model: Any
    inputs: list[np.ndarray]
    families: tuple[str, ...]
    dtype: str

    def __repr__(self) -> str:
        calls = [
            f"{call.name} = {call.kind}({', '.join(map(str, call.inputs))}) -> {', '.join(map(str, call.outputs))}"
            for call in trace_graph(self.model).calls
        ]
        return f"Drawn({self.dtype}; {'; '.join(calls)})"


@st.composite
def random_models(draw: Any, most: int = 8, only: frozenset[str] = frozenset()) -> Drawn:
    """Draw a model of up to `most` families of layers, of those in `only` if given, with random weights and inputs."""
    state = random.getstate()  # Keras draws seeds of initializers, which hypothesis warns about
    dtypes = ["float32"] if only else ["float32"] * 6 + ["float64", "mixed_bfloat16"]
    g = Growing(draw, draw(st.sampled_from(dtypes)), only)
    inputs = [_input(g)]
    for _ in range(3 if only else draw(st.integers(3, most))):
        _grow(g, inputs)
    outputs = _outputs(g)
    model = keras.Model(inputs if len(inputs) > 1 else inputs[0], outputs, name="random")
    seed = draw(st.integers(0, 999))
    arrays = [_values(tensor, seed) for tensor in model.inputs]
    try:
        model(arrays if len(arrays) > 1 else arrays[0])  # builds the weights of activations
    except ValueError:
        reject()  # Keras itself cannot run it, for example a Softmax of padded sequences
    randomize(model, seed)
    random.setstate(state)
    return Drawn(model, arrays, tuple(g.families), g.dtype)


def _input(g: Growing) -> Any:
    """An input of some kind, whose first tensor joins the model's tensors."""
    kinds = ("vector", "sequence", "image", "tokens", *(["volume"] if g.dtype == "float32" else []))
    kind = g.one(*(kinds[:1] if g.only else kinds))
    g.families.append(kind)
    shape = {"vector": (4,), "sequence": (5, 3), "image": (4, 4, 3), "tokens": (5,), "volume": (3, 4, 3, 2)}[kind]
    x = inputs = keras.Input(shape, dtype="int32" if kind == "tokens" else "float32", name=f"{kind}_{g.count}")
    g.count += 1
    if kind == "tokens":
        embedding = g.one(layers.Embedding, own.ScaledEmbedding)
        x = g.layer(embedding, 9, g.size(), mask_zero=g.one(False, True))(x)
    if kind == "volume":
        x = g.layer(layers.Conv3D, g.size(), 2, activation="relu")(x)
        x = g.layer(g.one(layers.UpSampling3D, layers.AveragePooling3D), 2)(x)
        x = g.layer(layers.Reshape, (-1, channels(x)))(x)
    g.tensors.append(x)
    return inputs


def _grow(g: Growing, inputs: list[Any]) -> None:
    """Add layers to one of the last tensors, or join two tensors."""
    x = g.one(*g.tensors[:-4:-1])
    action = g.one("extend", "extend", "extend", "join", "residual", "input")
    if action == "input" and len(inputs) == 1 and len(x.shape) == 2:
        inputs.append(keras.Input((4,), name="second"))
        y = _join(g, x, g.layer(layers.Dense, channels(x), activation="relu")(inputs[-1]))
    elif action == "join" and (others := [tensor for tensor in g.tensors if tensor is not x]):
        y = _join(g, x, g.one(*others))
    elif action == "residual":
        y = _extended(g, x)
        y = _join(g, x, y if y.shape == x.shape else g.layer(layers.Dense, channels(x))(x))
    else:
        y = _extended(g, x)
    if not y.sparse:  # Keras takes some results for sparse ones
        g.tensors.append(y)


def _extended(g: Growing, x: Any) -> Any:
    if np.prod(x.shape[1:-1]) > MOST_POSITIONS or len(x.shape) > 4:
        return g.layer(layers.Reshape, (-1, channels(x)))(x)[:, :5]
    known = BY_RANK[len(x.shape)]
    group = g.only or g.one(WRITERS, CARRIERS, WRITERS, CARRIERS, set(known) - WRITERS - CARRIERS)
    name = g.one(*(name for name in known if name in group))
    g.families.append(name)
    return BY_RANK[len(x.shape)][name](g, x)


def _join(g: Growing, x: Any, y: Any) -> Any:
    """Join two tensors: elementwise where the shapes are equal, else as vectors."""
    if x.shape != y.shape:
        x, y = (_vector(g, tensor) for tensor in (x, y))
        if channels(x) != channels(y) and g.one(True, False):
            g.families.append("concatenate")
            return g.layer(layers.Concatenate)([x, y])
        x, y = (g.layer(layers.Dense, 4, activation=g.activation())(tensor) for tensor in (x, y))
    merge = g.one("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "blend", "sum", "op")
    g.families.append(merge.lower())
    if merge == "blend":
        return g.layer(own.Blend)(x, y)
    if merge == "sum":
        third = g.layer(layers.Dense, channels(x), activation="tanh")(x)
        return g.layer(g.one(layers.Add, own.CentredSum))([x, y, third])
    if merge == "op":
        return g.one(ops.add, ops.subtract, ops.multiply, ops.maximum)(x, y)
    options = {"axis": g.one(-1, 1)} if merge == "Concatenate" else {}
    return g.layer(getattr(layers, merge), **options)([x, y])


def _vector(g: Growing, x: Any) -> Any:
    if len(x.shape) == 2:
        return x
    pooling = {3: layers.GlobalAveragePooling1D, 4: layers.GlobalMaxPooling2D}
    kinds = [layers.Flatten, *(pooling[rank] for rank in pooling if rank == len(x.shape))]
    return g.layer(g.one(*kinds[::-1]))(x)


def _outputs(g: Growing) -> Any:
    """One or two outputs, as a tensor, a list or a dict: the last tensor and perhaps another, with heads or plain."""
    found = [_head(g, g.tensors[-1])]
    if len(g.tensors) > 2 and g.one(False, True):
        found.append(_head(g, g.one(*g.tensors[1:-1])))
        return g.one(found, {"b": found[0], "a": found[1]})
    return found[0]


def _head(g: Growing, x: Any) -> Any:
    kind = g.one("dense", "positions", "plain")
    if kind == "plain" and len(g.families) > 4:
        return x
    x = _vector(g, x) if kind == "dense" else x
    return g.layer(layers.Dense, 3, activation=g.one(None, "softmax"))(x)


def randomize(model: Any, seed: int) -> None:
    """Give all weights, biases and moving statistics random values of moderate size."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if not str(variable.dtype).startswith(("float", "bfloat")):
            continue
        values = rng.normal(size=variable.shape)
        if "variance" in variable.path:
            values = np.abs(values) + 0.5
        elif len(variable.shape) > 1:
            values *= 1.5 / np.sqrt(np.prod(variable.shape[:-1]))
        variable.assign(values if "gamma" not in variable.path else 1.0 + 0.3 * values)


def _values(tensor: Any, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (ROWS, *tensor.shape[1:])
    if tensor.dtype == "int32":
        return np.sort(rng.integers(0, 9, shape).astype(np.int32), axis=-1)[:, ::-1].copy()  # zeros are at the end
    return rng.normal(size=shape).astype(np.float32)
