"""Shapley values by sampled permutations with truncation: a competitor that scripts measure."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

import dropreg as dr
from dropreg._utils import Array, positive
from dropreg.data import Data, Task
from dropreg.network import Evaluator, ask_one
from dropreg.regression import Uncertainty, impact_table

if TYPE_CHECKING:
    import keras

_SEGMENT = 16
"""Elements that are removed between two tests of the truncation rule."""


def shapley(
    model: "keras.Model",
    data: Data,
    elements: dr.Elements,
    *,
    examples_per_mask: int = 16,
    tolerance: float = 0.05,
    outcome: str | dr.outcomes.Outcome = "loss",
    rows: int = 600_000,
    task: Task | None = None,
    seed: int = 0,
) -> dr.ImpactTable:
    """Estimate the Shapley value of each element from random permutations.

    The elements are removed one by one in random order; each is credited with how much worse its removal makes the
    outcome, and credits are averaged over permutations. A permutation ends early when the outcome is within `tolerance`
    of that of the model without any element; the elements that remain are credited with zero [1]_.

    Parameters
    ----------
    model, data, elements, task
        As in `taylor`.
    examples_per_mask : int
        Number of random examples on which a permutation is measured.
    tolerance : float
        Share, in [0, 1), of the difference between the outcomes with all elements and with none; 0 never ends a
        permutation early.
    outcome : str or Outcome
        As in `leave_one_out`.
    rows : int
        Budget in masked forward passes. It sets the number of permutations.
    seed : int
        Chooses permutations and examples.

    Returns
    -------
    ImpactTable
        In the outcome's unit, positive = removing the element hurts; standard errors over permutations.

    Raises
    ------
    ParameterError, DataError, ModelError
        If the arguments do not fit together, or `rows` pays for fewer than two permutations.

    References
    ----------
    .. [1] Ghorbani, Zou (2020), "Neuron Shapley", section 3.2 (truncation; their method also stops early for elements
       that are clearly outside the top k).
    """
    question = ask_one(model, data, elements, outcome=outcome, task=task, kept=None, seed=seed)
    n = min(positive("examples_per_mask", examples_per_mask), len(question.examples))
    if not 0 <= tolerance < 1:
        raise dr.errors.ParameterError(f"`tolerance` must lie in [0, 1), received {tolerance}.")
    longest = (len(elements) + 1) * n
    if positive("rows", rows) < 2 * longest:
        raise dr.errors.ParameterError(
            f"`rows` must pay for two permutations of {len(elements):,} elements, {2 * longest:,} rows, received "
            f"{rows:,}: pass more, or fewer examples_per_mask."
        )
    evaluator, rng = Evaluator(question), np.random.default_rng(seed)
    credits, lengths = [], []
    while evaluator.rows + longest <= rows:
        examples = rng.choice(len(evaluator), n, replace=False)
        credit, length = _run_permutation(evaluator, rng.permutation(len(elements)), examples, tolerance)
        credits.append(question.sign * credit)
        lengths.append(length)
    values = np.array(credits)
    return impact_table(
        elements.to_frame(),
        values.mean(axis=0),
        values.std(axis=0, ddof=1) / np.sqrt(len(values)),
        method="Shapley sampling",
        uncertainty=Uncertainty("sampling" if tolerance else "data set", df=len(values) - 1),
        outcome=question.outcome.name,
        rows=evaluator.rows,
        seed=question.seed,
        details={"permutations": len(values), "examples a mask": n, "mean length": float(np.mean(lengths))},
    )


def _run_permutation(
    evaluator: Evaluator, order: npt.NDArray[np.int64], examples: npt.NDArray[np.int64], tolerance: float
) -> tuple[Array, int]:
    """Return the change of the outcome at the removal of each element, and the number of removals before truncation."""
    n_elements = len(order)
    place = np.empty(n_elements, dtype=np.int64)
    place[order] = np.arange(n_elements)
    original, empty = evaluator.means(place[np.newaxis] >= np.array([[0], [n_elements]]), examples)
    credit, before = np.zeros(n_elements), original
    for start in range(0, n_elements, _SEGMENT):
        end = min(start + _SEGMENT, n_elements)
        steps = np.arange(start + 1, min(end, n_elements - 1) + 1)
        values = evaluator.means(place[np.newaxis] >= steps[:, np.newaxis], examples)
        values = np.append(values, empty) if end == n_elements else values
        credit[order[start:end]] = np.diff(values, prepend=before)
        before = values[-1]
        if abs(before - empty) < tolerance * abs(original - empty):
            return credit, end
    return credit, n_elements
