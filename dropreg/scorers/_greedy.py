"""Greedy backward elimination."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..data import Data, Task
from ..element import Elements
from ..errors import ParameterError
from ..network import Evaluator, OutcomeLike, ask_one
from ..regression import ImpactTable
from ._leave_one_out import MOST_ROWS, change_of_each, unmasked
from ._scorer import affordable, check_changes, table_of

if TYPE_CHECKING:
    import keras


def greedy(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    step: float = 0.02,
    outcome: OutcomeLike = "loss",
    rows: int | None = None,
    task: Task | None = None,
    kept: npt.ArrayLike | None = None,
    seed: int = 0,
) -> ImpactTable:
    """Rank elements by removing the least harmful ones first, and measuring the others again.

    Every round removes each remaining element alone, measures the outcome, and removes those for good that hurt least.
    Rounds end when no element remains.

    Parameters
    ----------
    model, data, elements, task, kept, seed
        As in `taylor`.
    step : float
        Share of the elements kept at first that each round removes (at least one), above 0 and at most 1. A larger
        share is cheaper and less exact.
    outcome : str or Outcome
        As in `leave_one_out`.
    rows : int, optional
        Budget in masked forward passes. It sets the number of random examples, each of which costs a row for every
        remaining element in every round, and a row for the state at the beginning of each later round. By default
        all examples are used, if they cost at most 100,000,000 rows.

    Returns
    -------
    ImpactTable
        Impacts are ranks: the share of elements that were removed earlier, in [0, 1). Column ``joint_change`` is how
        much worse the outcome got when the element was removed after all those of earlier rounds, in its unit. No
        standard errors.

    Raises
    ------
    ParameterError, DataError, ModelError
        As in `leave_one_out`.

    Examples
    --------
    >>> import dropreg as dr
    >>> model, data = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
    >>> elements = dr.elements(model, include=["dense_2"])
    >>> table = dr.scorers.greedy(model, data, elements, step=0.25, rows=10_000)
    >>> table.details
    {'examples': 39, 'rounds': 4}
    >>> [float(value) for value in sorted(table.impact)[:3]]
    [0.0, 0.01, 0.02]
    """
    if isinstance(step, bool) or not 0 < step <= 1:
        raise ParameterError(f"`step` must be a fraction above 0 and at most 1, received {step!r}.")
    question = ask_one(model, data, elements, outcome=outcome, task=task, kept=kept, seed=seed)
    n_candidates, n_elements = len(question.candidates), len(elements)
    sizes = list(range(n_candidates, 0, -max(round(step * n_candidates), 1)))  # remaining elements of each round
    cost = sum(sizes) + len(sizes) - 1
    unit = f"example with {n_candidates:,} elements in {len(sizes)} rounds"
    n = affordable(rows, cost, len(question.examples), unit, limit=MOST_ROWS)
    evaluator = Evaluator(question.first(n))
    order: list[int] = []
    largest, original = 0.0, None
    left, joint_changes, impact = question.kept.copy(), np.zeros(n_elements), np.zeros(n_elements)
    for size, after in zip(sizes, [*sizes[1:], 0], strict=True):
        evaluator.keep(left)
        columns = np.flatnonzero(left)
        reference = unmasked(evaluator)
        changes = change_of_each(evaluator, columns, reference)
        original = reference if original is None else original
        largest = max(largest, float((changes.deviation + np.abs(changes.mean)).max()))
        worse = question.sign * changes.mean
        first = np.argsort(worse, kind="stable")[: size - after]
        joint_changes[columns[first]] = worse[first]
        order += columns[first].tolist()
        left[columns[first]] = False
    check_changes(question, np.array(largest), "changes", original)
    impact[order] = np.arange(n_elements - n_candidates, n_elements) / n_elements
    return table_of(
        question,
        impact,
        method="greedy backward elimination",
        unit="share of the elements that were removed earlier",
        rows=evaluator.rows + n * (len(sizes) - 1),
        details={"examples": n, "rounds": len(sizes)},
        columns={"joint_change": joint_changes},
    )
