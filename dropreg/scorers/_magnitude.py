"""Magnitude of weights."""

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
    """Score each element by the Euclidean norm of its kernel weights, without biases.

    Parameters
    ----------
    model : keras.Model
        It is not run.
    data
        Not used: all scorers are called alike. May be None.
    elements : Elements
        Neurons, filters, weights or groups of weights.
    norm : {"incoming", "outgoing", "both"}
        Which weights of a unit: those that compute it, those of the layers that consume it, or both. Units that are
        tied into one element are taken together. Without effect for elements that are weights themselves.
    seed : int
        Not used; stored with the result.

    Returns
    -------
    ImpactTable
        Impacts are at least 0, in the unit of the weights. No standard errors; no rows are spent.

    Raises
    ------
    ParameterError
        If `norm` is unknown or the elements are of another kind.
    ModelError
        If the channels of a layer's kernel are not known.

    References
    ----------
    .. [1] Li et al. (2017), "Pruning filters for efficient convnets", section 3.1 (with the L1 norm).

    Examples
    --------
    >>> import numpy as np
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> table = dr.scorers.magnitude(model, None, dr.elements(model, include=["dense_2"]))
    >>> kernel = model.get_layer("dense_2").get_weights()[0]
    >>> np.allclose(table.impact, np.linalg.norm(kernel, axis=0))
    True
    """
    if norm not in get_args(Norm):
        raise ParameterError(f"`norm` must be one of {', '.join(get_args(Norm))}, received {norm!r}.")
    squares, name = np.zeros(len(elements)), f"magnitude, {norm} weights"
    if are_weights(elements):
        squares, name = weight_squares(model, elements), "magnitude"
    else:
        check_units(elements, "magnitude", "neurons, filters and weights")
        if norm != "outgoing":
            squares += incoming_squares(model, elements)
        if norm != "incoming":
            squares += outgoing_squares(model, elements)
    return impact_table(
        *(elements.to_frame(), np.sqrt(squares)),
        method=name,
        outcome="weights",
        unit="norm of the weights",
        rows=0,
        seed=seed,
    )
