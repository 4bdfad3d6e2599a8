"""Leave one out: every element dropped alone, measured."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .._utils import Array, Running
from ..data import Data, Task
from ..element import Elements, take
from ..network import Evaluator, Outcome, Question, ask_one
from ..regression import ImpactTable, impact_table
from ._scorer import affordable

if TYPE_CHECKING:
    import keras

_MOST_ROWS = 100_000_000


def leave_one_out(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    outcome: str | Outcome = "loss",
    rows: int | None = None,
    task: Task | None = None,
    kept: npt.ArrayLike | None = None,
    seed: int = 0,
) -> ImpactTable:
    """Measure how much worse the outcome gets when an element is dropped alone.

    Exact for the examples that are used, the same ones for every element. Units are taken layer by
    layer, so that all that comes before a layer is computed once an example.

    Parameters
    ----------
    model, data, elements, task, kept, seed
        As in `taylor`.
    outcome : str or Outcome
        Any, differentiable or not.
    rows : int, optional
        Budget in rows; every example costs one row for each element. By default all examples are
        used, if that costs at most 100,000,000 rows.

    Returns
    -------
    ImpactTable
        With standard errors over examples, and ``change_sd``, the SD of an example's change.

    Raises
    ------
    ParameterError, DataError, ModelError
        If the arguments do not fit together, or `rows` pays for no example.
    """
    question = ask_one(model, data, elements, outcome=outcome, task=task, kept=kept, seed=seed)
    candidates = question.candidates
    unit = f"example with {len(candidates):,} elements"
    question = question.first(affordable(rows, len(candidates), len(question.examples), unit, limit=_MOST_ROWS))
    n = len(question.examples)
    mean, variance = np.zeros((2, len(elements)))
    whole, spent = None, 0
    for columns in _by_layer(elements, candidates):
        evaluator, numbers = _probe_of(question, columns)
        whole = measured(evaluator, np.ones((1, evaluator.n_elements), bool)) if whole is None else whole
        changes = change_of_each(evaluator, numbers, whole)
        mean[columns], variance[columns] = changes.mean, changes.variance
        spent += evaluator.rows
    table = impact_table(
        elements.to_frame(),
        question.sign * mean,
        np.sqrt(variance / n) if n > 1 else None,
        method="leave one out",
        outcome=question.outcome.name,
        rows=spent,
        seed=question.seed,
        details={"examples": n},
    )
    return replace(table, frame=table.frame.assign(change_mean=mean, change_sd=np.sqrt(variance)))


@dataclass(frozen=True)
class Changes:
    """Change of the outcome when an element is dropped.

    Attributes
    ----------
    mean, variance : ndarray of float64, shape (columns,)
        Over examples, in the outcome's unit and own direction.
    """

    mean: Array
    variance: Array


def change_of_each(evaluator: Evaluator, columns: npt.NDArray[np.int64], whole: Array) -> Changes:
    """Changes against the outcomes `whole` (n_examples,) when one of `columns` is dropped, at one row each."""
    evaluator.rows += len(evaluator) * len(columns)
    if not evaluator.one_mask:
        return _by_rows(evaluator, columns, whole)
    changes, everything = np.empty((2, len(columns))), np.ones((1, evaluator.n_elements), bool)
    for k, column in enumerate(columns):
        everything[0, column] = False
        change = measured(evaluator, everything) - whole
        everything[0, column] = True
        changes[:, k] = change.mean(), change.var(ddof=min(len(change) - 1, 1))
    return Changes(*changes)


def _by_rows(evaluator: Evaluator, columns: npt.NDArray[np.int64], whole: Array) -> Changes:
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
        changes.add(values - whole[examples, np.newaxis])
    return Changes(changes.mean, changes.variance)


def measured(evaluator: Evaluator, mask: npt.NDArray[np.bool_]) -> Array:
    """Outcomes of all examples under one mask (1, n_elements), shape (n_examples,); not counted."""
    import tensorflow as tf

    step = evaluator.measured_under()
    kept = tf.constant(mask, tf.float32)
    return np.concatenate(
        [step(evaluator.bundle(block), kept) for block in evaluator.blocks(len(evaluator))], dtype=float
    )


def _is_walkable(elements: Elements) -> bool:
    """Whether the elements' gates are all that there is to them, so that fewer gates make fewer elements."""
    return not elements.inner_gates and not elements.one_mask_a_batch


def _by_layer(elements: Elements, candidates: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """The candidates layer by layer, or all at once where layers cannot be taken apart."""
    if not _is_walkable(elements):
        return [candidates]
    layers = np.array(elements.layers)[candidates]
    return [candidates[layers == layer] for layer in dict.fromkeys(layers.tolist())]


def _probe_of(question: Question, columns: npt.NDArray[np.int64]) -> tuple[Evaluator, npt.NDArray[np.int64]]:
    """A evaluator that gates `columns` and what is dropped already, and the numbers of `columns` in it."""
    if not _is_walkable(question.elements):
        return Evaluator(question), columns
    chosen = np.union1d(columns, np.flatnonzero(~question.kept))
    fewer = replace(question, elements=take(question.elements, chosen), kept=question.kept[chosen])
    return Evaluator(fewer), np.searchsorted(chosen, columns)
