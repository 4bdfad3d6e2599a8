"""Weight times activation norm."""

from typing import TYPE_CHECKING

import numpy as np

from ..data import Data
from ..elements import Elements
from ..impact import ImpactTable, impact_table
from ..outcomes import Task
from .probe import affordable, ask
from .units import activations, by_element, check_units, readers

if TYPE_CHECKING:
    import keras


def weight_activation(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    rows: int | None = None,
    task: Task | None = None,
    seed: int = 0,
) -> ImpactTable:
    """Norm of what an element adds to the layers that read it.

    The root of the sum, over all that read the element, of squared weights times the mean square of
    the activation; the measure of [1]_ (absolute weight times activation norm), summed over an element's
    outgoing weights.

    Parameters
    ----------
    model, data, rows, task, seed
        As in `activation`.
    elements : Elements
        Neurons and filters.

    Returns
    -------
    ImpactTable
        Impacts in the unit of the pre-activations that follow.

    Raises
    ------
    ParameterError, DataError, ModelError
        If the arguments do not fit together, the elements are no units, or a kernel is not known by
        channel.

    References
    ----------
    .. [1] Sun et al. (2024), "A simple and effective pruning approach for large language models", section 3.
    """
    check_units(elements, "weight times activation")
    question = ask(model, data, elements, outcome="divergence", task=task, kept=None, seed=seed)
    question = question.first(affordable(rows, 1, len(question.examples), "example"))
    squares = np.zeros(len(elements))
    for reader, read in zip(readers(model, elements), activations(question), strict=True):
        squares += by_element(reader.gate.columns, reader.outgoing * read.mean_square, len(elements))
    return impact_table(
        elements.to_frame(),
        np.sqrt(squares),
        method="weight x activation norm",
        outcome="pre-activations",
        rows=len(question.examples),
        seed=seed,
        details={"examples": len(question.examples)},
    )
