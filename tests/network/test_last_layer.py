"""The last layer is refitted while units are dropped and merged."""

from typing import Any

import flat
import keras
import models
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from models import classifier, examples

import dropreg as dr
from dropreg.data._examples import check_data
from dropreg.data._prediction import Prediction
from dropreg.data._tasks import Task
from dropreg.graph._trace import trace_graph
from dropreg.network._last_layer import LastLayer
from dropreg.network._masked import MaskedNetwork
from dropreg.network._merged import MergedNetwork
from dropreg.network._outcomes import Divergence

MODES: list[dict[str, Any]] = [{}, {"gradients": False}]


@pytest.mark.parametrize("mode", MODES)
def test_the_last_layer_lowers_the_divergence_of_the_last_masks(
    mode: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = classifier()
    data, elements = examples(model), dr.elements(model, include=["a"])
    asked: dict[str, Any] = {"fractions": (0.7,), "rounds": 60, "rows_per_round": 512, "ablation": "merged", **mode}
    learned = flat.anneal_path(model, data, elements, **asked).history["outcome"].tail(15).mean()
    monkeypatch.setattr(LastLayer, "call_among", lambda calls: None)
    fixed = flat.anneal_path(model, data, elements, **asked).history["outcome"].tail(15).mean()
    assert learned < 0.95 * fixed


def test_the_last_layer_lowers_the_divergence_of_outputs_with_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many of them, over which the divergence is a mean."""
    keras.utils.set_random_seed(0)
    used = [layers.Dense(24, activation="relu", name="a"), layers.Dense(4, name="out")]
    model = keras.Sequential([keras.Input((30, 6)), *used])
    model.set_weights([2.0 * weight for weight in model.get_weights()])
    x = np.random.default_rng(0).normal(size=(200, 30, 6)).astype(np.float32)
    data, elements = (x, np.argmax(model(x), axis=-1)), dr.elements(model)
    asked: dict[str, Any] = {"fractions": (0.7,), "rounds": 60, "ablation": "merged"}
    learned = flat.anneal_path(model, data, elements, **asked).history["outcome"].tail(15)
    monkeypatch.setattr(LastLayer, "call_among", lambda calls: None)
    fixed = flat.anneal_path(model, data, elements, **asked).history["outcome"].tail(15)
    assert learned.mean() < 0.95 * fixed.mean()


@pytest.mark.parametrize("mode", MODES)
def test_the_model_is_unchanged(mode: dict[str, Any]) -> None:
    model = classifier()
    before = [weight.copy() for weight in model.get_weights()]
    data, elements = examples(model), dr.elements(model)
    flat.anneal_path(model, data, elements, fractions=(0.5,), rounds=5, ablation="merged", rows_per_round=512, **mode)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_step_changes_the_masked_network_alone() -> None:
    model = classifier()
    data, elements = examples(model), dr.elements(model)
    network = MergedNetwork(model, elements, check_data(model, data))
    assert network.last is not None
    x, kept = data[0][:64], np.ones((1, len(elements)), bool)
    whole = np.asarray(model(x))
    network.last.step([np.zeros((12, 4)), np.array([1.0, 0.0, 0.0, 0.0])], 0.5, 512)
    change = np.asarray(network([x], kept)) - whole
    np.testing.assert_allclose(change[:, 1:], 0.0, atol=1e-4)
    assert change[:, 0].mean() < -0.1
    np.testing.assert_array_equal(np.asarray(network([x], None)), np.asarray(MaskedNetwork(model, elements)([x], None)))


OUTPUTS: dict[Task, int] = {"classes": 4, "binary": 1, "multilabel": 3, "regression": 3}


@pytest.mark.parametrize("positions", [(), (4,), (2, 2)])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("task", OUTPUTS)
def test_steps_on_all_examples_lower_the_divergence_monotonically(
    task: Task, seed: int, positions: tuple[int, ...]
) -> None:
    """Far from the original model as well, as the bound of the second derivatives promises."""
    rng = np.random.default_rng(seed)
    n, k = 200, OUTPUTS[task]
    x = rng.normal(size=(n, *positions, 5)).astype(np.float32) * [1, 3, 10, 0.1, 0] + [0, 1, 0, 0, 0]
    layer: Any = layers.Conv2D(k, 1) if len(positions) > 1 else layers.Dense(k)
    layer.build(x.shape)
    layer.set_weights([rng.normal(size=weight.shape) for weight in layer.get_weights()])
    read = np.concatenate([x, np.ones((*x.shape[:-1], 1))], axis=-1).reshape(-1, 6)
    whole = Prediction(tf.constant(rng.normal(size=(n, *positions, k)) * 4, tf.float32), task, from_logits=True)
    last, found = LastLayer(layer, read.T @ read / len(read)), []
    labels = tf.zeros([n, *positions])
    for _ in range(30):
        kernel, bias = last.variables
        with tf.GradientTape() as tape:
            outputs = tf.matmul(tf.constant(x, tf.float32), tf.reshape(kernel, [5, k])) + bias
            missed = tf.reduce_mean(Divergence().measure(Prediction(outputs, task, True), labels, whole))
        found.append(float(missed))
        gradients = tape.gradient(missed, [kernel, bias])
        last.step(gradients, Divergence.curvature(task, (k,)), 10**9)
    assert (np.diff(found) < 1e-6 * found[0]).all()
    assert found[-1] < 0.9 * found[0]


def test_no_update_without_divergence() -> None:
    """Masks that drop next to nothing leave the last layer as it was; fewer rows tell less."""
    model = classifier()
    x = examples(model)[0]
    read = np.hstack([np.asarray(model.layers[1](model.layers[0](x))), np.ones((len(x), 1))])
    last = [LastLayer(model.get_layer("out"), read.T @ read / len(x)) for _ in range(3)]
    start = last[0].weights[1].numpy()
    for layer, gradient, rows in zip(last, (0.0, 1.0, 1.0), (512, 512, 13), strict=True):
        layer.step([np.full((12, 4), gradient), np.full(4, gradient)], 0.5, rows)
    rests, many, few = (np.abs(layer.weights[1].numpy() - start) for layer in last)
    assert (rests == 0).all()
    np.testing.assert_allclose(few / many, (13 / 26) / (512 / 525), rtol=1e-3)


def twice() -> Any:
    inputs = keras.Input((4,))
    shared = layers.Dense(4)
    return keras.Model(inputs, shared(shared(inputs)))


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (lambda: keras.Sequential([keras.Input((4,)), layers.Dense(3, name="out")]), "out"),
        (lambda: keras.Sequential([keras.Input((4,)), layers.Dense(3, name="out"), layers.Softmax()]), "out"),
        (lambda: keras.Sequential([keras.Input((4,)), layers.Dense(3, use_bias=False)]), None),
        (lambda: keras.Sequential([keras.Input((5, 4)), layers.Dense(3), layers.GlobalAveragePooling1D()]), None),
        (lambda: keras.Sequential([keras.Input((5, 5, 1)), layers.Conv2D(3, 5), layers.Flatten()]), None),
        (lambda: keras.Sequential([keras.Input((4,)), layers.Dense(8), layers.Reshape((2, 4))]), None),
        (lambda: keras.Sequential([keras.Input((5, 4)), layers.LSTM(3)]), None),
        (twice, None),
        (lambda: keras.Sequential([keras.Input((5, 4)), layers.Dense(3, name="out"), layers.Softmax()]), "out"),
        (lambda: keras.Sequential([keras.Input((5, 5, 2)), layers.Conv2D(3, 1, name="out")]), "out"),
    ],
    ids=[
        *("dense", "softmax after it", "no bias", "averaged", "convolution", "other positions", "recurrent"),
        *("called twice", "tokens", "pixels"),
    ],
)
def test_which_layer_is_refitted(model: Any, name: str | None) -> None:
    network = model()
    found = LastLayer.call_among(trace_graph(network).calls)
    if name is None:
        assert found is None
    else:
        assert found is not None
        assert found.layer is network.get_layer(name)


def test_only_merging_refits_the_last_layer() -> None:
    model = models.ready("mlp")
    assert MaskedNetwork(model, dr.elements(model)).last is None
