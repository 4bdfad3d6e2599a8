"""Composite layers and subclassed models are written out as the calls of the layers inside them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import dropreg as dr
from dropreg.errors import ModelError
from dropreg.graph import all_layers, call_outputs, trace_graph
from dropreg.network import MaskedNetwork
from dropreg.surgery import copy_model

RELATIVE = 1e-4
ops: Any = keras.ops


@keras.saving.register_keras_serializable("composites")
class Block(layers.Layer):
    """A transformer block with a mask of padded steps, written with functions of ``keras.ops``."""

    def __init__(self, width: int, hidden: int, **options: Any) -> None:
        super().__init__(**options)
        self.width, self.hidden = width, hidden
        self.attend = layers.MultiHeadAttention(4, 3, name="attend")
        self.first_norm, self.second_norm = (
            layers.LayerNormalization(name="norm_1"),
            layers.RMSNormalization(name="norm_2"),
        )
        self.enter = layers.EinsumDense("btd,df->btf", (None, hidden), bias_axes="f", activation="gelu", name="enter")
        self.gate = layers.EinsumDense("btd,fd->btf", (None, hidden), name="gate")
        self.leave = layers.EinsumDense("btf,fd->btd", (None, width), bias_axes="d", name="leave")
        self.dropout = layers.Dropout(0.5, name="dropout")

    def build(self, input_shape: Any) -> None:
        shape, hidden = tuple(input_shape), (*tuple(input_shape)[:-1], self.hidden)
        self.attend.build(shape, shape)
        for part in (self.first_norm, self.second_norm, self.enter, self.gate):
            part.build(shape)
        self.leave.build(hidden)
        self.dropout.build(shape)
        self.built = True

    def call(self, x: Any, padding_mask: Any = None, training: Any = None) -> Any:
        rows, steps, _ = ops.shape(x)
        causal = ops.arange(steps)[:, None] >= ops.arange(steps)
        mask = ops.broadcast_to(causal[None, :], (rows, steps, steps))
        if padding_mask is not None:
            mask = ops.logical_and(mask, ops.cast(padding_mask, "bool")[:, None, :])
        y = self.first_norm(x)
        x = x + self.dropout(self.attend(y, y, attention_mask=mask, training=training), training=training)
        y = self.second_norm(x)
        y = self.leave(self.enter(y) * ops.silu(self.gate(y)))
        return x + self.dropout(y, training=training)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width, "hidden": self.hidden}


@keras.saving.register_keras_serializable("composites")
class Stack(layers.Layer):
    """Blocks inside a layer."""

    def __init__(self, width: int, **options: Any) -> None:
        super().__init__(**options)
        self.width = width
        self.blocks = [Block(width, 7, name=f"block_{k}") for k in range(2)]

    def build(self, input_shape: Any) -> None:
        for block in self.blocks:
            block.build(input_shape)
        self.built = True

    def call(self, x: Any) -> Any:
        for block in self.blocks:
            x = block(x)
        return x

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width}


class Network(keras.Model):
    """A subclassed model."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = layers.Conv2D(6, 3, activation="relu", name="enter")
        self.sides = [layers.Conv2D(8, 3, padding="same", name=f"side_{k}") for k in range(2)]
        self.norm, self.out = layers.BatchNormalization(name="norm"), layers.Dense(3, name="out")

    def call(self, x: Any, training: Any = None) -> Any:
        x = self.enter(x)
        x = self.sides[0](x) + ops.relu(self.sides[1](x))
        x = ops.mean(self.norm(x, training=training), axis=(1, 2))
        return self.out(x / 2.0)


def with_blocks(steps: int | None = None) -> keras.Model:
    inputs = {
        "tokens": keras.Input((steps,), dtype="int32", name="tokens"),
        "padding": keras.Input((steps,), dtype="int32", name="padding"),
    }
    x = layers.Embedding(20, 6, name="table")(inputs["tokens"])
    for k in range(2):
        x = Block(6, 8, name=f"block_{k}")(x, padding_mask=inputs["padding"])
    return keras.Model(inputs, layers.Dense(5, name="out")(x))


def with_known_steps() -> keras.Model:
    return with_blocks(7)


def with_a_stack() -> keras.Model:
    inputs = keras.Input((5, 6))
    x = Stack(6, name="stack")(layers.Dense(6, name="before")(inputs))
    return keras.Model(inputs, layers.Dense(3, name="out")(layers.GlobalAveragePooling1D()(x)))


