"""Laws of accuracy limits and of the search for them."""

from types import SimpleNamespace
from typing import Any

import flat
import keras
import models
import numpy as np
import pytest
from conftest import says
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from scipy import optimize, stats
from statsmodels.stats.proportion import proportion_confint
from test_pruning import planted

import dropreg as dr
from dropreg.data._examples import check_data
from dropreg.errors import DataError, ParameterError, TargetError
from dropreg.graph import trace_graph
from dropreg.pruning._annealing import _anneal as choosing
from dropreg.pruning._annealing import _search as search
from dropreg.pruning._limits import Verdict, cross_measured
from dropreg.pruning._upper_limits import enough_for_proportions, exceeds, mean_limit, paired_limit

QUICK: dict[str, Any] = {"rounds": 2, "rows_per_round": 256}


def test_accuracy_limits_drop_elements_without_impact() -> None:
    useless = (1, 4, 5, 9)
    model, data = planted(useless)
    limit = dr.AccuracyLimit(0.02, (data[0][:200], data[1][:200]))
    rest = data[0][200:], data[1][200:]
    selection = flat.anneal(model, rest, dr.elements(model), target=limit, rounds=20, rows_per_round=1024)
    assert set(useless) <= set(selection.dropped.tolist())
    assert limit.measure(dr.remove(model, selection)) <= limit.most
    one_more = dr.Selection.dropping(selection.elements, [*selection.dropped, np.flatnonzero(selection.kept)[0]])
    assert limit.measure(dr.remove(model, one_more)) > limit.most


def test_accuracy_limits_out_of_reach() -> None:
    model, data = planted(())
    limit = dr.AccuracyLimit(0.02, (data[0][:200], data[1][:200]))
    text = r"at most 2.00% at level 0.95, but with 1 element removed the upper limit is .*% on 200 examples"
    with pytest.raises(TargetError, match=text) as raised:
        flat.anneal(model, (data[0][200:], data[1][200:]), dr.elements(model), target=limit, **QUICK)
    assert raised.value.best.kept.all()


def test_the_limit_of_a_loss_is_an_upper_one() -> None:
    model, data = planted(())
    whole = dr.remove(model, dr.Selection.dropping(dr.elements(model), []))
    assert dr.AccuracyLimit(0.02, data).measure(whole) == pytest.approx(1 - 0.05 ** (1 / 400))
    less = dr.remove(model, dr.Selection.dropping(dr.elements(model), [0, 1, 2]))
    wrong = int((np.argmax(less.model(data[0]), axis=1) != data[1]).sum())
    limits = [dr.AccuracyLimit(0.02, data, level).measure(less) for level in (0.9, 0.95, 0.99)]
    assert wrong / 400 < limits[0] < limits[1] < limits[2]
    exact = proportion_confint(wrong, 400, 0.1, "beta")[1]  # two-sided: both ends at level .95
    assert limits[1] == pytest.approx(exact)


def losses(lost: int, gained: int, n: int) -> np.ndarray:
    return np.concatenate([np.ones(lost), -np.ones(gained), np.zeros(n - lost - gained)])


@pytest.mark.parametrize("n", [600, 2000])
@pytest.mark.parametrize("p_gained", [0.0, 0.0005, 0.002, 0.01])
def test_a_loss_at_the_limit_passes_no_more_often_than_the_level_allows(n: int, p_gained: float) -> None:
    """Enumerated; discrete counts take a score limit a little over its level, those of a t-limit were up to .2."""
    most, passed = 0.005, 0.0
    chances = stats.multinomial(n, [most + p_gained, p_gained, 1 - most - 2 * p_gained])
    highest = int(stats.binom.ppf(1 - 1e-6, n, p_gained))
    for gained in range(highest + 1):
        for lost in range(n):  # limits rise with it
            if paired_limit(losses(lost, gained, n), 0.95) > most:
                break
            passed += float(chances.pmf([lost, gained, n - lost - gained]))
    assert 0.01 < passed < 0.056


@settings(max_examples=100, deadline=None)
@given(data=st.data(), n=st.integers(2, 5000), level=st.sampled_from([0.6, 0.9, 0.99]))
def test_limits_rise_with_losses_and_fall_with_gains(data: st.DataObject, n: int, level: float) -> None:
    lost = data.draw(st.integers(0, n - 1))
    gained = data.draw(st.integers(0, n - lost - 1))
    limit = paired_limit(losses(lost, gained, n), level)
    assert (lost - gained) / n < limit <= 1
    assert limit < paired_limit(losses(lost + 1, gained, n), level) or limit == 1
    assert paired_limit(losses(lost, gained + 1, n), level) < limit


