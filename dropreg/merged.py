"""The masked network in which a dropped channel becomes its prediction from those that stay.

A layer that reads channels x keeps those of a mask m and reads the least-squares prediction of the others, which is
what merging (`dropreg.merging`) would give it. With C the channels' correlations over the examples, K the kept and R
the dropped, the prediction is x_R = A x_K, A = C_RK (C_KK + ridge)^-1. What element j adds to the rest is its residual
r_j, the part of x_j that the other kept channels do not predict; flipping j changes what is read by D_j r_j, where D_j
predicts every other channel from r_j. That is the step from dropped to kept, and it is the derivative that the masks
get here: the derivative of "drop and merge", not that of "drop". Merging also fits the last layer anew, which learns
along here (`dropreg.last_layer`).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from .copying import traced
from .elements import Elements
from .errors import ParameterError
from .last_layer import LastLayer
from .masking import MaskedNetwork, pick_masks, shortest_period

if TYPE_CHECKING:
    from .data import Examples

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Of what is read at one gate, over examples and positions.

    Attributes
    ----------
    mean : ndarray of float64, shape (channels,)
    scale : ndarray of float64, shape (period,)
        Standard deviation of each channel; flattened positions of one channel share it.
    correlation : ndarray of float64, shape (period, period)
    """

    mean: Array
    scale: Array
    correlation: Array


class MergedNetwork(MaskedNetwork):
    """A masked network that merges what it drops into what stays.

    Masks have shape (groups, n_elements): consecutive rows, equally many, share each of them.

    Parameters
    ----------
    model : keras.Model
    elements : Elements
        Read as channels of an activation: neurons, filters, dimensions of embeddings, branches.
    examples : Examples
        Whose activations tell which channels predict each other.
    ridge : float
        Added to the diagonal of the correlations.

    Raises
    ------
    ParameterError
        If masks act inside layers, where there is no activation to predict.
    """

    takes_groups: ClassVar[bool] = True

    def __init__(self, model: keras.Model, elements: Elements, examples: "Examples", ridge: float = 0.01) -> None:
        super().__init__(model, elements, output=examples.output)
        if not can_predict(elements):
            raise ParameterError(
                "`ablation` 'merged' must have elements that are read as channels of an activation, of one kind, "
                f"received {sorted(set(elements.kinds))}: use ablation='zero'."
            )
        self.ridge = ridge
        self.moments, self.last = self._measure(examples)

    def _measure(
        self, examples: "Examples", batch_size: int = 500
    ) -> tuple[dict[tuple[int, int], Moments], LastLayer | None]:
        """Moments at the gates, and the last layer with those of what it reads."""
        slots = {key: self.graph.calls[key[0]].inputs[key[1]] for key in self._gates}
        periods = {key: shortest_period(gates[0].columns) for key, gates in self._gates.items()}
        means = self.mean_activations(examples, batch_size)
        centers = {key: tf.constant(mean, tf.float32) for key, mean in means.items()}
        one = len(self.graph.outputs) == 1  # merging fits no last layer where there are several
        last = LastLayer.call_among([self.graph.calls[index] for index in self._suffix]) if one else None

        def products_of(batch: list[tf.Tensor]) -> list[tf.Tensor]:
            values: dict[int, Any] = dict(zip(self.graph.inputs, batch, strict=True))
            self._run(dict(enumerate(self.graph.calls)), values, None)
            read = [
                tf.reshape(tf.cast(values[slot], tf.float32) - centers[key], [-1, periods[key]])
                for key, slot in slots.items()
            ]
            if last is not None:
                x = tf.cast(values[last.inputs[0]], tf.float32)
                read.append(tf.concat([x, tf.ones_like(x[:, :1])], axis=1))
            return [tf.matmul(x, x, transpose_a=True) / tf.cast(tf.shape(x)[0], tf.float32) for x in read]

        run = traced(products_of, list(examples.inputs))
        totals: list[Any] = [0.0] * (len(slots) + (last is not None))
        for start in range(0, len(examples), batch_size):
            batch = [tf.convert_to_tensor(x[start : start + batch_size]) for x in examples.inputs]
            share = len(batch[0]) / len(examples)
            totals = [t + share * np.asarray(m, np.float64) for t, m in zip(totals, run(batch), strict=True)]
        moments = {key: _moments(means[key], total) for key, total in zip(slots, totals, strict=False)}
        return moments, None if last is None else LastLayer(last.layer, totals[-1])

    def _inner_changes(self, masks: tf.Tensor) -> tuple[list[tuple[Any, str, Any]], list[tuple[Any, tf.Tensor]]]:
        changes, weights = super()._inner_changes(masks)
        return changes, weights if self.last is None else weights + self.last.replacements()

    def _gated(self, call: int, position: int, value: tf.Tensor, masks: tf.Tensor | None) -> tf.Tensor:
        if masks is None or (call, position) not in self._gates:
            return value
        moments = self.moments[call, position]
        period = len(moments.scale)
        kept = pick_masks(tf.cast(masks, tf.float32), self._gates[call, position][0].columns[:period])
        change = conditional(tf.constant(moments.correlation, tf.float32), tf.stop_gradient(kept), self.ridge)
        center, scale = tf.constant(moments.mean, tf.float32), tf.constant(moments.scale, tf.float32)
        shape = tf.shape(value)
        x = tf.reshape(tf.cast(value, tf.float32) - center, [tf.shape(masks)[0], -1, period]) / scale
        flips = (kept - tf.stop_gradient(kept))[:, tf.newaxis, :]
        read = tf.matmul(x, change.reading, transpose_b=True)
        read += tf.matmul(tf.matmul(x, change.residual, transpose_b=True) * flips, change.loading, transpose_b=True)
        return tf.cast(tf.reshape(read * scale, shape) + center, value.dtype)


