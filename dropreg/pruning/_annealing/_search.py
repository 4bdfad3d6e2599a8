"""Search for a target: select for rising fractions, build the smaller models and measure them."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from ..._utils import hidden
from ...data import Examples
from ...element import Selection, balanced, largest_fraction
from ...errors import ModelError, TargetError
from ...surgery import OnBlocked, Original, Pruned, cut
from .._limits import Limit, Verdict, verdict_on
from .._select import select
from .._targets import Budget, not_met, not_shown
from ._annealer import Annealer

Make = Callable[[Selection], Pruned]
"""Builds the smaller model as it is returned in the end."""
Build = Callable[[Selection, Examples], Pruned]
"""Builds the smaller model, merged with the given examples and without recovery."""
Pilot = Callable[[Selection], float]
"""Estimates the limit of the loss without the examples of the limit."""
STEPS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975)
"""Removed fractions of the stages of a search."""
_CHECKED = 0.05
"""Largest difference in the removed fraction between neighbouring candidates for a limit."""
_RISE = 1.25
"""Factor by which the estimated loss may rise from one test to the next."""
_FIRST = 0.9
"""Share of the error probability for the tests from the pilot's candidate on; the other tests have the rest."""


def _stages(run: Annealer, *, progress: bool | None) -> Iterator[tuple[Selection, Selection]]:
    """Yield the selections before and after each stage of a search."""
    most = largest_fraction(run.elements, run.floor)
    n_rounds = run.rounds_of(20)
    fractions = [fraction for fraction in STEPS if fraction < most]
    fractions += [most] if most > 0 else []
    lower = _everything(run)
    with tqdm(total=run.n_rounds(n_rounds, len(fractions)), unit="rounds", disable=hidden(progress)) as bar:
        for fraction in fractions:
            upper = run.stage(fraction, n_rounds, bar)
            yield lower, upper
            lower = upper


class Models(NamedTuple):
    """How a search builds the smaller models that it measures."""

    original: Original
    build: Build
    make: Make
    on_blocked: OnBlocked = "raise"


def down_to(run: Annealer, models: Models, budget: Budget, *, progress: bool | None) -> Selection:
    """Run stages until a selection meets the budget, then find the number of elements by bisection."""

    def measure(selection: Selection) -> float:
        return budget.measure(cut(models.original, selection, on_blocked=models.on_blocked))

    best = select(run.elements, run.start, fraction=largest_fraction(run.elements, run.floor), floor=run.floor)
    value = measure(best)
    if np.isnan(value):
        raise ModelError(
            f"model '{models.original.model.name}' must have known sizes for a budget of {budget.quantity}, received "
            "an input or a layer without: give the Input a full shape, or pass a budget of 'params' or 'latency'."
        )
    if value > budget.at_most:
        raise TargetError(f"{not_met(budget, value)} is the least, at {best.fraction:.1%} dropped.", best)
    for lower, upper in _stages(run, progress=progress):
        value = measure(upper)
        if value <= budget.at_most:
            ranked = _ranked_removals(run, lower, upper)
            low, high = 0, len(ranked)  # removing the first `low` of them is too few, the first `high` enough
            while high - low > 1:
                middle = (low + high) // 2
                value = measure(_without(run, lower, ranked[:middle]))
                low, high = (low, middle) if value <= budget.at_most else (middle, high)
            return _without(run, lower, ranked[:high])
        best = upper
    raise TargetError(f"{not_met(budget, value)} was the least, at {best.fraction:.1%} dropped.", best)


def within(
    run: Annealer, make: Make, limit: Limit, examples: Examples, *, pilot: Pilot, progress: bool | None
) -> Selection:
    """Remove more elements as long as tests show that the loss stays below the limit.

    Tests in a fixed order, none of which follows a failure, need no correction for their number (fixed sequence
    testing: Maurer, Hothorn and Lehmacher 1995; for settings of a trained model Angelopoulos et al. 2021, "Learn then
    Test").

    1. `pilot` estimates the loss of every candidate without the limit's examples, which fixes the order.
    2. The tests begin at the last candidate before the pilot's first failure. Fewer tests have fewer chances to fail
       at random, and fewer models are trained. Later candidates are tested where the estimate has risen by a quarter.
    3. If the first test fails, a second sequence tests the earlier candidates. Each sequence has a share of the error
       probability (Bonferroni).
    """
    estimates = ((candidate, pilot(candidate)) for candidate in _candidates(run, progress=progress))
    passed, beyond = [], iter(())
    for candidate, estimate in estimates:
        if estimate > limit.most:
            beyond = chain([(candidate, estimate)], estimates)
            break
        passed.append((candidate, estimate))
    before, first = passed[:-1], 1.0 if len(passed) < 2 else _FIRST
    failed: list[tuple[Verdict, int]] = []

    def test_in_order(order: Iterable[Selection], share: float) -> Selection | None:
        best, level = None, 1.0 - share * (1.0 - limit.level)
        for selection in order:
            verdict = verdict_on(limit, run.question.graph, make(selection).model, examples, level)
            if verdict.limit > limit.most:
                failed.append((verdict, len(selection.dropped)))
                break
            best = selection
        return best

    best = test_in_order(_thinned(chain(passed[-1:], beyond)), first) or test_in_order(_thinned(before), 1.0 - first)
    if best is None and failed:
        verdict, n_removed = min(failed, key=lambda one: one[0].limit)
        raise TargetError(not_shown(limit, verdict, n_removed), _everything(run))
    return best or _everything(run)


def _everything(run: Annealer) -> Selection:
    return Selection(run.elements, np.ones(len(run.elements), dtype=bool))


def _thinned(estimates: Iterable[tuple[Selection, float]]) -> Iterator[Selection]:
    """Yield the first, then each time the last whose estimate has risen by less than a quarter, at least the next."""
    bound, waiting = -np.inf, None
    for selection, estimate in estimates:
        if estimate >= bound and waiting is not None:
            yield waiting[0]
            bound, waiting = _RISE * waiting[1], None
        if estimate >= bound:
            yield selection
            bound = _RISE * estimate
        else:
            waiting = selection, estimate
    if waiting is not None:
        yield waiting[0]


def _candidates(run: Annealer, *, progress: bool | None) -> Iterator[Selection]:
    """Yield candidates for a limit, each of which removes a twentieth of the elements more."""
    for lower, upper in _stages(run, progress=progress):
        ranked = _ranked_removals(run, lower, upper)
        n_steps = max(round((upper.fraction - lower.fraction) / _CHECKED), 1)
        for n_removed in np.unique(np.linspace(0, len(ranked), n_steps + 1).round().astype(int))[1:]:
            yield _without(run, lower, ranked[:n_removed])


def _ranked_removals(run: Annealer, lower: Selection, upper: Selection) -> npt.NDArray[np.int64]:
    """Return the elements that the last stage removed, the lowest score first."""
    removed = np.flatnonzero(lower.kept & ~upper.kept)
    return removed[np.argsort(run.scores[removed], kind="stable")]


def _without(run: Annealer, selection: Selection, removed: npt.NDArray[np.int64]) -> Selection:
    kept = selection.kept.copy()
    kept[removed] = False
    return Selection(selection.elements, balanced(selection.elements, run.scores, kept))
