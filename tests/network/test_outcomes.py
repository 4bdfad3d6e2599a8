"""Outcomes of every task, and custom metrics."""

import itertools
from pathlib import Path
from typing import Any

import flat
import keras
import models
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from runs import small
from sklearn.metrics import f1_score

import dropreg as dr
from dropreg.data._prediction import Prediction
from dropreg.errors import DataError, ParameterError, RecordError
from dropreg.network._masked import MaskedNetwork


def head(units: int, activation: str | None) -> keras.Model:
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, activation="tanh", name="a"),
            layers.Dense(units, activation=activation, name="out"),
        ]
    )


def error_of(labels: tf.Tensor, outputs: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.argmax(outputs, axis=1) != labels, tf.float32)


def macro_f1(labels: np.ndarray, outputs: np.ndarray) -> float:
    classes = list(range(models.N_CLASSES))
    options: Any = {"labels": classes, "average": "macro", "zero_division": 0.0}
    return float(f1_score(labels, outputs.argmax(axis=1), **options))


def test_divergence_needs_no_labels_and_is_zero_for_the_original_model() -> None:
    model, (x, _), elements = small()
    record = flat.sample(model, (x, None), elements, rows=20_000, outcomes="divergence", progress=False)
    assert np.abs(record.baseline["divergence"]).max() < 1e-6
    assert all((chunk.outcomes > -1e-6).all() for chunk in record.chunks())
    assert dr.regress(record, outcome="divergence").impact.max() > 0


@pytest.mark.parametrize(
    ("units", "activation", "task"),
    [(1, None, "regression"), (3, None, "regression"), (1, "sigmoid", "binary"), (3, "sigmoid", "multilabel")],
)
def test_other_tasks_are_recognized_and_measured(units: int, activation: str | None, task: str) -> None:
    model = head(units, activation)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 6)).astype(np.float32)
    y = rng.normal(size=(60, units)) if task == "regression" else rng.integers(0, 2, size=(60, units))
    classifier = ("loss", "accuracy", "retained", "margin", "divergence")
    outcomes = ("loss", "divergence") if task == "regression" else classifier
    record = flat.sample(
        model, (x, y), dr.elements(model), rows=4000, outcomes=outcomes, gradients=outcomes, progress=False
    )
    assert record.settings.task == task
    keras_loss = keras.losses.MeanSquaredError() if task == "regression" else keras.losses.BinaryCrossentropy()
    assert record.baseline["loss"].mean() == pytest.approx(float(np.asarray(keras_loss(y, model(x)))), rel=1e-4)
    if task != "regression":
        right = (np.asarray(model(x)) > 0.5) == y
        assert record.baseline["accuracy"].mean() == pytest.approx(right.mean())
        chunk = next(record.chunks())
        masked = MaskedNetwork(model, dr.elements(model))([x[chunk.examples[:, 0]]], chunk.masks)
        both = right[chunk.examples[:, 0]] & ((np.asarray(masked) > 0.5) == y[chunk.examples[:, 0]])
        np.testing.assert_allclose(chunk.outcomes[:, outcomes.index("retained")], both.mean(axis=1), atol=1e-6)
    plain, assisted = (dr.regress(record, outcome="divergence", estimator=kind) for kind in ("ols", "assisted"))
    assert plain.impact.max() > 0
    assert np.corrcoef(plain.impact, assisted.impact)[0, 1] > 0.8


def test_softmax_outputs_and_logits_give_the_same_outcomes() -> None:
    logits, probabilities = head(3, None), head(3, "softmax")
    x = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    y = np.arange(40) % 3
    outcomes = ("accuracy", "retained", "loss", "margin", "divergence")
    baselines = [
        flat.sample(model, (x, y), dr.elements(model), rows=60, outcomes=outcomes, progress=False).baseline
        for model in (logits, probabilities)
    ]
    np.testing.assert_allclose(baselines[0], baselines[1], atol=1e-5)


def test_retained_accuracy_counts_examples_that_remain_right() -> None:
    model, (x, y), elements = small()
    outcomes = ("accuracy", "retained")
    record = flat.sample(model, (x, y), elements, rows=4000, outcomes=outcomes, progress=False)
    np.testing.assert_array_equal(record.baseline["retained"], record.baseline["accuracy"])
    right = np.argmax(model(x), axis=1) == y
    assert 0 < right.mean() < 1
    for chunk in record.chunks():
        accuracy, retained = chunk.outcomes.T
        np.testing.assert_array_equal(retained, accuracy * right[chunk.examples[:, 0]])
    whole, cut = (Prediction(tf.constant(model(x) * scale), "classes", True) for scale in (1.0, -0.5))
    surrogates = [
        outcome.surrogate(cut, tf.constant(y), whole)
        for outcome in (dr.outcomes.RetainedAccuracy(), dr.outcomes.Accuracy())
    ]
    np.testing.assert_allclose(surrogates[0], surrogates[1] * right)


