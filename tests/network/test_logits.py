"""Whether outputs are logits or probabilities, which the last layer says, in any precision."""

from collections.abc import Callable
from typing import Any

import flat
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import dropreg as dr
from dropreg.data._prediction import in_float32
from dropreg.network._logits import are_logits

N_CLASSES = 3


def network(last: Callable[[Any], Any], policy: str = "float32") -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    hidden = layers.Dense(5, activation="relu", dtype=policy, name="hidden")(inputs)
    return keras.Model(inputs, last(hidden))


def dense(activation: Any = None, units: int = N_CLASSES, policy: str = "float32") -> layers.Layer:
    return layers.Dense(units, activation=activation, dtype=policy, kernel_initializer="he_normal", name="last")


def probabilities(n: int = 40) -> np.ndarray:
    return np.random.default_rng(0).dirichlet(np.ones(N_CLASSES), size=n).astype(np.float32)


@pytest.mark.parametrize(
    ("last", "task", "logits"),
    [
        (dense(), "classes", True),
        (dense("softmax"), "classes", False),
        (lambda x: layers.Softmax()(dense()(x)), "classes", False),
        (lambda x: layers.Activation("softmax")(dense()(x)), "classes", False),
        (lambda x: keras.ops.softmax(dense()(x)), "classes", False),
        (lambda x: layers.Activation("linear", dtype="float32")(dense("softmax")(x)), "classes", False),
        (lambda x: layers.Identity()(layers.Activation("linear")(dense()(x))), "classes", True),
        (lambda x: layers.Dropout(0.5)(dense()(x)), "classes", None),
        (keras.Sequential([keras.Input((5,)), dense("softmax")]), "classes", False),
        (lambda x: layers.TimeDistributed(dense("softmax"))(layers.Reshape((1, 5))(x)), "classes", False),
        (dense(units=1), "binary", True),
        (dense("sigmoid", units=1), "binary", False),
        (lambda x: keras.ops.sigmoid(dense()(x)), "multilabel", False),
        (dense("sigmoid"), "classes", None),
    ],
)
def test_the_last_layer_tells_logits_from_probabilities(last: Any, task: Any, logits: bool | None) -> None:
    model, scores = network(last), np.array([[-2.0, 0.5, 3.0]], np.float32)
    for outputs in (probabilities(), scores):
        by_values = outputs is scores
        assert are_logits(model, 0, task, outputs) == (by_values if logits is None else logits)


def test_logits_between_zero_and_one_are_logits() -> None:
    model = network(dense(units=1))
    x = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    scores = np.asarray(model(x))[:, 0]
    inside = (scores > 0) & (scores < 1)
    x, y = x[inside], (np.arange(inside.sum()) % 2).astype(np.int64)
    record = flat.sample(model, (x, y), dr.elements(model), rows=100, progress=False)
    assert inside.sum() > 20
    assert record.baseline["accuracy"].mean() == pytest.approx(((scores[inside] > 0) == y).mean())


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_probabilities_in_half_precision(policy: str) -> None:
    model = network(dense("softmax", policy=policy), policy)
    weights = model.get_weights()
    model.set_weights([*weights[:2], 8.0 * weights[2], weights[3]])  # some probabilities are as small as they can be
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(200, 4)).astype(np.float32), rng.integers(0, N_CLASSES, 200)
    p = np.asarray(model(x)).astype(np.float32)
    assert p.min() < 1e-5
    elements = dr.elements(model)
    record = flat.sample(model, (x, y), elements, rows=4000, outcomes="loss", gradients=("loss",), progress=False)
    expected = -np.log(np.clip(p[np.arange(200), y], 1e-7, 1.0)).mean()
    assert record.baseline["loss"].mean() == pytest.approx(expected, rel=1e-2)
    assert np.isfinite(dr.regress(record, outcome="loss", estimator="gradient").impact).all()


def test_gradients_that_float16_cannot_hold_are_cut_off() -> None:
    x = tf.constant([1e-7, 0.5], dtype=tf.float16)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(tf.math.log(in_float32(x)))
    gradient: Any = tape.gradient(loss, x)
    np.testing.assert_allclose(gradient.numpy(), [float(tf.float16.max), 2.0])


@pytest.mark.parametrize("activation", ["softmax", None])
def test_custom_metrics_receive_the_raw_outputs(activation: str | None) -> None:
    """Its derivatives are the same, exact or by Gauss-Newton, in a network of piecewise linear logits."""
    model = network(dense(activation))
    rng = np.random.default_rng(2)
    data = rng.normal(size=(50, 4)).astype(np.float32), rng.integers(0, N_CLASSES, 50)

    def squared_error(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
        return tf.reduce_sum(tf.square(outputs - tf.one_hot(labels, N_CLASSES)), axis=-1)

    metric = dr.outcomes.PerExample(squared_error, "squared error", greater_is_better=False, differentiable=True)
    settings: dict[str, Any] = {"outcome": metric, "order": 2}
    by_outputs = dr.scorers.taylor(model, data, dr.elements(model), curvature=dr.scorers.GaussNewton(), **settings)
    exact = dr.scorers.taylor(model, data, dr.elements(model), curvature=dr.scorers.Exact(), **settings)
    np.testing.assert_allclose(by_outputs.impact, exact.impact, rtol=1e-3, atol=1e-5)
