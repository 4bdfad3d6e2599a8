"""Greedy backward elimination."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .._utils import Array
from ..data import Data, Task
from ..element import Elements
from ..errors import ParameterError
from ..network import Evaluator, Outcome, ask_one
from ..regression import ImpactTable, impact_table
from ._leave_one_out import change_of_each, measured
from ._scorer import affordable

if TYPE_CHECKING:
    import keras

_MOST_ROWS = 100_000_000


def greedy(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    step: float = 0.02,
    outcome: str | Outcome = "loss",
    rows: int | None = None,
    task: Task | None = None,
    kept: npt.ArrayLike | None = None,
    seed: int = 0,
) -> ImpactTable:
    """Drop what hurts least, measure the rest again, and so on to the end.

    Every round measures every element that is left by leaving it out of what is left, and drops the
    best of them for good.

    Parameters
    ----------
    model, data, elements, task, kept, seed
        As in `taylor`.
    step : float
        Fraction of all elements that a round drops, at least one; more is cheaper and coarser.
    outcome : str or Outcome
        Any, differentiable or not.
    rows : int, optional
        Budget in rows. One random example costs a row for each element left in each round; the budget
        says how many examples there are, on which every round but the first also measures what is
        left. By default all examples are used, if that costs at most 100,000,000 rows.

    Returns
    -------
    ImpactTable
        Impacts say when an element went: the fraction of elements dropped before it. Column
        ``joint_change`` is how much worse its own removal made the outcome, in its unit, given all
        that had gone before its round.

    Raises
    ------
    ParameterError, DataError, ModelError
        If the arguments do not fit together, or `rows` pays for no example.
    """
    if isinstance(step, bool) or not 0 < step <= 1:
        raise ParameterError(f"`step` must be a fraction above 0 and at most 1, received {step!r}.")
    question = ask_one(model, data, elements, outcome=outcome, task=task, kept=kept, seed=seed)
    sizes = _rounds(len(question.candidates), max(round(step * len(question.candidates)), 1))
    cost = sum(sizes) + len(sizes) - 1
    unit = f"example with {len(question.candidates):,} elements in {len(sizes)} rounds"
    n = affordable(rows, cost, len(question.examples), unit, limit=_MOST_ROWS)
    question = question.first(n)
    order: list[int] = []
    left, changes = question.kept.copy(), np.zeros(len(elements))
    evaluator, everything = Evaluator(question), np.ones((1, len(elements)), bool)
    for size, after in zip(sizes, [*sizes[1:], 0], strict=True):
        evaluator.keep(left)
        columns = np.flatnonzero(left)
        worse = question.sign * change_of_each(evaluator, columns, measured(evaluator, everything)).mean
        first = np.argsort(worse, kind="stable")[: size - after]
        changes[columns[first]] = worse[first]
        order += columns[first].tolist()
        left[columns[first]] = False
    evaluator.rows += n * (len(sizes) - 1)  # every round's own state, but for the first
    table = impact_table(
        elements.to_frame(),
        _places(order, len(elements)),
        method="greedy backward elimination",
        outcome=question.outcome.name,
        rows=evaluator.rows,
        seed=question.seed,
        details={"examples": n, "rounds": len(sizes)},
    )
    return replace(table, frame=table.frame.assign(joint_change=changes))


def _rounds(n: int, step: int) -> list[int]:
    """Elements that are left at the beginning of each round."""
    return list(range(n, 0, -step))


def _places(order: list[int], n_elements: int) -> Array:
    """Fraction of elements dropped before each; zero for those that were not there."""
    places = np.zeros(n_elements)
    places[order] = np.arange(n_elements - len(order), n_elements) / n_elements
    return places
