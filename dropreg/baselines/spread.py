"""Spread of the loss change over examples."""

from typing import TYPE_CHECKING, Literal

import numpy.typing as npt

from ..data import Data
from ..elements import Elements
from ..impact import ImpactTable
from ..outcomes import Outcome
from ..prediction import Task
from .derivatives import Curvature
from .taylor import taylor

if TYPE_CHECKING:
    import keras


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
    """SD over examples of the predicted change when an element is dropped.

    An element that helps some examples and harms others has a mean near zero; its spread says that it
    is not idle. The same as `taylor` with ``statistic="sd"``.

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
    return taylor(
        *(model, data, elements),
        order=order,
        statistic="sd",
        curvature=curvature,
        outcome=outcome,
        rows=rows,
        task=task,
        kept=kept,
        seed=seed,
    )
