"""The search for a target: a path of rising fractions whose smaller models are built and measured."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from ..._utils import positive
from ...data import Examples
from ...element import Selection, balanced, largest_fraction
from ...errors import ModelError, TargetError
from ...surgery import OnBlocked, Original, Pruned, cut
from .._select import select
from .._targets import AccuracyLimit, Budget
from ._annealer import Annealer

Make = Callable[[Selection], Pruned]
"""Builds the smaller model."""
Build = Callable[[Selection, Examples], Pruned]
"""Builds the smaller model with some examples, without recovery."""
Pilot = Callable[[Selection], float]
"""Guesses, without the examples of an accuracy limit, what it would measure."""
STEPS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.975)
"""Fractions that a search for a target goes through."""
_CHECKED = 0.05
"""Step, in fractions, from one size at which an accuracy limit may be checked to the next."""
_RISE = 1.25
"""Factor by which the guessed loss may rise from one check to the next."""
_FIRST = 0.9
"""Share of the probability to err that the tests from the pilot on have, where others may follow."""


def _stages(run: Annealer, rounds: int | None, *, progress: bool) -> Iterator[tuple[Selection, Selection]]:
    """What stays before and after each stage of a search."""
    most = largest_fraction(run.elements, run.floor)
    n_rounds = run.default_rounds(20) if rounds is None else positive("rounds", rounds)
    fractions = [fraction for fraction in STEPS if fraction < most]
    fractions += [most] if most > 0 else []
    lower = Selection(run.elements, np.ones(len(run.elements), dtype=bool))
    with tqdm(total=run.n_rounds(n_rounds, len(fractions)), unit="rounds", disable=not progress) as bar:
        for fraction in fractions:
            upper = run.stage(fraction, n_rounds, bar)
            yield lower, upper
            lower = upper


def down_to(
    run: Annealer,
    original: Original,
    budget: Budget,
    rounds: int | None,
    *,
    on_blocked: OnBlocked,
    progress: bool,
) -> Selection:
    """Go on until a selection keeps to the budget, then find the number of elements by bisection."""

    def measure(selection: Selection) -> float:
        return budget.measure(cut(original, selection, on_blocked=on_blocked))

    best = select(run.elements, run.start, fraction=largest_fraction(run.elements, run.floor), floor=run.floor)
    value = measure(best)
    if np.isnan(value):
        raise ModelError(
            f"model '{original.model.name}' must have known sizes for a budget of {budget.quantity}, received an input "
            "or a layer without: give the Input a full shape, or pass a budget of 'params' or 'latency'."
        )
    if value > budget.at_most:
        raise TargetError(f"{budget.describe(value)} is the least, at {best.fraction:.1%} dropped.", best)
    for lower, upper in _stages(run, rounds, progress=progress):
        value = measure(upper)
        if value <= budget.at_most:
            gone = _order(run, lower, upper)
            low, high = 0, len(gone)  # dropping the first `low` of them is not enough, the first `high` is
            while high - low > 1:
                middle = (low + high) // 2
                value = measure(_without(run, lower, gone[:middle]))
                low, high = (low, middle) if value <= budget.at_most else (middle, high)
            return _without(run, lower, gone[:high])
        best = upper
    raise TargetError(f"{budget.describe(value)} was the least, at {best.fraction:.1%} dropped.", best)


def within(
    run: Annealer, make: Make, limit: AccuracyLimit, rounds: int | None, *, pilot: Pilot, progress: bool
) -> Selection:
    """Drop a few more as long as the loss is shown to stay under the limit.

    Tests in a fixed order, of which none follows a failure, need no correction for their number (fixed sequence
    testing: Maurer, Hothorn and Lehmacher 1995; for settings of a trained model, Angelopoulos et al. 2021, "Learn
    then Test"). A pilot, which knows nothing of the limit's examples, makes the order: it begins where the pilot last
    passes, so that where little goes nothing is trained, and nothing can fail by chance, and goes on in steps in which
    the pilot's guess rises little. Should the first test fail, a second order goes through what was left out; each of
    the two has its share of the probability to err (Bonferroni).
    """
    guessed = ((candidate, pilot(candidate)) for candidate in _candidates(run, rounds, progress=progress))
    passed, beyond = [], iter(())
    for candidate, guess in guessed:
        if guess > limit.most:
            beyond = chain([(candidate, guess)], guessed)
            break
        passed.append((candidate, guess))
    before, first = passed[:-1], 1.0 if len(passed) < 2 else _FIRST
    failed: list[tuple[float, int]] = []

    def climb(order: Iterable[Selection], share: float) -> Selection | None:
        best, level = None, 1.0 - share * (1.0 - limit.level)
        for selection in order:
            value = limit.measure(make(selection), level)
            if value > limit.most:
                failed.append((value, len(selection.dropped)))
                break
            best = selection
        return best

    best = climb(_thinned(chain(passed[-1:], beyond)), first) or climb(_thinned(before), 1.0 - first)
    whole = Selection(run.elements, np.ones(len(run.elements), dtype=bool))
    if best is None and failed:
        value, n_gone = min(failed)
        count = f"{n_gone} element{'s' if n_gone > 1 else ''}"
        raise TargetError(f"{limit.describe(value)} was the least, with {count} dropped.", whole)
    return best or whole


def _thinned(guessed: Iterable[tuple[Selection, float]]) -> Iterator[Selection]:
    """The first, then always the last whose guess has not risen too much since, at least the next."""
    bound, waiting = -np.inf, None
    for selection, guess in guessed:
        if guess >= bound and waiting is not None:
            yield waiting[0]
            bound, waiting = _RISE * waiting[1], None
        if guess >= bound:
            yield selection
            bound = _RISE * guess
        else:
            waiting = selection, guess
    if waiting is not None:
        yield waiting[0]


def _candidates(run: Annealer, rounds: int | None, *, progress: bool) -> Iterator[Selection]:
    """What an accuracy limit may be checked at: a twentieth of the elements after the other."""
    for lower, upper in _stages(run, rounds, progress=progress):
        gone = _order(run, lower, upper)
        n_checks = max(round((upper.fraction - lower.fraction) / _CHECKED), 1)
        for n_gone in np.unique(np.linspace(0, len(gone), n_checks + 1).round().astype(int))[1:]:
            yield _without(run, lower, gone[:n_gone])


def _order(run: Annealer, lower: Selection, upper: Selection) -> npt.NDArray[np.int64]:
    """What the last stage dropped, the least important first."""
    gone = np.flatnonzero(lower.kept & ~upper.kept)
    return gone[np.argsort(run.scores[gone], kind="stable")]


def _without(run: Annealer, selection: Selection, gone: npt.NDArray[np.int64]) -> Selection:
    kept = selection.kept.copy()
    kept[gone] = False
    return Selection(selection.elements, balanced(selection.elements, run.scores, kept))
