"""Where masks act in a model."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Columns = npt.NDArray[np.int64]
"""Element that each entry of an axis belongs to, -1 for always kept."""


@dataclass(frozen=True)
class Gate:
    """Masks multiply one input of one call, along its trailing axis.

    Attributes
    ----------
    call, position : int
        Which call of the graph, and which of its inputs.
    columns : ndarray of int64, shape (channels,)
        Element that each entry of the input's trailing axis belongs to, -1 for always kept.
    """

    call: int
    position: int
    columns: Columns


@dataclass(frozen=True)
class InnerGate:
    """Masks act inside a layer, wherever it is called.

    Attributes
    ----------
    where : str
        "heads": multiply the last axis but one of what `layer` reads (an attention's output
        projection). "state": multiply the previous output that a recurrent cell reads. "output":
        multiply the trailing axis of the layer's output. "bypass": replace the layer by the identity.
        "kernel": multiply one of its variables, for a whole batch at a time.
    layer : int
        Number of the layer among ``dropreg.graph.all_layers(model)``.
    columns : ndarray of int64
        Element of each head, unit or (flattened) scalar, -1 for always kept.
    variable : int
        Number of the variable among the layer's own, for "kernel".
    """

    where: Literal["heads", "state", "output", "bypass", "kernel"]
    layer: int
    columns: Columns
    variable: int = 0
