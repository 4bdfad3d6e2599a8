"""Optimal brain damage."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..data import Data
from ..elements import Elements
from ..impact import ImpactTable
from ..outcomes import Outcome
from ..prediction import Task
from .derivatives import Curvature, GaussNewton
from .question import ask
from .taylor import expanded, expansion_table

if TYPE_CHECKING:
    import keras


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
    question = ask(model, data, elements, outcome=outcome, task=task, kept=kept, seed=seed)
    chosen = GaussNewton() if curvature is None else curvature
    found, probe = expanded(question, chosen, rows, "optimal brain damage")
    n = found.second.n
    return expansion_table(
        found,
        probe,
        impact=question.sign * 0.5 * found.second.mean,
        std_error=0.5 * np.sqrt(found.second.variance / n) if n > 1 else None,
        method="optimal brain damage",
        details={"curvature": str(chosen)},
    )
