"""Predict dropped channels from the kept ones."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import tensorflow as tf

from .._utils import Array


@dataclass(frozen=True)
class Moments:
    """Of what is read at one gate, over examples and positions.

    Attributes
    ----------
    mean : ndarray of float64, shape (channels,)
    scale : ndarray of float64, shape (period,)
        Standard deviation of each channel; flattened positions of one channel share it.
    correlation : ndarray of float64, shape (period, period)
        With the ridge on its diagonal.
    precision : ndarray of float64, shape (period, period)
        Its inverse.
    """

    mean: Array
    scale: Array
    correlation: Array
    precision: Array


class Conditional(NamedTuple):
    """What a layer reads under masks, and what one more or one less of its channels changes.

    With x the standardized channels and z = reading x, the residual that the kept channels other than j do not predict
    of channel j is x_j - z_j where j is dropped and (precision z)_j variance_j where it is kept.

    Attributes
    ----------
    reading : Tensor, shape (groups, channels, channels)
        From standardized channels to what is read in their place: the kept themselves, the others predicted.
    variance : Tensor, shape (groups, channels)
        What the other kept channels leave of the variance of a kept one, zero for dropped ones.
    loading : Tensor, shape (groups, channels, channels)
        Column j predicts from the residual of j all that is not kept, and j itself.
    """

    reading: tf.Tensor
    variance: tf.Tensor
    loading: tf.Tensor

    def read(self, x: tf.Tensor, kept: tf.Tensor, precision: tf.Tensor, *, many_rows: bool) -> tf.Tensor:
        """What is read in place of standardized channels, with the derivatives of "drop and merge" by `kept`.

        Parameters
        ----------
        x : Tensor, shape (groups, rows, channels)
        kept : Tensor, shape (groups, channels)
            The masks that this was made for; nothing but derivatives depends on them here.
        precision : Tensor, shape (channels, channels)
        many_rows : bool
            Whether a group is likely to have more rows than there are channels, as with positions or over steps. Sums
            over rows then come first, which is the same for less work.

        Returns
        -------
        Tensor, shape (groups, rows, channels)
        """
        reading = tf.linalg.matrix_transpose(self.reading)

        def residual(x: tf.Tensor, read: tf.Tensor) -> tf.Tensor:
            return x - read + tf.matmul(read, precision) * self.variance[:, tf.newaxis, :]

        residuals = residual(tf.eye(tf.shape(precision)[0]), reading) if many_rows else None

        @tf.custom_gradient
        def flipped(x: tf.Tensor, kept: tf.Tensor) -> Any:
            del kept
            read = tf.matmul(x, reading)
            left = residual(x, read) if residuals is None else residuals

            def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                by_x = tf.matmul(upstream, reading, transpose_b=True)
                upstream = upstream if residuals is None else tf.matmul(x, upstream, transpose_a=True)
                return by_x, tf.reduce_sum(left * tf.matmul(upstream, self.loading), axis=1)

            return read, gradient

        return flipped(x, kept)


def conditional(correlation: tf.Tensor, precision: tf.Tensor, kept: tf.Tensor) -> Conditional:
    """Regressions among channels under masks.

    Parameters
    ----------
    correlation, precision : Tensor, shape (channels, channels)
        Inverses of each other.
    kept : Tensor of 0 and 1, shape (groups, channels)

    Returns
    -------
    Conditional
    """
    dropped = 1.0 - kept
    few = tf.reduce_sum(kept) < tf.reduce_sum(dropped)
    predicting, variance, left = tf.cond(
        few, lambda: _by_kept(correlation, kept, dropped), lambda: _by_dropped(precision, kept, dropped)
    )
    reading = tf.linalg.set_diag(predicting, kept)
    own = tf.linalg.diag_part(left)[:, tf.newaxis, :]
    return Conditional(reading, variance, reading + left / tf.where(own > 0, own, 1.0))


def _by_kept(correlation: tf.Tensor, kept: tf.Tensor, dropped: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Predictions of the dropped from the kept, conditional variances of the kept, and covariances of the dropped.

    The shapes are (groups, channels, channels), (groups, channels) and (groups, channels, channels).
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
    """As `_by_kept`, by inverting the part of the dropped."""
    part = _Part(precision, dropped)
    left = part.spread(tf.linalg.matrix_transpose(part.spread(part.inverse)))
    own = tf.linalg.diag_part(precision) - tf.reduce_sum(part.rows * part.regression, axis=1)
    return -part.spread(part.regression), kept / tf.where(kept > 0, own, 1.0), left


class _Part:
    """The inverse of the chosen part of a matrix, for several choices; as many rows as the largest has.

    Attributes
    ----------
    inverse : Tensor, shape (groups, most, most)
        Zero beyond the chosen.
    rows : Tensor, shape (groups, most, channels)
        Of the matrix, those of the chosen.
    regression : Tensor, shape (groups, most, channels)
        `inverse` times `rows`, zero in the columns of the chosen.
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
        """Rows (groups, most, k) at the places of the chosen among all channels, zeros elsewhere."""
        return tf.gather(tf.pad(values, [[0, 0], [0, 1], [0, 0]]), self._place, batch_dims=1)
