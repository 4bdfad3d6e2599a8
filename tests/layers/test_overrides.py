"""Layers of a user: inference mode reaches the layers inside, and rules need the same computation."""

import re
from collections.abc import Callable
from typing import Any

import flat
import keras
import models
import numpy as np
import pytest
from cutting import check_law
from keras import layers

import dropreg as dr
from dropreg.errors import ModelError, ParameterError
from dropreg.layers import Unknown, rule_for
from dropreg.network import MaskedNetwork
from dropreg.surgery import copy_model

ops: Any = keras.ops


class Augment(layers.Layer):
    """Random augmentation without a `training` argument."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.flip, self.rotation = layers.RandomFlip(), layers.RandomRotation(0.3)

    def call(self, x: Any) -> Any:
        return self.rotation(self.flip(x))


class Noisy(layers.Layer):
    """Dropout and normalization without a `training` argument."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.normalization, self.dropout = layers.BatchNormalization(), layers.Dropout(0.5)

    def call(self, x: Any) -> Any:
        return self.dropout(self.normalization(x))


@keras.saving.register_keras_serializable("overrides")
class Centred(layers.Dense):
    def call(self, inputs: Any, training: Any = None) -> Any:
        return ops.matmul(inputs, self.kernel - ops.mean(self.kernel, axis=0)) + self.bias


class Standardized(layers.Conv2D):
    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        return super().convolution_op(inputs, kernel - ops.mean(kernel, axis=(0, 1, 2)))


class Scaled(layers.Embedding):
    def call(self, inputs: Any) -> Any:
        return super().call(inputs) * self.output_dim**0.5


class Shifted(layers.BatchNormalization):
    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        return super().call(inputs, training=training, mask=mask) - ops.mean(inputs, axis=-1, keepdims=True)


class Renamed(layers.Dense):
    """Another configuration, the same computation."""

    def get_config(self) -> dict[str, Any]:
        return super().get_config()


@pytest.mark.parametrize("layer", [Augment, Noisy])
def test_all_kept_equals_predict(layer: Callable[[], keras.layers.Layer]) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((8, 8, 2)), layer(), layers.Flatten(), layers.Dense(12, activation="relu"), layers.Dense(4)]
    )
    x = np.random.default_rng(0).normal(size=(60, 8, 8, 2)).astype(np.float32)
    quiet: Any = 0
    predicted = model.predict(x, verbose=quiet)
    y = predicted.argmax(axis=-1)
    elements = dr.elements(model)
    masked = MaskedNetwork(model, elements)([x], np.ones((1, len(elements)), bool))
    np.testing.assert_allclose(masked, predicted, rtol=1e-4, atol=1e-5)
    assert flat.sample(model, (x, y), elements, rows=60).baseline["accuracy"].mean() == 1.0


def conv(x: Any) -> Any:
    return layers.GlobalAveragePooling2D()(Standardized(5, 3, name="own")(layers.Conv2D(6, 3, name="before")(x)))


OVERRIDING: dict[str, tuple[tuple[int, ...], str, Callable[[Any], Any]]] = {
    "Dense": ((6,), "float32", lambda x: Centred(8, name="own")(layers.Dense(10, activation="relu", name="before")(x))),
    "Conv2D": ((6, 6, 2), "float32", conv),
    "Embedding": (
        (5,),
        "int32",
        lambda x: layers.Dense(6, name="before")(layers.Flatten()(Scaled(9, 4, name="own")(x))),
    ),
    "BatchNormalization": ((6,), "float32", lambda x: Shifted(name="own")(layers.Dense(10, name="before")(x))),
}


@pytest.mark.parametrize("case", OVERRIDING)
def test_layers_that_override_a_computation_are_unknown(case: str) -> None:
    shape, dtype, build = OVERRIDING[case]
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape, dtype=dtype)
    hidden = layers.Dense(7, activation="tanh", name="after")(build(inputs))
    model = keras.Model(inputs, layers.Dense(3)(hidden))
    own = model.get_layer("own")
    assert isinstance(rule_for(own), Unknown)
    elements = dr.elements(model)
    assert "own" not in elements.layers
    assert "own" in repr(elements)
    x = np.random.default_rng(0).integers(0, 4, (20, *shape)).astype(dtype)
    selection = dr.Selection.random(elements, 0.5)
    small = dr.remove(model, selection)
    masked = MaskedNetwork(model, elements)([x], selection.kept[np.newaxis])
    np.testing.assert_allclose(small.model(x), masked, rtol=1e-4, atol=1e-4)


def test_a_subclass_that_computes_the_same_inherits_the_rule() -> None:
    assert type(rule_for(Renamed(3))) is type(rule_for(layers.Dense(3)))


def test_a_registered_subclass_has_its_own_rule() -> None:
    class Other(Centred):
        pass

    assert isinstance(rule_for(Other(3)), Unknown)
    dr.layers.register(Other, rule=dr.layers.Mix())
    assert isinstance(rule_for(Other(3)), dr.layers.Mix)


