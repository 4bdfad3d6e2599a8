"""Layers inside others: the heads of an attention layer, and what projects."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..graph import Shape

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Heads:
    """The attention heads of a layer.

    Attributes
    ----------
    count : int
    projection : keras.layers.Layer
        Sublayer that reads the heads, along the last axis but one of its input.
    params : int
        Parameters of one head.
    macs : callable
        Multiply-adds an example of one head, from the input shapes of the call.
    """

    count: int
    projection: Any
    params: int
    macs: Callable[[tuple[Shape, ...]], float]


@dataclass(frozen=True)
class Projection:
    """A layer inside another one whose kernel mixes channels that reach it.

    Attributes
    ----------
    layer : keras.layers.Layer
    bound : int
        So many of the last axes of its input, and of the first of its kernel, are mixed.
    argument : (str, int)
        The outer layer's argument, by name and place, whose steps it reads.
    """

    layer: Any
    bound: int
    argument: tuple[str, int]

    @property
    def n_channels(self) -> int:
        """How many are mixed."""
        return math.prod(self.layer.kernel.shape[: self.bound])

    @property
    def kernel(self) -> Array:
        """The kernel as a matrix (channels, numbers)."""
        return np.reshape(np.asarray(self.layer.kernel, np.float64), (self.n_channels, -1))

    def learn(self, kernel: Array, shift: Array) -> None:
        """Take another kernel, and a bias, if there is one, that is larger by `shift`."""
        self.layer.kernel.assign(np.reshape(kernel, self.layer.kernel.shape))
        if self.layer.bias is not None:
            self.layer.bias.assign_add(np.reshape(shift, self.layer.bias.shape))