@pytest.mark.parametrize(("lost", "gained", "n"), [(3, 1, 50), (60, 45, 6000), (2, 7, 300)])
def test_score_limits_are_those_of_the_constrained_likelihood(lost: int, gained: int, n: int) -> None:
    """Tango (1998): the difference at which the score statistic is the quantile, maximized numerically."""
    limit = paired_limit(losses(lost, gained, n), 0.95)

    def unlikely(p: float) -> float:
        return -(lost * np.log(p + limit) + gained * np.log(p) + (n - lost - gained) * np.log(1 - 2 * p - limit))

    bounds = (1e-9, (1 - limit) / 2 - 1e-9)
    found: Any = optimize.minimize_scalar(unlikely, bounds=bounds, method="bounded", options={"xatol": 1e-12})
    variance = (2 * found.x + limit - limit**2) / n
    assert (limit - (lost - gained) / n) / np.sqrt(variance) == pytest.approx(1.644854, rel=1e-4)


def test_losses_of_another_size_have_limits_of_that_size() -> None:
    """And many small ones, such as means over positions, those of a normal distribution."""
    for size in (0.5, 0.01):
        assert paired_limit(size * losses(7, 3, 400), 0.95) == pytest.approx(
            size * paired_limit(losses(7, 3, 400), 0.95)
        )
    changes = np.random.default_rng(0).normal(0.01, 0.1, 4000)
    assert paired_limit(changes, 0.95) == pytest.approx(
        changes.mean() + 1.645 * changes.std() / np.sqrt(4000), rel=0.01
    )
    assert paired_limit(np.zeros(400), 0.95) == pytest.approx(1 - 0.05 ** (1 / 400))


