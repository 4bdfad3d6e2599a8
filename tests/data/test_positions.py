"""Outputs with positions: pixels and tokens that have a decision each."""

import itertools
from functools import partial
from typing import Any

import flat
import keras
import models
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import dropreg as dr
from dropreg.data._examples import check_data
from dropreg.data._prediction import Prediction
from dropreg.errors import DataError, ParameterError
from dropreg.network._outcomes import Outcome

TASKS = {"classes": 3, "binary": 1, "multilabel": 2, "regression": 2}
OUTCOMES = [
    dr.outcomes.Accuracy(),
    dr.outcomes.RetainedAccuracy(),
    dr.outcomes.Loss(),
    dr.outcomes.Margin(),
    dr.outcomes.Divergence(),
]
N, POSITIONS = 12, (2, 3)


def labels_of(task: str, rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    if task == "classes":
        return rng.integers(0, TASKS[task], shape)
    numbers = rng.normal(size=(*shape, TASKS[task])).astype(np.float32)
    return numbers if task == "regression" else (numbers > 0).astype(np.float32)


def by_position(task: str) -> tuple[keras.Model, keras.Model]:
    """A model that treats every position by itself, and the same for single positions."""
    keras.utils.set_random_seed(2)
    pair = []
    for shape in ((*POSITIONS, 4), (4,)):
        inputs = x = keras.Input(shape)
        x = layers.Dense(5, activation="tanh", name="a")(x)
        x = layers.Dense(4, activation="relu", name="b")(x)
        pair.append(keras.Model(inputs, layers.Dense(TASKS[task], name="out")(x)))
    pair[1].set_weights(pair[0].get_weights())
    return pair[0], pair[1]


def both(task: str) -> tuple[tuple[keras.Model, Any], tuple[keras.Model, Any]]:
    """Model and data with positions, and with every position as an example."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(N, *POSITIONS, 4)).astype(np.float32), labels_of(task, rng, (N, *POSITIONS))
    mapped, single = by_position(task)
    return (mapped, (x, y)), (single, (x.reshape(-1, 4), y.reshape(-1, *y.shape[3:])))


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda outcome: outcome.name)
@pytest.mark.parametrize("task", TASKS)
def test_the_outcome_of_a_row_is_the_mean_over_its_positions(task: Any, outcome: Outcome, from_logits: bool) -> None:
    if task == "regression" and outcome.name in ("accuracy", "retained", "margin"):
        return
    rng, k = np.random.default_rng(0), TASKS[task]
    values = [rng.normal(size=(5, *POSITIONS, k)).astype(np.float32) for _ in range(2)]
    if not from_logits:
        values = [np.asarray(tf.nn.softmax(v) if task == "classes" else tf.sigmoid(v)) for v in values]
    labels = labels_of(task, rng, (5, *POSITIONS))
    flat = labels.reshape(-1, *labels.shape[3:])
    for measure in (outcome.measure, outcome.surrogate):
        here, whole = (Prediction(tf.constant(v), task, from_logits) for v in values)
        found = measure(here, tf.constant(labels), whole)
        here, whole = (Prediction(tf.constant(v.reshape(-1, k)), task, from_logits) for v in values)
        expected = measure(here, tf.constant(flat), whole).numpy().reshape(5, -1).mean(axis=1)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_scorers_agree_with_positions_as_separate_examples(task: Any) -> None:
    (mapped, data), (single, flat) = both(task)
    settings: list[dict[str, Any]] = [{}, {"order": 2}, {"order": 2, "curvature": dr.scorers.Exact()}]
    for score in (dr.scorers.leave_one_out, *(partial(dr.scorers.taylor, **more) for more in settings)):
        found, expected = (
            score(model, given, dr.elements(model), outcome="loss", task=task).impact
            for model, given in ((mapped, data), (single, flat))
        )
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_many_outputs_are_sketched() -> None:
    """Of more than 64 outputs Gauss-Newton takes random directions, which is unbiased."""
    narrow = models.ready("u_net")
    x, y = models.data_for(narrow, 100)
    wide = keras.Model(narrow.inputs, layers.UpSampling2D(2)(narrow.outputs[0]))
    found = dr.scorers.obd(wide, (x, y.repeat(2, axis=1).repeat(2, axis=2)), dr.elements(wide))
    expected = dr.scorers.obd(narrow, (x, y), dr.elements(narrow))
    assert (found.rows, expected.rows) == (100 * (1 + 2 * 9), 100 * (1 + 2 * 48))
    assert found.std_error is not None
    assert (np.abs(found.impact - expected.impact) <= 4.5 * found.std_error + 1e-5).all()
    assert not np.allclose(found.impact, expected.impact, rtol=1e-3)


@pytest.mark.parametrize("task", TASKS)
def test_scores_of_the_divergence_square_to_its_second_derivatives(task: Any) -> None:
    shape = (1, 2, min(TASKS[task], 2))
    outputs = tf.constant(np.random.default_rng(5).normal(size=shape), tf.float32)
    whole = Prediction(tf.constant(outputs.numpy()), task, True)
    with tf.GradientTape() as outer:
        outer.watch(outputs)
        with tf.GradientTape() as inner:
            inner.watch(outputs)
            value = dr.outcomes.Divergence().measure(Prediction(outputs, task, True), tf.zeros(1), whole)
        first = inner.gradient(value, outputs)
    jacobian: Any = outer.jacobian(first, outputs)
    second = jacobian.numpy().reshape(shape[1] * shape[2], -1)
    squares = []
    for signs in itertools.product([-1.0, 1.0], repeat=len(second)):
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            scores = dr.outcomes.Divergence.scores(
                Prediction(outputs, task, True), tf.reshape(tf.constant(signs), shape)
            )
        gradient: Any = tape.gradient(scores, outputs)
        g = gradient.numpy().reshape(-1)
        squares.append(np.outer(g, g))
    np.testing.assert_allclose(np.mean(squares, axis=0), second, atol=1e-6)
    largest = np.linalg.eigvalsh(second).max()
    assert largest <= dr.outcomes.Divergence.curvature(task, shape[1:]) + 1e-6


def test_deleting_is_the_same_for_single_positions() -> None:
    (mapped, data), (single, flat) = both("classes")
    kept = np.arange(9) % 3 > 0
    small = [dr.remove(model, dr.Selection(dr.elements(model), kept)).model for model in (mapped, single)]
    got, expected = np.asarray(small[0](data[0])), np.asarray(small[1](flat[0]))
    np.testing.assert_allclose(got.reshape(expected.shape), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["u_net", "tagger"])
def test_a_model_with_positions_is_annealed_merged_measured_and_fine_tuned(name: str) -> None:
    model = models.ready(name)
    x, _ = models.data_for(model, 400)
    y = np.asarray(model(x)).argmax(axis=-1)
    data, test = (x[:300], y[:300]), (x[300:], y[300:])
    assert len(np.unique(y)) > 1
    elements = dr.elements(model)
    chosen = flat.anneal(model, data, elements, fraction=0.3, rounds=10, ablation="merged")
    pruned, deleted = dr.remove(model, chosen, data=data), dr.remove(model, chosen)
    found = pruned.measure(test).set_index("outcome")
    assert found.loc["accuracy", "before"] == 1.0
    right = (np.asarray(pruned.model(test[0])).argmax(axis=-1) == test[1]).mean()
    assert found.loc["accuracy", "after"] == pytest.approx(right)
    missed, without = (one.measure((x[:300], None), "divergence")["after"].item() for one in (pruned, deleted))
    assert 0 < missed < without
    tuned = dr.recover(pruned.model, data, recovery=dr.Recovery(epochs=2))
    from_logits = name == "u_net"
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    held_out = np.sort(np.random.default_rng(0).permutation(300)[:30])
    by_keras = float(np.asarray(loss(y[held_out], pruned.model(x[held_out]))))
    assert tuned.loss_before == pytest.approx(by_keras, rel=1e-3)
    assert tuned.loss_after < tuned.loss_before


def test_examples_with_positions_count_as_several() -> None:
    """Fewer of them share a mask, in as many rounds."""
    rows, rounds = [], []
    for name in ("u_net", "cnn"):
        model = models.ready(name)
        data, elements = models.data_for(model, 40), dr.elements(model)
        path = flat.anneal_path(model, data, elements, fractions=(0.2,), rounds=20, ablation="merged")
        rows.append(path.rows)
        rounds.append(len(path.history))
    assert rounds[0] == rounds[1]
    assert 4 * rows[0] == rows[1]


def test_labels_take_the_usual_forms() -> None:
    model = models.ready("u_net")
    x, y = models.data_for(model, 6)
    for form in (y, y[..., np.newaxis], np.eye(models.N_CLASSES)[y]):
        examples = check_data(model, (x, form))
        assert (examples.task, examples.labels is not None) == ("classes", True)
        np.testing.assert_array_equal(examples.labels, y)
    numbers = np.random.default_rng(0).normal(size=(*y.shape, models.N_CLASSES))
    assert check_data(model, (x, numbers)).task == "regression"
    assert check_data(model, (x, (numbers > 0).astype(int))).task == "multilabel"
    single = keras.Model(model.inputs, layers.Conv2D(1, 1)(model.outputs[0]))
    for form in (y > 0, (y > 0)[..., np.newaxis]):
        examples = check_data(single, (x, form))
        assert examples.labels is not None
        assert (examples.task, examples.labels.shape) == ("binary", (6, 4, 4, 1))


def test_custom_metrics_receive_all_positions() -> None:
    """Intersection over union of class 1, image by image."""
    model = models.ready("u_net")
    x, y = models.data_for(model, 30)

    def overlap(labels: Any, outputs: Any) -> Any:
        here, there = tf.argmax(outputs, axis=-1) == 1, labels == 1
        both = tf.reduce_sum(tf.cast(here & there, tf.float32), axis=[1, 2])
        return both / tf.maximum(tf.reduce_sum(tf.cast(here | there, tf.float32), axis=[1, 2]), 1.0)

    metric = dr.outcomes.PerExample(overlap, "iou", greater_is_better=True)
    table = dr.scorers.leave_one_out(model, (x, y), dr.elements(model), outcome=metric)
    assert np.abs(table.impact).max() > 0
    with pytest.raises(ParameterError, match=r"mean over the positions.*received 'iou' for an output of shape"):
        dr.scorers.obd(
            model, (x, y), dr.elements(model), outcome=dr.outcomes.PerExample(overlap, "iou", True, differentiable=True)
        )


def test_positions_of_any_number() -> None:
    """A model for sequences of any length, with labels of their own length or of another."""
    inputs = keras.Input((None, 3))
    hidden = layers.LSTM(4, return_sequences=True)(inputs)
    model = keras.Model(inputs, layers.Dense(models.N_CLASSES)(hidden))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 7, 3)).astype(np.float32), rng.integers(0, models.N_CLASSES, (20, 7))
    elements = dr.elements(model)
    expected = dr.scorers.leave_one_out(model, (x, y), elements).impact
    assert np.isfinite(expected).all()
    record = flat.sample(model, (x, y), elements, rows=4000, progress=False)
    assert record.baseline["accuracy"].mean() == pytest.approx((np.asarray(model(x)).argmax(-1) == y).mean())
    for use in (dr.scorers.leave_one_out, partial(flat.sample, rows=4000, progress=False)):
        with pytest.raises(DataError, match=r"`y` must have shape \(20, 7\), as the model's output.*\(20, 6\)"):
            use(model, (x, y[:, :6]), elements)


def test_labels_with_other_positions_are_refused() -> None:
    model = models.ready("u_net")
    x, y = models.data_for(model, 6)
    for wrong in (y[:, :3], y[:, 0], y[..., np.newaxis, np.newaxis]):
        with pytest.raises(DataError, match=r"`y` must have shape \(6, 4, 4\) or \(6, 4, 4, 3\), received"):
            check_data(model, (x, wrong))
    y[3, 1, 2] = 7
    with pytest.raises(DataError, match=r"must be classes 0 to 2, received 7 at example 3 \(1 such labels\)"):
        check_data(model, (x, y))
    with pytest.raises(DataError, match=r"`y` must have shape \(6, 4, 4, 3\) for task 'regression', received"):
        check_data(model, (x, np.zeros((6, 4, 3))), "regression")
