"""Law: every layer with weights is an element's, loses weights with elements, or is named as left out."""

import inspect
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import dropreg as dr
from dropreg.graph import all_layers


class Own(layers.Layer):
    """A layer of a user with a weight."""

    def build(self, input_shape: Any) -> None:
        self.scale = self.add_weight(shape=(input_shape[-1], 3))

    def call(self, x: Any) -> Any:
        return x @ self.scale


class Composite(layers.Layer):
    """A layer of a user that holds two."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.first, self.second = layers.Dense(5), layers.Dense(4)

    def call(self, x: Any) -> Any:
        return self.second(self.first(x))


class Opaque(Composite):
    """A layer of a user that holds two, and whose call cannot be traced."""

    def call(self, x: Any) -> Any:
        return super().call(tf.identity(x))


class Inner(keras.Model):
    """A subclassed model, nested in another model."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.dense = layers.Dense(4)

    def call(self, x: Any) -> Any:
        return self.dense(x)


def itself(kind: Any, **options: Any) -> Callable[[Any], Any]:
    return lambda x: kind(**options, name="tested")(x, x)


FIRST: dict[str, Any] = {"data_format": "channels_first"}
VECTOR, STEPS, IMAGE, VOLUME, FRAMES = (5,), (4, 5), (4, 4, 5), (4, 4, 4, 5), (3, 4, 4, 5)
REGISTER = "register"
CASES: dict[str, tuple[tuple[int, ...], Callable[..., Any], str | None]] = {
    "Dense": (VECTOR, lambda: layers.Dense(4, name="tested"), None),
    "EinsumDense": (STEPS, lambda: layers.EinsumDense("abc,cd->abd", (4, 6), name="tested"), None),
    "EinsumDense, heads": (
        STEPS,
        lambda: layers.EinsumDense("abc,cde->abde", (4, 2, 3), name="tested"),
        "has more than one axis of channels or units",
    ),
    "Conv1D": (STEPS, lambda: layers.Conv1D(4, 2, name="tested"), None),
    "Conv2D": (IMAGE, lambda: layers.Conv2D(4, 2, name="tested"), None),
    "Conv3D": (VOLUME, lambda: layers.Conv3D(4, 2, name="tested"), None),
    "Conv1DTranspose": (STEPS, lambda: layers.Conv1DTranspose(4, 2, name="tested"), None),
    "Conv2DTranspose": (IMAGE, lambda: layers.Conv2DTranspose(4, 2, name="tested"), None),
    "Conv3DTranspose": (VOLUME, lambda: layers.Conv3DTranspose(4, 2, name="tested"), None),
    "DepthwiseConv1D": (STEPS, lambda: layers.DepthwiseConv1D(2, name="tested"), None),
    "DepthwiseConv2D": (IMAGE, lambda: layers.DepthwiseConv2D(2, name="tested"), None),
    "SeparableConv1D": (STEPS, lambda: layers.SeparableConv1D(4, 2, name="tested"), None),
    "SeparableConv2D": (IMAGE, lambda: layers.SeparableConv2D(4, 2, name="tested"), None),
    "Conv2D, channels first": (IMAGE, lambda: layers.Conv2D(4, 2, name="tested", **FIRST), "channels_last"),
    "DepthwiseConv2D, channels first": (
        IMAGE,
        lambda: layers.DepthwiseConv2D(2, name="tested", **FIRST),
        "channels_last",
    ),
    "BatchNormalization": (VECTOR, lambda: layers.BatchNormalization(name="tested"), None),
    "BatchNormalization, axis 1": (STEPS, lambda: layers.BatchNormalization(axis=1, name="tested"), "axis=-1"),
    "LayerNormalization": (VECTOR, lambda: layers.LayerNormalization(name="tested"), REGISTER),
    "RMSNormalization": (VECTOR, lambda: layers.RMSNormalization(name="tested"), REGISTER),
    "GroupNormalization": (VECTOR, lambda: layers.GroupNormalization(3, name="tested"), REGISTER),
    "SpectralNormalization": (VECTOR, lambda: layers.SpectralNormalization(layers.Dense(4), name="tested"), REGISTER),
    "Normalization": (VECTOR, lambda: layers.Normalization(name="tested"), None),
    "PReLU": (VECTOR, lambda: layers.PReLU(name="tested"), None),
    "SimpleRNN": (STEPS, lambda: layers.SimpleRNN(4, name="tested"), None),
    "GRU": (STEPS, lambda: layers.GRU(4, name="tested"), None),
    "LSTM": (STEPS, lambda: layers.LSTM(4, name="tested"), None),
    "LSTM, stateful": (STEPS, lambda: layers.LSTM(4, stateful=True, name="tested"), "stateful=False"),
    "RNN": (STEPS, lambda: layers.RNN([layers.LSTMCell(4), layers.GRUCell(3)], name="tested"), REGISTER),
    "Bidirectional": (STEPS, lambda: layers.Bidirectional(layers.GRU(4), name="tested"), None),
    "Bidirectional, RNN": (
        STEPS,
        lambda: layers.Bidirectional(layers.RNN(layers.LSTMCell(4)), name="tested"),
        REGISTER,
    ),
    "Bidirectional, stateful": (
        STEPS,
        lambda: layers.Bidirectional(layers.GRU(4, stateful=True), name="tested"),
        "stateful=False",
    ),
    "ConvLSTM1D": (IMAGE, lambda: layers.ConvLSTM1D(3, 2, name="tested"), REGISTER),
    "ConvLSTM2D": (FRAMES, lambda: layers.ConvLSTM2D(3, 2, name="tested"), REGISTER),
    "ConvLSTM3D": ((2, *VOLUME), lambda: layers.ConvLSTM3D(3, 2, name="tested"), REGISTER),
    "TimeDistributed": (STEPS, lambda: layers.TimeDistributed(layers.Dense(4), name="tested"), None),
    "TimeDistributed, Conv2D": (FRAMES, lambda: layers.TimeDistributed(layers.Conv2D(3, 2), name="tested"), REGISTER),
    "MultiHeadAttention": (STEPS, lambda: itself(layers.MultiHeadAttention, num_heads=2, key_dim=3), "kind 'heads'"),
    "GroupQueryAttention": (
        STEPS,
        lambda: itself(layers.GroupQueryAttention, head_dim=3, num_query_heads=2, num_key_value_heads=1),
        "kind 'heads'",
    ),
    "Attention": (STEPS, lambda: lambda x: layers.Attention(use_scale=True, name="tested")([x, x]), REGISTER),
    "AdditiveAttention": (STEPS, lambda: lambda x: layers.AdditiveAttention(name="tested")([x, x]), REGISTER),
    "STFTSpectrogram": (
        (16, 2),
        lambda: layers.STFTSpectrogram(frame_length=8, frame_step=4, fft_length=8, name="tested"),
        REGISTER,
    ),
    "Own": (VECTOR, lambda: Own(name="tested"), REGISTER),
    "Opaque": (VECTOR, lambda: Opaque(name="tested"), REGISTER),
    "Composite": (VECTOR, lambda: Composite(name="tested"), None),
    "nested model": (VECTOR, lambda: Inner(name="tested"), None),
}
"""Shape of the input, layer, and a part of the reason for which it is left out (None for elements)."""
CELLS = ("SimpleRNNCell", "GRUCell", "LSTMCell")
WITHOUT = ("Layer", "Wrapper", "FlaxLayer", "JaxLayer", "TFSMLayer", "TorchModuleWrapper", *CELLS)
EMBEDDINGS = ("Embedding", "ReversibleEmbedding")


