"""Keras' masks of steps: which steps of a sequence are there, and not padded.

Layers such as an Embedding with mask_zero attach them to what they give. A tensor that is kept, gathered or handed to
a compiled function loses its mask, so the two are packed side by side.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from ._access import get_keras_mask, set_keras_mask


def step_mask(value: Any) -> Any:
    """The mask (rows, steps) of a tensor that a layer gave, True where a step is there; None without one."""
    return get_keras_mask(value)


def with_step_mask(value: Any, mask: Any) -> Any:
    """`value`, to which a mask is attached if there is one."""
    if mask is not None:
        set_keras_mask(value, mask)
    return value


def packed(value: Any) -> list[tf.Tensor]:
    """A tensor, and its mask if it has one."""
    mask = step_mask(value)
    return [value] if mask is None else [value, tf.cast(mask, tf.bool)]


def unpacked(parts: Sequence[tf.Tensor]) -> tf.Tensor:
    """The tensor of `packed` with its mask."""
    value, *masks = parts
    return with_step_mask(tf.identity(value), masks[0]) if masks else value


def with_counted(value: Any, mask: Any) -> Any:
    """`value`, to which is attached which of its steps count, if not all do; layers do not see that."""
    if mask is not None:
        value._dropreg_counted = mask
    return value


def counted_steps(value: Any) -> Any:
    """What `with_counted` has attached, None where all steps count."""
    return getattr(value, "_dropreg_counted", None)


def weights_of(value: Any) -> tf.Tensor | None:
    """What each position of a tensor counts, None where all count the same.

    Parameters
    ----------
    value : Tensor, shape (rows, ..., channels)
        With or without `counted_steps`.

    Returns
    -------
    Tensor of float32, shape (rows, ..., 1), or None
        Rows with steps that count do so the same, and these steps share that; the sum over all is 1, or 0 without any.
    """
    mask = counted_steps(value)
    if mask is None:
        return None
    weights = tf.cast(tf.expand_dims(at_positions(value, mask), -1), tf.float32)
    axes = list(range(1, len(weights.shape)))
    weights = tf.math.divide_no_nan(weights, tf.reduce_sum(weights, axis=axes, keepdims=True))
    return tf.math.divide_no_nan(weights, tf.reduce_sum(weights))


def channel_means(value: Any) -> tf.Tensor:
    """Means over all axes but the last, without steps that do not count."""
    weights, axes = weights_of(value), list(range(len(value.shape) - 1))
    value = tf.cast(value, tf.float32)
    return tf.reduce_mean(value, axis=axes) if weights is None else tf.reduce_sum(value * weights, axis=axes)


def at_positions(value: Any, mask: Any) -> tf.Tensor:
    """A mask of steps as one of all positions of a tensor (rows, ..., channels), in its shape without the last axis."""
    if mask is None:
        return tf.ones(tf.shape(value)[:-1], tf.bool)
    mask = tf.cast(mask, tf.bool)
    for _ in range(len(value.shape) - 1 - len(mask.shape)):
        mask = tf.expand_dims(mask, -1)
    return tf.broadcast_to(mask, tf.shape(value)[:-1])
