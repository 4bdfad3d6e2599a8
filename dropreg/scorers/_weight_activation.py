"""Weights times activations."""

from typing import TYPE_CHECKING, Any

import numpy as np

from .._utils import Array
from ..data import Data, Task
from ..element import Elements
from ..errors import ModelError
from ..network import Question, ask_one
from ..regression import ImpactTable
from ._scorer import affordable, table_of
from ._statistics import activations, are_weights, by_element, check_units, consumers, input_squares, weight_squares

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
    method, outcome = "weight x activation norm", "pre-activations"
    return table_of(question, np.sqrt(squares), method=method, outcome=outcome, rows=n, details=details)


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
