"""Magnitude of the weights that compute and read an element."""

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from ..data import Data
from ..element import Elements
from ..errors import ParameterError
from ..regression import ImpactTable, impact_table
from ._statistics import are_weights, check_units, incoming_squares, outgoing_squares, weight_squares

if TYPE_CHECKING:
    import keras

Norm = Literal["incoming", "outgoing", "both"]


def magnitude(
    model: "keras.Model", data: Data | None, elements: Elements, *, norm: Norm = "incoming", seed: int = 0
) -> ImpactTable:
    """Euclidean norm of an element's kernel weights, biases left out.

    Parameters
    ----------
    model : keras.Model
    data
        Not used; there to be called like the other scorers.
    elements : Elements
        Neurons, filters, weights or groups of weights.
    norm : {"incoming", "outgoing", "both"}
        Of the weights that compute the unit, of those that read it, or of all of them. Of tied units
        the weights are taken together. No matter for weights, whose own norm it is.
    seed : int
        Not used; stored with the result.

    Returns
    -------
    ImpactTable
        Impacts in the unit of the weights; no rows spent.

    Raises
    ------
    ParameterError
        If `norm` is unknown or the elements are of another kind.
    ModelError
        If a layer's kernel is not known by channel.

    References
    ----------
    .. [1] Li et al. (2017), "Pruning filters for efficient convnets", section 3.1 (with the L1 norm).
    """
    if norm not in get_args(Norm):
        raise ParameterError(f"`norm` must be one of {', '.join(get_args(Norm))}, received {norm!r}.")
    if are_weights(elements):
        norms = np.sqrt(weight_squares(model, elements))
        return impact_table(elements.to_frame(), norms, method="magnitude", outcome="weights", rows=0, seed=seed)
    check_units(elements, "magnitude", "neurons, filters and weights")
    squares = np.zeros(len(elements))
    if norm != "outgoing":
        squares += incoming_squares(model, elements)
    if norm != "incoming":
        squares += outgoing_squares(model, elements)
    name = f"magnitude, {norm} weights"
    return impact_table(elements.to_frame(), np.sqrt(squares), method=name, outcome="weights", rows=0, seed=seed)
