"""Apply masks to activations, heads, layers and weights."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ..element import Columns, InnerGate, Quantized
from ..graph import variables_of

_MOST_SLICES = 16


def _mask_heads(
    original: Callable[..., Any], columns: Columns, masks: tf.Tensor, value: tf.Tensor, *args: Any, **kwargs: Any
) -> Any:
    """Call an output projection with its input (rows, ..., heads, size) masked by head."""
    factors = pick_masks(tf.cast(masks, value.dtype), columns)
    ones = [1] * (len(value.shape) - 3)
    return original(value * tf.reshape(factors, [tf.shape(masks)[0], *ones, len(columns), 1]), *args, **kwargs)


def change_state(
    original: Callable[..., Any], change: Callable[[tf.Tensor], tf.Tensor], value: tf.Tensor, states: Any, **kwargs: Any
) -> Any:
    """Call a recurrent cell with its previous output replaced by ``change(output)``."""
    if not keras.tree.is_nested(states):
        return original(value, change(states), **kwargs)
    return original(value, [change(states[0]), *states[1:]], **kwargs)


def _mask_output(original: Callable[..., Any], columns: Columns, masks: tf.Tensor, *args: Any, **kwargs: Any) -> Any:
    """Call a layer and mask its output along the last axis."""
    return apply_mask(original(*args, **kwargs), masks, columns)


def _bypass(original: Callable[..., Any], columns: Columns, masks: tf.Tensor, *args: Any, **kwargs: Any) -> Any:
    """Call a layer and replace its output by its (first) input where the layer is dropped."""
    result = original(*args, **kwargs)
    value = next(leaf for leaf in keras.tree.flatten((args, kwargs)) if tf.is_tensor(leaf))
    return value + apply_mask(result - value, masks, np.repeat(columns, result.shape[-1]))


def _round_output(
    original: Callable[..., Any], bits: int, columns: Columns, masks: tf.Tensor, *args: Any, **kw: Any
) -> Any:
    """Call a layer and round its output where it is dropped, with a scale for each example."""
    value = original(*args, **kw)
    most = 2.0 ** (bits - 1) - 1
    largest = tf.reduce_max(tf.abs(value), axis=list(range(1, len(value.shape))), keepdims=True)
    scale = tf.where(largest > 0, largest, tf.ones_like(largest)) / tf.cast(most, value.dtype)
    rounded = tf.stop_gradient(tf.round(value / scale) * scale)
    return rounded + apply_mask(value - rounded, masks, np.repeat(columns, value.shape[-1]))


MASKED_CALLS: dict[str, Callable[..., Any]] = {"heads": _mask_heads, "output": _mask_output, "bypass": _bypass}


def masked_call(gate: InnerGate) -> Callable[..., Any]:
    """Return a function of a layer's call, columns, masks and arguments that computes the masked output."""
    if gate.where == "rounding":
        assert isinstance(gate.replacement, Quantized)
        bits = gate.replacement.bits
        return lambda original, *rest, **kwargs: _round_output(original, bits, *rest, **kwargs)
    return MASKED_CALLS[gate.where]


def masked_variable(layer: Any, gate: InnerGate, masks: tf.Tensor) -> tuple[Any, tf.Tensor]:
    """Return a variable and its value with dropped entries replaced, for masks of shape (1, n_elements)."""
    variable = variables_of(layer)[gate.variable]
    value = tf.convert_to_tensor(variable.value)
    factors = tf.reshape(pick_masks(tf.cast(masks[:1], value.dtype), gate.columns), value.shape)
    if gate.replacement is None:
        return variable, value * factors
    with tf.init_scope():  # once, also while a graph is built
        dropped = tf.constant(gate.replacement.values(np.asarray(keras.ops.convert_to_numpy(variable.value))))
    return variable, dropped + (value - dropped) * factors


def apply_mask(value: tf.Tensor, masks: tf.Tensor, columns: npt.NDArray[np.int64]) -> tf.Tensor:
    """Multiply channels (rows, ..., channels) by the mask values of their elements.

    `masks` have shape (rows, n_elements) or (1, n_elements); `columns` (channels,) holds the element of each channel,
    -1 for always kept.
    """
    masks = tf.cast(masks, value.dtype)
    period = shortest_period(columns)
    repeats = len(columns) // period
    factors = pick_masks(masks, columns[:period])
    rows, shape = tf.shape(masks)[0], tf.shape(value)
    if repeats > 1:  # flattened channels: a repeating sequence of elements
        folded = tf.reshape(value, [shape[0], -1, repeats, period])
        return tf.reshape(folded * factors[:, tf.newaxis, tf.newaxis, :], shape)
    ones = [1] * (len(value.shape) - 2)
    return value * tf.reshape(factors, [rows, *ones, period])


def shortest_period(columns: npt.NDArray[np.int64]) -> int:
    """Return the length of the shortest sequence whose repetition gives `columns`."""
    first = columns[0]
    for start in np.flatnonzero(columns == first)[1:].tolist():
        if len(columns) % start == 0 and (columns.reshape(-1, start) == columns[:start]).all():
            return start
    return len(columns)


def pick_masks(masks: tf.Tensor, columns: npt.NDArray[np.int64]) -> tf.Tensor:
    """Return columns of `masks`, ones for -1; by slices if few are enough, because their gradients are cheap."""
    kept = columns < 0
    continues = np.where(kept[1:], kept[:-1], (np.diff(columns) == 1) & ~kept[:-1])
    breaks = np.flatnonzero(~continues) + 1
    runs = np.split(columns, breaks)
    if len(runs) > _MOST_SLICES:
        padded = tf.concat([masks, tf.ones_like(masks[:, :1])], axis=1)
        last = tf.shape(masks)[1]
        return tf.gather(padded, tf.where(kept, tf.cast(last, tf.int64), columns), axis=1)
    parts = [
        tf.ones([tf.shape(masks)[0], len(run)], masks.dtype) if run[0] < 0 else masks[:, run[0] : run[0] + len(run)]
        for run in runs
    ]
    return parts[0] if len(parts) == 1 else tf.concat(parts, axis=1)
