"""The places in a model where masks act."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ._replacements import Replacement

Columns = npt.NDArray[np.int64]
"""Number of the element that each entry of an axis belongs to, -1 for always kept."""


@dataclass(frozen=True)
class Gate:
    """Masks multiply one input of one call, along its last axis.

    Attributes
    ----------
    call, position : int
        Number of the call in the graph, and of its input.
    columns : ndarray of int64, shape (channels,)
        Element that each entry of the input's last axis belongs to, -1 for always kept.
    """

    call: int
    position: int
    columns: Columns


@dataclass(frozen=True)
class InnerGate:
    """Masks act inside a layer, in all of its calls.

    Attributes
    ----------
    where : str
        "heads": multiply the last axis but one of the input of `layer`, an attention's output projection. "state":
        multiply the previous output, an input of a recurrent cell. "output": multiply the last axis of the layer's
        output. "bypass": replace the layer by the identity. "kernel": multiply one of its variables, with one mask
        for all examples of a batch. "rounding": round the layer's output where its element is dropped.
    layer : int
        Number of the layer in ``dropreg.graph.all_layers(model)``.
    columns : ndarray of int64
        Element of each head, unit or (flattened) scalar, -1 for always kept.
    variable : int
        For "kernel", the number of the variable among those of the layer itself.
    replacement : Quantized, Clustered or None
        What dropped weights or outputs become; None for zeros.
    """

    where: Literal["heads", "state", "output", "bypass", "kernel", "rounding"]
    layer: int
    columns: Columns
    variable: int = 0
    replacement: Replacement | None = None
