"""Laws of distillation after merging: the smaller model is trained on predictions of the original."""

from dataclasses import replace
from typing import Any

import keras
import models
import numpy as np
import pytest
from keras import layers
from scipy.special import log_softmax

import dropreg as dr
from dropreg.errors import ModelError, ParameterError
from dropreg.network._logits import guess_task
from dropreg.pruning._limits import verdict_on
from dropreg.recovery import Recovered
from dropreg.recovery._distill import DISTILLATION
from dropreg.recovery._trainer import Trainer

FAST: dict[str, Any] = {"epochs": 3, "batch_size": 16, "trial_epochs": 1}
GRID = ("mlp_activations", "cnn_bn", "two_inputs", "tagger")


def outputs_of(model: keras.Model, x: Any) -> list[np.ndarray]:
    return [np.asarray(y, np.float64) for y in keras.tree.flatten(model(x, training=False))]


def weights_of(model: keras.Model) -> list[np.ndarray]:
    return [np.array(weight) for weight in model.get_weights()]


def assert_same(before: list[np.ndarray], after: list[np.ndarray]) -> None:
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


def smaller(model: keras.Model, fraction: float = 0.4) -> dr.Selection:
    return dr.Selection.random(dr.elements(model), fraction)


def three_outputs() -> keras.Model:
    """Probabilities of classes, of two labels, and numbers."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((5,))
    x = layers.Dense(8, activation="relu", name="a")(inputs)
    outputs = [
        layers.Dense(3, activation="softmax", name="class")(x),
        layers.Dense(2, activation="sigmoid", name="labels")(x),
        layers.Dense(2, name="numbers")(x),
    ]
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize("name", ["mlp_activations", "cnn_bn"])  # noise, and statistics that training changes
def test_the_largest_learning_rate_that_helps_is_used(name: str) -> None:
    teacher = models.ready(name)
    student = dr.remove(teacher, smaller(teacher)).model
    x, _ = models.data_for(teacher, 80)

    def run(rate: float | tuple[float, ...]) -> Recovered:
        recovery = dr.Recovery(learning_rate=rate, distill=1.0, **FAST)
        return dr.recover(student, (x, None), teacher=teacher, recovery=recovery)

    found, alone = run((0.01, 1e-5, 50.0)), run(0.01)
    assert found.learning_rate == alone.learning_rate == 0.01
    assert_same(weights_of(found.model), weights_of(alone.model))
    assert found.history.equals(alone.history)


@pytest.mark.parametrize(
    ("bold", "ends", "expected"),
    [
        (0.05, {0.05: 0.1, 0.01: 0.2}, 0.05),
        (0.05, {0.05: 0.3, 0.01: 0.2}, 0.01),
        (0.05, {0.05: np.nan, 0.01: 0.2}, 0.01),
    ]
    + [(0.05, {0.05: 0.1, 0.01: 2.0, 0.001: 0.2}, 0.001), (None, {0.05: 0.1, 0.01: 0.2}, 0.01)],
)
def test_a_bold_rate_is_used_where_its_trial_ends_lower(
    bold: float | None, ends: dict[float, float], expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And only where the largest helps."""
    model = models.ready("mlp")
    x, _ = models.data_for(model, 40)
    recovery = dr.Recovery(learning_rate=(0.01, 0.001), bold_rate=bold, distill=1.0, **FAST)
    tried = []

    def run(self: Trainer, rate: float, epochs: int, *, keep: bool = True, **_: Any) -> list[dict[str, Any]]:
        tried.append((rate, epochs, keep))
        return [{"epoch": epoch, "loss": 0.0, "held_out": held_out} for epoch, held_out in enumerate((1.0, ends[rate]))]

    monkeypatch.setattr(Trainer, "run", run)
    assert dr.recover(model, (x, None), teacher=model, recovery=recovery).learning_rate == expected
    in_question = bold is not None and ends[0.01] < 1
    assert tried[-3:-1] == [(0.01, 2, False), (0.05, 2, False)] if in_question else (0.05, 2, False) not in tried
    assert tried[-1] == (expected, 3, True)


@pytest.mark.parametrize("bold", [0.01, 0.001, np.inf, np.nan])
def test_bad_bold_rates_are_refused(bold: float) -> None:
    with pytest.raises(ParameterError, match=r"`bold_rate` must be above `learning_rate` and finite, received"):
        dr.Recovery(learning_rate=(0.01, 0.001), bold_rate=bold)


