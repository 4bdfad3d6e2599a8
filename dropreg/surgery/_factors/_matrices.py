"""Kernels as matrices, and the layers that two matrices make."""

from typing import Any

import keras
import numpy as np

from ..._utils import Array
from ...graph import Call, Graph
from ...layers import LinearReader, rule_for
from ._rewrite import Part

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
NARROW = "its kernel has a single row or column"
_KINDS = (keras.layers.Dense, keras.layers.EinsumDense, *_CONVOLUTIONS)


def is_kernel_layer(layer: Any) -> bool:
    """Return whether a layer is of a class that multiplies channels by a kernel."""
    return isinstance(layer, _KINDS)


def why_not(graph: Graph, call: Call) -> str | None:
    """Return why a kernel layer cannot be written as a product, as a clause; None if it can be."""
    layer = call.layer
    if (reason := why_no_matrix(call)) is not None:
        return reason
    if (reason := rule_for(layer).blocked(call)) is not None:
        return reason
    if layer.kernel.constraint is not None or getattr(layer, "kernel_constraint", None) is not None:
        return "its kernel has a constraint, which its factors would not meet"
    if (other := graph.shared.other(layer, call.name)) is not None:
        return f"it shares weights with layer '{other}'"
    if min(matrix_of(call).shape) < 2:
        return NARROW
    return None


def why_no_matrix(call: Call) -> str | None:
    """Return why a kernel layer does not multiply its input by a matrix, as a clause; None if it does."""
    layer, rule = call.layer, rule_for(call.layer)
    if not isinstance(rule, LinearReader):
        return "its class computes something of its own"
    if getattr(layer, "data_format", "channels_last") != "channels_last":
        return "it has data_format='channels_first'"
    if getattr(layer, "groups", 1) > 1:
        return "its channels are in groups"
    if rule.kernel_rows(call, layer.get_weights()) is None:
        return f"its equation {layer.equation} has more than one axis of channels or units"
    return None


def matrix_of(call: Call) -> Array:
    """Return the kernel as a matrix of shape (taps x channels, units), float64."""
    weights = call.layer.get_weights()
    if isinstance(call.layer, _CONVOLUTIONS):
        return weights[0].reshape(-1, weights[0].shape[-1]).astype(np.float64)
    rule: Any = rule_for(call.layer)
    return rule.kernel_rows(call, weights)[0].astype(np.float64)


def linear_part(call: Call, name: str, matrix: Array) -> Part:
    """Return the layer without bias and activation that has this matrix, with any number of units, as its kernel."""
    config, n_units = call.layer.get_config(), matrix.shape[1]
    settings = {"name": name, "activation": "linear", "bias_regularizer": None, "bias_constraint": None}
    settings |= {"activity_regularizer": None, **_size(call, config, n_units)}
    settings |= {"bias_axes": None} if "bias_axes" in config else {"use_bias": False}
    return Part(call, {**config, **settings}, [_as_kernel(call, matrix)])


def last_part(call: Call, matrix: Array) -> Part:
    """Return the layer at single positions with this matrix as its kernel, and the bias and activation of `call`."""
    config = {**call.layer.get_config(), "kernel_regularizer": None}
    kernel, *others = call.layer.get_weights()
    if isinstance(call.layer, _CONVOLUTIONS):
        ones = [1] * (kernel.ndim - 2)
        config |= {"kernel_size": ones, "strides": ones, "dilation_rate": ones, "padding": "valid"}
        return Part(call, config, [matrix.reshape(*ones, *matrix.shape).astype(kernel.dtype), *others])
    return Part(call, config, [_as_kernel(call, matrix), *others])


def product_part(first: Call, second: Call) -> Part:
    """Return the layer that computes what `first` and then `second`, at single positions, compute."""
    config, before = second.layer.get_config(), first.layer.get_config()
    matrix = matrix_of(first) @ matrix_of(second)
    geometry = ("kernel_size", "strides", "dilation_rate", "padding", "kernel_regularizer")
    config |= {name: before[name] for name in geometry if name in before}
    return Part(second, config, [_as_kernel(first, matrix), *second.layer.get_weights()[1:]])


def acts_on_positions(layer: Any) -> bool:
    """Return whether a kernel layer computes each position from the same position of its input."""
    if not isinstance(layer, _CONVOLUTIONS):
        return True
    return all(size == 1 for size in (*layer.kernel_size, *layer.strides))


def is_linear(layer: Any) -> bool:
    """Return whether a kernel layer has neither a bias nor an activation, nor a penalty on what it computes."""
    has_bias = layer.bias is not None
    activation = keras.activations.serialize(layer.activation) if layer.activation is not None else "linear"
    return not has_bias and activation == "linear" and layer.activity_regularizer is None


def _size(call: Call, config: dict[str, Any], n_units: int) -> dict[str, Any]:
    if "output_shape" in config:
        shape = config["output_shape"]
        return {"output_shape": (*((shape,) if isinstance(shape, int) else shape)[:-1], n_units)}
    return {"filters" if isinstance(call.layer, _CONVOLUTIONS) else "units": n_units}


def _as_kernel(call: Call, matrix: Array) -> Array:
    weights = call.layer.get_weights()
    kind = weights[0].dtype
    if isinstance(call.layer, _CONVOLUTIONS):
        return matrix.reshape(*weights[0].shape[:-1], matrix.shape[1]).astype(kind)
    rule: Any = rule_for(call.layer)
    return rule.with_kernel_rows(call, weights, [matrix])[0].astype(kind)
