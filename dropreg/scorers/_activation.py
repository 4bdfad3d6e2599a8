"""Size of activations."""

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from ..data import Data, Task
from ..element import Elements
from ..errors import ParameterError
from ..network import ask_one
from ..regression import ImpactTable
from ._scorer import affordable, table_of
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
    """Score each unit by the size of its activation, over examples and positions.

    The activation is taken at the input of the layers that consume it.

    Parameters
    ----------
    model, task, seed
        As in `taylor`.
    data : (x, y), or batches
        As in `taylor`; labels are not needed.
    elements : Elements
        Neurons and filters.
    moment : {"mean", "rms", "zeros"}
        Absolute value of the mean, root mean square, or the fraction of activations that are not zero, so that units
        with many zeros have a low impact [1]_.
    rows : int, optional
        Number of (random) examples, which cost a row each; by default all.

    Returns
    -------
    ImpactTable
        Impacts are at least 0, in the unit of the activations; a fraction for "zeros". No standard errors.

    Raises
    ------
    ParameterError, DataError, ModelError
        If an argument is out of range, the data does not fit the model, or the elements are not units.

    References
    ----------
    .. [1] Hu et al. (2016), "Network trimming", section 3.1 (average percentage of zeros).

    Examples
    --------
    >>> import dropreg as dr
    >>> model, data = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
    >>> table = dr.scorers.activation(model, data, dr.elements(model), moment="zeros", rows=100)
    >>> bool(table.impact.min() >= 0), bool(table.impact.max() <= 1)
    (True, True)
    """
    if moment not in get_args(Moment):
        raise ParameterError(f"`moment` must be one of {', '.join(get_args(Moment))}, received {moment!r}.")
    check_units(elements, "activation")
    question = ask_one(model, data, elements, outcome="divergence", task=task, kept=None, seed=seed)
    question = question.first(affordable(rows, 1, len(question.examples), "example"))
    n, (total, channels) = len(question.examples), np.zeros((2, len(elements)))
    for gate, read in zip(elements.gates, activations(question), strict=True):
        values = {"mean": read.mean, "rms": read.mean_square, "zeros": read.nonzero}[moment]
        total += by_element(gate.columns, values, len(elements))
        channels += by_element(gate.columns, np.ones(len(gate.columns)), len(elements))
    average = total / np.maximum(channels, 1)
    return table_of(
        question,
        np.sqrt(average) if moment == "rms" else np.abs(average),
        method=f"activation, {moment}",
        outcome="activations",
        rows=n,
        details={"examples": n},
    )