@pytest.mark.parametrize("case", CASES)
def test_a_layer_with_weights_has_elements_or_is_left_out(case: str) -> None:
    shape, build, reason = CASES[case]
    keras.utils.set_random_seed(0)
    inputs = keras.Input(batch_shape=(2, *shape))
    x = build()(layers.Dense(6, name="before")(inputs))
    x = layers.Dense(5, activation="relu", name="after")(layers.Flatten()(x))
    model = keras.Model(inputs, layers.Dense(3, name="out")(x))
    elements = dr.elements(model)
    left_out = dict(elements.left_out)
    inside = [layer.name for layer in all_layers(model.get_layer("tested"))]
    if reason is not None:
        assert reason in left_out["tested"]
        assert f"left out: 'tested': {left_out['tested']}" in repr(elements)
        return
    assert "tested" not in left_out
    has_elements = not set(elements.layers).isdisjoint(inside)
    assert ("tested" in elements.followers) != has_elements
    if not has_elements:
        assert "removed with them: weights of 'tested'" in repr(elements)
        small = dr.remove(
            model, dr.Selection.dropping(elements, np.flatnonzero(np.equal(elements.layers, "before"))[:3])
        )
        sizes = small.report.layers.set_index("layer")
        assert sizes["params_after"]["tested"] < sizes["params_before"]["tested"]


def adds_weights(kind: Any) -> bool:
    parents = [base for base in kind.__mro__ if issubclass(base, layers.Layer) and base is not layers.Layer]
    return any("add_weight" in inspect.getsource(base) for base in parents)


def test_every_layer_of_keras_with_weights_is_tested() -> None:
    tested = {case.partition(",")[0] for case in CASES} | {*EMBEDDINGS, *WITHOUT}
    kinds = {kind for kind in vars(layers).values() if inspect.isclass(kind) and issubclass(kind, layers.Layer)}
    assert {kind.__name__ for kind in kinds if adds_weights(kind)} - tested == set()


