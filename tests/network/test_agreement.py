"""The network with everything kept is the model's own `predict`, or the run is refused with the layer's name."""

from collections.abc import Callable
from typing import Any

import flat
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import says
from keras import layers

import dropreg as dr
from dropreg.errors import ModelError
from dropreg.graph import Call
from dropreg.graph import trace_graph as trace
from dropreg.network import check_agreement, difference

RANDOM = ("must give the same outputs in each call in inference mode, received random ones", "Let its `call` take")


class Noise(layers.Layer):
    """Noise in inference too; `draw` says where the numbers come from."""

    def __init__(self, draw: str = "own", **options: Any) -> None:
        super().__init__(**options)
        self.draw, self.seeds = draw, keras.random.SeedGenerator(3)

    def call(self, x: Any) -> Any:
        if self.draw == "tensorflow":
            return x + tf.random.normal(tf.shape(x))
        return x + keras.random.normal(keras.ops.shape(x), seed=self.seeds if self.draw == "own" else None)


class AlwaysDropped(layers.Layer):
    """A dropout that ignores inference mode, inside another layer."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.dropout = layers.Dropout(0.5, name="inside")

    def call(self, x: Any) -> Any:
        return self.dropout(x, training=True)


class BatchCentred(layers.Layer):
    def call(self, x: Any) -> Any:
        return x - keras.ops.mean(x, axis=0, keepdims=True)


class Doubled(keras.Sequential):
    """A Sequential model with a computation of its own."""

    def call(self, inputs: Any, training: Any = None, mask: Any = None, **kwargs: Any) -> Any:
        found: Any = super().call(inputs, training=training, mask=mask, **kwargs)
        return 2.0 * found


class Tripled(keras.Model):
    """A Functional model that changes its outputs outside of `call`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        found = super().__call__(*args, **kwargs)
        return 3.0 * found if isinstance(found, tf.Tensor) else found


class Forgetful(layers.Layer):
    """A layer whose configuration lacks its factor."""

    def __init__(self, factor: float = 2.0, **options: Any) -> None:
        super().__init__(**options)
        self.factor = factor

    def call(self, x: Any) -> Any:
        return self.factor * x

    def get_config(self) -> dict[str, Any]:
        return super().get_config()


def with_layer(layer: layers.Layer) -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((6,)), layer, layers.Dense(7, activation="relu", name="first"), layers.Dense(3, name="out")],
        name="own",
    )


def data(n: int = 50) -> tuple[Any, Any]:
    return np.random.default_rng(0).normal(size=(n, 6)).astype(np.float32), np.arange(n) % 3


VERBS: dict[str, Callable[[keras.Model, dr.Elements], Any]] = {
    "sample": lambda model, elements: flat.sample(model, data(), elements, rows=64),
    "estimate": lambda model, elements: flat.estimate(model, data(), elements, rows=64),
    "leave_one_out": lambda model, elements: dr.scorers.leave_one_out(model, data(), elements),
    "activation": lambda model, elements: dr.scorers.activation(model, data(), elements),
    "anneal": lambda model, elements: dr.anneal(model, data(), elements, fraction=0.5),
    "prune": lambda model, elements: dr.prune(model, data(), elements=elements, fraction=0.5),
    "compare": lambda model, elements: dr.compare(model, data(), elements, fractions=(0.5,)),
    "remove": lambda model, elements: dr.remove(model, dr.Selection.random(elements, 0.5), data=data()),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_random_layer_is_refused_by_every_verb(verb: str) -> None:
    model = with_layer(Noise(name="noise"))
    quiet: Any = 0
    assert np.abs(model.predict(data()[0], verbose=quiet) - model.predict(data()[0], verbose=quiet)).max() > 0.1
    before = [variable.numpy() for variable in model.variables]
    with pytest.raises(ModelError, match=says("layer 'noise' (Noise)", *RANDOM)):
        VERBS[verb](model, dr.elements(model))
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, new.numpy())


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (lambda: Noise("keras", name="noise"), "layer 'noise' (Noise)"),
        (lambda: Noise("tensorflow", name="noise"), "layer 'noise' (Noise)"),
        (lambda: AlwaysDropped(name="around"), "layer 'inside' (Dropout)"),
    ],
    ids=["Keras' generator", "TensorFlow's", "inside a layer"],
)
def test_random_layers_are_named(layer: Callable[[], layers.Layer], name: str) -> None:
    model = with_layer(layer())
    with pytest.raises(ModelError, match=says(name, *RANDOM)):
        flat.sample(model, data(), dr.elements(model), rows=64)