def subclassed() -> keras.Model:
    model = Network()
    model(np.zeros((1, 8, 8, 1), np.float32))
    return model


def sequential() -> keras.Model:
    return keras.Sequential([keras.Input((5, 6)), Block(6, 8, name="block"), layers.Dense(3, name="out")])


MODELS: tuple[Callable[[], keras.Model], ...] = (with_blocks, with_known_steps, with_a_stack, sequential, subclassed)
KINDS: tuple[Any, ...] = ("neurons", "heads", "branches", "layers", ["neurons", "heads"])


def ready(build: Callable[[], keras.Model]) -> keras.Model:
    keras.utils.set_random_seed(0)
    model, rng = build(), np.random.default_rng(0)
    for weight in model.weights:
        if weight.dtype == "float32":
            weight.assign(np.abs(weight + rng.normal(scale=0.3, size=weight.shape)))
    return model


def inputs_of(model: keras.Model, rows: int = 6) -> list[Any]:
    rng, graph, found = np.random.default_rng(1), trace_graph(model), []
    for slot, name in zip(graph.inputs, graph.input_names, strict=True):
        shape = [rows, *(size or 7 for size in graph.shapes[slot][1:])]
        if name == "padding":
            found.append((np.arange(7) < np.arange(2, 2 + rows)[:, None]).astype(np.int32))
        else:
            found.append(rng.integers(0, 20, shape) if name == "tokens" else rng.normal(size=shape).astype(np.float32))
    return [tf.convert_to_tensor(x, tf.int32 if x.dtype.kind == "i" else tf.float32) for x in found]


def relative(found: Any, expected: Any) -> float:
    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())


def state_of(layer: Any) -> list[Any]:
    """Return the attributes of a layer, and the nodes that it records."""
    nodes = [id(node) for node in (*layer._inbound_nodes, *layer._outbound_nodes)]
    return [{name: id(value) for name, value in vars(layer).items()}, nodes]


@pytest.mark.parametrize("build", MODELS)
def test_the_calls_inside_compute_the_same(build: Any) -> None:
    model = ready(build)
    before, made = [state_of(layer) for layer in all_layers(model)], keras.ops.shape
    graph = trace_graph(model)
    assert [state_of(layer) for layer in all_layers(model)] == before
    assert keras.ops.shape is made
    inputs = inputs_of(model)
    (own,) = call_outputs(model, inputs, training=False)
    values = dict(zip(graph.inputs, inputs, strict=True))
    for call in graph.calls:
        values.update(zip(call.outputs, call.run([values[slot] for slot in call.inputs]), strict=True))
    np.testing.assert_array_equal(values[graph.outputs[0]], own)
    assert [call.name for call in trace_graph(model).calls] == [call.name for call in graph.calls]


@pytest.mark.parametrize("build", MODELS)
@pytest.mark.parametrize("kinds", KINDS, ids=str)
def test_masked_equals_shrunk(build: Any, kinds: Any, tmp_path: Path) -> None:
    model = ready(build)
    try:
        elements = dr.elements(model, kinds)
    except ModelError:
        assert (build, kinds) == (subclassed, "heads")
        return
    inputs = inputs_of(model)
    few = len(elements) < 3
    selection = dr.Selection.dropping(elements, [0]) if few else dr.Selection.random(elements, 0.4, seed=2)
    expected = np.asarray(MaskedNetwork(model, elements)(inputs, selection.kept[np.newaxis]))
    small = dr.remove(model, selection).model
    (found,) = call_outputs(small, inputs, training=False)
    assert relative(found, expected) < RELATIVE
    assert relative(call_outputs(model, inputs, training=False)[0], expected) > 0.01
    assert small.count_params() < model.count_params()
    small.save(tmp_path / "small.keras")
    loaded: Any = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(call_outputs(loaded, inputs, training=False)[0], found)


def test_rows_with_different_masks_share_a_batch() -> None:
    model = ready(with_blocks)
    elements, inputs = dr.elements(model, ["neurons", "heads"]), inputs_of(model)
    masks = np.random.default_rng(3).random((6, len(elements))) < 0.6
    together = MaskedNetwork(model, elements)(inputs, masks)
    for row in range(6):
        alone = MaskedNetwork(model, elements)([x[row : row + 1] for x in inputs], masks[row : row + 1])
        assert relative(alone, np.asarray(together[row : row + 1])) < RELATIVE


