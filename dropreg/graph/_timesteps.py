"""Time step masks of Keras, which say which steps of a sequence are real and which are padding.

Layers such as an Embedding with ``mask_zero=True`` attach masks to their outputs. A tensor that is stored or passed to
a compiled function loses its mask; `packed` keeps both.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from ._access import get_keras_mask, set_keras_mask


def step_mask(value: Any) -> Any:
    """Return the mask (rows, steps) of a layer's output, True at real steps; None without a mask."""
    return get_keras_mask(value)


def with_step_mask(value: Any, mask: Any) -> Any:
    """Attach `mask`, unless it is None, to `value` and return `value`."""
    if mask is not None:
        set_keras_mask(value, mask)
    return value


def packed(value: Any) -> list[tf.Tensor]:
    """Return a list of the tensor and, if it has one, its mask."""
    mask = step_mask(value)
    return [value] if mask is None else [value, tf.cast(mask, tf.bool)]


def unpacked(parts: Sequence[tf.Tensor]) -> tf.Tensor:
    """Return the tensor with its mask from the result of `packed`."""
    value, *masks = parts
    return with_step_mask(tf.identity(value), masks[0]) if masks else value


def with_counted(value: Any, mask: Any) -> Any:
    """Attach to `value` the mask of the steps to measure, unless it is None; unlike a Keras mask, layers ignore it."""
    if mask is not None:
        value._dropreg_counted = mask
    return value


def counted_steps(value: Any) -> Any:
    """Return the mask, or the weights, that were attached (`with_counted`); None if all steps count equally."""
    return getattr(value, "_dropreg_counted", None)


def with_row_weights(value: Any, weights: Any) -> Any:
    """Attach to `value` the weights (rows,) of its rows in measurements, unless they are None; layers ignore them."""
    if weights is not None:
        value._dropreg_row_weights = weights
    return value


def row_weights(value: Any) -> Any:
    """Return the weights that `with_row_weights` has attached; None if all rows count equally."""
    return getattr(value, "_dropreg_row_weights", None)


def with_position_weights(value: Any, mask: Any, weights: Any) -> Any:
    """Attach to `value` (rows, ..., channels) a mask as `with_counted` does, times weights (rows, ...) of positions.

    They may be None. A value with other positions gets the mask alone.
    """
    if weights is None or len(value.shape) != len(weights.shape) + 1:
        return with_counted(value, mask)
    counted = tf.cast(at_positions(value, mask), tf.float32)
    same = tf.reduce_all(tf.equal(tf.shape(counted), tf.shape(weights)))
    return with_counted(value, tf.cond(same, lambda: counted * weights, lambda: counted))


def measured_as(value: Any, other: Any) -> Any:
    """Attach to `value` the mask of steps to measure and the weights of rows of another tensor."""
    return with_row_weights(with_counted(value, counted_steps(other)), row_weights(other))


def by_row(weights: Any, value: Any) -> tf.Tensor:
    """Return weights (rows,) in the shape (rows, 1, ..., 1) of the rank of `value`."""
    return tf.reshape(weights, [-1, *[1] * (len(value.shape) - 1)])


def weights_of(value: Any) -> tf.Tensor | None:
    """Return the weight (rows, ..., 1) of each position of a tensor (rows, ..., channels); None if all are equal.

    Every row with measured steps has the same total weight, or its own (`row_weights`), shared by these steps, equally
    or by their weights.
    All weights sum to 1, or to 0 if no step is measured.
    """
    mask, rows = counted_steps(value), row_weights(value)
    if mask is None and rows is None:
        return None
    weights = tf.cast(tf.expand_dims(at_positions(value, mask), -1), tf.float32)
    axes = list(range(1, len(weights.shape)))
    weights = tf.math.divide_no_nan(weights, tf.reduce_sum(weights, axis=axes, keepdims=True))
    weights = weights if rows is None else weights * by_row(rows, weights)
    return tf.math.divide_no_nan(weights, tf.reduce_sum(weights))


def channel_means(value: Any) -> tf.Tensor:
    """Return the means over all axes but the last, over measured steps only."""
    weights, axes = weights_of(value), list(range(len(value.shape) - 1))
    value = tf.cast(value, tf.float32)
    return tf.reduce_mean(value, axis=axes) if weights is None else tf.reduce_sum(value * weights, axis=axes)


def at_positions(value: Any, mask: Any) -> tf.Tensor:
    """Broadcast a mask of steps to all positions of a tensor (rows, ..., channels): the shape without the last axis.

    Weights of positions remain float32, all else becomes bool.
    """
    if mask is None:
        return tf.ones(tf.shape(value)[:-1], tf.bool)
    mask = mask if getattr(mask, "dtype", None) == tf.float32 else tf.cast(mask, tf.bool)
    for _ in range(len(value.shape) - 1 - len(mask.shape)):
        mask = tf.expand_dims(mask, -1)
    return tf.broadcast_to(mask, tf.shape(value)[:-1])
