"""Leave one out: the outcome with one element removed at a time."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._utils import ROUNDING, Array, Running
from ..data import Data, Task
from ..element import Elements, take
from ..network import Evaluator, OutcomeLike, Question, ask_one
from ..regression import NO_ERRORS, ImpactTable, Uncertainty
from ._scorer import affordable, check_changes, table_of

if TYPE_CHECKING:
    import keras

MOST_ROWS = 100_000_000
"""Largest cost without a budget."""
_FEW = 100
"""Examples of equal weight below which a table says that intervals may be too narrow."""


def leave_one_out(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    outcome: OutcomeLike = "loss",
    rows: int | None = None,
    task: Task | None = None,
    kept: npt.ArrayLike | None = None,
    seed: int = 0,
) -> ImpactTable:
    """Score each element by how much worse the outcome gets when it is removed alone.

    This is exact for the examples that are used, which are the same for all elements. Elements are removed layer by
    layer, so that the layers before are computed once for each example.

    Parameters
    ----------
    model, data, elements, task, kept, seed
        As in `taylor`.
    outcome : str or Outcome
        Any of `dropreg.outcomes` that is measured on single examples; it needs no derivatives.
    rows : int, optional
        Budget in masked forward passes, one for each element and example; it sets the number of random examples. By
        default all examples are used, if they cost at most 100,000,000 rows.

    Returns
    -------
    ImpactTable
        Impacts in the outcome's unit, positive = removing the element hurts, with standard errors over examples and
        intervals for new examples. ``no_change`` marks elements without which no outcome changed by more than rounding.
        Columns ``change_mean`` and ``change_sd`` are mean and SD over examples of the change of the outcome.

    Raises
    ------
    ParameterError, DataError, ModelError
        If an argument is out of range, the data or the elements do not fit the model, or `rows` pays for no example.

    Examples
    --------
    >>> import dropreg as dr
    >>> model, data = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
    >>> elements = dr.elements(model, include=["dense_2"])
    >>> table = dr.scorers.leave_one_out(model, data, elements, rows=10_000)
    >>> len(table), table.rows, table.details["examples"]
    (100, 10000, 100)
    """
    question = ask_one(model, data, elements, outcome=outcome, task=task, kept=kept, seed=seed)
    candidates = question.candidates
    unit = f"example with {len(candidates):,} elements"
    question = question.first(affordable(rows, len(candidates), len(question.examples), unit, limit=MOST_ROWS))
    n, original, n_rows = len(question.examples), None, 0
    mean, variance, deviation = np.zeros((3, len(elements)))
    for columns in _by_layer(elements, candidates):
        evaluator, numbers = _evaluator_of(question, columns)
        original = unmasked(evaluator) if original is None else original
        changes = change_of_each(evaluator, numbers, original)
        mean[columns], variance[columns], deviation[columns] = changes.mean, changes.variance, changes.deviation
        n_rows += evaluator.rows
    check_changes(question, deviation + np.abs(mean), "changes", original)
    size = 0.0 if original is None else float(np.sqrt((original**2).mean()))
    unchanged = np.abs(mean) + np.sqrt(variance) <= ROUNDING * size
    mean[unchanged] = variance[unchanged] = 0.0
    return table_of(
        question,
        question.sign * mean,
        np.sqrt(variance / n) if n > 1 else None,
        method="leave one out",
        rows=n_rows,
        uncertainty=Uncertainty("population", df=n - 1) if n > 1 else NO_ERRORS,
        details={"examples": n} | _note(question.examples.weights, n),
        columns={"change_mean": mean, "change_sd": deviation},
    )


def _note(weights: npt.NDArray[np.float32] | None, n: int) -> dict[str, str]:
    """Return a note where examples are too few for intervals; weighted ones count like fewer of equal weight [1]_.

    References
    ----------
    .. [1] Kish (1965), "Survey Sampling", section 11.7.
    """
    equal = n if weights is None else float(weights.sum(dtype=np.float64) ** 2 / np.square(weights, dtype=float).sum())
    if equal >= _FEW:
        return {}
    worth = "" if weights is None else f" of different weights, worth {equal:.0f} of equal weight"
    return {"note": f"{n} examples{worth}, fewer than {_FEW}: intervals may be too narrow"}


def unmasked(evaluator: Evaluator) -> Array:
    """Return the outcome of each example (n_examples,) with all elements of the evaluator's state; not counted."""
    return evaluator.values_of_one(np.ones(evaluator.n_elements, bool), np.arange(len(evaluator)))