def test_layers_run_in_inference_mode_where_training_noise_hurts() -> None:
    keras.utils.set_random_seed(0)
    normalization = layers.BatchNormalization(name="normalization")
    hidden = [layers.Dense(24, activation="relu"), normalization, layers.Dropout(0.8)]
    teacher = keras.Sequential([keras.Input((6,)), *hidden, layers.Dense(3)])
    x = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    student = dr.remove(teacher, smaller(teacher, 0.1), data=(x, np.zeros(200, int))).model
    recovery = dr.Recovery(learning_rate=(0.01, 0.003), distill=1.0, **FAST)

    def run(**more: Any) -> Recovered:
        return dr.recover(student, (x, None), teacher=teacher, recovery=replace(recovery, **more), task="classes")

    found, alone = run(), run(learning_rate=0.01)
    assert (alone.best_epoch, alone.as_in_training) == (0, True)
    assert found.best_epoch > 0
    assert not found.as_in_training
    assert f"at learning rate {found.learning_rate:g}, layers as in inference" in repr(found)
    before, after = (one.get_layer("normalization").get_weights()[2:] for one in (student, found.model))
    assert_same(before, after)  # its moving statistics


def test_the_smallest_rate_is_used_where_none_helps() -> None:
    model = models.ready("mlp")
    x, _ = models.data_for(model, 40)
    right = np.argmax(model(x), axis=1)
    data, validation = (x[:20], (right[:20] + 1) % models.N_CLASSES), (x[20:], right[20:])
    recovery = dr.Recovery(learning_rate=(1.0, 0.5, 0.1), **FAST)
    found = dr.recover(model, data, validation=validation, recovery=recovery)
    assert found.learning_rate == 0.1
    assert found.best_epoch == 0
    assert found.as_in_training  # nothing acts otherwise in it
    recovery = dr.Recovery(learning_rate=(1e30, 0.1), optimizer="sgd", **FAST)  # one that does not stay finite
    assert dr.recover(model, data, validation=validation, recovery=recovery).learning_rate == 0.1


def test_all_outputs_are_learned_from_the_teacher() -> None:
    """T^2 KL of classes and labels, and the squared error in units of the teacher's variance, added up."""
    teacher = three_outputs()
    x = np.random.default_rng(0).normal(size=(120, 5)).astype(np.float32)
    student = dr.remove(teacher, smaller(teacher)).model
    recovery = dr.Recovery(distill=1.0, temperature=2.0, learning_rate=0.01, epochs=20, batch_size=16)

    def losses(model: keras.Model) -> list[float]:
        (q, a, one), (p, b, other) = outputs_of(teacher, x[80:]), outputs_of(model, x[80:])
        log_q, log_p = (log_softmax(np.log(probabilities) / 2.0, axis=1) for probabilities in (q, p))
        halved = [np.sqrt(v) / (np.sqrt(v) + np.sqrt(1.0 - v)) for v in (a, b)]  # the sigmoid of half the logit
        a, b = halved
        of_labels = a * np.log(a / b) + (1.0 - a) * np.log((1.0 - a) / (1.0 - b))
        variance = float(outputs_of(teacher, x[:80])[2].var())
        return [
            4.0 * float((np.exp(log_q) * (log_q - log_p)).sum(axis=1).mean()),
            4.0 * float(of_labels.mean()),
            float(np.square(one - other).mean()) / variance,
        ]

    found = dr.recover(student, (x[:80], None), teacher=teacher, validation=(x[80:], None), recovery=recovery)
    assert found.loss_before == pytest.approx(sum(losses(student)), rel=1e-3)
    assert found.loss_after == pytest.approx(sum(losses(found.model)), rel=1e-3)
    for before, after in zip(losses(student), losses(found.model), strict=True):
        assert after < before
    named = {"labels": (np.random.default_rng(1).random((120, 2)) < 0.5).astype(int)}  # says what the output is
    again = dr.recover(student, (x, named), teacher=teacher, validation=(x.copy(), None), recovery=recovery)
    assert again.loss_after < again.loss_before
    with pytest.raises(ModelError, match=r"of one output to learn from labels, received 3 .*Recovery\(distill=1\)"):
        dr.recover(student, (x, named), recovery=dr.Recovery())


def test_tasks_are_guessed_from_outputs() -> None:
    scores = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    assert guess_task(np.exp(log_softmax(scores, axis=1))) == "classes"
    assert guess_task(1.0 / (1.0 + np.exp(-scores))) == "multilabel"
    assert guess_task(1.0 / (1.0 + np.exp(-scores[:, :1]))) == "multilabel"
    assert guess_task(scores) == "regression"


@pytest.mark.parametrize("name", GRID)
def test_pruning_distills_on_request(name: str) -> None:
    """The result is `recover` of the pruned model; the original, its teacher, is unchanged."""
    model = models.ready(name)
    x, y = models.data_for(model, 60)
    before, selection = weights_of(model), smaller(model)
    settings = dr.Recovery(learning_rate=(0.02, 0.005), distill=1.0, seed=4, **FAST)
    deleted = dr.remove(model, selection, merge="none")
    assert deleted.recovered is None
    found = dr.remove(model, selection, data=(x, y), merge="none", recovery=settings, seed=1)
    expected = dr.recover(deleted.model, (x, y), teacher=model, recovery=settings)
    assert found.recovered is not None
    assert found.recovered.best_epoch > 0
    assert found.recovered.recovery == settings
    assert_same(weights_of(found.model), weights_of(expected.model))
    assert_same(before, weights_of(model))
    assert f"\nrecovered: {expected.describe()}" in repr(found)
    assert "recovered" not in repr(deleted)
    assert found.report.totals().equals(deleted.report.totals())


