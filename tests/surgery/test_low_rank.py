"""Layers as products of two: the same outputs, the best directions on data, and back."""

from typing import Any

import keras
import numpy as np
import pytest
from conftest import says
from keras import layers
from models import BUILDERS, data_for, inputs_for, ready

import dropreg as dr
from dropreg.surgery import multiply_back
from dropreg.surgery._factors._factorize import _directions

ONLY_OUTPUTS = {"recurrent", "bidirectional", "encoder_decoder"}
"""Models of the grid in which the only layer with a kernel computes the output."""


def outputs(model: keras.Model, inputs: list[np.ndarray]) -> list[np.ndarray]:
    given: Any = inputs if len(inputs) > 1 else inputs[0]
    return [np.asarray(value) for value in keras.tree.flatten(model(given, training=False))]


def assert_same(a: keras.Model, b: keras.Model, inputs: list[np.ndarray], rtol: float = 1e-4) -> None:
    for one, other in zip(outputs(a, inputs), outputs(b, inputs), strict=True):
        np.testing.assert_allclose(other, one, rtol=rtol, atol=rtol * np.abs(one).max())


@pytest.mark.parametrize("name", BUILDERS)
def test_a_factorized_model_computes_the_same_and_so_does_its_product(name):
    model = ready(name)
    before = [weight.copy() for weight in model.get_weights()]
    include = ["out"] if name in ONLY_OUTPUTS else None
    found = dr.factorize(model, data_for(model, 20), include=include)
    inputs = inputs_for(model, 7, seed=5)
    assert_same(model, found.model, inputs)
    assert {*found.layers["layer"]}.isdisjoint(dict(found.left_out))
    back = multiply_back(found.model)
    assert_same(model, back, inputs)
    assert back.count_params() <= model.count_params()
    assert all(np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


def wide(activation: str = "relu", **settings: Any) -> keras.Model:
    keras.utils.set_random_seed(3)
    first = layers.Dense(9, activation=activation, name="a", **settings)
    model = keras.Sequential([keras.Input((12,)), first, layers.Dense(8, name="b"), layers.Dense(3, name="out")])
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])
    return model


def uneven(n: int = 200) -> np.ndarray:
    """Inputs whose second moment is far from the identity."""
    rng = np.random.default_rng(1)
    return (rng.normal(size=(n, 12)) * np.geomspace(4, 0.02, 12) @ rng.normal(size=(12, 12))).astype(np.float32)


def first_directions(found: Any, name: str, rank: int) -> dr.Selection:
    elements = dr.elements(found.model, include=[f"{name}_directions"])
    return dr.Selection(elements, np.arange(len(elements)) < rank)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_removing_the_last_directions_truncates_the_kernel(rank):
    model, x = wide(), uneven()
    found = dr.factorize(model, (x, None))
    small = dr.remove(found.model, first_directions(found, "a", rank)).model
    kernel, bias = model.layers[0].get_weights()
    y = x.astype(np.float64) @ kernel
    v = np.linalg.eigh(y.T @ y)[1][:, ::-1][:, :rank]
    truncated = keras.models.clone_model(model)
    truncated.set_weights([kernel @ v @ v.T, bias, *model.get_weights()[2:]])
    assert_same(truncated, small, [x[:20]], rtol=1e-3)
    assert small.get_layer("a_directions").units == rank


@pytest.mark.parametrize("rank", [1, 2, 4, 6])
def test_directions_of_the_data_beat_those_of_the_kernel_on_the_data(rank):
    model, x = wide("linear"), uneven()
    errors = []
    for found in (dr.factorize(model, (x, None)), dr.factorize(model)):
        small = dr.remove(found.model, first_directions(found, "a", rank)).model
        parts = [keras.Model(each.inputs[0], each.get_layer("a").output) for each in (model, small)]
        errors.append(float(np.mean((np.asarray(parts[0](x)) - np.asarray(parts[1](x))) ** 2)))
    assert errors[0] < errors[1]


def test_without_data_directions_are_those_of_the_kernel():
    model = wide()
    found = dr.factorize(model)
    values = np.linalg.svd(model.layers[0].get_weights()[0], compute_uv=False)
    np.testing.assert_allclose(found.energy["a_directions"], values**2 / np.sum(values**2), rtol=1e-5)


def test_energy_is_the_share_of_the_second_moment():
    model, x = wide(), uneven()
    found = dr.factorize(model, (x, None))
    y = x.astype(np.float64) @ model.layers[0].get_weights()[0]
    values = np.linalg.eigvalsh(y.T @ y)[::-1]
    np.testing.assert_allclose(found.energy["a_directions"], values / values.sum(), rtol=1e-3, atol=1e-6)


def test_weights_of_examples_count():
    model, x = wide(), uneven()
    weights = np.repeat([3.0, 1.0], 100)
    weighted = dr.factorize(model, (x, None, weights)).energy["a_directions"]
    repeated = dr.factorize(model, (np.concatenate([x, x[:100], x[:100]]), None)).energy["a_directions"]
    np.testing.assert_allclose(weighted, repeated, rtol=1e-3, atol=1e-6)


def test_directions_that_the_data_do_not_use_are_kept_for_other_inputs():
    model, x = wide(), uneven()
    x[:, 3:] = 0.0
    found = dr.factorize(model, (x, None))
    assert found.layers["rank"].tolist()[0] == 9
    assert_same(model, found.model, [uneven(20)])
    assert found.energy["a_directions"][3:].max() < 1e-6