def test_a_layer_that_mixes_examples_is_refused() -> None:
    model = with_layer(BatchCentred(name="centred"))
    expected = says("layer 'centred' (BatchCentred) must treat every example by itself", "share a batch")
    with pytest.raises(ModelError, match=expected):
        flat.sample(model, data(), dr.elements(model), rows=64)


def test_random_layers_that_know_inference_mode_are_no_reason() -> None:
    model = with_layer(layers.GaussianNoise(0.5))
    flat.sample(model, data(), dr.elements(model), rows=64)


def test_a_layer_called_in_another_mode_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault that the check exists for: layers that the masked network runs as in training."""

    def run_on(call: Call, by_slot: dict[int, Any]) -> list[Any]:
        return [call.layer(*by_slot.values(), training=True)]

    model = with_layer(layers.BatchNormalization(name="normalized"))
    elements, graph = dr.elements(model), trace(model)
    monkeypatch.setattr(Call, "run_on", run_on)
    with pytest.raises(ModelError, match=says("layer 'normalized' (BatchNormalization) must compute the same when")):
        check_agreement(graph, elements, dr.data.check_data(graph, data()))


def test_a_model_with_a_call_of_its_own_is_one_call() -> None:
    quiet: Any = 0
    keras.utils.set_random_seed(0)
    model = Doubled([keras.Input((6,)), layers.Dense(7, activation="relu"), layers.Dense(3)])
    nested = keras.Sequential([keras.Input((6,)), model, layers.Dense(6), layers.Dense(3)])
    for each in (model, nested):
        y = each.predict(data()[0], verbose=quiet).astype(np.float64)
        record = flat.sample(each, (data()[0], y), dr.elements(each), rows=64, outcomes="loss", task="regression")
        assert record.baseline["loss"].max() < 1e-9


def test_a_model_that_changes_its_outputs_elsewhere_is_refused() -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    model = Tripled(inputs, layers.Dense(3)(layers.Dense(7, activation="relu")(inputs)), name="own")
    with pytest.raises(ModelError, match=says("model 'own' (Tripled)", "must compute the same", ".67 of the largest")):
        flat.sample(model, data(), dr.elements(model), rows=64)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16", "float16", "float64"])
def test_rounding_is_no_difference(dtype: str) -> None:
    keras.utils.set_random_seed(0)
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype)
    try:
        h = inputs = keras.Input((6,))
        for _ in range(8):
            h = layers.BatchNormalization()(layers.Dense(30, activation="tanh")(h))
        model = keras.Model(inputs, layers.Dense(3, dtype="float32")(h))
    finally:
        keras.config.set_dtype_policy(before)
    graph = trace(model)
    check_agreement(graph, dr.elements(graph), dr.data.check_data(graph, data()))


@pytest.mark.parametrize("merge", ["none", "least_squares"])
def test_a_smaller_model_that_differs_from_the_masked_one_is_refused(merge: Any) -> None:
    model = with_layer(Forgetful(5.0, name="forgetful"))
    selection = dr.Selection.random(dr.elements(model), 0.5)
    expected = says("layer 'forgetful' (Forgetful) must compute the same in the smaller model as under", "get_config")
    with pytest.raises(ModelError, match=expected):
        dr.remove(model, selection, data=data(), merge=merge)


def test_the_difference_is_relative_and_knows_what_is_not_finite() -> None:
    expected = np.array([1.0, -4.0, np.nan, np.inf])
    assert difference(expected + [1.0, 0, 0, 0], expected) == 0.25
    assert difference(np.array([1.0, -4.0, 0.0, np.inf]), expected) == np.inf
    assert difference(np.array([1.0, -4.0, np.nan, -np.inf]), expected) == np.inf
    assert difference(expected[:2], expected) == np.inf
    assert difference(np.zeros(3), np.zeros(3)) == 0.0
