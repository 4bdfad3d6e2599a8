"""How large the weights are that write and read each channel of a layer: for the magnitude baselines and for costs.

A layer of your own takes part by `register_kernels`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import layers

from .._utils import Array
from ..errors import ModelError


@dataclass(frozen=True)
class Kernel:
    """A layer's weights between its input channels and its units.

    Attributes
    ----------
    incoming : ndarray of float64, shape (units,)
        Sum of squared weights that compute each unit.
    outgoing : ndarray of float64, shape (channels,)
        Sum of squared weights that read each input channel.
    pair : float
        Weights between one input channel and one unit, on average over pairs.
    alone : float
        Weights of the kernel that lie on input channels before they are mixed.
    on_input : bool
        Whether the kernel is laid over the positions of the input (else of the output).
    """

    incoming: Array
    outgoing: Array
    pair: float
    alone: float = 0.0
    on_input: bool = False


def _split(squares: Array, n_inputs: int, n_units: int) -> Kernel:
    """From squared weights (..., channels, units)."""
    flat = squares.reshape(-1, n_inputs, n_units).sum(axis=0)
    return Kernel(flat.sum(axis=0), flat.sum(axis=1), squares.size / (n_inputs * n_units))


def _dense(layer: Any) -> Kernel:
    kernel = np.asarray(layer.kernel, np.float64)
    return _split(kernel**2, *kernel.shape)


def _conv(layer: Any) -> Kernel:
    squares = np.asarray(layer.kernel, np.float64) ** 2
    groups, (n_inputs, n_units) = layer.groups, squares.shape[-2:]
    flat = squares.reshape(-1, n_inputs, groups, n_units // groups).sum(axis=0)
    outgoing = flat.sum(axis=2).T.reshape(-1)  # channels of group 0 first, then those of group 1
    return Kernel(flat.sum(axis=0).reshape(-1), outgoing, squares.size / (len(outgoing) * n_units))


def _conv_transpose(layer: Any) -> Kernel:
    squares = np.asarray(layer.kernel, np.float64) ** 2  # (..., units, channels)
    kernel = _split(np.swapaxes(squares, -1, -2), squares.shape[-1], squares.shape[-2])
    return Kernel(kernel.incoming, kernel.outgoing, kernel.pair, on_input=True)


def _separable(layer: Any) -> Kernel:
    depthwise = np.asarray(layer.depthwise_kernel, np.float64)  # (..., channels, multiplier)
    pointwise = np.asarray(layer.pointwise_kernel, np.float64)  # (1, ..., channels * multiplier, units)
    n_inputs, depth, n_units = *depthwise.shape[-2:], pointwise.shape[-1]
    read = (depthwise**2).reshape(-1, n_inputs, depth).sum(axis=0)
    mixed = (pointwise**2).reshape(n_inputs, depth, n_units)
    outgoing = (read * mixed.sum(axis=2)).sum(axis=1)
    return Kernel(mixed.sum(axis=(0, 1)), outgoing, float(depth), alone=float(depthwise.size))


def _depthwise(layer: Any) -> Kernel:
    squares = np.asarray(layer.kernel, np.float64) ** 2  # (..., channels, multiplier)
    flat = squares.reshape(-1, *squares.shape[-2:]).sum(axis=0)
    return Kernel(flat.reshape(-1), flat.sum(axis=1), squares.size / (flat.size * len(flat)))


_KERNELS: dict[type, Callable[[Any], Kernel]] = {}


def register_kernels(*kinds: type, kernel: Callable[[Any], Kernel]) -> None:
    """Say how a layer's kernel is read; subclasses inherit it."""
    for kind in kinds:
        _KERNELS[kind] = kernel


def kernel_of(layer: Any) -> Kernel:
    """The kernel of a layer.

    Raises
    ------
    ModelError
        If the layer's class has none that is known.
    """
    for kind in type(layer).__mro__:
        if kind in _KERNELS:
            return _KERNELS[kind](layer)
    raise ModelError(
        f"layer '{layer.name}' ({type(layer).__name__}) must have a kernel whose weights can be told apart by channel, "
        "received a class without: exclude it, or add one with dropreg.layers.norms.register_kernels."
    )


register_kernels(layers.Dense, kernel=_dense)
register_kernels(layers.Conv1D, layers.Conv2D, layers.Conv3D, kernel=_conv)
register_kernels(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose, kernel=_conv_transpose)
register_kernels(layers.DepthwiseConv1D, layers.DepthwiseConv2D, kernel=_depthwise)
register_kernels(layers.SeparableConv1D, layers.SeparableConv2D, kernel=_separable)
