"""Size of activations, alone and times the weights of the layers that consume them."""

from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from .._utils import Array
from ..data import Data, Task
from ..element import Elements
from ..errors import ModelError, ParameterError
from ..network import Question, ask_one
from ..regression import ImpactTable
from ._scorer import affordable, table_of
from ._statistics import activations, are_weights, by_element, check_units, consumers, input_squares, weight_squares

if TYPE_CHECKING:
    import keras

Moment = Literal["mean", "rms", "zeros"]
_UNITS: dict[Moment, str] = {
    "mean": "absolute mean of the activation",
    "rms": "root mean square of the activation",
    "zeros": "share of activations that are not zero",
}


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
        unit=_UNITS[moment],
        rows=n,
        details={"examples": n},
    )


def weight_activation(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    rows: int | None = None,
    task: Task | None = None,
    seed: int = 0,
) -> ImpactTable:
    """Score each element by the norm of what it adds to the layers that consume it.

    For a unit this is the square root of the sum of its squared outgoing weights times the mean square of its
    activation, over all its consumers; for a weight, its magnitude times the root mean square of its input [1]_.

    Parameters
    ----------
    model, data, rows, task, seed
        As in `activation`.
    elements : Elements
        Neurons, filters, weights or groups of weights.

    Returns
    -------
    ImpactTable
        Impacts are at least 0, in the unit of the consumers' pre-activations. No standard errors.

    Raises
    ------
    ParameterError, DataError, ModelError
        As in `activation`, or if the channels of a layer's kernel are not known.

    References
    ----------
    .. [1] Sun et al. (2024), "A simple and effective pruning approach for large language models", section 3.

    Examples
    --------
    >>> import dropreg as dr
    >>> model, data = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
    >>> table = dr.scorers.weight_activation(model, data, dr.elements(model), rows=100)
    >>> table.outcome, table.rows
    ('pre-activations', 100)
    """
    if not are_weights(elements):
        check_units(elements, "weight times activation", "neurons, filters and weights")
    question = ask_one(model, data, elements, outcome="divergence", task=task, kept=None, seed=seed)
    question = question.first(affordable(rows, 1, len(question.examples), "example"))
    n, squares = len(question.examples), _of_weights(question) if are_weights(elements) else _of_units(question)
    details = {"examples": n}
    return table_of(
        question,
        np.sqrt(squares),
        method="weight x activation norm",
        outcome="pre-activations",
        unit="norm of what an element adds to the layers that consume it",
        rows=n,
        details=details,
    )


def _of_units(question: Question) -> Array:
    elements, total = question.elements, np.zeros(len(question.elements))
    for (gate, _, outgoing), read in zip(consumers(question.graph, elements), activations(question), strict=True):
        total += by_element(gate.columns, outgoing * read.mean_square, len(elements))
    return total


def _of_weights(question: Question) -> Array:
    from ..layers import kernel_of

    squares = input_squares(question)

    def of_inputs(layer: Any, value: Array) -> Array:
        axis = -1 if kernel_of(layer).on_input else -2
        mean_square = squares.get(id(layer))
        if mean_square is None or value.shape[axis] != len(mean_square):
            raise ModelError(
                f"layer '{layer.name}' ({type(layer).__name__}) must have one kernel slice for each input channel, "
                "received a grouped or nested layer: exclude it."
            )
        return mean_square if axis == -1 else mean_square[:, np.newaxis]

    return weight_squares(question.model, question.elements, of_inputs)
