"""Inputs that used to give a wrong number without a word: now the right one, or a refusal."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flat
import keras
import models
import numpy as np
import pandas as pd
import pytest
from conftest import says
from keras import layers

import dropreg as dr
from dropreg._utils import spread_rows
from dropreg.data import check_data
from dropreg.errors import DataError, ModelError, ParameterError, RecordError, UnidentifiedError


def predicted(model: keras.Model, x: np.ndarray) -> Any:
    quiet: Any = 0
    return model.predict(x, verbose=quiet)


def test_outputs_that_are_not_finite_under_a_mask_are_wrong() -> None:
    inputs = keras.Input((2,))
    hidden = layers.Dense(4, name="h")
    model = keras.Model(inputs, layers.Dense(3, activation="exponential", name="out")(hidden(inputs)))
    first, second = np.zeros((2, 4)), np.zeros((4, 3))
    second[:2, 0] = 1.0, -1.0
    bias = np.array([1.0, 0.0, 0.0])
    hidden.set_weights([first, np.array([300.0, 300.0, 0.0, 0.0])])
    model.get_layer("out").set_weights([second, bias])
    x = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    assert (predicted(model, x).argmax(axis=-1) == 0).all()
    y = np.zeros(50, np.int64)
    table = flat.estimate(model, (x, y), dr.elements(model), outcome="accuracy", gradients=False, rows=4_000)
    assert table.impact[1] > 0.3  # .7 - .3: it is right with both of the first two units, or none


@pytest.mark.parametrize("estimator", ["ols", "ridge", "marginal"])
@pytest.mark.parametrize("value", [0.0, 0.3])
def test_an_outcome_that_never_changes_is_refused(estimator: Any, value: float) -> None:
    model = models.ready("mlp")
    x, _ = models.data_for(model, 30)
    record = flat.sample(
        *(model, (x, np.zeros(30, np.int64)), dr.elements(model)),
        rows=300,
        outcomes=dr.outcomes.PerExample(lambda labels, outputs: value + 0.0 * outputs[:, 0], "nothing", True),
    )
    with pytest.raises(ParameterError, match=says("'nothing' must change with the masks", "300 rows", "higher rate")):
        dr.regress(record, estimator=estimator)


def _nothing(labels: Any, outputs: Any) -> Any:
    return 0.0 * outputs[:, 0]


CONSTANT: dict[str, tuple[Any, str]] = {
    "leave one out": (
        lambda *given, outcome: dr.scorers.leave_one_out(*given, outcome=outcome),
        "received changes of zero",
    ),
    "greedy": (
        lambda *given, outcome: dr.scorers.greedy(*given, step=0.5, outcome=outcome),
        "received changes of zero",
    ),
    "taylor": (lambda *given, outcome: dr.scorers.taylor(*given, outcome=outcome), "received derivatives of zero"),
    "with gradients": (
        lambda *given, outcome: flat.estimate(*given, rows=300, outcome=outcome),
        "must change with the masks, received no change in all 300 rows",
    ),
    "compared": (
        lambda *given, outcome: dr.compare(
            *given, scorers={"one": dr.scorers.Scorer(dr.scorers.leave_one_out, {"outcome": outcome})}, fractions=(0.5,)
        ),
        "received changes of zero",
    ),
}


@pytest.mark.parametrize("name", CONSTANT)
def test_scores_by_an_outcome_that_never_changes_are_refused(name: str) -> None:
    model = models.ready("mlp")
    constant = dr.outcomes.PerExample(_nothing, "nothing", True, differentiable=True)
    score, text = CONSTANT[name]
    with pytest.raises((ParameterError, UnidentifiedError), match=says(text)):
        score(model, models.data_for(model, 20), dr.elements(model), outcome=constant)


def test_no_impact_is_minus_zero() -> None:
    model = models.ready("mlp")
    x, _ = models.data_for(model, 60)
    data = x, predicted(model, x).argmax(axis=-1)
    table = dr.scorers.leave_one_out(model, data, dr.elements(model), outcome="accuracy")
    zeros = table.impact[table.impact == 0]
    assert len(zeros)
    assert not np.signbit(zeros).any()


@pytest.mark.parametrize("outcome", ["accuracy", "retained", "margin"])
def test_outputs_that_overflow_in_half_precision_are_wrong_or_refused(outcome: Any) -> None:
    """Class 0 is right with both of the first two units, and without either of them its output is infinite."""
    hidden, out = layers.Dense(4, name="h", dtype="mixed_float16"), layers.Dense(3, name="out", dtype="mixed_float16")
    model = keras.Sequential([keras.Input((2,)), hidden, out])
    hidden.set_weights([np.zeros((2, 4)), np.array([3_000.0, 3_000.0, 1.0, 0.0])])
    second = np.zeros((4, 3))
    second[:2, 0], second[2, 1] = (30.0, -30.0), 5.0
    out.set_weights([second, np.array([10.0, 0.0, 0.0])])
    given = model, (np.ones((20, 2), np.float32), np.zeros(20, np.int64)), dr.elements(model)
    if outcome == "margin":
        with pytest.raises(ModelError, match=says("outcome 'margin' must be finite")):
            dr.scorers.leave_one_out(*given, outcome=outcome)
        return
    assert dr.scorers.leave_one_out(*given, outcome=outcome).impact[:2].tolist() == [1.0, 1.0]
    frame = dr.scorers.greedy(*given, outcome=outcome).frame
    assert frame["joint_change"].max() == 1.0
    assert dr.scorers.masked_game(*given, outcome=outcome)(np.array([[True, False, True, True]])) == 0.0


@pytest.mark.parametrize("estimator", ["assisted", "gradient"])
def test_an_accuracy_that_never_changes_is_refused_though_its_surrogate_does(estimator: Any) -> None:
    model = models.build("mlp")
    x, _ = models.data_for(model, 30)
    kernel, bias = model.get_layer("out").get_weights()
    bias[0] = 1.0
    model.get_layer("out").set_weights([0.001 * kernel, bias])
    data = x, np.zeros(30, np.int64)
    record = flat.sample(model, data, dr.elements(model), rows=300, outcomes="accuracy", gradients=True)
    assert np.abs(record.gradient_sums("accuracy").kept).max() > 0
    with pytest.raises(ParameterError, match="'accuracy' must change with the masks"):
        dr.regress(record, estimator=estimator)


def test_a_series_is_aligned_by_its_index() -> None:
    elements = dr.elements(models.ready("mlp"))
    impact = pd.Series(np.random.default_rng(0).random(len(elements)))
    expected = dr.select(elements, impact.to_numpy(), fraction=0.5).kept
    by_name = pd.Series(impact.to_numpy(), index=list(elements.names))
    several: list[Any] = [impact, impact.sort_values(), by_name, by_name.sort_values()]
    for series in several:
        np.testing.assert_array_equal(dr.select(elements, series, fraction=0.5).kept, expected)
    twice = pd.concat([impact.iloc[:-1], impact[:1]])
    bad: list[Any] = [impact.iloc[1:], by_name.rename({elements.names[0]: "x"}), twice]
    for wrong in bad:
        with pytest.raises(ParameterError, match=says("`impact` must have an index of all 9 names", "or an array")):
            dr.select(elements, wrong, fraction=0.5)


def test_examples_of_every_class_are_drawn_from_sorted_data() -> None:
    y = np.repeat(np.arange(10), 2_000)
    rows = spread_rows(len(y), 10_000)
    assert isinstance(rows, np.ndarray)
    assert (np.diff(rows) > 0).all()
    assert np.bincount(y[rows]).min() > 900
    assert spread_rows(10, 10) == slice(None)


def test_outputs_of_a_dict_have_the_keys_of_keras() -> None:
    inputs = keras.Input((3,))
    h = layers.Dense(5, name="h")(inputs)
    heads = {"tail": layers.Dense(3, name="head")(h), "head": layers.Dense(3, name="tail")(h)}
    model = keras.Model(inputs, heads)
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    y = predicted(model, x)["tail"].argmax(axis=-1)
    record = flat.sample(model, (x, {"tail": y}), dr.elements(model), rows=40)
    assert record.baseline["accuracy"].mean() == 1.0


@pytest.mark.parametrize("names", [("mask",), ("example",), ("x", "x_change"), ("rate",), ("x", "x_n")])
def test_names_of_outcomes_that_are_columns_of_a_record_are_refused(names: tuple[str, ...]) -> None:
    model = models.ready("mlp")
    outcomes = [dr.outcomes.PerExample(lambda labels, outputs: outputs[:, 0], name, True) for name in names]
    with pytest.raises(ParameterError, match=says("must not be one of the record's columns", names[-1])):
        flat.sample(model, models.data_for(model, 10), dr.elements(model), rows=10, outcomes=outcomes)


@pytest.mark.parametrize("name", ["loss", "example"])
def test_layers_with_the_name_of_a_column_are_not_overwritten_in_the_frame(name: str) -> None:
    keras.utils.set_random_seed(0)
    parts = [keras.Input((5,)), layers.Dense(5, name=name), layers.Dense(5, name="b"), layers.Dense(3, name="out")]
    model = keras.Sequential(parts)
    data = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32), np.arange(20) % 3
    record = flat.sample(model, data, dr.elements(model, ["layers"]), rows=20, outcomes="loss")
    with pytest.raises(RecordError, match=says("must have other names", f"the layer '{name}'", "`chunks`")):
        record.to_frame()
    assert next(record.chunks()).masks.shape == (20, 2)


def test_a_part_that_a_killed_run_left_does_not_stop_the_next(tmp_path: Path) -> None:
    (tmp_path / ".run.json.part").write_text("{")
    model = models.ready("mlp")
    record = flat.sample(model, models.data_for(model, 10), dr.elements(model), rows=10, out=tmp_path)
    assert record.is_complete


def classifier(n_outputs: int, activation: str) -> tuple[keras.Model, np.ndarray]:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((5,)), layers.Dense(8), layers.Dense(n_outputs, activation, name="out")])
    return model, np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)


@pytest.mark.parametrize("second_label", [False, True])
def test_one_hot_labels_of_sigmoid_outputs_are_labels_of_their_own(second_label: bool) -> None:
    model, x = classifier(4, "sigmoid")
    y = np.eye(4)[np.arange(30) % 4]
    y[0] += second_label * np.roll(y[0], 1)
    p = predicted(model, x)
    expected = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
    record = flat.sample(model, (x, y), dr.elements(model), rows=30, outcomes="loss")
    assert record.settings.task == "multilabel"
    assert record.baseline["loss"].mean() == pytest.approx(expected, rel=1e-4)


CROSS = keras.losses.BinaryCrossentropy(from_logits=True)
TOLD: dict[str, tuple[int, str, Any, list[float], str]] = {
    "0 and 1": (1, "linear", None, [0, 1], "binary"),
    "0 and 1, squares": (1, "linear", "mse", [0, 1], "regression"),
    "0 and 1, cross-entropy": (1, "linear", {"out": CROSS}, [0, 1], "binary"),
    "-1 and 1, squares": (1, "linear", [keras.losses.MeanSquaredError()], [-1, 1], "regression"),
    "numbers of a sigmoid, squares": (1, "sigmoid", "mse", [0.2, 0.4, 0.9], "regression"),
    "numbers": (1, "linear", None, [0.2, 0.4, 0.9], "regression"),
    "classes": (3, "linear", "sparse_categorical_crossentropy", [0, 1, 2], "classes"),
    "a loss of one's own": (1, "linear", lambda y, p: (y - p) ** 2, [0, 1], "binary"),
}
DOUBTFUL: dict[str, tuple[int, str, Any, list[float], str]] = {
    "-1 and 1": (1, "linear", None, [-1, 1], "received -1, 1 in shape (30,) for outputs of a model that is not"),
    "1 and 2": (1, "linear", None, [1, 2], "relabel them, or pass task='regression'"),
    "-1 and 1, cross-entropy": (1, "linear", CROSS, [-1, 1], "model compiled with BinaryCrossentropy: relabel them"),
    "hinge": (1, "linear", "hinge", [-1, 1], "of a model compiled with hinge: relabel them, or pass task='regression'"),
    "hinge of 0 and 1": (1, "linear", "hinge", [0, 1], "compiled with hinge: pass task='binary' or 'regression'"),
    "a sigmoid": (1, "sigmoid", None, [-1, 1], "received -1, 1 in shape (30,) for outputs with a sigmoid activation"),
    "1 and 2 of a sigmoid": (1, "sigmoid", None, [1, 2], "relabel them, or pass task='regression'"),
    "a sigmoid, squares": (1, "sigmoid", "mse", [0, 1], "compiled with mean_squared_error: pass task='binary' or"),
    "classes of sigmoids": (4, "sigmoid", None, [0, 3], "with a sigmoid activation of a model that is not compiled"),
    "classes, squares": (3, "linear", "mse", [0, 1, 2], "must have shape (30, 3) for task 'regression'"),
    "a softmax, labels": (3, "softmax", CROSS, [0, 1, 2], "compiled with BinaryCrossentropy: relabel them, or pass"),
}


def told(n_outputs: int, activation: str, loss: Any, labels: list[float]) -> tuple[keras.Model, Any]:
    model, x = classifier(n_outputs, activation)
    if loss is not None:
        model.compile(loss=loss)
    return model, (x, np.resize(np.asarray(labels), 30))


@pytest.mark.parametrize("case", TOLD)
def test_the_compiled_loss_says_what_outputs_are(case: str) -> None:
    n_outputs, activation, loss, labels, task = TOLD[case]
    assert check_data(*told(n_outputs, activation, loss, labels)).task == task


@pytest.mark.parametrize("case", DOUBTFUL)
def test_labels_that_contradict_the_model_are_refused(case: str) -> None:
    n_outputs, activation, loss, labels, text = DOUBTFUL[case]
    model, data = told(n_outputs, activation, loss, labels)
    with pytest.raises(DataError, match=says(text)):
        check_data(model, data)


def test_without_labels_the_model_says_what_outputs_are() -> None:
    x = classifier(1, "linear")[1]
    found = [check_data(told(*given, [0])[0], (x, None)).task for given in ((4, "sigmoid", None), (1, "linear", CROSS))]
    assert found == ["multilabel", "binary"]


def test_the_compiled_loss_says_whether_outputs_are_logits() -> None:
    """Rescaling is no activation that is known, and all outputs could be probabilities."""
    model, x = classifier(1, "linear")
    model.add(layers.Rescaling(0.01, offset=0.5))
    model.compile(loss=CROSS)
    y, z = np.resize([0, 1], 30), predicted(model, x)[:, 0]
    record = flat.sample(model, (x, y), dr.elements(model), rows=30, outcomes="loss")
    assert record.baseline["loss"].mean() == pytest.approx(np.mean(np.logaddexp(0, z) - y * z), rel=1e-4)


def by_hinge() -> tuple[keras.Model, Any]:
    """A model whose loss leaves the task open, with labels 0 and 1."""
    return told(1, "linear", "hinge", [0, 1])


SPREAD = dr.scorers.Scorer(dr.scorers.spread, {"rows": 90})
TAKES_TASK: dict[str, Any] = {
    "prune": lambda model, data, **task: dr.prune(model, data, fraction=0.5, recovery="none", **task),
    "prune to a limit": lambda model, data, **task: dr.prune(
        model, data, target=dr.AccuracyLimit(0.5, (data[0] + 1, data[1]), level=0.6), recovery="none", **task
    ),
    "remove": lambda model, data, **task: dr.remove(
        model, dr.Selection.random(dr.elements(model), 0.5), data=data, **task
    ),
    "in steps": lambda model, data, **task: dr.prune_iteratively(
        model, data, dr.elements(model), fractions=(0.5,), scorer=SPREAD, **task
    ),
    "compare": lambda model, data, **task: dr.compare(
        model, data, dr.elements(model), scorers={"spread": SPREAD}, fractions=(0.5,), **task
    ),
}


@pytest.mark.parametrize("verb", TAKES_TASK)
def test_verbs_with_labels_take_the_task(verb: str) -> None:
    model, data = by_hinge()
    with pytest.raises(DataError, match=says("pass task='binary' or 'regression'")):
        TAKES_TASK[verb](model, data)
    assert TAKES_TASK[verb](model, data, task="binary") is not None


@dataclass(frozen=True)
class Halves(dr.designs.Design):
    """Removes either half of the elements: not a design of dropreg."""

    rate: float = 0.5

    def draw(self, seed: int, chunk: int, n_masks: int, n_elements: int) -> np.ndarray:
        first = np.random.default_rng([seed, chunk]).random((n_masks, 1)) < self.rate
        other = np.random.default_rng([seed, chunk, 1]).random((n_masks, n_elements)) < self.rate
        return first ^ other

    def keep_probabilities(self, n_elements: int) -> np.ndarray:
        return np.full(n_elements, 1.0 - self.rate)


def test_a_design_of_ones_own_can_be_regressed(tmp_path: Path) -> None:
    model = models.ready("mlp")
    run: dict[str, Any] = {"rows": 400, "outcomes": "loss", "design": Halves(0.5), "gradients": True}
    record = flat.sample(model, models.data_for(model, 30), dr.elements(model), **run, out=tmp_path)
    assert np.isfinite(dr.regress(record).impact).all()
    assert np.isfinite(dr.regress(record, estimator="ols").impact).all()
    with pytest.raises(ParameterError, match=says("must have a design of dropreg", "'Halves'", "same folder again")):
        dr.regress(dr.Record.load(tmp_path), estimator="marginal")


@pytest.mark.parametrize(
    "build",
    [
        lambda slope: layers.Dense(12, "sigmoid" if slope > 0.2 else "relu", name="a"),
        lambda slope: layers.LeakyReLU(slope, name="a"),
        lambda slope: layers.LayerNormalization(epsilon=slope, name="a"),
        lambda slope: layers.Lambda((lambda x: x * 2) if slope > 0.2 else (lambda x: x * 3), name="a"),
    ],
    ids=["activation", "slope", "epsilon", "lambda"],
)
def test_a_run_of_another_configuration_is_not_resumed(build: Any, tmp_path: Path) -> None:
    def model(slope: float) -> keras.Model:
        keras.utils.set_random_seed(0)
        parts = [keras.Input((5,)), build(slope), layers.Dense(6, name="first"), layers.Dense(3, name="out")]
        return keras.Sequential(parts)

    data = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32), np.arange(20) % 3
    first, second = model(0.1), model(0.3)
    flat.sample(first, data, dr.elements(first), rows=20, out=tmp_path)
    flat.sample(model(0.1), data, dr.elements(first), rows=40, out=tmp_path)
    with pytest.raises(RecordError, match=says("holds another run: layer 'a' (", "has another configuration there: ")):
        flat.sample(second, data, dr.elements(second), rows=40, out=tmp_path)


def test_pairs_of_many_elements_are_not_taken_for_single_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.ready("mlp")
    run: dict[str, Any] = {"rows": 6_000, "outcomes": "loss", "design": dr.designs.Paired(0.2), "gradients": True}
    record = flat.sample(model, models.data_for(model, 60), dr.elements(model), **run)
    expected = dr.regress(record, estimator="marginal").impact
    monkeypatch.setattr("dropreg.regression._regress.MOST_DENSE", 2)
    found = dr.regress(record, estimator="assisted").impact
    assert np.abs(found).max() < 1.5 * np.abs(expected).max()


def test_a_plain_function_is_no_outcome_but_says_how_to_make_one() -> None:
    model = models.ready("mlp")
    with pytest.raises(ParameterError, match=says("`outcome` must be one of", "PerExample(function, name")):
        flat.estimate(model, models.data_for(model, 10), dr.elements(model), outcome=lambda y, p: p[:, 0])


def test_a_selection_goes_to_remove() -> None:
    model: Any = models.ready("mlp")
    selection: Any = dr.Selection.random(dr.elements(model), 0.5)
    with pytest.raises(ParameterError, match=says("received a Selection: call dropreg.remove(model, selection)")):
        dr.prune(model, selection, fraction=0.5)


@pytest.mark.parametrize("estimator", ["ridge", "marginal", "assisted"])
def test_a_covariance_that_would_be_ignored_is_refused(estimator: Any) -> None:
    model = models.ready("mlp")
    record = flat.sample(
        model, models.data_for(model, 20), dr.elements(model), rows=200, outcomes="loss", gradients=True
    )
    with pytest.raises(ParameterError, match=says("for other estimators than OLS", "'cluster'", estimator, "'ols'")):
        dr.regress(record, estimator=estimator, covariance="cluster")


def test_biases_of_zero_are_not_held() -> None:
    model = keras.Sequential([keras.Input((4, 3)), layers.GRU(3, reset_after=True), layers.Dense(2)])
    assert len(model.layers[0].weights[-1].shape) == 2
    assert dr.hold_zeros(model) == 0
    assert all(weight.constraint is None for weight in model.weights)
