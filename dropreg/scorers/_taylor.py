"""Taylor expansion of the outcome around the original model, with its special cases optimal brain damage and spread."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from .._utils import Array, Running
from ..data import Data, Task
from ..element import Elements
from ..errors import ParameterError
from ..network import Evaluator, OutcomeLike, Question, ask_one, check_differentiable
from ..regression import NO_ERRORS, ImpactTable, Uncertainty
from ._derivatives import Curvature, Exact, Expansion, FirstOrder, GaussNewton, expand
from ._scorer import affordable, check_changes, table_of

if TYPE_CHECKING:
    import keras

Statistic = Literal["mean", "squared", "sd"]
_MOST_ROWS = 20_000_000
"""Largest cost without a budget, in row-equivalents."""
_STATISTICS: dict[str, Callable[[Running, float], Array]] = {
    "mean": lambda change, sign: sign * change.mean,
    "squared": lambda change, sign: change.mean**2,
    "sd": lambda change, sign: change.deviation,
}
_UNITS = {"squared": "squared mean of the predicted change of", "sd": "SD over examples of the predicted change of"}


def taylor(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    order: Literal[1, 2] = 1,
    statistic: Statistic = "mean",
    curvature: Curvature | None = None,
    outcome: OutcomeLike = "loss",
    rows: int | None = None,
    task: Task | None = None,
    kept: npt.ArrayLike | None = None,
    seed: int = 0,
) -> ImpactTable:
    """Predict the effect of removing each element alone from derivatives at the original model.

    Let g and h be the first and second derivatives of an example's outcome with respect to an element's mask value
    (1 = kept, 0 = removed). Removing the element changes the outcome by -g to first order [1]_, and by -g + h / 2 to
    second order [2]_. For a weight w with derivatives g' and h' these are -g' w and -g' w + h' w² / 2. The impact is a
    statistic of these changes over examples.

    Parameters
    ----------
    model : keras.Model
        It is not changed.
    data : (x, y), or batches
        Held-out examples and their labels, as in `dropreg.sample`.
    elements : Elements
        From ``dropreg.elements(model)``, of any kind.
    order : {1, 2}
        Order of the expansion.
    statistic : {"mean", "squared", "sd"}
        Of the predicted changes over examples: the mean (signed, positive = removing the element hurts), the square of
        the mean [1]_, or the standard deviation. The last ranks elements almost as the mean square does, which for
        order 1 is the empirical Fisher information.
    curvature : Curvature, optional
        Method for second derivatives: `GaussNewton()`, the default, or `Exact()`. Only with ``order=2``.
    outcome : str or Outcome
        One that is differentiable itself: "loss", "margin" (order 1), "divergence" (order 2), or an own outcome.
    rows : int, optional
        Budget in row-equivalents (a masked forward pass of one example costs one, a backward pass two more). It sets
        the number of random examples; by default all are used, if they cost at most 20,000,000.
    task : str, optional
        As in `dropreg.sample`.
    kept : array of bool, shape (n_elements,), optional
        Starting state, True = kept; by default all. Elements that are False are removed throughout and have impact 0.
    seed : int
        Chooses the examples, and the random directions of `GaussNewton`.

    Returns
    -------
    ImpactTable
        Standard errors are over examples for "mean", without the bias of the expansion, so there are no intervals; the
        other statistics have none. More columns hold mean and
        SD over examples of ``gradient`` (g), ``curvature`` (h, order 2) and ``change`` (-g, or -g + h / 2), in the
        outcome's unit and direction.

    Raises
    ------
    ParameterError
        If an argument is out of range, the outcome is a step function, or `rows` pays for no example.
    ModelError
        If a layer has no gradient, or second derivatives are requested that do not exist.
    DataError
        If the data does not fit the model.

    References
    ----------
    .. [1] Molchanov et al. (2019), "Importance estimation for neural network pruning", section 3.1.
    .. [2] LeCun, Denker, Solla (1989), "Optimal brain damage", section 2, with the first-order term.

    Examples
    --------
    >>> import dropreg as dr
    >>> model, data = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
    >>> elements = dr.elements(model)
    >>> table = dr.scorers.taylor(model, data, elements, rows=3_000)
    >>> table.method, table.rows, table.details["examples"]
    ('Taylor, order 1, mean', 3000, 1000)
    >>> selection = dr.select(elements, table, fraction=0.5)
    """
    if order not in (1, 2):
        raise ParameterError(f"`order` must be 1 or 2, received {order!r}.")
    if statistic not in get_args(Statistic):
        raise ParameterError(f"`statistic` must be one of {', '.join(get_args(Statistic))}, received {statistic!r}.")
    question = ask_one(model, data, elements, outcome=outcome, task=task, kept=kept, seed=seed)
    found, evaluator = _expand(question, order, curvature, rows, f"Taylor expansion of order {order}")
    impact, method = _STATISTICS[statistic](found.change, question.sign), f"Taylor, order {order}, {statistic}"
    if statistic == "mean":
        return _table(found, evaluator, impact, method, std_error=_std_error(found.change))
    return _table(found, evaluator, impact, method, unit=f"{_UNITS[statistic]} {question.outcome.name}")


def obd(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    curvature: Curvature | None = None,
    outcome: OutcomeLike = "loss",
    rows: int | None = None,
    task: Task | None = None,
    kept: npt.ArrayLike | None = None,
    seed: int = 0,
) -> ImpactTable:
    """Score each element by optimal brain damage: the second-order term h / 2 alone.

    The first-order term is left out, because its mean is zero at a minimum of the training loss [1]_.

    Parameters
    ----------
    model, data, elements, curvature, outcome, rows, task, kept, seed
        As in `taylor`.

    Returns
    -------
    ImpactTable
        As of `taylor`; impacts are the mean over examples of h / 2, positive = removing the element hurts.

    Raises
    ------
    ParameterError, ModelError, DataError
        As in `taylor`.

    References
    ----------
    .. [1] LeCun, Denker, Solla (1989), "Optimal brain damage", section 2, equation 5.

    Examples
    --------
    >>> import dropreg as dr
    >>> model, data = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
    >>> table = dr.scorers.obd(model, data, dr.elements(model), rows=3_000)
    >>> bool((table.impact >= 0).all())  # the loss is convex in the outputs
    True
    """
    question = ask_one(model, data, elements, outcome=outcome, task=task, kept=kept, seed=seed)
    found, evaluator = _expand(question, 2, curvature, rows, "optimal brain damage")
    impact, std_error = question.sign * 0.5 * found.second.mean, _std_error(found.second)
    std_error = None if std_error is None else 0.5 * std_error
    return _table(found, evaluator, impact, "optimal brain damage", std_error=std_error)


def spread(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    order: Literal[1, 2] = 1,
    curvature: Curvature | None = None,
    outcome: OutcomeLike = "loss",
    rows: int | None = None,
    task: Task | None = None,
    kept: npt.ArrayLike | None = None,
    seed: int = 0,
) -> ImpactTable:
    """Score each element by the SD over examples of its predicted effect: `taylor` with ``statistic="sd"``.

    An element that helps some examples and harms others has a mean effect near zero, but a large spread.

    Parameters
    ----------
    model, data, elements, order, curvature, outcome, rows, task, kept, seed
        As in `taylor`.

    Returns
    -------
    ImpactTable
        As of `taylor`; impacts are at least 0, in the outcome's unit, without standard errors.

    Raises
    ------
    ParameterError, ModelError, DataError
        As in `taylor`.

    Examples
    --------
    >>> import dropreg as dr
    >>> model, data = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
    >>> table = dr.scorers.spread(model, data, dr.elements(model), rows=3_000)
    >>> bool((table.impact == table.frame["change_sd"]).all())
    True
    """
    given: dict[str, Any] = {"outcome": outcome, "rows": rows, "task": task, "kept": kept, "seed": seed}
    return taylor(model, data, elements, order=order, statistic="sd", curvature=curvature, **given)


def _expand(
    question: Question, order: int, curvature: Curvature | None, rows: int | None, what: str
) -> tuple[Expansion, Evaluator]:
    """Return the derivatives over the examples that `rows` pays for, and the evaluator that measured them."""
    if order == 1 and curvature is not None:
        raise ParameterError(f"`curvature` must be None with order=1, received {curvature}: pass order=2.")
    method = FirstOrder() if order == 1 else GaussNewton() if curvature is None else curvature
    if not isinstance(method, Curvature):
        raise ParameterError(f"`curvature` must be GaussNewton() or Exact(), received {curvature!r}: pass an instance.")
    cost = method.cost(len(question.candidates), question.n_outputs)
    unit = f"example (with {method}: {cost:,} row-equivalents)" if isinstance(method, Exact) else "example"
    evaluator = Evaluator(question.first(affordable(rows, cost, len(question.examples), unit, limit=_MOST_ROWS)))
    check_differentiable(evaluator, what)
    found = expand(evaluator, method)
    check_changes(question, found.first.mean_absolute + found.second.mean_absolute, "derivatives")
    return found, evaluator


def _std_error(values: Running) -> Array | None:
    return np.sqrt(values.variance / values.n) if values.n > 1 else None


def _table(
    found: Expansion,
    evaluator: Evaluator,
    impact: Array,
    method: str,
    *,
    std_error: Array | None = None,
    unit: str | None = None,
) -> ImpactTable:
    """Return an impact table with mean and SD of the derivatives as further columns."""
    columns = {}
    for name, values in {"gradient": found.first, "curvature": found.second, "change": found.change}.items():
        if values.n:
            columns |= {f"{name}_mean": values.mean, f"{name}_sd": values.deviation}
    details = {"examples": found.first.n} | ({"curvature": found.method} if found.second.n else {})
    return table_of(
        evaluator.question,
        impact,
        std_error,
        method=method,
        rows=evaluator.rows,
        unit=unit,
        uncertainty=NO_ERRORS if std_error is None else Uncertainty("sampling"),
        details=details,
        columns=columns,
    )
