"""The heads of attention layers, and sublayers that mix channels."""

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

    Parameters
    ----------
    count : int
        Number of elements: heads, or groups of heads that share a key head.
    projection : keras.layers.Layer
        Sublayer that consumes the heads, along the next-to-last axis of its input.
    params : int
        Parameters of one element.
    macs : callable
        Returns the multiply-adds of one element per example, from the input shapes of the call.
    each : int
        Number of (consecutive) query heads of one element.
    """

    count: int
    projection: Any
    params: int
    macs: Callable[[tuple[Shape, ...]], float]
    each: int = 1


@dataclass(frozen=True)
class Projection:
    """A sublayer whose kernel mixes channels.

    Parameters
    ----------
    layer : keras.layers.Layer
    bound : int
        Number of mixed axes: the last ones of its input and the first ones of its kernel.
    argument : (str, int)
        Name and position of the outer layer's argument whose time steps the sublayer consumes.
    """

    layer: Any
    bound: int
    argument: tuple[str, int]

    @property
    def n_channels(self) -> int:
        """Number of mixed channels."""
        return math.prod(self.layer.kernel.shape[: self.bound])

    @property
    def kernel(self) -> Array:
        """Kernel as a matrix (channels, numbers)."""
        return np.reshape(np.asarray(self.layer.kernel, np.float64), (self.n_channels, -1))

    def learn(self, kernel: Array, shift: Array) -> None:
        """Set the kernel, and add `shift` to the bias, if there is one."""
        self.layer.kernel.assign(np.reshape(kernel, self.layer.kernel.shape))
        if self.layer.bias is not None:
            self.layer.bias.assign_add(np.reshape(shift, self.layer.bias.shape))
