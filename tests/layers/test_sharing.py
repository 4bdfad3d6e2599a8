"""Law: layers that share weights share them in a copy and in a smaller model, or are refused by name."""

from collections.abc import Callable
from typing import Any

import keras
import models
import numpy as np
import pytest
import tensorflow as tf
from cutting import check_law
from keras import layers

import dropreg as dr
from dropreg.errors import ModelError
from dropreg.surgery import copy_model

WORDS, WIDTH = 10, 6


@keras.saving.register_keras_serializable("sharing")
class Tied(layers.Layer):
    """Multiplies by the transposed table of an embedding; its config serializes the embedding."""

    def __init__(self, embedding: Any, **options: Any) -> None:
        super().__init__(**options)
        self.embedding = embedding

    def call(self, x: Any) -> Any:
        return keras.ops.matmul(x, keras.ops.transpose(self.embedding.embeddings))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "embedding": keras.saving.serialize_keras_object(self.embedding)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return cls(**{**config, "embedding": keras.saving.deserialize_keras_object(config["embedding"])})


class Held(Tied):
    """Its config holds the embedding itself."""

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "embedding": self.embedding}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        return cls(**config)


class LooksUp(Held):
    """Looks words up in the table of an embedding that may be called later."""

    def call(self, x: Any) -> Any:
        return self.embedding(tf.identity(x))  # a function that cannot be traced keeps the call as one


class Copied(Tied):
    """Its config describes the embedding, but not that it is the same one."""

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "embedding": self.embedding.get_config()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        embedding = layers.Embedding.from_config(config["embedding"])
        embedding.build(())
        return cls(**{**config, "embedding": embedding})


