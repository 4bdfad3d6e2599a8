"""Shapley values by sampled permutations, with truncation."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .._utils import Array
from ..data import Data, Task
from ..element import Elements
from ..errors import ParameterError
from ..network import DEFAULT_ROWS, Evaluator, Outcome, ask_one
from ..regression import ImpactTable, impact_table

if TYPE_CHECKING:
    import keras

_SEGMENT = 16
"""Elements that are dropped between two looks at the truncation rule."""


def shapley(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    examples_per_mask: int = 16,
    tolerance: float = 0.05,
    outcome: str | Outcome = "loss",
    rows: int | None = None,
    task: Task | None = None,
    seed: int = 0,
) -> ImpactTable:
    """Shapley value of every element: its marginal worth averaged over orders of dropping.

    Elements of the whole network are dropped one by one in random order, and each is credited with
    how much worse the outcome gets when it goes. A permutation is cut short once what is left of the
    outcome is within `tolerance` of that of the empty network; the elements that were still there are
    credited with nothing [1]_.

    Parameters
    ----------
    model, data, elements, task
        As in `taylor`.
    examples_per_mask : int
        Random examples that a permutation is measured on.
    tolerance : float
        Fraction of the way from the empty to the whole network's outcome at which a permutation is
        cut short; 0 never does.
    outcome : str or Outcome
        Any, differentiable or not.
    rows : int, optional
        Budget in rows, 600,000 by default. Permutations run until the next could exceed it.
    seed : int
        Chooses permutations and examples.

    Returns
    -------
    ImpactTable
        In the outcome's unit; standard errors over permutations.

    Raises
    ------
    ParameterError, DataError, ModelError
        If the arguments do not fit together, or `rows` pays for less than two permutations.

    References
    ----------
    .. [1] Ghorbani, Zou (2020), "Neuron Shapley", section 3.2 (truncation; theirs also stops early for
       elements that are clearly outside the top k).
    """
    question = ask_one(model, data, elements, outcome=outcome, task=task, kept=None, seed=seed)
    n = min(examples_per_mask, len(question.examples))
    if isinstance(examples_per_mask, bool) or examples_per_mask < 1:
        raise ParameterError(f"`examples_per_mask` must be at least 1, received {examples_per_mask}.")
    if not 0 <= tolerance < 1:
        raise ParameterError(f"`tolerance` must lie in [0, 1), received {tolerance}.")
    rows = DEFAULT_ROWS if rows is None else rows
    longest = (len(elements) + 1) * n
    if isinstance(rows, bool) or not isinstance(rows, int | np.integer) or rows < 2 * longest:
        raise ParameterError(
            f"`rows` must pay for two permutations of {len(elements):,} elements, {2 * longest:,} rows, received "
            f"{rows!r}: pass more, or fewer examples_per_mask."
        )
    evaluator, rng = Evaluator(question), np.random.default_rng(seed)
    credits, lengths = [], []
    while evaluator.rows + longest <= rows:
        examples = rng.choice(len(evaluator), n, replace=False)
        credit, length = _walk(evaluator, rng.permutation(len(elements)), examples, tolerance)
        credits.append(question.sign * credit)
        lengths.append(length)
    values = np.array(credits)
    return impact_table(
        elements.to_frame(),
        values.mean(axis=0),
        values.std(axis=0, ddof=1) / np.sqrt(len(values)),
        method="Shapley sampling",
        outcome=question.outcome.name,
        rows=evaluator.rows,
        seed=question.seed,
        details={"permutations": len(values), "examples a mask": n, "mean length": float(np.mean(lengths))},
    )


def _walk(
    evaluator: Evaluator, order: npt.NDArray[np.int64], examples: npt.NDArray[np.int64], tolerance: float
) -> tuple[Array, int]:
    """Change of the outcome when each element goes, and how many went before the walk was cut short."""
    n_elements = len(order)
    place = np.empty(n_elements, dtype=np.int64)
    place[order] = np.arange(n_elements)
    whole, empty = evaluator.means(place[np.newaxis] >= np.array([[0], [n_elements]]), examples)
    credit, before = np.zeros(n_elements), whole
    for start in range(0, n_elements, _SEGMENT):
        end = min(start + _SEGMENT, n_elements)
        steps = np.arange(start + 1, min(end, n_elements - 1) + 1)
        values = evaluator.means(place[np.newaxis] >= steps[:, np.newaxis], examples)
        values = np.append(values, empty) if end == n_elements else values
        credit[order[start:end]] = np.diff(values, prepend=before)
        before = values[-1]
        if abs(before - empty) < tolerance * abs(whole - empty):
            return credit, end
    return credit, n_elements