def test_a_prefix_is_computed_once_for_any_number_of_rows() -> None:
    model = ready(with_blocks)
    elements, inputs = dr.elements(model, include="block_1"), inputs_of(model)
    assert set(elements.layers) == {"block_1/enter"}
    network = MaskedNetwork(model, elements)
    values = network.prefix(inputs)
    assert all(len(value) == 6 for value in values)
    rows = np.array([0, 3, 3, 1, 5, 2, 2, 4])
    masks = np.random.default_rng(0).random((8, len(elements))) < 0.5
    found = network.suffix([tf.gather(value, rows) for value in values], tf.constant(masks, tf.float32))
    expected = network([tf.gather(x, rows) for x in inputs], masks)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_names_are_paths_and_all_layers_are_accounted_for() -> None:
    elements = dr.elements(ready(with_blocks), ["neurons", "heads"])
    assert set(elements.layers) == {f"block_{k}/{part}" for k in range(2) for part in ("enter", "attend")}
    assert elements.ties[0] == (("block_0/enter", 0), ("block_0/gate", 0))
    assert "mixes" in dict(elements.left_out)["block_0/norm_1"]
    blocks = dr.elements(ready(with_a_stack), "layers")
    assert set(blocks.layers) == {"before", "block_0", "block_1"}
    left_out = dict(blocks.left_out)
    assert left_out["stack"] == "it holds several layers of one class, which are elements themselves"
    assert left_out["stack/block_0/norm_1"] == "it lies inside layer 'block_0', which is an element"


def test_impacts_and_pruning_of_written_out_blocks() -> None:
    model = ready(with_known_steps)
    x = dict(zip(("padding", "tokens"), (np.asarray(value) for value in inputs_of(model, 6)), strict=True))
    x = {name: np.tile(value, (8, 1)) for name, value in x.items()}
    elements = dr.elements(model, ["neurons", "heads"])
    impact = dr.estimate(model, (x, None), elements, outcome="divergence", rows=400, progress=False)
    assert np.isfinite(impact.impact).all()
    assert impact.impact.max() > 0
    selection = dr.select(elements, impact, fraction=0.5)
    pruned = dr.remove(model, selection, data=(x, None))
    assert pruned.merge == "least_squares"
    assert "block_0/enter" in repr(pruned.report)
    assert copy_model(pruned.model).count_params() == pruned.model.count_params()


@keras.saving.register_keras_serializable("composites")
class Scaled(layers.Layer):
    """Holds a weight of its own beside its layer."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.inner = layers.Dense(4, name="inner")

    def build(self, input_shape: Any) -> None:
        self.inner.build(input_shape)
        self.scale = self.add_weight(shape=(4,), initializer="ones")

    def call(self, x: Any) -> Any:
        return self.inner(x) * self.scale


class Reads(layers.Layer):
    """Uses the kernel of a layer without calling it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.inner, self.other = layers.Dense(4, name="inner"), layers.Dense(4, use_bias=False, name="other")

    def build(self, input_shape: Any) -> None:
        self.inner.build(input_shape)
        self.other.build((None, 4))

    def call(self, x: Any) -> Any:
        return ops.matmul(self.inner(x), ops.transpose(self.other.kernel))


@pytest.mark.parametrize("kind", [Scaled, Reads])
def test_what_uses_weights_outside_its_layers_remains_one_call(kind: Any) -> None:
    inputs = keras.Input((5,))
    model = keras.Model(inputs, layers.Dense(3)(layers.Dense(6)(kind(name="whole")(inputs))))
    assert [call.kind for call in trace_graph(model).calls] == [kind.__name__, "Dense", "Dense"]
    assert "has no rule" in dict(dr.elements(model).left_out)["whole"]


def test_a_registered_composite_remains_one_call() -> None:
    class Whole(Block):
        pass

    dr.layers.register(Whole, rule=dr.layers.Mix())
    inputs = keras.Input((5, 6))
    model = keras.Model(inputs, layers.Dense(3)(layers.Dense(6)(Whole(6, 8)(inputs))))
    assert [call.kind for call in trace_graph(model).calls] == ["Whole", "Dense", "Dense"]