def can_predict(elements: Elements) -> bool:
    """Whether all elements are read as channels of an activation, and none together with those of another kind."""
    places = {(gate.call, gate.position) for gate in elements.gates}
    return not elements.inner_gates and len(places) == len(elements.gates)


@dataclass(frozen=True)
class Conditional:
    """What a layer reads under masks, and what one more or one less of its channels changes.

    Attributes
    ----------
    reading : Tensor, shape (groups, channels, channels)
        From standardized channels to what is read in their place: the kept themselves, the others predicted.
    residual : Tensor, shape (groups, channels, channels)
        Row j gives what the kept channels other than j do not predict of channel j.
    loading : Tensor, shape (groups, channels, channels)
        Column j predicts from that residual all that is not kept, and j itself.
    """

    reading: tf.Tensor
    residual: tf.Tensor
    loading: tf.Tensor


def conditional(correlation: tf.Tensor, kept: tf.Tensor, ridge: float) -> Conditional:
    """Regressions among channels under masks.

    Parameters
    ----------
    correlation : Tensor, shape (channels, channels)
    kept : Tensor of 0 and 1, shape (groups, channels)
    ridge : float

    Returns
    -------
    Conditional
    """
    n = tf.shape(correlation)[0]
    eye = tf.eye(n)[tf.newaxis]
    rows, columns = kept[:, :, tf.newaxis], kept[:, tf.newaxis, :]
    away, away_columns = 1.0 - rows, 1.0 - columns
    both = rows * columns
    inverse = both * tf.linalg.inv(both * (correlation + ridge * eye) + (1.0 - rows) * eye)
    predicted = tf.matmul(away * columns * correlation, inverse)  # A, nonzero in dropped rows and kept columns
    schur = away * away_columns * (correlation + ridge * eye - tf.matmul(predicted, correlation * rows))
    own = tf.linalg.diag_part(inverse)[:, :, tf.newaxis]
    residual = inverse / tf.where(own > 0, own, 1.0) + away * eye - predicted
    variance = tf.linalg.diag_part(schur)[:, tf.newaxis, :]
    loading = rows * eye + predicted + schur / tf.where(variance > 0, variance, 1.0)
    return Conditional(rows * eye + predicted, residual, loading)


def _moments(mean: Array, products: Array) -> Moments:
    scale = np.sqrt(np.maximum(np.diag(products), 0.0))
    scale = np.where(scale > 1e-6 * max(scale.max(), 1e-30), scale, np.inf)
    correlation = products / scale[:, np.newaxis] / scale
    safe = np.where(np.isfinite(scale), scale, 1.0)
    np.fill_diagonal(correlation, 1.0)
    return Moments(mean, safe, correlation)