@pytest.mark.parametrize("tie_weights", [True, False])
@pytest.mark.parametrize("width", [6, 10])
def test_a_reversed_embedding_keeps_its_dimensions(width: int, tie_weights: bool) -> None:
    """Also where the width is the number of entries, so that no shape says which call is reversed."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,), dtype="int32")
    table = layers.ReversibleEmbedding(10, width, tie_weights=tie_weights, name="table")
    hidden = layers.Dense(8, activation="relu", name="hidden")(table(inputs))
    back = layers.Dense(width, name="back")(hidden)
    model = keras.Model(inputs, table(back, reverse=True))
    elements = dr.elements(model, ["neurons", "embeddings"])
    assert set(elements.layers) == {"hidden"}
    reasons = dict(elements.left_out)
    assert "reverse=True" in reasons["table"]
    assert reasons["back"] == "layer 'table' (ReversibleEmbedding) projects (reverse=True) its input channels"
    for small in check_law(model, "neurons", models.inputs_for(model, 5)):
        assert small.model.count_params() < model.count_params()
        macs = small.report.layers.set_index("layer")["macs_before"]
        assert macs.tolist() == [4 * width * 10, 4 * width * 8, 4 * width * 8]
    with pytest.raises(ModelError, match="table"):
        dr.elements(model, "embeddings")


@pytest.mark.parametrize("tie_weights", [True, False])
def test_an_embedding_that_is_never_reversed(tie_weights: bool) -> None:
    inputs = keras.Input((4,), dtype="int32")
    x = layers.ReversibleEmbedding(10, 6, tie_weights=tie_weights, name="table")(inputs)
    model = keras.Model(inputs, layers.Dense(3, name="out")(layers.Dense(8, name="hidden")(x)))
    elements = dr.elements(model, ["neurons", "embeddings"])
    assert ("table" in elements.layers) == tie_weights
    if not tie_weights:
        assert dict(elements.left_out)["table"] == "it has separate weights for reverse=True (tie_weights=False)"
    check_law(model, ["neurons", "embeddings"], models.inputs_for(model, 5))


class Calls(layers.Dense):
    def __call__(self, *args: Any, **options: Any) -> Any:
        return 2 * super().__call__(*args, **options)


class Weighted(layers.MultiHeadAttention):
    """An attention with a weight more."""

    def build(self, query_shape: Any, value_shape: Any, key_shape: Any = None) -> None:
        super().build(query_shape, value_shape, key_shape)
        self.scale = self.add_weight(shape=(1,), initializer="ones", name="scale")


class Unmasked(layers.Dense):
    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        return None


@keras.saving.register_keras_serializable("overrides")
class Leaky(layers.LSTM):
    def call(self, *args: Any, **options: Any) -> Any:
        found: Any = super().call(*args, **options)
        return found + 0.1


class Halved(layers.EinsumDense):
    def call(self, inputs: Any, training: Any = None) -> Any:
        found: Any = super().call(inputs, training=training)
        return 0.5 * found


class Built(layers.Dense):
    def build(self, input_shape: Any) -> None:
        super().build(input_shape)


@pytest.mark.parametrize("kind", [Calls, Unmasked, Built, Centred])
def test_any_override_of_a_dense_layer_is_unknown(kind: Callable[..., Any]) -> None:
    assert isinstance(rule_for(kind(3)), Unknown)


WRAPPED: dict[str, tuple[tuple[int, ...], Callable[[], Any]]] = {
    "TimeDistributed": ((4, 5), lambda: layers.TimeDistributed(Centred(6), name="own")),
    "Bidirectional": ((4, 5), lambda: layers.Bidirectional(Leaky(3, return_sequences=True), name="own")),
    "EinsumDense": ((4, 5), lambda: Halved("abc,cd->abd", (4, 6), bias_axes="d", name="own")),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_wrapped_layers_that_override_a_computation_are_left_out(case: str) -> None:
    shape, build = WRAPPED[case]
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input(shape)
    x = build()(layers.Dense(5, activation="relu", name="before")(x))
    x = layers.Dense(7, activation="tanh", name="after")(x)
    model = keras.Model(inputs, layers.Dense(3, name="out")(layers.GlobalAveragePooling1D()(x)))
    elements = dr.elements(model)
    assert set(elements.layers) == {"after"}
    assert "register" in dict(elements.left_out)["own"]
    given = models.inputs_for(model, 30)
    check_law(model, "neurons", given)
    merged = dr.remove(model, dr.Selection.random(elements, 0.5), data=(given[0], None)).merged
    assert merged is not None
    assert list(merged["layer"]) == ["out"]


def test_an_attention_with_a_weight_more_has_no_heads() -> None:
    inputs = keras.Input((4, 6))
    x = Weighted(2, 3, name="own")(inputs, inputs)
    x = layers.Dense(5, name="hidden")(layers.MultiHeadAttention(2, 3, name="plain")(x, x))
    model = keras.Model(inputs, layers.Dense(3, name="out")(x))
    assert set(dr.elements(model, "heads").layers) == {"plain"}
    assert "its class Weighted has no rule" in dict(dr.elements(model).left_out)["own"]
    check_law(model, "neurons", models.inputs_for(model, 5))


def patch(layer: Any) -> None:
    original = layer.call
    layer.call = lambda *args, **options: 0.5 * original(*args, **options)


def test_a_method_that_was_replaced_on_a_layer_is_seen() -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    own, after = layers.Dense(8, name="own"), layers.Dense(7, activation="tanh", name="after")
    own.build((None, 10))
    patch(own)
    x = after(own(layers.Dense(10, activation="relu", name="before")(inputs)))
    model = keras.Model(inputs, layers.Dense(3, name="out")(x))
    assert isinstance(rule_for(own), Unknown)
    elements = dr.elements(model)
    assert set(elements.layers) == {"after"}
    assert dict(elements.left_out)["own"].startswith("its method `call` was replaced on this one layer")
    given = models.inputs_for(model, 5)
    kept = np.ones((1, len(elements)), bool)
    np.testing.assert_allclose(MaskedNetwork(model, elements)(given, kept), model(given[0]), rtol=1e-5)
    selection, message = dr.Selection.random(elements, 0.5), r"layer 'own' \(Dense\) must have the methods of its class"
    for action in (lambda: dr.remove(model, selection), lambda: copy_model(model)):
        with pytest.raises(ModelError, match=message):
            action()


class Chain(keras.Sequential):
    def call(self, *args: Any, **options: Any) -> Any:
        found: Any = super().call(*args, **options)
        return 0.5 * found


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("replaced", [True, False])
def test_models_with_a_call_of_their_own_are_measured_as_they_are(nested: bool, replaced: bool) -> None:
    keras.utils.set_random_seed(0)
    inner = (keras.Sequential if replaced else Chain)(
        [keras.Input((6,)), layers.Dense(5, activation="relu", name="a"), layers.Dense(6, name="b")], name="inner"
    )
    if replaced:
        patch(inner)
    inputs = keras.Input((6,))
    model: Any = inner
    if nested:
        hidden = layers.Dense(4, activation="relu", name="hidden")(inner(inputs))
        model = keras.Model(inputs, layers.Dense(3, name="out")(hidden))
    elements = dr.elements(model)
    assert set(elements.layers) == ({"hidden"} if nested else {"a"})
    x = np.random.default_rng(0).normal(size=(5, 6)).astype(np.float32)
    kept = np.ones((1, len(elements)), bool)
    np.testing.assert_allclose(MaskedNetwork(model, elements)([x], kept), model(x), rtol=1e-5)
    if replaced:
        message = "must have the methods of its class" if nested else "is a subclassed model"
        with pytest.raises(ModelError, match=message):
            dr.remove(model, dr.Selection.random(elements, 0.5))
    else:
        check_law(model, "neurons", [x])


class Twice(keras.Operation):
    def call(self, x: Any) -> Any:
        return 2 * x

    def compute_output_spec(self, x: Any) -> Any:
        return keras.KerasTensor(x.shape, x.dtype)


class Square(Twice):
    """Has the name of an operation of Keras, but is none."""

    def call(self, x: Any) -> Any:
        return x - ops.mean(x, axis=-1, keepdims=True)


def after_operation(operation: Callable[[Any], Any]) -> keras.Model:
    inputs = keras.Input((5,))
    x = layers.Dense(4, name="next")(operation(layers.Dense(6, name="hidden")(inputs)))
    return keras.Model(inputs, layers.Dense(3, name="out")(x))


def test_operations_have_a_rule_once_it_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    from dropreg.layers import _registry as registry

    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    monkeypatch.setattr(
        registry, "_OPERATION_RULES", {k: v for k, v in registry._OPERATION_RULES.items() if k != "Erf"}
    )
    cases: dict[Any, Callable[[Any], Any]] = {"Erf": ops.erf, Twice: Twice()}
    for name, operation in cases.items():
        model = after_operation(operation)
        elements = dr.elements(model)
        assert set(elements.layers) == {"next"}
        assert "has no rule (dropreg.layers.register) for its input channels" in dict(elements.left_out)["hidden"]
        dr.layers.register(name, rule=dr.layers.Carry())
        assert set(dr.elements(model).layers) == {"hidden", "next"}
        check_law(model, "neurons", models.inputs_for(model, 5))
    assert isinstance(rule_for(Square()), Unknown)
    assert set(dr.elements(after_operation(Square())).layers) == {"next"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("erf", "names of operations of Keras such as 'Erf', received 'erf': did you mean 'Erf'?"),
        ("hidden_3", "received 'hidden_3': pass the class of a layer."),
        (layers.Dense(3), "`layers` must be classes, or names of operations of Keras, received <Dense"),
    ],
)
def test_what_cannot_be_registered_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ParameterError, match=re.escape(message)):
        dr.layers.register(given, rule=dr.layers.Carry())