def test_units_of_another_kind_are_named() -> None:
    inputs = keras.Input((4,), dtype="int32")
    x = layers.Flatten()(layers.Embedding(10, 3, name="table")(inputs))
    x = layers.BatchNormalization(name="normalization")(layers.Dense(5, name="hidden")(x))
    model = keras.Model(inputs, layers.Dense(3, name="out")(x))
    assert dict(dr.elements(model).left_out)["table"] == "its channels are elements of kind 'embeddings'"
    reasons = dict(dr.elements(model, "embeddings").left_out)
    assert reasons["hidden"] == reasons["normalization"] == "its channels are elements of kind 'neurons'"
    both = dr.elements(model, ["neurons", "embeddings"])
    assert dict(both.left_out) == {"out": "the model's output needs it"}
    assert dict(dr.elements(model, exclude="hidden", kind=["neurons", "embeddings"]).left_out) == dict(both.left_out)


def test_layers_on_the_inputs_are_named() -> None:
    inputs = keras.Input((4,))
    x = layers.Dense(5, name="hidden")(layers.BatchNormalization(name="first")(inputs))
    left_out = dict(dr.elements(keras.Model(inputs, layers.Dense(3, name="out")(x))).left_out)
    assert left_out["first"] == "it has no units of its own, and its input channels are kept"


def transformer() -> keras.Model:
    """With a shortcut, a normalization of it, and a projection of another width."""
    inputs = keras.Input((4, 6))
    hidden = layers.Dense(8, activation="relu", name="up")(layers.LayerNormalization(name="inner")(inputs))
    hidden = layers.Dense(6, name="down")(layers.BatchNormalization(name="norm")(hidden))
    x = layers.MultiHeadAttention(2, 3, name="attend")(*2 * [layers.Add()([inputs, hidden])])
    return keras.Model(inputs, layers.Dense(3, name="out")(layers.LayerNormalization(name="last")(x)))


UNITS, OUTPUT = "its channels are elements of kind 'neurons'", "the model's output needs it"
KINDS: dict[Any, tuple[set[str], set[str], dict[str, str]]] = {
    "heads": ({"attend"}, set(), {"up": UNITS, "norm": UNITS, "down": UNITS, "out": OUTPUT}),
    "branches": (
        {"down"},
        {"inner", "up", "norm"},
        {"attend": "its heads are elements of kind 'heads'", "out": OUTPUT},
    ),
    "layers": ({"inner", "norm", "attend", "last"}, set(), {"up": "another shape", "down": "another shape"}),
    "neurons": ({"up"}, {"norm"}, {"attend": "heads", "out": OUTPUT}),
}
"""Layers with elements, those that lose weights with them, and a part of the reasons of some others, for each kind."""


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_accounts_for_all_layers(kind: Any) -> None:
    model = transformer()
    elements, (own, followers, reasons) = dr.elements(model, kind), KINDS[kind]
    left_out, weighted = dict(elements.left_out), {layer.name for layer in model.layers if layer.weights}
    assert {name for tied in elements.members for name, _ in tied} == own
    assert set(elements.followers) == followers
    assert set(left_out) == weighted - own - followers
    assert all(reason in left_out[name] for name, reason in reasons.items())


def test_what_was_not_asked_for_is_not_left_out() -> None:
    for kind in ("layers", "heads"):
        model = transformer()
        assert "attend" not in dict(dr.elements(model, ["layers", "heads"], exclude="attend").left_out), kind


class MoreWeights(layers.Dense):
    """Overrides nothing but its construction."""

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(units, **options)
        self.more = self.add_weight(shape=(3,))


def test_a_subclass_with_more_weights_is_left_out() -> None:
    sizes = keras.Input((4,)), layers.Dense(5, name="a"), MoreWeights(6, name="tested"), layers.Dense(5, name="b")
    elements = dr.elements(keras.Sequential([*sizes, layers.Dense(3, name="out")]))
    assert set(elements.layers) == {"b"}
    assert "MoreWeights has no rule: register one" in dict(elements.left_out)["tested"]


def test_layers_of_a_subclassed_model_are_named() -> None:
    class Outer(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.norm = layers.Dense(6, name="hidden"), layers.BatchNormalization(name="norm")
            self.attend = layers.MultiHeadAttention(2, 3, name="attend")
            self.composite, self.out = Composite(name="composite"), layers.Dense(3, name="out")

        def call(self, x: Any) -> Any:
            x = self.norm(self.hidden(x))
            return self.out(self.composite(self.attend(tf.identity(x), x)))

    model = Outer()
    model(np.zeros((2, 4, 5), np.float32))
    elements = dr.elements(model)
    assert set(elements.layers) == {"hidden", *(layer.name for layer in all_layers(model.composite)[1:])}
    assert dict(elements.left_out) == {
        "out": "the model's output needs it",
        "norm": "masks cannot multiply its outputs: its class BatchNormalization has no rule with units",
        "attend": "its heads are elements of kind 'heads'",
    }
