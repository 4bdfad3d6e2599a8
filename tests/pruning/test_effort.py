"""Laws of budgets: at most what is allowed is spent, the default falls with size, a decision can be repeated."""

import math
from typing import Any

import keras
import models
import numpy as np
import pytest
from keras import layers

import dropreg as dr
from dropreg.data import check_data
from dropreg.errors import ParameterError
from dropreg.graph import trace_graph
from dropreg.network import Question
from dropreg.network._evaluator import Evaluator
from dropreg.pruning import Effort, Minutes
from dropreg.pruning import _effort as efforts
from dropreg.pruning._annealing import Annealing, ask_annealing
from dropreg.recovery import resolve_recovery
from dropreg.surgery import LeastSquares

RECOVERY = resolve_recovery(None, LeastSquares(), has_data=True, seed=0)


def question_of(model: keras.Model, n_examples: int) -> Question:
    graph = trace_graph(model)
    x = np.zeros((n_examples, *model.input_shape[1:]), np.float32)
    given: dict[str, Any] = {"ablation": "merged", "options": Annealing(), "task": None, "seed": 0}
    return ask_annealing(graph, check_data(graph, (x, None)), dr.elements(model), **given)


def wide(n_units: int) -> keras.Model:
    stack = [keras.Input((4,)), *(layers.Dense(n_units, activation="relu") for _ in range(2)), layers.Dense(3)]
    return keras.Sequential(stack)


@pytest.fixture
def spent(monkeypatch: pytest.MonkeyPatch) -> list[Evaluator]:
    """The evaluators that are made."""
    made: list[Evaluator] = []
    original = Evaluator.__init__

    def init(self: Evaluator, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(Evaluator, "__init__", init)
    return made


def test_annealing_and_distillation_stay_within_the_row_equivalents(spent: list[Evaluator]) -> None:
    model, budget = models.ready("mlp"), 6000
    x, y = models.data_for(model, 60)
    small = dr.prune(model, (x, y), fraction=0.5, budget=budget, progress=False)
    effort, recovered = small.effort, small.recovered
    assert effort is not None
    assert recovered is not None
    assert effort.reduced
    assert len(recovered.history) == 1 + effort.epochs
    recovery = recovered.recovery
    trials = len(recovery.rates) * recovery.trial_epochs
    trained = (effort.epochs + trials) * (4 * math.ceil(0.9 * 60) + 6)  # three for the student, one for the teacher
    annealed = sum(evaluator.rows for evaluator in spent)
    assert annealed == 5 * effort.rounds * effort.rows_per_round
    assert annealed + trained <= effort.rows <= budget
    again = dr.prune(model, (x, y), fraction=0.5, budget=effort, progress=False)
    assert again.effort == effort
    for one, other in zip(small.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_small_models_get_the_usual_work() -> None:
    found = efforts.decide(question_of(wide(8), 100), RECOVERY, None)
    usual = dr.Annealing()
    assert not found.reduced
    assert (found.rounds, found.rows_per_round, found.epochs, found.examples) == (400, 512, 40, 100)
    assert found.annealing().rounds is usual.rounds
    assert found.recovery(RECOVERY) is RECOVERY
    assert efforts.decide(question_of(wide(8), 100), RECOVERY, found.rows) == found


def test_the_default_does_less_as_sizes_grow() -> None:
    by_width = [efforts.decide(question_of(wide(n), 100), RECOVERY, None) for n in (8, 2000, 4000)]
    work = [effort.rounds * effort.rows_per_round for effort in by_width]
    assert work[0] > work[1] > work[2]
    assert all(effort.minutes <= 12.5 for effort in by_width)
    costs = efforts._Costs(row=1e-3, step=2.5e-3)._replace(n_passes=10)
    used = [efforts._reduced(n, RECOVERY, costs, 720.0).examples for n in (1000, 10**6)]
    assert used == [1000, 14_400]


@pytest.mark.parametrize("n_examples", [100, 10_000, 1_000_000])
@pytest.mark.parametrize("cost", [1e-5, 1e-3, 1e-2])
def test_reduced_work_costs_at_most_the_limit(n_examples: int, cost: float) -> None:
    costs = efforts._Costs(cost, 2.5 * cost, 1.0, 100.0, 10)
    found = efforts._reduced(n_examples, RECOVERY, costs, 720.0)
    assert 600.0 < efforts._cost(found, costs, RECOVERY) <= 720.0 or found.epochs == 40


def test_minutes_become_more_work_on_a_faster_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    question, rounds = question_of(wide(2000), 100), []
    for speed in (0.5, 1.0, 2.0):
        monkeypatch.setattr(efforts, "_relative_speed", lambda *_, speed=speed: speed)
        found = efforts.decide(question, RECOVERY, Minutes(2))
        assert found.minutes <= 2
        rounds.append(found.rounds)
    assert rounds == sorted(set(rounds))


def test_speed_is_that_of_the_fastest_measured_pass() -> None:
    times = iter([0.0, 0.9, 1.0, 1.5, 2.0, 2.6])
    question = question_of(wide(8), 100)
    speed = efforts._relative_speed(question.graph, question.examples, 1e-3, lambda: next(times))
    assert speed == pytest.approx(64e-3 / 0.5)


def test_the_coming_work_is_said_where_progress_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    effort = Effort(25, 128, 64, 4, 2000, True, 10**6, 12.3, 4.5)
    efforts.say(effort, False)
    efforts.say(effort, None)
    assert capsys.readouterr().err == ""
    efforts.say(effort, True)
    said = "pruning: reduced to 25 rounds of 128 rows, 4 epochs, 2,000 examples; about 12.3 minutes and 4.5 GB"
    assert capsys.readouterr().err.strip() == said


@pytest.mark.parametrize("budget", [0, -5, 2.5, True, "10", float("nan")])
def test_a_budget_is_row_equivalents_or_minutes(budget: Any) -> None:
    model = wide(8)
    with pytest.raises(ParameterError, match=r"`budget` must be a positive whole number.*received.*Minutes"):
        dr.prune(model, (np.zeros((9, 4)), None), fraction=0.5, budget=budget)


@pytest.mark.parametrize("minutes", [0, -1, float("inf"), "10"])
def test_minutes_are_positive(minutes: Any) -> None:
    with pytest.raises(ParameterError, match="`minutes` must be positive and finite, received"):
        Minutes(minutes)


def test_budgets_that_are_too_small_or_have_no_effect_are_refused() -> None:
    model, x = wide(8), np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32)
    with pytest.raises(ParameterError, match=r"least work, received 500: pass at least 3,640 row-equivalents"):
        dr.prune(model, (x, None), fraction=0.5, budget=500)
    dr.prune(model, (x, None), fraction=0.5, budget=3640, progress=False)
    with pytest.raises(ParameterError, match=r"least work, received Minutes.*: pass at least Minutes\("):
        dr.prune(model, (x, None), fraction=0.5, budget=Minutes(1e-6))
    with pytest.raises(ParameterError, match="with a fraction and with merged units, received 9999 with elements"):
        dr.prune(model, (x, None), fraction=0.5, merge="none", budget=9999)
    target = dr.Budget("params", 0.5)
    with pytest.raises(ParameterError, match="with a fraction and with merged units, received 9999 with a target"):
        dr.prune(model, (x, None), target=target, budget=9999)