class Squeezes(layers.Layer):
    """Holds a Dense layer."""

    def __init__(self, dense: Any, **options: Any) -> None:
        super().__init__(**options)
        self.dense = dense

    def call(self, x: Any) -> Any:
        return keras.ops.tanh(self.dense(tf.identity(x)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "dense": self.dense}


def language_model(head: Callable[[Any], Any]) -> keras.Model:
    inputs = keras.Input((4,), dtype="int32")
    embedding = layers.Embedding(WORDS, WIDTH, name="table")
    hidden = layers.Dense(8, activation="relu", name="hidden")(embedding(inputs))
    x = layers.Dense(WIDTH, name="back")(hidden)
    return keras.Model(inputs, head(embedding)(x))


def tied() -> keras.Model:
    return language_model(lambda embedding: Tied(embedding, name="head"))


def held() -> keras.Model:
    return language_model(lambda embedding: Held(embedding, name="head"))


def used_first() -> keras.Model:
    first, second = keras.Input((4,), dtype="int32"), keras.Input((4,), dtype="int32")
    embedding = layers.Embedding(WORDS, WIDTH, name="table")
    embedding.build(())
    x = layers.Dense(7, activation="relu", name="hidden")(LooksUp(embedding, name="lookup")(first))
    x = layers.Concatenate()([x, embedding(second)])
    return keras.Model([first, second], layers.Dense(3, name="out")(x))


def distributed() -> keras.Model:
    inputs = keras.Input((4, 5))
    dense = layers.Dense(5, activation="tanh", name="dense")
    x = dense(layers.TimeDistributed(dense, name="steps")(inputs))
    x = layers.Dense(7, activation="relu", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(x))


def held_twice() -> keras.Model:
    inputs = keras.Input((5,))
    dense = layers.Dense(5, name="dense")
    x = Squeezes(dense, name="second")(Squeezes(dense, name="first")(inputs))
    return keras.Model(inputs, layers.Dense(3, name="out")(layers.Dense(7, activation="relu", name="hidden")(x)))


def in_a_nested_model() -> keras.Model:
    inputs, inner = keras.Input((4,), dtype="int32"), keras.Input((4,), dtype="int32")
    embedding = layers.Embedding(WORDS, WIDTH, name="table")
    hidden = layers.Dense(8, activation="relu", name="hidden")(embedding(inner))
    encoder = keras.Model(inner, layers.Dense(WIDTH, name="back")(hidden), name="encoder")
    return keras.Model(inputs, Tied(embedding, name="head")(encoder(inputs)))


GRID = {build.__name__: build for build in (tied, held, used_first, distributed, held_twice, in_a_nested_model)}


def ready(name: str) -> keras.Model:
    keras.utils.set_random_seed(0)
    return GRID[name]()


def n_weights(model: Any) -> int:
    return len({id(weight) for weight in model.weights})


@pytest.mark.parametrize("name", GRID)
def test_shared_weights_are_shared_in_the_smaller_model(name: str) -> None:
    model = ready(name)
    inputs = models.inputs_for(model, 5)
    for small in check_law(model, "neurons", inputs):
        assert n_weights(small.model) == n_weights(model)
        assert small.model.count_params() < model.count_params()
        assert small.report.layers["params_before"].sum() == model.count_params()
        assert small.report.layers["params_after"].sum() == small.model.count_params()
        assert "params: " in repr(small.report)
        assert not {id(weight) for weight in model.weights} & {id(weight) for weight in small.model.weights}


@pytest.mark.parametrize("name", GRID)
@pytest.mark.parametrize("kind", ["embeddings", "layers", "branches", "weights"])
def test_masked_equals_shrunk(name: str, kind: Any) -> None:
    model = ready(name)
    try:
        dr.elements(model, kind)
    except ModelError:
        return  # the model has no such elements
    check_law(model, kind, models.inputs_for(model, 5))


@pytest.mark.parametrize("name", GRID)
def test_layers_that_share_weights_are_left_out_by_name(name: str) -> None:
    elements = dr.elements(ready(name), ["neurons", "embeddings"])
    assert set(elements.layers) == {"hidden"}
    shown = {"tied": "table", "held": "table", "distributed": "dense", "in_a_nested_model": "table"}
    if name in shown:
        assert "it shares weights with layer '" in dict(elements.left_out)[shown[name]]


@pytest.mark.parametrize("name", GRID)
def test_shared_weights_are_shared_in_a_copy(name: str) -> None:
    model = ready(name)
    copied, inputs = copy_model(model), models.inputs_for(model, 5)
    assert n_weights(copied) == n_weights(model)
    for weight in copied.weights:
        weight.assign(weight + 0.1)
    given = inputs if len(inputs) > 1 else inputs[0]
    changed = np.asarray(copied(given))
    assert np.abs(changed - np.asarray(model(given))).max() > 1e-3
    again = copy_model(copied)
    np.testing.assert_array_equal(np.asarray(again(given)), changed)


def test_merging_and_training_keep_the_tie(tmp_path: Any) -> None:
    model = ready("tied")
    x = models.inputs_for(model, 60)[0]
    selection = dr.Selection.random(dr.elements(model), 0.5)
    small = dr.remove(model, selection, data=(x, None))
    assert small.merged is not None
    assert "head" not in set(small.merged["layer"])
    np.testing.assert_array_equal(
        small.model.get_layer("table").get_weights()[0], model.get_layer("table").get_weights()[0]
    )
    tuned = dr.recover(small.model, (x, x), recovery=dr.Recovery(epochs=1)).model
    table, head = tuned.get_layer("table").embeddings, tuned.get_layer("head").embedding.embeddings
    assert table is head
    tuned.save(tmp_path / "small.keras")
    loaded: Any = keras.saving.load_model(tmp_path / "small.keras")
    assert loaded.get_layer("table").embeddings is loaded.get_layer("head").embedding.embeddings
    np.testing.assert_array_equal(np.asarray(loaded(x)), np.asarray(tuned(x)))


def test_a_config_that_does_not_keep_the_tie_is_refused() -> None:
    model = language_model(lambda embedding: Copied(embedding, name="head"))
    selection = dr.Selection.random(dr.elements(model), 0.5)
    message = r"layer 'head' \(Copied\) must share weights with layer 'table' in a copy too.*serialize_keras_object"
    for action in (lambda: dr.remove(model, selection), lambda: copy_model(model)):
        with pytest.raises(ModelError, match=message):
            action()


BORROWING: dict[str, Callable[[Any, Any], Any]] = {
    "a Lambda layer": lambda table, x: layers.Lambda(
        lambda t: keras.ops.matmul(t, keras.ops.transpose(table.embeddings)), name="head"
    )(x),
    "an operation": lambda table, x: x * table.embeddings,
}


@pytest.mark.parametrize("case", BORROWING)
def test_weights_that_are_read_from_outside_are_refused(case: str) -> None:
    inputs = keras.Input((WORDS,), dtype="int32")
    table = layers.Embedding(WORDS, WIDTH, name="table")
    hidden = layers.Dense(8, activation="relu", name="hidden")(table(inputs))
    model = keras.Model(inputs, BORROWING[case](table, layers.Dense(WIDTH, name="back")(hidden)))
    elements = dr.elements(model, ["neurons", "embeddings"])
    assert set(elements.layers) == {"hidden"}
    assert dict(elements.left_out)["table"].startswith("it shares weights with layer '")
    selection = dr.Selection.random(elements, 0.5)
    message = r"must hold the weights that it uses to be copied, but it reads those of layer 'table' from outside"
    for action in (lambda: dr.remove(model, selection), lambda: copy_model(model)):
        with pytest.raises(ModelError, match=message):
            action()


def test_heads_and_layers_that_share_weights_are_left_out() -> None:
    inputs = keras.Input((4, 6))
    attention = layers.MultiHeadAttention(2, 3, name="attention")
    dense = layers.Dense(6, name="dense")
    x = dense(attention(inputs, inputs))
    x = Squeezes(dense, name="again")(layers.MultiHeadAttention(2, 3, name="free")(x, x))
    x = x + layers.Dense(6, name="branch")(Attends(attention, name="held")(x))
    model = keras.Model(inputs, layers.Dense(3, name="out")(x))
    heads = dr.elements(model, "heads")
    assert set(heads.layers) == {"free"}
    assert dict(heads.left_out)["attention"] == "it shares weights with layer 'held'"
    kept = dr.elements(model, "layers")
    assert set(kept.layers) == {"free", "branch"}
    assert dict(kept.left_out)["dense"] == "it shares weights with layer 'again'"
    branch = dr.elements(model, "branches")
    assert branch.params.tolist() == [6 * 6 + 6]  # the attention of this branch is used elsewhere too


class Attends(Squeezes):
    def call(self, x: Any) -> Any:
        return self.dense(tf.identity(x), x)