def test_no_more_directions_than_the_rank():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(12, 2)) @ rng.normal(size=(2, 9))
    v, energy = _directions(matrix, np.eye(9), "a")
    assert v.shape == (9, 2)
    np.testing.assert_allclose(matrix @ v @ v.T, matrix, atol=1e-9)
    np.testing.assert_allclose(v.T @ v, np.eye(2), atol=1e-12)
    assert len(energy) == 2


def test_frozen_layers_types_and_penalties_go_to_the_factors():
    model = wide(dtype="mixed_bfloat16", kernel_regularizer=keras.regularizers.L2(0.1))
    model.layers[0].trainable = False
    model.compile("sgd", "mse")
    new = dr.factorize(model).model
    first, second = new.get_layer("a_directions"), new.get_layer("a")
    assert not first.trainable
    assert not second.trainable
    assert first.dtype_policy.name == second.dtype_policy.name == "mixed_bfloat16"
    assert new.compiled
    np.testing.assert_allclose(float(sum(new.losses)), float(sum(model.losses)), rtol=1e-5)


def test_a_shared_layer_is_factorized_once_for_all_of_its_calls():
    inputs = [keras.Input((6,)), keras.Input((6,))]
    dense = layers.Dense(5, name="twin")
    model = keras.Model(inputs, layers.Dense(2)(layers.Add()([dense(x) for x in inputs])))
    x = inputs_for(model, 30)
    found = dr.factorize(model, (x, None))
    assert_same(model, found.model, x)
    assert len(found.model.weights) == len(model.weights) + 1
    assert_same(model, multiply_back(found.model), x)
    kernel = dense.get_weights()[0].astype(np.float64)
    values = np.linalg.eigvalsh(sum((part @ kernel).T @ (part @ kernel) for part in x))[::-1]
    np.testing.assert_allclose(found.energy["twin_directions"], values / values.sum(), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("rank", [1, 3, 4, 5])
def test_factors_are_multiplied_where_that_is_not_larger(rank):
    x = keras.Input((9, 9, 3))
    y = layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="c")(x)
    model = keras.Model(x, layers.Dense(2, name="out")(layers.Flatten()(y)))
    data = inputs_for(model, 10)
    found = dr.factorize(model, (data[0], None))
    small = dr.remove(found.model, first_directions(found, "c", rank)).model
    back = multiply_back(small)
    assert_same(small, back, data)
    is_pair = any(layer.name == "c_directions" for layer in back.layers)
    assert is_pair == (rank * (27 + 6) < 27 * 6)
    assert not set(map(id, small.weights)) & set(map(id, back.weights))


def test_other_pairs_are_left_alone():
    def model(*between: Any, **first: Any) -> keras.Model:
        settings = {"use_bias": False, **first}
        return keras.Sequential(
            [keras.Input((4,)), layers.Dense(4, **settings), *between, layers.Dense(4), layers.Dense(2)]
        )

    assert len(multiply_back(model()).layers) == 2
    assert len(multiply_back(model(use_bias=True)).layers) == 3
    assert len(multiply_back(model(activation="relu")).layers) == 3
    assert len(multiply_back(model(trainable=False)).layers) == 3
    assert len(multiply_back(model(kernel_constraint="non_neg")).layers) == 3
    assert len(multiply_back(model(layers.BatchNormalization())).layers) == 4


def test_what_cannot_be_factorized_is_named():
    model = wide(kernel_constraint=keras.constraints.NonNeg())
    found = dr.factorize(model)
    assert found.layers["layer"].tolist() == ["b"]
    assert "left out: 'a': its kernel has a constraint" in repr(found)
    assert "left out: 'out': it computes an output: name it in include" in repr(found)
    assert dr.factorize(model, include=["out"]).directions == ("out_directions",)
    with pytest.raises(dr.errors.ModelError, match=says("layer 'a' (Dense) cannot be factorized", "constraint")):
        dr.factorize(model, include=["a"])
    with pytest.raises(dr.errors.ParameterError, match=says("must name layers with a kernel (a, b, out)", "'c'")):
        dr.factorize(model, exclude=["c"])
    with pytest.raises(dr.errors.ModelError, match=says("must have a layer that can be factorized", "'b': it is excl")):
        dr.factorize(model, exclude=["a", "b"])
    with pytest.raises(dr.errors.ParameterError, match="`include` must be a list, received 'a'"):
        dr.factorize(model, include="a")
    with pytest.raises(dr.errors.ParameterError, match="`model` must be Model, received int"):
        multiply_back(3)  # pyright: ignore[reportArgumentType]


def test_directions_can_be_annealed_and_pruned_as_neurons(few_rounds):
    model, x = wide(), uneven(64)
    found = dr.factorize(model, (x, None))
    elements = dr.elements(found.model, include=found.directions)
    assert elements.layers == ("a_directions",) * 9 + ("b_directions",) * 8
    y = np.argmax(np.asarray(model(x)), axis=1)
    selection = dr.anneal(found.model, (x, y), elements, fraction=0.5, progress=False)
    small = dr.remove(found.model, selection, data=(x, None))
    assert multiply_back(small.model).count_params() <= found.model.count_params()
