"""How active an element is."""

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from ..data import Data, Task
from ..element import Elements
from ..errors import ParameterError
from ..network import ask_one
from ..regression import ImpactTable, impact_table
from ._scorer import affordable
from ._statistics import activations, by_element, check_units

if TYPE_CHECKING:
    import keras

Moment = Literal["mean", "rms", "zeros"]


def activation(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    moment: Moment = "rms",
    rows: int | None = None,
    task: Task | None = None,
    seed: int = 0,
) -> ImpactTable:
    """Size of an element's activation where it is read, over examples and positions.

    Parameters
    ----------
    model, data
        As in `taylor`; labels are not needed.
    elements : Elements
        Neurons and filters.
    moment : {"mean", "rms", "zeros"}
        Absolute value of the mean, root mean square, or the fraction of activations that are not
        zero, so that many zeros make a low impact [1]_.
    rows : int, optional
        Budget in rows, one for each (random) example; all examples by default.
    task, seed
        As in `taylor`.

    Returns
    -------
    ImpactTable
        Impacts in the unit of the activations; for "zeros" a fraction.

    Raises
    ------
    ParameterError, DataError, ModelError
        If the arguments do not fit together, or the elements are no units.

    References
    ----------
    .. [1] Hu et al. (2016), "Network trimming", section 3.1 (average percentage of zeros).
    """
    if moment not in get_args(Moment):
        raise ParameterError(f"`moment` must be one of {', '.join(get_args(Moment))}, received {moment!r}.")
    check_units(elements, "activation")
    question = ask_one(model, data, elements, outcome="divergence", task=task, kept=None, seed=seed)
    question = question.first(affordable(rows, 1, len(question.examples), "example"))
    total, channels = np.zeros(len(elements)), np.zeros(len(elements))
    for gate, read in zip(elements.gates, activations(question), strict=True):
        values = {"mean": read.mean, "rms": read.mean_square, "zeros": read.nonzero}[moment]
        total += by_element(gate.columns, values, len(elements))
        channels += by_element(gate.columns, np.ones(len(gate.columns)), len(elements))
    average = total / np.maximum(channels, 1)
    return impact_table(
        elements.to_frame(),
        np.sqrt(average) if moment == "rms" else np.abs(average),
        method=f"activation, {moment}",
        outcome="activations",
        rows=len(question.examples),
        seed=seed,
        details={"examples": len(question.examples)},
    )