def test_custom_metrics() -> None:
    model, data, elements = small()
    own = dr.outcomes.PerExample(error_of, "error", greater_is_better=False)
    record = flat.sample(model, data, elements, rows=6000, outcomes=("accuracy", own), progress=False)
    accuracy = dr.regress(record, outcome="accuracy", estimator="ols").impact
    np.testing.assert_allclose(dr.regress(record, outcome="error").impact, accuracy, atol=1e-6)


def test_a_metric_over_the_examples_of_a_mask() -> None:
    model, data, elements = small()
    f1 = dr.outcomes.PerMask(macro_f1, "f1", greater_is_better=True)
    design = dr.designs.Bernoulli(0.3, examples_per_mask=20)
    record = flat.sample(model, data, elements, rows=20_000, outcomes=(f1, "accuracy"), design=design, progress=False)
    tables = [dr.regress(record, outcome=outcome) for outcome in ("f1", "accuracy")]
    assert np.corrcoef(tables[0].impact, tables[1].impact)[0, 1] > 0.5
    chunk = next(record.chunks())
    network = MaskedNetwork(model, elements)
    x, y = data[0][chunk.examples[3]], data[1][chunk.examples[3]]
    masked = np.asarray(network([x], np.broadcast_to(chunk.masks[3], (20, len(elements)))))
    assert chunk.outcomes[3, 0] == pytest.approx(macro_f1(y, masked), abs=1e-6)
    assert chunk.effects[3, 0] == pytest.approx(macro_f1(y, masked) - macro_f1(y, np.asarray(model(x))), abs=1e-6)


def test_unsuitable_outcomes_are_refused() -> None:
    model, data, elements = small()
    with pytest.raises(DataError, match=r"outcome 'accuracy' must have labels, received y=None: use outcome 'div"):
        flat.sample(model, (data[0], None), elements, rows=10, progress=False)
    with pytest.raises(ParameterError, match=r"outcome 'f1' must have several examples for each mask"):
        flat.sample(model, data, elements, rows=10, outcomes=dr.outcomes.PerMask(macro_f1, "f1", True), progress=False)
    own = dr.outcomes.PerExample(lambda labels, outputs: outputs, "mine", greater_is_better=True)
    with pytest.raises(ParameterError, match=r"outcome 'mine' must return one number for each row.*received shape"):
        flat.sample(model, data, elements, rows=100, outcomes=own, progress=False)
    regression = head(1, None)
    for name in ("accuracy", "retained"):
        with pytest.raises(ParameterError, match=rf"'{name}' must have classes, received a regression task: use"):
            flat.sample(
                *(regression, (data[0], data[1] + 0.5), dr.elements(regression)), rows=10, outcomes=name, progress=False
            )
    short = dr.outcomes.PerExample(lambda labels, outputs: outputs[:1, 0], "short", greater_is_better=True)
    with pytest.raises(ParameterError, match=r"outcome 'short' must return .*received shape \(1,\) for \d+ rows"):
        flat.sample(model, data, elements, rows=100, outcomes=short, progress=False)
    plain = dr.outcomes.PerExample(error_of, "error", greater_is_better=False)
    with pytest.raises(ParameterError, match=r"`gradients` must name outcomes that have one, received 'error'"):
        flat.sample(model, data, elements, rows=10, outcomes=plain, gradients=("error",), progress=False)


def test_gradients_that_are_not_finite_are_refused() -> None:
    """A norm has no gradient at zero, where it is finite."""
    norm = dr.outcomes.PerExample(
        lambda y, p: tf.norm(tf.nn.relu(p - 5.0), axis=-1), "norm", greater_is_better=False, differentiable=True
    )
    says = r"gradients of outcome 'norm' must be finite, received NaN .* pass .*Sampling\(gradients=False\)"
    with pytest.raises(RecordError, match=says):
        flat.estimate(*small(), outcome=norm, rows=500, progress=False)
    with pytest.raises(ParameterError, match="outcome 'norm' must change with the masks"):  # it is always zero
        flat.estimate(*small(), outcome=norm, rows=500, gradients=False, progress=False)


def test_a_metric_that_fails_leaves_the_record_usable(tmp_path: Path) -> None:
    model, data, elements = small()
    calls = itertools.count()
    late = dr.outcomes.PerMask(lambda y, p: np.nan if next(calls) > 900 else 0.5, "late", greater_is_better=True)
    with pytest.raises(RecordError, match=r"outcome 'late' must be finite.*rows are recorded in .* and remain usable"):
        flat.sample(
            *(model, data, elements),
            rows=50_000,
            batch_size=64,
            outcomes=("loss", late),
            design=dr.designs.Bernoulli(0.3, examples_per_mask=5),
            out=tmp_path / "run",
            fidelity=None,
            progress=False,
        )
    record = dr.Record.load(tmp_path / "run")
    assert record.rows > 0
    assert np.isfinite(dr.regress(record, outcome="loss", estimator="ridge").impact).all()
