"""Sizes of the kernel weights per input channel and per unit, for magnitude scores and for costs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import layers

from .._utils import Array
from ..errors import ModelError
from ._registry import inherited_from


@dataclass(frozen=True)
class Kernel:
    """Summary of the weights between a layer's input channels and its units.

    Parameters
    ----------
    incoming : ndarray of float64, shape (units,)
        Sum of squared weights of each unit.
    outgoing : ndarray of float64, shape (channels,)
        Sum of squared weights of each input channel.
    pair : float
        Mean number of weights between one input channel and one unit.
    alone : float
        Number of weights that act on single input channels before these are mixed.
    on_input : bool
        Whether the kernel is applied at the positions of the input (else of the output).

    Examples
    --------
    >>> import dropreg as dr
    >>> dr.layers.kernel_of(dr.datasets.load_model("mlp").layers[1]).pair
    1.0
    """

    incoming: Array
    outgoing: Array
    pair: float
    alone: float = 0.0
    on_input: bool = False


def _conv(layer: Any) -> Kernel:
    squares = np.asarray(layer.kernel, np.float64) ** 2
    groups, (n_inputs, n_units) = getattr(layer, "groups", 1), squares.shape[-2:]
    flat = squares.reshape(-1, n_inputs, groups, n_units // groups).sum(axis=0)
    outgoing = flat.sum(axis=2).T.reshape(-1)  # the channels of group 0, then those of group 1, ...
    return Kernel(flat.sum(axis=0).reshape(-1), outgoing, squares.size / (len(outgoing) * n_units))


def _conv_transpose(layer: Any) -> Kernel:
    squares = np.asarray(layer.kernel, np.float64) ** 2  # (..., units, channels)
    flat = np.swapaxes(squares, -1, -2).reshape(-1, squares.shape[-1], squares.shape[-2]).sum(axis=0)
    return Kernel(flat.sum(axis=0), flat.sum(axis=1), squares.size / flat.size, on_input=True)


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
    """Register the function that summarizes the kernel of a layer class; subclasses inherit it as they do rules.

    Parameters
    ----------
    *kinds : type
        Layer classes.
    kernel : callable
        Takes a layer and returns its `Kernel`.

    Examples
    --------
    >>> import dropreg as dr, keras
    >>> class Own(keras.layers.Dense):
    ...     def call(self, inputs):
    ...         return super().call(2 * inputs)
    >>> dr.layers.register_kernels(Own, kernel=lambda layer: dr.layers.kernel_of(keras.layers.Dense(3)))
    """
    for kind in kinds:
        _KERNELS[kind] = kernel


def kernel_of(layer: Any) -> Kernel:
    """Return the summary of a layer's kernel.

    Parameters
    ----------
    layer : keras.layers.Layer

    Returns
    -------
    Kernel

    Raises
    ------
    ModelError
        If no function is registered for the layer's class.

    Examples
    --------
    >>> import dropreg as dr
    >>> layer = dr.datasets.load_model("mlp").layers[1]
    >>> dr.layers.kernel_of(layer).outgoing.shape
    (784,)
    """
    kind = inherited_from(type(layer), _KERNELS)
    if kind in _KERNELS:
        return _KERNELS[kind](layer)
    raise ModelError(
        f"layer '{layer.name}' ({type(layer).__name__}) must have a kernel with known axes for channels and units, "
        "received a class without: exclude it, or register a function with dropreg.layers.register_kernels."
    )


register_kernels(layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D, kernel=_conv)
register_kernels(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose, kernel=_conv_transpose)
register_kernels(layers.DepthwiseConv1D, layers.DepthwiseConv2D, kernel=_depthwise)
register_kernels(layers.SeparableConv1D, layers.SeparableConv2D, kernel=_separable)
