"""Losses and metrics of Keras as outcomes: the value that Keras computes, or a refusal with the remedy."""

from typing import Any

import flat
import keras
import numpy as np
import pytest
from conftest import says
from keras import layers

import dropreg as dr
from dropreg.errors import ParameterError
from dropreg.network import measure, resolve

METRICS, LOSSES = keras.metrics, keras.losses


def classifier(activation: str | None = None, n: int = 5) -> tuple[keras.Model, np.ndarray, np.ndarray]:
    keras.utils.set_random_seed(0)
    parts = [keras.Input((6,)), layers.Dense(8, "relu", name="h"), layers.Dense(n, activation, name="out")]
    rng = np.random.default_rng(0)
    return keras.Sequential(parts), rng.normal(size=(60, 6)).astype(np.float32), rng.integers(0, n, 60)


def value_of(metric: Any, y: Any, outputs: Any, w: Any = None) -> float:
    metric.reset_state()
    metric.update_state(y, outputs, sample_weight=w)
    return float(metric.result())


@pytest.mark.parametrize(
    ("metric", "activation", "one_hot"),
    [
        (METRICS.SparseTopKCategoricalAccuracy(k=2), None, False),
        (METRICS.TopKCategoricalAccuracy(k=2), None, True),
        (METRICS.CategoricalAccuracy(), "softmax", True),
        (METRICS.CategoricalCrossentropy(), "softmax", True),
        (METRICS.SparseCategoricalCrossentropy(from_logits=True), None, False),
        (METRICS.AUC(), "softmax", True),
        (METRICS.F1Score(average="macro"), "softmax", True),
    ],
    ids=lambda given: getattr(given, "name", str(given)),
)
@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_have_the_values_of_keras(metric: Any, activation: Any, one_hot: bool, weighted: bool) -> None:
    model, x, y = classifier(activation)
    w = np.random.default_rng(1).integers(0, 3, 60).astype(np.float32)
    given = np.eye(5)[y] if one_hot else y
    expected = value_of(metric, given, np.asarray(model(x)), w if weighted else None)
    table = measure(model, model, (x, y, w) if weighted else (x, y), metric, None)
    assert table["outcome"].tolist() == [metric.name]
    assert table["before"][0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("loss", "activation"),
    [
        (LOSSES.SparseCategoricalCrossentropy(from_logits=True), None),
        (LOSSES.CategoricalHinge(), None),
        (LOSSES.kl_divergence, "softmax"),
        (LOSSES.MeanSquaredError(), "softmax"),
    ],
    ids=lambda given: getattr(given, "__name__", type(given).__name__),
)
def test_losses_have_the_values_of_keras(loss: Any, activation: Any) -> None:
    model, x, y = classifier(activation)
    sparse = "Sparse" in type(loss).__name__
    expected = float(np.mean(loss(y if sparse else np.eye(5)[y], np.asarray(model(x)))))
    outcome = resolve(loss)
    assert not outcome.greater_is_better
    assert outcome.differentiable
    record = flat.sample(model, (x, y), dr.elements(model), rows=60, outcomes=[loss, "loss"])
    assert record.baseline[outcome.name].mean() == pytest.approx(expected, rel=1e-4)
    table = dr.scorers.leave_one_out(model, (x, y), dr.elements(model), outcome=loss)
    assert table.outcome == outcome.name


def test_a_cross_entropy_of_keras_scores_as_the_loss() -> None:
    model, x, y = classifier()
    entropy = LOSSES.SparseCategoricalCrossentropy(from_logits=True, name="entropy")
    for scorer in (dr.scorers.taylor, dr.scorers.obd, dr.scorers.leave_one_out):
        one, two = (scorer(model, (x, y), dr.elements(model), outcome=given).impact for given in (entropy, "loss"))
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-6)


def test_positions_are_averaged_without_padding() -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,), dtype="int32")
    h = layers.Dense(6, "relu", name="h")(layers.Embedding(9, 5, mask_zero=True)(inputs))
    model = keras.Model(inputs, layers.Dense(3, name="out")(h))
    x, y = np.array([[1, 2, 3, 4], [5, 6, 0, 0]] * 3), np.array([[0, 1, 2, 0], [1, 1, 7, 7]] * 3)
    metric = METRICS.SparseCategoricalAccuracy(name="right")
    record = flat.sample(model, (x, y), dr.elements(model, include="h"), rows=12, outcomes=[metric, "accuracy"])
    np.testing.assert_array_equal(record.baseline["right"], record.baseline["accuracy"])


def test_a_run_knows_the_configuration_of_a_metric() -> None:
    model, x, y = classifier()
    settings = [
        flat.sample(
            model, (x, y), dr.elements(model), rows=12, outcomes=METRICS.SparseTopKCategoricalAccuracy(k, name="top")
        ).settings
        for k in (2, 3, 2)
    ]
    assert settings[0].metrics == settings[2].metrics != settings[1].metrics


class Own(METRICS.MeanMetricWrapper):
    def __init__(self) -> None:
        super().__init__(lambda labels, outputs: outputs[:, 0], name="own")


REFUSED: dict[str, tuple[Any, tuple[str, ...]]] = {
    "a function": (lambda labels, outputs: outputs, ("wrap a function as dropreg.outcomes.PerExample(", "PerMask")),
    "a class": (METRICS.AUC, ("pass an instance, such as AUC()",)),
    "no direction": (METRICS.FalsePositives(), ("what is better, received keras.metrics.FalsePositives", "PerMask(")),
    "equality": (METRICS.Accuracy(), ("what is better, received keras.metrics.Accuracy", "'accuracy'")),
    "a class of one's own": (Own(), ("that Keras defines, received Own, a class of your own: wrap",)),
    "probabilities": (
        LOSSES.SparseCategoricalCrossentropy(),
        ("must have outputs that are probabilities, received logits: make the loss", "with from_logits=True"),
    ),
    "a function of probabilities": (LOSSES.categorical_crossentropy, ("probabilities, received logits",)),
    "a threshold": (METRICS.BinaryAccuracy(), ("probabilities, received logits: make the loss or metric",)),
    "a name": ("acc", ("`outcome` must be one of accuracy, retained, loss, margin, divergence, received 'acc'.",)),
    "no mean over examples": (LOSSES.Dice(), ("must give one number for each example or position, received shape ()",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_clear_meaning_is_refused(name: str) -> None:
    model, x, y = classifier()
    given, text = REFUSED[name]
    with pytest.raises(ParameterError, match=says(*text)):
        flat.sample(model, (x, y), dr.elements(model), rows=10, outcomes=given)


def test_metrics_of_several_examples_need_shared_masks() -> None:
    model, x, y = classifier("softmax")
    with pytest.raises(ParameterError, match=says("'auc' must have several examples for each mask")):
        flat.sample(model, (x, y), dr.elements(model), rows=10, outcomes=METRICS.AUC(name="auc"))
    shared = dr.designs.Bernoulli(0.3, examples_per_mask=20)
    auc = METRICS.AUC(name="auc")
    record = flat.sample(model, (x, y), dr.elements(model), rows=100, outcomes=auc, design=shared)
    assert record.to_frame()["auc"].between(0.3, 1.0).all()
    assert value_of(auc, np.eye(5)[y], np.asarray(model(x))) > 0  # the caller's metric still works
    logits, x, y = classifier()
    with pytest.raises(ParameterError, match=says("'auc' must have outputs that are probabilities, received logits")):
        flat.sample(logits, (x, y), dr.elements(logits), rows=100, outcomes=auc, design=shared)
