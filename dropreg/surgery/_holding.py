"""Constraints that keep rounded and shared weights what they are during training, but for scales and shared values."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ..element import Quantized, Replacement

_SPLIT = 257.0  # 2 ** 8 + 1


class Hold(keras.constraints.Constraint):
    """A constraint that `copy_model` copies. It is a property of the variable, not of the layer's config."""

    def fresh(self) -> "Hold":
        """Return a constraint for a copy of the variable."""
        return self

    def restart(self, w: Any) -> None:
        """Forget earlier steps: the variable has been set to `w`."""


class HoldRounded(Hold):
    """Constraint that projects weights, after every optimizer step, to multiples of a scale for each output channel.

    The multiples remain, the scales learn. A scale has 16 binary digits, so that multiples of up to 8 bits are exact.

    Parameters
    ----------
    codes : ndarray, in the variable's shape
        Whole numbers.
    kept : ndarray of bool, in the variable's shape, optional
        True for weights that are free; none by default.
    columns : int, optional
        Number of output channels, which are the last axis by default, or the last axes.
    """

    def __init__(
        self, codes: npt.NDArray[Any], kept: npt.NDArray[np.bool_] | None = None, columns: int | None = None
    ) -> None:
        free = np.zeros(codes.shape, bool) if kept is None else kept
        self.codes, self.kept = np.where(free, 0, codes).astype(np.float32), free
        self._matrix = self.codes.reshape(-1, codes.shape[-1] if columns is None else columns)
        squares = np.square(self._matrix).sum(axis=0)
        self._weights = self._matrix / np.where(squares > 0, squares, 1.0).astype(np.float32)

    def __call__(self, w: Any) -> Any:
        matrix: Any = keras.ops.reshape(w, self._matrix.shape)
        scale: Any = keras.ops.sum(matrix * keras.ops.cast(self._weights, w.dtype), axis=0)
        rounded: Any = leading_digits(scale) * keras.ops.cast(self._matrix, w.dtype)
        return keras.ops.where(self.kept, w, keras.ops.reshape(rounded + 0.0, w.shape))

    def get_config(self) -> dict[str, Any]:
        columns = self._matrix.shape[1]
        return {"codes": self.codes.tolist(), "kept": self.kept.tolist(), "columns": columns}


class LearnRounded(Hold):
    """Constraint that rounds weights after every optimizer step, and remembers what rounding took away.

    Steps change the weights before rounding, so that small steps add up until a code changes (straight-through
    estimator [1]_). Scales remain: `settle` lets them learn afterwards.

    Parameters
    ----------
    matrix : ndarray, shape (rows, columns)
        Weights before rounding, at the start.
    scales : ndarray, shape (columns,)
    most : int
        Largest code.
    prices : ndarray, shape (rows, 2 most + 1) or (1, 1)
        For each row, the squared change of a weight that choosing each code is worth.

    References
    ----------
    .. [1] Bengio, Leonard, Courville (2013), arXiv:1308.3432.
    """

    def __init__(self, matrix: npt.NDArray[Any], scales: npt.NDArray[Any], most: int, prices: npt.NDArray[Any]) -> None:
        self.scales, self.most = np.asarray(scales, np.float32), most
        self.prices = np.broadcast_to(np.asarray(prices, np.float32), (len(prices), 2 * most + 1))
        self.start = np.asarray(matrix, np.float32)
        self.hidden = tf.Variable(tf.constant(self.start), trainable=False)
        self.last = tf.Variable(tf.constant(self.start), trainable=False)

    def fresh(self) -> "LearnRounded":
        """Return a constraint in the state of the start."""
        return LearnRounded(self.start, self.scales, self.most, self.prices)

    def restart(self, w: Any) -> None:
        for variable in (self.hidden, self.last):
            variable.assign(tf.reshape(tf.convert_to_tensor(w), self.start.shape))

    def codes(self, matrix: Any) -> Any:
        """Return the nearest multiples of the scale, where codes that are worth more are nearer."""
        units: Any = matrix / self.scales
        best: Any = tf.zeros_like(units)
        least: Any = tf.square(matrix) + self.prices[:, self.most, np.newaxis]
        for number, code in enumerate(range(-self.most, self.most + 1)):
            cost = tf.square((units - float(code)) * self.scales) + self.prices[:, number, np.newaxis]
            best = tf.where(cost < least, float(code), best)
            least = tf.minimum(cost, least)
        return best

    def __call__(self, w: Any) -> Any:
        matrix = tf.reshape(w, self.start.shape)
        hidden = self.hidden.assign_add(matrix - self.last)
        return tf.reshape(self.last.assign(self.codes(hidden) * self.scales + 0.0), w.shape)

    def get_config(self) -> dict[str, Any]:
        return {
            "matrix": self.start.tolist(),
            "scales": self.scales.tolist(),
            "most": self.most,
            "prices": self.prices.tolist(),
        }


def leading_digits(scale: Any) -> Any:
    """Round a float32 tensor to 16 binary digits, by Veltkamp's split."""
    shifted = scale * _SPLIT
    return shifted - (shifted - scale)


class HoldShared(Hold):
    """Constraint that replaces weights that share a value by their mean after every optimizer step.

    Parameters
    ----------
    labels : ndarray of int, in the variable's shape
        Number of the shared value of each weight; -1 for weights that are free.
    """

    def __init__(self, labels: npt.NDArray[Any]) -> None:
        self.labels = labels.astype(np.int32)
        flat = self.labels.reshape(-1)
        self._count = int(flat.max(initial=-1)) + 1
        self._flat = np.where(flat < 0, self._count, flat)
        self._sizes = np.maximum(np.bincount(self._flat, minlength=self._count + 1), 1).astype(np.float32)

    def __call__(self, w: Any) -> Any:
        flat = keras.ops.reshape(w, (-1,))
        sums: Any = keras.ops.segment_sum(flat, self._flat, num_segments=self._count + 1)
        means = sums / keras.ops.cast(self._sizes, w.dtype)
        shared = keras.ops.reshape(keras.ops.take(means, self._flat), w.shape)
        return keras.ops.where(self.labels < 0, w, shared)

    def get_config(self) -> dict[str, Any]:
        return {"labels": self.labels.tolist()}


def hold_values(
    variable: Any,
    values: npt.NDArray[Any],
    codes: npt.NDArray[Any],
    replacement: Replacement,
    kept: npt.NDArray[np.bool_] | None = None,
    columns: int | None = None,
) -> None:
    """Set the entries of a variable to `values` where `kept` is False, and constrain them to their codes.

    `codes` are multiples of scales, or numbers of shared values, in the variable's shape.
    """
    free = np.zeros(values.shape, bool) if kept is None else kept
    is_rounded = isinstance(replacement, Quantized)
    constraint: Hold = HoldRounded(codes, free, columns) if is_rounded else HoldShared(np.where(free, -1, codes))
    now = np.asarray(keras.ops.convert_to_numpy(variable))
    variable.assign(constraint(keras.ops.convert_to_tensor(np.where(free, now, values).astype(now.dtype))))
    variable.constraint = constraint


def settle(model: keras.Model) -> None:
    """Keep the codes that training has found; further training changes scales only."""
    for variable in model.weights:
        if isinstance(found := variable.constraint, LearnRounded):
            values = np.asarray(keras.ops.convert_to_numpy(variable))
            codes = np.rint(values.reshape(found.start.shape) / found.scales)
            variable.constraint = HoldRounded(codes.reshape(values.shape), columns=len(found.scales))
