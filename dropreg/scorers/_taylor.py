"""Taylor expansion of the outcome around the original model; optimal brain damage and spread, which are its parts."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from .._utils import Array, Running
from ..data import Data, Task
from ..element import Elements
from ..errors import ParameterError
from ..network import Evaluator, Outcome, Question, ask_one, check_differentiable
from ..regression import ImpactTable, impact_table
from ._derivatives import Curvature, Exact, Expansion, FirstOrder, GaussNewton, expand
from ._scorer import affordable

if TYPE_CHECKING:
    import keras

Statistic = Literal["mean", "squared", "sd"]
_MOST_ROWS = 20_000_000
"""Row-equivalents that are not spent unasked."""
_STATISTICS: dict[str, Callable[[Running, float], Array]] = {
    "mean": lambda change, sign: sign * change.mean,
    "squared": lambda change, sign: change.mean**2,
    "sd": lambda change, sign: np.sqrt(change.variance),
}


def taylor(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    order: Literal[1, 2] = 1,
    statistic: Statistic = "mean",
    curvature: Curvature | None = None,
    outcome: str | Outcome = "loss",
    rows: int | None = None,
    task: Task | None = None,
    kept: npt.ArrayLike | None = None,
    seed: int = 0,
) -> ImpactTable:
    """Predict what dropping each element alone does, from derivatives at the original model.

    With g and h the first and second derivatives with respect to an element's mask value, dropping it
    changes an example's outcome by -g, to first order [1]_, or by -g + h / 2, to second [2]_. For a
    weight w those are -g w and -g w + h w² / 2 with g and h taken with respect to w. Each example has
    its own change; the impact is a statistic of them.

    Parameters
    ----------
    model : keras.Model
        It is not changed.
    data : (x, y)
        Held-out examples and their labels; see `sample`.
    elements : Elements
    order : {1, 2}
    statistic : {"mean", "squared", "sd"}
        Of the predicted changes over examples: their mean (signed, positive = worse without the
        element), its square [1]_, or their standard deviation. The last ranks elements nearly as the
        mean square does, for order 1 the empirical Fisher information.
    curvature : Curvature, optional
        How second derivatives are had, `GaussNewton()` by default, or `Exact()`.
    outcome : str or Outcome
        One that is differentiable itself: "loss", "margin" (order 1), "divergence" (order 2), or your own.
    rows : int, optional
        Budget in row-equivalents, spent on random examples; by default all examples are used, if that
        costs at most 20,000,000.
    task : str, optional
        As in `sample`.
    kept : array of bool, shape (n_elements,), optional
        State to expand around; the elements that are not in it stay dropped and have impact 0.
    seed : int
        Chooses the examples, and the random directions of `GaussNewton`.

    Returns
    -------
    ImpactTable
        Its frame also has, for every element, mean and SD over examples of ``gradient`` (g),
        ``curvature`` (h, order 2) and ``change``, in the outcome's unit and own direction. Standard
        errors over examples for "mean"; none for the others.

    Raises
    ------
    ParameterError
        If an argument is out of range, the outcome is a step function, or `rows` pays for no example.
    ModelError
        If a layer has no gradient, or second derivatives are asked for where there are none.
    DataError
        If the data does not fit the model.

    References
    ----------
    .. [1] Molchanov et al. (2019), "Importance estimation for neural network pruning", section 3.1.
    .. [2] LeCun, Denker, Solla (1989), "Optimal brain damage", section 2, with the first-order term.
    """
    if order not in (1, 2):
        raise ParameterError(f"`order` must be 1 or 2, received {order!r}.")
    if statistic not in get_args(Statistic):
        raise ParameterError(f"`statistic` must be one of {', '.join(get_args(Statistic))}, received {statistic!r}.")
    question = ask_one(model, data, elements, outcome=outcome, task=task, kept=kept, seed=seed)
    found, evaluator = _expanded(question, _chosen(order, curvature), rows, f"Taylor expansion of order {order}")
    return _table(
        found,
        evaluator,
        impact=_STATISTICS[statistic](found.change, evaluator.question.sign),
        std_error=_std_error(found.change) if statistic == "mean" else None,
        method=f"Taylor, order {order}, {statistic}",
        details={} if order == 1 else {"curvature": str(_chosen(order, curvature))},
    )


def obd(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    curvature: Curvature | None = None,
    outcome: str | Outcome = "loss",
    rows: int | None = None,
    task: Task | None = None,
    kept: npt.ArrayLike | None = None,
    seed: int = 0,
) -> ImpactTable:
    """Optimal brain damage: the second-order term alone, h / 2 (for a weight h w² / 2).

    The first-order term is left out, because it vanishes on average at a minimum of the training loss [1]_.

    Parameters
    ----------
    model, data, elements, curvature, outcome, rows, task, kept, seed
        As in `taylor`.

    Returns
    -------
    ImpactTable
        As of `taylor`; impacts are mean over examples of h / 2, positive = worse without the element.

    Raises
    ------
    ParameterError, ModelError, DataError
        As in `taylor`.

    References
    ----------
    .. [1] LeCun, Denker, Solla (1989), "Optimal brain damage", section 2, equation 5.
    """
    question = ask_one(model, data, elements, outcome=outcome, task=task, kept=kept, seed=seed)
    chosen = _chosen(2, curvature)
    found, evaluator = _expanded(question, chosen, rows, "optimal brain damage")
    std_error = _std_error(found.second)
    return _table(
        found,
        evaluator,
        impact=question.sign * 0.5 * found.second.mean,
        std_error=None if std_error is None else 0.5 * std_error,
        method="optimal brain damage",
        details={"curvature": str(chosen)},
    )


def spread(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    order: Literal[1, 2] = 1,
    curvature: Curvature | None = None,
    outcome: str | Outcome = "loss",
    rows: int | None = None,
    task: Task | None = None,
    kept: npt.ArrayLike | None = None,
    seed: int = 0,
) -> ImpactTable:
    """SD over examples of the predicted change when an element is dropped: `taylor` with ``statistic="sd"``.

    An element that helps some examples and harms others has a mean near zero, but a large spread.

    Parameters
    ----------
    model, data, elements, order, curvature, outcome, rows, task, kept, seed
        As in `taylor`.

    Returns
    -------
    ImpactTable

    Raises
    ------
    ParameterError, ModelError, DataError
        As in `taylor`.
    """
    given: dict[str, Any] = {"outcome": outcome, "rows": rows, "task": task, "kept": kept, "seed": seed}
    return taylor(model, data, elements, order=order, statistic="sd", curvature=curvature, **given)


def _chosen(order: int, curvature: Curvature | None) -> Curvature:
    if order == 1:
        if curvature is not None:
            raise ParameterError(f"`curvature` goes with order=2, received {curvature} with order=1: leave it out.")
        return FirstOrder()
    return GaussNewton() if curvature is None else curvature


def _expanded(question: Question, curvature: Curvature, rows: int | None, what: str) -> tuple[Expansion, Evaluator]:
    """Derivatives over the examples that `rows` pays for."""
    if not isinstance(curvature, Curvature):
        raise ParameterError(f"`curvature` must be GaussNewton() or Exact(), received {curvature!r}: pass an instance.")
    cost = curvature.cost(len(question.candidates), question.n_outputs)
    unit = f"example (with {curvature}: {cost:,} row-equivalents)" if isinstance(curvature, Exact) else "example"
    evaluator = Evaluator(question.first(affordable(rows, cost, len(question.examples), unit, limit=_MOST_ROWS)))
    check_differentiable(evaluator, what)
    return expand(evaluator, curvature), evaluator


def _std_error(values: Running) -> Array | None:
    return np.sqrt(values.variance / values.n) if values.n > 1 else None


def _table(
    found: Expansion,
    evaluator: Evaluator,
    *,
    impact: Array,
    std_error: Array | None,
    method: str,
    details: dict[str, Any],
) -> ImpactTable:
    """An impact table with mean and SD of the derivatives beside the impacts."""
    question = evaluator.question
    table = impact_table(
        question.elements.to_frame(),
        impact,
        std_error,
        method=method,
        outcome=question.outcome.name,
        rows=evaluator.rows,
        seed=question.seed,
        details={"examples": found.first.n} | details,
    )
    columns = {}
    parts = {"gradient": found.first, "curvature": found.second, "change": found.change}
    for name, values in parts.items():
        if values.n:
            columns |= {f"{name}_mean": values.mean, f"{name}_sd": np.sqrt(values.variance)}
    return replace(table, frame=table.frame.assign(**columns))