class Changes(NamedTuple):
    """Mean, variance and standard deviation (`Running`) over examples of changes, each of shape (n_columns,)."""

    mean: Array
    variance: Array
    deviation: Array


def change_of_each(evaluator: Evaluator, columns: npt.NDArray[np.int64], reference: Array) -> Changes:
    """Return statistics over examples of the outcome without each of `columns`, minus `reference` (n_examples,).

    They are in the outcome's unit and direction. Each column and example costs one row.
    """
    evaluator.rows += len(evaluator) * len(columns)
    if not evaluator.one_mask:
        return _by_rows(evaluator, columns, reference)
    changes, mask = np.empty((3, len(columns))), np.ones(evaluator.n_elements, bool)
    for k, column in enumerate(columns):
        mask[column] = False
        change = evaluator.values_of_one(mask, np.arange(len(evaluator))) - reference
        mask[column] = True
        found = Running(1)
        found.add(change[:, np.newaxis], evaluator.weights_of(np.arange(len(evaluator))))
        changes[:, k] = change.mean(), change.var(ddof=min(len(change) - 1, 1)), found.deviation[0]
    return Changes(*changes)


def _by_rows(evaluator: Evaluator, columns: npt.NDArray[np.int64], reference: Array) -> Changes:
    import tensorflow as tf

    def without(bundle: Any, column: Any) -> Any:
        return evaluator.value(bundle, 1.0 - tf.one_hot(column, evaluator.n_elements))

    step = evaluator.once("without", without, tf.TensorSpec([None], tf.int64))
    changes = Running(len(columns))
    for examples in evaluator.blocks(len(evaluator), max(evaluator.batch_size // 8, 1)):
        values = np.empty((len(examples), len(columns)))
        for block in evaluator.blocks(len(columns), evaluator.batch_size // len(examples)):
            rows, chosen = np.repeat(examples, len(block)), np.tile(columns[block], len(examples))
            part = step(evaluator.bundle(rows), tf.constant(chosen))
            values[:, block] = part.reshape(len(examples), len(block))
        changes.add(values - reference[examples, np.newaxis], evaluator.weights_of(examples))
    return Changes(changes.mean, changes.variance, changes.deviation)


def _are_separable(elements: Elements) -> bool:
    """Return whether the elements of one layer can be masked without those of the others."""
    return not elements.inner_gates and not elements.one_mask_a_batch


def _by_layer(elements: Elements, candidates: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """Return the candidates of each layer, or all in one group if layers are not separable."""
    if not _are_separable(elements):
        return [candidates]
    layers = np.array(elements.layers)[candidates]
    return [candidates[layers == layer] for layer in dict.fromkeys(layers.tolist())]


def _evaluator_of(question: Question, columns: npt.NDArray[np.int64]) -> tuple[Evaluator, npt.NDArray[np.int64]]:
    """Return an evaluator of `columns` and the removed elements alone, and the numbers of `columns` in it."""
    if not _are_separable(question.elements):
        return Evaluator(question), columns
    chosen = np.union1d(columns, np.flatnonzero(~question.kept))
    fewer = replace(question, elements=take(question.elements, chosen), kept=question.kept[chosen])
    return Evaluator(fewer), np.searchsorted(chosen, columns)
