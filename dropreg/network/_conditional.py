"""Least-squares prediction of dropped channels from the kept ones."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

from .._utils import Array


@dataclass(frozen=True)
class Moments:
    """Moments of the channels at one gate, over examples and positions.

    Attributes
    ----------
    mean : ndarray of float64, shape (channels,)
    scale : ndarray of float64, shape (period,)
        Standard deviation of each channel; flattened positions of one channel share it.
    correlation : ndarray of float64, shape (period, period)
        With the ridge on its diagonal.
    precision : ndarray of float64, shape (period, period)
        Inverse of the correlation.
    """

    mean: Array
    scale: Array
    correlation: Array
    precision: Array


class Conditional(NamedTuple):
    """Predictions of standardized channels from the kept ones, for some masks.

    With x the channels and z = replacement x, the part of channel j that the other kept channels do not predict is
    x_j - z_j if j is dropped and (precision z)_j variance_j if it is kept.

    Attributes
    ----------
    replacement : Tensor, shape (groups, channels, channels)
        Matrix that maps the channels to themselves if kept, else to their predictions.
    variance : Tensor, shape (groups, channels)
        Variance of a kept channel given the other kept channels, zero for dropped channels.
    loading : Tensor, shape (groups, channels, channels)
        Column j predicts all channels that are not kept, and j itself, from the residual of j.
    """

    replacement: tf.Tensor
    variance: tf.Tensor
    loading: tf.Tensor

    def replace(self, x: tf.Tensor, kept: tf.Tensor, precision: tf.Tensor, *, many_rows: bool) -> tf.Tensor:
        """Return the channels (groups, rows, channels) that replace standardized channels x of the same shape.

        The gradient by `kept` (groups, channels) is that of "drop and merge"; the values do not depend on it.
        `precision` has shape (channels, channels). With `many_rows`, sums over rows come first, which is less work if a
        group has more rows than channels.
        """
        replacement = tf.linalg.matrix_transpose(self.replacement)

        def residual(x: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
            return x - z + tf.matmul(z, precision) * self.variance[:, tf.newaxis, :]

        residuals = residual(tf.eye(tf.shape(precision)[0]), replacement) if many_rows else None

        @tf.custom_gradient
        def flipped(x: tf.Tensor, kept: tf.Tensor) -> Any:
            del kept
            z = tf.matmul(x, replacement)
            left = residual(x, z) if residuals is None else residuals

            def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                by_x = tf.matmul(upstream, replacement, transpose_b=True)
                upstream = upstream if residuals is None else tf.matmul(x, upstream, transpose_a=True)
                return by_x, tf.reduce_sum(left * tf.matmul(upstream, self.loading), axis=1)

            return z, gradient

        return flipped(x, kept)


def conditional(correlation: tf.Tensor, precision: tf.Tensor, kept: tf.Tensor) -> Conditional:
    """Return the predictions for masks `kept` (groups, channels) of 0 and 1.

    `correlation` and `precision`, both (channels, channels), are inverses of each other.
    """
    dropped = 1.0 - kept
    few = tf.reduce_sum(kept) < tf.reduce_sum(dropped)
    predicting, variance, left = tf.cond(
        few, lambda: _by_kept(correlation, kept, dropped), lambda: _by_dropped(precision, kept, dropped)
    )
    replacement = tf.linalg.set_diag(predicting, kept)
    own = tf.linalg.diag_part(left)[:, tf.newaxis, :]
    return Conditional(replacement, variance, replacement + left / tf.where(own > 0, own, 1.0))


def _by_kept(correlation: tf.Tensor, kept: tf.Tensor, dropped: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return predictions of the dropped channels, variances of the kept and covariances of the dropped channels.

    The shapes are (groups, channels, channels), (groups, channels) and (groups, channels, channels). Variances are
    given the other kept channels, covariances given all kept channels.
    """
    part = _Part(correlation, kept)
    left = correlation - tf.matmul(part.rows, part.regression, transpose_a=True)
    precision = part.spread(tf.linalg.diag_part(part.inverse)[:, :, tf.newaxis])[:, :, 0]
    variance = kept / tf.where(precision > 0, precision, 1.0)
    return (
        tf.linalg.matrix_transpose(part.spread(part.regression)),
        variance,
        left * dropped[:, :, tf.newaxis] * dropped[:, tf.newaxis, :],
    )


def _by_dropped(precision: tf.Tensor, kept: tf.Tensor, dropped: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return the same as `_by_kept`, by inverting the rows and columns of the dropped channels."""
    part = _Part(precision, dropped)
    left = part.spread(tf.linalg.matrix_transpose(part.spread(part.inverse)))
    own = tf.linalg.diag_part(precision) - tf.reduce_sum(part.rows * part.regression, axis=1)
    return -part.spread(part.regression), kept / tf.where(kept > 0, own, 1.0), left


class _Part:
    """The inverse of the chosen rows and columns of a matrix, for several choices (groups, channels).

    With `most` the largest number of chosen channels, `inverse` has shape (groups, most, most) and is zero beyond the
    chosen. `rows` (groups, most, channels) are the chosen rows of the matrix. `regression` is `inverse` times `rows`,
    zero in the chosen columns.
    """

    def __init__(self, matrix: tf.Tensor, chosen: tf.Tensor) -> None:
        most = tf.cast(tf.reduce_max(tf.reduce_sum(chosen, axis=1)), tf.int32)
        order = tf.argsort(chosen, axis=1, direction="DESCENDING", stable=True)
        self._place = tf.minimum(tf.argsort(order, axis=1), most)
        order = order[:, :most]
        there = tf.gather(chosen, order, batch_dims=1)
        both = there[:, :, tf.newaxis] * there[:, tf.newaxis, :]
        self.rows = tf.gather(matrix, order) * there[:, :, tf.newaxis]
        square = both * tf.gather(self.rows, order, axis=2, batch_dims=1)
        self.inverse = both * tf.linalg.inv(square + tf.linalg.diag(1.0 - there))
        self.regression = tf.matmul(self.inverse, self.rows) * (1.0 - chosen)[:, tf.newaxis, :]

    def spread(self, values: tf.Tensor) -> tf.Tensor:
        """Move rows (groups, most, k) to the positions of the chosen among all channels, with zeros elsewhere."""
        return tf.gather(tf.pad(values, [[0, 0], [0, 1], [0, 0]]), self._place, batch_dims=1)
