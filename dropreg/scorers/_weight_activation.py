"""Weight times activation norm."""

from typing import TYPE_CHECKING, Any

import numpy as np

from .._utils import Array
from ..data import Data, Task
from ..element import Elements
from ..errors import ModelError
from ..network import Question, ask_one
from ..regression import ImpactTable, impact_table
from ._scorer import affordable
from ._statistics import activations, are_weights, by_element, check_units, input_squares, readers, weight_squares

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
    the activation. For single weights that is the absolute weight times the root mean square of what
    it multiplies [1]_.

    Parameters
    ----------
    model, data, rows, task, seed
        As in `activation`.
    elements : Elements
        Neurons, filters, weights or groups of weights.

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
    if not are_weights(elements):
        check_units(elements, "weight times activation", "neurons, filters and weights")
    question = ask_one(model, data, elements, outcome="divergence", task=task, kept=None, seed=seed)
    question = question.first(affordable(rows, 1, len(question.examples), "example"))
    squares = _of_weights(question) if are_weights(elements) else _of_units(question)
    return impact_table(
        elements.to_frame(),
        np.sqrt(squares),
        method="weight x activation norm",
        outcome="pre-activations",
        rows=len(question.examples),
        seed=seed,
        details={"examples": len(question.examples)},
    )


def _of_units(question: Question) -> Array:
    elements, total = question.elements, np.zeros(len(question.elements))
    for reader, read in zip(readers(question.graph, elements), activations(question), strict=True):
        total += by_element(reader.gate.columns, reader.outgoing * read.mean_square, len(elements))
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
                "received grouped or nested ones: exclude it."
            )
        return mean_square if axis == -1 else mean_square[:, np.newaxis]

    return weight_squares(question.model, question.elements, of_inputs)