@pytest.mark.parametrize(
    ("hopeful", "rise", "bearable", "measured", "level"),
    [
        (0, 2.0, 8, range(1, 10), 0.95),  # begins at once, goes up until one fails
        (1, 2.0, 2, range(1, 4), 0.95),  # nothing is left out
        (5, 2.0, 8, range(5, 10), 0.955),  # begins with the last that the pilot passes
        (5, 2.0, 3, (5, 1, 2, 3, 4), 0.995),  # fails at once: what was left out, with what is left of the level
        (20, 2.0, 14, (18, *range(1, 16)), 0.995),  # the last of all is the first
        (0, 1.1, 8, (1, 3, 5, 7, 9), 0.95),  # in two steps the guess rises by less than a quarter
        (4, 1.1, 18, (*range(4, 18, 2), 18), 0.955),
        (3, 1.1, 18, (*range(3, 18, 2), 18), 0.955),  # the last of all is checked in any case
        (9, 1.1, 6, (9, *range(1, 8, 2)), 0.995),
    ],
)
def test_an_accuracy_limit_is_checked_in_two_orders_that_end_with_a_failure(
    hopeful: int, rise: float, bearable: int, measured: tuple[int, ...], level: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eighteen sizes: until where the pilot passes, and until where the limit is kept to."""
    elements = dr.elements(keras.Sequential([keras.Input((6,)), layers.Dense(20), layers.Dense(3)]))
    found: list[tuple[int, float]] = []

    def bound(_: Any, __: Any, selection: dr.Selection, ___: Any, at: float) -> Verdict:
        found.append((len(selection.dropped), at))
        return Verdict(1.0 if len(selection.dropped) > bearable else 0.0, 0.0, 10)

    monkeypatch.setattr(
        search, "_candidates", lambda *_, **__: (dr.Selection.dropping(elements, range(n)) for n in range(1, 19))
    )
    monkeypatch.setattr(search, "verdict_on", bound)
    limit: Any = dr.AccuracyLimit(0.3)
    guesses = iter(0.3 * rise ** (np.arange(1, 20) - hopeful - 0.5))
    run = SimpleNamespace(elements=elements, question=SimpleNamespace(graph=None))
    asked: Any = run, lambda selection: SimpleNamespace(model=selection), limit, None
    selection = search.within(*asked, pilot=lambda _: next(guesses), progress=False)
    assert [size for size, _ in found] == list(measured)
    assert found[-1][1] == pytest.approx(level)
    assert len(selection.dropped) == max(size for size in measured if size <= bearable)


def test_an_accuracy_limit_is_checked_in_twentieths(monkeypatch: pytest.MonkeyPatch) -> None:
    model = keras.Sequential([keras.Input((6,)), layers.Dense(100, "relu"), layers.Dense(3)])
    rng, fractions = np.random.default_rng(0), list[float]()
    x, y = rng.normal(size=(160, 6)).astype(np.float32), rng.integers(0, 3, 160)

    def bound(_: Any, __: Any, smaller: Any, *___: Any) -> Verdict:
        fractions.append(1.0 - smaller.layers[0].units / 100)
        return Verdict(1.0 if fractions[-1] > 0.41 else 0.0, 0.0, 10)

    monkeypatch.setattr(search, "verdict_on", bound)
    monkeypatch.setattr(choosing, "cross_measured", lambda *_: 1.0)
    limit = dr.AccuracyLimit(0.3, (x[80:], y[80:]))
    monkeypatch.setattr(search, "_RISE", 0.0)  # nothing is left out
    selection = flat.anneal(model, (x[:80], y[:80]), dr.elements(model), target=limit, floor=10, **QUICK)
    np.testing.assert_allclose(fractions, 0.05 * np.arange(1, 10))
    assert selection.fraction == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("guesses", "checked"),
    [
        ([1.0, 1.1, 1.2, 2.0], [0, 2, 3]),  # what comes before a large step is not left out
        ([1.0, 1.1, 1.2, 2.0, 2.1, 2.6, 2.0, 9.0], [0, 2, 3, 4, 6, 7]),
        ([1.0, 1.24, 1.24], [0, 2]),
        ([np.inf, np.inf, np.inf], [0, 1, 2]),  # nothing to guess with
        ([], []),
    ],
)
def test_guesses_rise_by_a_quarter_at_most_where_they_can(guesses: list[float], checked: list[int]) -> None:
    elements = dr.elements(models.ready("mlp"))
    selections = [dr.Selection.dropping(elements, []) for _ in guesses]
    found = list(search._thinned(zip(selections, guesses, strict=True)))
    assert [[one is mine for one in selections].index(True) for mine in found] == checked


@pytest.mark.parametrize("rise", [1.0, 1.1, 2.0])
@pytest.mark.parametrize("n_hopeful", [0, 1, 4, 12])
def test_returned_models_exceed_the_limit_no_more_often_than_the_level(
    n_hopeful: int, rise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twelve sizes that all lose slightly too much, measured independently, wherever the pilot begins."""
    elements = dr.elements(models.ready("mlp"))
    sizes = [dr.Selection.dropping(elements, range(n)) for n in range(1, 6)] * 3
    monkeypatch.setattr(search, "_candidates", lambda *_, **__: iter(sizes[:12]))
    rng, handed_back, n_trials = np.random.default_rng(0), 0, 3000
    limit: Any = dr.AccuracyLimit(0.01)
    monkeypatch.setattr(
        search, "verdict_on", lambda *given: Verdict(0.01 + 1e-9 + rng.normal() + stats.norm.ppf(given[-1]), 0.0, 10)
    )
    run = SimpleNamespace(elements=elements, question=SimpleNamespace(graph=None))
    for _ in range(n_trials):
        guesses = iter([0.01 * rise ** (n - 30 * (n < n_hopeful)) * 1.001 for n in range(12)])
        try:
            search.within(
                *(run, lambda selection: SimpleNamespace(model=selection), limit, None),  # pyright: ignore
                pilot=lambda _, guesses=guesses: next(guesses),
                progress=False,
            )
            handed_back += 1
        except TargetError:
            pass
    assert 0.04 < handed_back / n_trials < 0.06


@pytest.mark.parametrize("merge", ["least_squares", "none"])
def test_the_pilot_measures_each_half_with_the_model_of_the_other(merge: str) -> None:
    model = models.ready("cnn")
    x, y = models.data_for(model, 90)
    selection = dr.Selection.random(dr.elements(model), 0.4)
    lost = np.empty(90)
    for mine, other in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        small = dr.remove(model, selection, data=(x[mine], y[mine]), merge=merge).model
        right, still = (np.asarray(each(x[other])).argmax(axis=-1) == y[other] for each in (model, small))
        lost[other] = right & ~still
    expected = proportion_confint(lost.sum(), 90, 0.2, "beta")[1]
    limit = dr.AccuracyLimit(0.5, models.data_for(model, 20), 0.9)

    def build(part: Any) -> dr.Pruned:
        return dr.remove(model, selection, data=(part.inputs[0], part.labels), merge=merge)

    assert lost.any()
    graph = trace_graph(model)
    assert cross_measured(limit, graph, check_data(model, (x, y)), build) == pytest.approx(expected, rel=1e-6)
    assert cross_measured(limit, graph, check_data(model, (x, None)), build) == np.inf
    assert cross_measured(limit, graph, check_data(model, (x[:3], y[:3])), build) == np.inf


@pytest.mark.parametrize("n", [600, 800])
@pytest.mark.parametrize("p_gained", [0.0, 0.0001, 0.0005, 0.001, 0.002])
def test_a_loss_at_the_limit_is_never_certified_more_often_than_the_level_allows(n: int, p_gained: float) -> None:
    """Whatever the share of gains; the exact test guards what the score test only approximates."""
    most, passed = 0.005, 0.0
    chances = stats.multinomial(n, [most + p_gained, p_gained, 1 - most - 2 * p_gained])
    limit = dr.AccuracyLimit(most)
    for gained in range(int(stats.binom.ppf(1 - 1e-6, n, p_gained)) + 1):
        for lost in range(n):
            if limit.judged(losses(lost, gained, n), 0.95, None).limit > most:
                break
            passed += float(chances.pmf([lost, gained, n - lost - gained]))
    assert 0.004 < passed <= 0.05


def test_the_exact_test_agrees_with_simulation() -> None:
    """At the only likely share of gains, where there are many."""
    rng, n, most = np.random.default_rng(0), 2_000, 0.01
    lost, gained = 30, 22
    observed = (lost - gained) / n - most
    p_gained = gained / n
    counts = rng.multinomial(n, [p_gained + most, p_gained, 1 - 2 * p_gained - most], size=20_000)
    score = (counts[:, 0] - counts[:, 1]) / n - most
    rough = float((score / np.sqrt(counts[:, :2].sum(axis=1)) <= observed / np.sqrt(lost + gained)).mean())
    assert exceeds(losses(lost, gained, n), most, rough / 1.6)
    assert not exceeds(losses(lost, gained, n), most, rough * 1.6)


def test_what_is_short_is_said_with_the_examples_that_would_do() -> None:
    short = losses(3, 1, 1_000)
    enough = enough_for_proportions(short, 0.005, 0.95, None)
    assert enough is not None
    assert paired_limit(losses(3 * enough // 1_000, enough // 1_000, enough), 0.95) <= 0.0052
    assert paired_limit(losses(3 * enough // 2_000, enough // 2_000, enough // 2), 0.95) > 0.005
    assert enough_for_proportions(losses(9, 1, 1_000), 0.005, 0.95, None) is None
    limit = dr.AccuracyLimit(0.005)
    verdict = limit.judged(short, 0.95, None)
    assert verdict.limit > 0.005
    assert (
        verdict.remedy(limit)
        == f"about {enough:,} examples would show it if they were as good; pass more, or allow more."
    )


@pytest.mark.parametrize("draw", ["normal", "exponential", "rare"])
def test_limits_of_other_outcomes_are_exceeded_no_more_often_than_the_level_allows(draw: str) -> None:
    """Also where few examples get much worse, which Student's t takes too lightly."""
    rng, wrong, n, trials = np.random.default_rng(0), 0, 400, 150
    for _ in range(trials):
        if draw == "rare":
            sample, mean = (rng.random(n) < 0.02) * rng.exponential(1.0, n), 0.02
        else:
            sample, mean = getattr(rng, draw)(size=n), {"normal": 0.0, "exponential": 1.0}[draw]
        wrong += mean_limit(sample, 0.95) < mean
    assert wrong / trials < 0.05 + 2.5 * np.sqrt(0.05 * 0.95 / trials)


def test_a_limit_by_class_is_that_of_the_worst_class() -> None:
    model, (x, y) = planted(())
    small = dr.remove(model, dr.Selection.dropping(dr.elements(model), [0, 1, 2, 3]))
    limits = [dr.AccuracyLimit(0.4, (x[y == k], y[y == k])).measure(small) for k in np.unique(y)]
    assert dr.AccuracyLimit(0.4, (x, y), by="class").measure(small) == pytest.approx(max(limits))
    halves = np.arange(len(y)) % 2
    parts = [dr.AccuracyLimit(0.4, (x[halves == k], y[halves == k])).measure(small) for k in (0, 1)]
    assert dr.AccuracyLimit(0.4, (x, y), by=halves).measure(small) == pytest.approx(max(parts))


def test_a_fifth_of_the_data_is_set_aside_and_used_for_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (x, y) = planted((1, 4, 5, 9))
    seen: dict[str, Any] = {}
    original = choosing.within

    def noting(run: Any, make: Any, limit: Any, examples: Any, **options: Any) -> Any:
        seen.update(used=run.question.examples, aside=examples)
        return original(run, make, limit, examples, **options)

    monkeypatch.setattr(choosing, "within", noting)
    limit = dr.AccuracyLimit(0.15, by="class")
    selection = flat.anneal(model, (x, y), dr.elements(model), target=limit, **{**QUICK, "rounds": 8})
    used, aside = (np.asarray(seen[name].inputs[0]) for name in ("used", "aside"))
    assert (len(used), len(aside)) == (320, 80)
    rows = np.concatenate([used, aside])
    np.testing.assert_array_equal(np.sort(rows, axis=0), np.sort(x, axis=0))
    assert seen["aside"].slices.names == seen["used"].slices.names
    assert selection.kept.all() or len(selection.dropped) > 0


def test_an_outcome_limit_holds_for_a_regression_and_for_a_loss() -> None:
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(10, "relu"), layers.Dense(1)])
    x = rng.normal(size=(600, 4)).astype("float32")
    y = np.asarray(model(x)) + 0.1 * rng.normal(size=(600, 1)).astype("float32")
    limit = dr.OutcomeLimit(0.05, (x[:300].copy(), y[:300]))
    small = dr.prune(model, (x[300:], y[300:]), target=limit, recovery="none")
    losses_of = [((np.asarray(each(x[:300])) - y[:300]) ** 2).mean(axis=1) for each in (model, small.model)]
    rise = losses_of[1] - losses_of[0]
    assert limit.measure(small) == pytest.approx(mean_limit(rise.astype(float), 0.95), rel=1e-3)
    assert limit.measure(small) <= 0.05
    with pytest.raises(TargetError, match=says("mean loss worse by at most 1e-09", "the upper limit is")):
        dr.prune(model, (x[300:], y[300:]), target=dr.OutcomeLimit(1e-9, (x[:300].copy(), y[:300])), recovery="none")


@pytest.mark.parametrize(
    ("use", "error", "text"),
    [
        (lambda m, d: dr.OutcomeLimit(0, d), ParameterError, says("`most` must be positive", "received 0")),
        (
            lambda m, d: dr.OutcomeLimit(0.1, d, outcome=dr.outcomes.PerMask(lambda y, p: 0.0, "f1", True)),
            ParameterError,
            says("one of single examples, received 'f1'", "'divergence'"),
        ),
        (
            lambda m, d: dr.prune(m, d, target=dr.OutcomeLimit(0.1, (d[0][:8].copy(), d[1][:8]))),
            DataError,
            says("at least 30 examples to show a mean loss worse by at most 0.1", "received 8"),
        ),
        (
            lambda m, d: dr.prune(m, d, target=dr.AccuracyLimit(0.005)),
            DataError,
            says("at least 598 examples", "received 80, the fifth that is set aside of 400"),
        ),
        (
            lambda m, d: dr.prune(m, (d[0], None), target=dr.AccuracyLimit(0.1)),
            DataError,
            says("must have labels for a limit that sets a part of them aside", "received none"),
        ),
        (
            lambda m, d: dr.prune(m, d, target=dr.AccuracyLimit(0.05, by="class")),
            DataError,
            says("at least 59 examples", "in slice '0'", "set aside of 400"),
        ),
        (
            lambda m, d: dr.prune(m, d, target=dr.AccuracyLimit(0.1, by="colour")),
            ParameterError,
            "`by` must be 'class'",
        ),
        (
            lambda m, d: dr.AccuracyLimit(0.1).measure(dr.remove(m, dr.Selection.dropping(dr.elements(m), []))),
            ParameterError,
            says("a limit must have data to measure, received none"),
        ),
    ],
)
def test_bad_limits(use: Any, error: Any, text: str) -> None:
    model, data = planted(())
    with pytest.raises(error, match=text):
        use(model, data)