@pytest.mark.parametrize("activation", ["linear", "sigmoid", "softmax"])
def test_without_labels_the_outputs_themselves_are_learned(activation: str) -> None:
    """Numbers may be a regression, of which a softmax would only keep the differences."""
    keras.utils.set_random_seed(0)
    last = layers.Dense(3, activation=activation)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(12, activation="relu"), last])
    x = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    selection = smaller(model, 0.6)
    merged = dr.remove(model, selection, data=(x[:150], None))
    found = dr.remove(model, selection, data=(x[:150], None), recovery="distill")
    errors = [
        np.square(outputs_of(one, x[150:])[0] - outputs_of(model, x[150:])[0]) for one in (found.model, merged.model)
    ]
    assert errors[0].mean() < 0.95 * errors[1].mean()
    assert found.recovered is not None
    kind = {"linear": 1.0, "sigmoid": 4.0, "softmax": 4.0}[activation]
    held_out = np.random.default_rng(0).permutation(150)[:15]
    q, p = (outputs_of(one, x[held_out])[0] for one in (model, found.model))
    if activation == "softmax":
        q, p = (v**0.5 / (v**0.5).sum(axis=1, keepdims=True) for v in (q, p))
        told = (q * np.log(q / p)).sum(axis=1).mean()
    elif activation == "sigmoid":
        q, p = (v**0.5 / (v**0.5 + (1.0 - v) ** 0.5) for v in (q, p))
        told = (q * np.log(q / p) + (1.0 - q) * np.log((1.0 - q) / (1.0 - p))).mean()
    else:
        told = np.square(q - p).mean()
    assert found.recovered.loss_after == pytest.approx(kind * told, rel=2e-3)


@pytest.mark.usefixtures("few_rounds")
def test_prune_distills_by_default() -> None:
    model = models.build("mlp")
    x, y = models.data_for(model, 80)
    small = dr.prune(model, data=(x, y), fraction=0.4, seed=1)
    assert small.recovered is not None
    assert small.recovered.recovery == replace(DISTILLATION, seed=1)
    named = dr.remove(model, small.selection, data=(x, y), recovery="distill", seed=1)
    assert_same(weights_of(small.model), weights_of(named.model))
    merged = dr.remove(model, small.selection, data=(x, y))
    divergences = [one.measure((x, None))["after"].item() for one in (small, merged)]
    assert divergences[0] < divergences[1]
    for more in ({"recovery": "none"}, {"merge": "none"}):
        options: dict[str, Any] = {"fraction": 0.4, "seed": 1, **more}
        assert dr.prune(model, data=(x, y), **options).recovered is None
    model.trainable = False
    assert dr.prune(model, data=(x, y), fraction=0.4).recovered is None
    with pytest.raises(ModelError, match="must have trainable weights, received none"):
        dr.remove(model, small.selection, data=(x, y), recovery="distill")


def test_zeros_of_removed_weights_survive_distilling() -> None:
    model = models.ready("mlp")
    selection = dr.Selection.random(dr.elements(model, "weights"), 0.5)
    small = dr.remove(model, selection, data=models.data_for(model, 60), recovery="distill")
    assert small.recovered is not None
    assert small.recovered.best_epoch > 0
    assert sum(int((weight == 0).sum()) for weight in weights_of(small.model)) == (~selection.kept).sum()


@pytest.mark.usefixtures("few_rounds")
def test_an_accuracy_limit_is_tested_on_the_distilled_model(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[keras.Model] = []

    def listed(limit: Any, original: Any, smaller: keras.Model, *more: Any) -> Any:
        shown.append(smaller)
        return verdict_on(limit, original, smaller, *more)

    monkeypatch.setattr("dropreg.pruning._annealing._search.verdict_on", listed)
    model = models.ready("mlp")
    x = models.data_for(model, 400)[0]
    y = np.argmax(model(x), axis=1)
    limit = dr.AccuracyLimit(0.3, (x[200:].copy(), y[200:]))
    data = x[:200].copy(), y[:200]
    small = dr.prune(model, data=data, target=limit)
    assert any(small.model is one for one in shown)
    assert small.recovered is not None
    assert limit.measure(small) <= 0.3
    again = dr.remove(model, small.selection, data=data, recovery="distill")
    assert_same(weights_of(small.model), weights_of(again.model))
