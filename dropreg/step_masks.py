"""Keras' masks of steps: which steps of a sequence are there, and not padded.

Layers such as an Embedding with mask_zero attach them to what they give. A tensor that is kept, gathered or handed to
a compiled function loses its mask, so the two are packed side by side.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
from keras.src.backend import get_keras_mask, set_keras_mask


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


def weights_of(value: Any) -> tf.Tensor | None:
    """What each position of a tensor counts, None where all count the same.

    Parameters
    ----------
    value : Tensor, shape (rows, ..., channels)
        With or without a mask.

    Returns
    -------
    Tensor of float32, shape (rows, ..., 1), or None
        Rows count the same, and their steps that are there share that; the sum over all is 1.
    """
    mask = step_mask(value)
    if mask is None:
        return None
    weights = _spread(mask, value)
    axes = list(range(1, len(weights.shape)))
    weights = tf.math.divide_no_nan(weights, tf.reduce_sum(weights, axis=axes, keepdims=True))
    return weights / tf.reduce_sum(weights)


def unhidden(value: Any) -> tf.Tensor:
    """Positions of a tensor (rows, ..., channels) that no mask hides, in its shape without the last axis."""
    mask = step_mask(value)
    if mask is None:
        return tf.ones(tf.shape(value)[:-1], tf.bool)
    return tf.squeeze(_spread(mask, value), -1) > 0


def _spread(mask: Any, value: Any) -> tf.Tensor:
    """A mask of `value` (rows, ..., channels) as float32 numbers 0 and 1 of each of its positions, (rows, ..., 1)."""
    mask = tf.cast(mask, tf.float32)
    for _ in range(len(value.shape) - len(mask.shape)):
        mask = tf.expand_dims(mask, -1)
    return tf.broadcast_to(mask, tf.concat([tf.shape(value)[:-1], [1]], axis=0))
