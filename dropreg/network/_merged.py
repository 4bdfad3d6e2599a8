"""The masked network that predicts dropped channels from the kept ones.

A layer that consumes channels x under a mask m takes the kept channels and the least-squares prediction of the dropped
ones, which is what merging (`dropreg.surgery`) would give it. Let C be the correlations of the channels over the
examples, with a ridge on the diagonal, K the kept and R the dropped channels. The prediction is x_R = A x_K with
A = C_RK C_KK^-1. Element j adds to the others its residual r_j, the part of x_j that the other kept channels do not
predict: flipping j changes the consumed channels by D_j r_j, where D_j predicts every other channel from r_j. This
change from dropped to kept is the derivative by the mask here: the derivative of "drop and merge", not of "drop".
Merging also refits the last layer, as does this network (`LastLayer`).

Each mask needs one inverse, of the smaller of C_KK and G_RR, where G = C^-1 is computed once: (G_RR)^-1 is the
covariance of R given K, and A = -(G_RR)^-1 G_RK.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import keras
import numpy as np
import tensorflow as tf

from .._utils import Array
from ..element import Columns, Elements, InnerGate
from ..errors import ParameterError
from ..graph import Call, Graph, channel_means, size_of, step_mask, weights_of, with_step_mask
from ..layers import RecurrentRule, rule_for
from ._conditional import Moments, conditional
from ._gating import change_state, pick_masks, shortest_period
from ._last_layer import LastLayer
from ._masked import MaskedNetwork

if TYPE_CHECKING:
    from ..data import Examples

_BATCH = 500
Place = tuple[int, int] | int
"""Where channels are consumed: an input of a call (numbers of call and input), or the states of a cell (its number)."""


class MergedNetwork(MaskedNetwork):
    """A masked network that merges dropped channels into the kept ones.

    Masks have shape (groups, n_elements): consecutive rows, equally many for each mask, share it.

    Parameters
    ----------
    model, elements
        As in `MaskedNetwork`. Elements that are channels of an activation (neurons, filters, recurrent units,
        dimensions of embeddings, branches) are predicted; others (heads, layers) are replaced by zeros.
    examples : Examples
        The correlations of the channels are computed from their activations.
    ridge : float
        Added to the diagonal of the correlations.
    group : int, optional
        Consecutive rows that will share a mask, if it is known: with few rows, products are formed in the order that is
        less work.

    It raises ParameterError if no element is a channel of an activation.
    """

    takes_groups: ClassVar[bool] = True

    def __init__(
        self,
        model: keras.Model | Graph,
        elements: Elements,
        examples: "Examples",
        ridge: float = 0.01,
        group: int | None = None,
    ) -> None:
        super().__init__(model, elements, output=examples.output)
        if not can_predict(elements):
            raise ParameterError(
                "`ablation` 'merged' must have elements that are consumed as channels of an activation, "
                f"received {sorted(set(elements.kinds))}: use ablation='zero'."
            )
        self._columns: dict[Place, Columns] = {
            place: np.maximum.reduce([gate.columns for gate in gates]) for place, gates in self._gates.items()
        }
        self._states = {gate.layer: found for gate in elements.inner_gates if (found := self._owners(gate))}
        self._columns |= {gate.layer: gate.columns for gate in elements.inner_gates if gate.layer in self._states}
        self.recurrent = [np.unique(self._columns[cell][self._columns[cell] >= 0]) for cell in self._states]
        self.moments, self.last = self._measure(examples, ridge)
        self._group = group
        self._matrices = {  # tensors that graphs take as inputs; constants would be copied into every graph
            place: tuple(tf.constant(m, tf.float32) for m in (found.correlation, found.precision))
            for place, found in self.moments.items()
        }

    def _owners(self, gate: InnerGate) -> list[tuple[Call, int]]:
        """Return the calls of the layer whose states a gate masks, with the cell's number; empty if not mergeable."""
        found = []
        for call in self.graph.calls if gate.where == "state" else ():
            rule = rule_for(call.layer)
            if isinstance(rule, RecurrentRule) and rule.state_rows(call, call.layer.get_weights()):
                cells = [part.cell for part in rule.parts(call.layer)]
                found += [(call, k) for k, cell in enumerate(cells) if cell is self._layers[gate.layer]]
        return found

    def _channels_at(self, values: dict[int, Any], place: Place) -> "_Rows":
        """Return the channels consumed at a place."""
        if isinstance(place, tuple):
            return _Rows.of([values[self.graph.calls[place[0]].inputs[place[1]]]])
        return _Rows.of([_states_of(call, number, values) for call, number in self._states[place]])

    def _measure(self, examples: "Examples", ridge: float) -> tuple[dict[Place, Moments], LastLayer | None]:
        """Return the moments of the channels at each place, and the last layer with the moments of its inputs."""
        places = list(self._columns)
        found = self.average(lambda values: [self._channels_at(values, p).mean() for p in places], examples, _BATCH)
        means = dict(zip(places, found, strict=True))
        one = len(self.graph.outputs) == 1  # merging refits no last layer if there are several outputs
        last = LastLayer.call_among([self.graph.calls[index] for index in self._suffix]) if one else None
        if last is not None and self.graph.shared.other(last.layer, last.name) is not None:
            last = None

        def products(values: dict[int, Any]) -> list[tf.Tensor]:
            consumed = []
            for place in places:
                rows = self._channels_at(values, place)
                centred = rows.x - tf.constant(means[place], tf.float32)
                consumed.append(rows.folded(centred, shortest_period(self._columns[place])))
            if last is not None:
                rows = _Rows.of([values[last.inputs[0]]])
                consumed.append(replace(rows, x=tf.concat([rows.x, tf.ones_like(rows.x[:, :1])], axis=1)))
            return [rows.products() for rows in consumed]

        totals = self.average(products, examples, _BATCH)
        moments = {place: _moments(means[place], total, ridge) for place, total in zip(places, totals, strict=False)}
        return moments, None if last is None else LastLayer(last.layer, totals[-1])

    def _inner_changes(
        self, masks: tf.Tensor, n_rows: tf.Tensor
    ) -> tuple[list[tuple[Any, str, Any]], list[tuple[Any, tf.Tensor]]]:
        changes, weights = super()._inner_changes(masks, n_rows)
        return changes, weights if self.last is None else weights + self.last.replacements()

    def _inner_call(self, gate: InnerGate, original: Callable[..., Any], masks: tf.Tensor, n_rows: tf.Tensor) -> Any:
        if gate.layer in self._states:
            return partial(change_state, original, self._merging(gate.layer, masks))
        return super()._inner_call(gate, original, tf.repeat(masks, n_rows // tf.shape(masks)[0], axis=0), n_rows)

    def _gated(self, call: int, position: int, value: tf.Tensor, masks: tf.Tensor | None) -> tf.Tensor:
        if masks is None or (call, position) not in self._gates:
            return value
        return with_step_mask(self._merging((call, position), masks)(value), step_mask(value))

    def _merging(self, place: Place, masks: tf.Tensor) -> Callable[[tf.Tensor], tf.Tensor]:
        """Return the function that replaces dropped channels of a value (rows, ..., channels) at a place."""
        moments = self.moments[place]
        period = len(moments.scale)
        kept = pick_masks(tf.cast(masks, tf.float32), self._columns[place][:period])
        correlation, precision = self._matrices[place]
        change = conditional(correlation, precision, tf.stop_gradient(kept))
        center, scale = tf.constant(moments.mean, tf.float32), tf.constant(moments.scale, tf.float32)

        def merged(value: tf.Tensor) -> tf.Tensor:
            shape = tf.shape(value)
            x = tf.reshape(tf.cast(value, tf.float32) - center, [tf.shape(masks)[0], -1, period]) / scale
            replaced = change.replace(x, kept, precision, many_rows=self._has_many_rows(place, value, period))
            return tf.cast(tf.reshape(replaced * scale, shape) + center, value.dtype)

        return merged

    def _has_many_rows(self, place: Place, value: tf.Tensor, period: int) -> bool:
        """Return whether the rows that share a mask are more than the channels, as far as is known."""
        if place in self._states:  # at all steps
            return True
        many = len(value.shape) > 2 or value.shape[-1] != period
        if not many or self._group is None or None in value.shape[1:]:
            return many
        return self._group * size_of(value.shape.as_list()) // period >= period


@dataclass(frozen=True)
class _Rows:
    """Channels x (rows, channels) at all positions of examples, and their weights (rows, 1), which sum to 1.

    The weights are None if all are equal.
    """

    x: tf.Tensor
    weights: tf.Tensor | None

    @classmethod
    def of(cls, values: list[Any]) -> "_Rows":
        """Flatten and concatenate tensors (rows, ..., channels)."""
        parts = [tf.reshape(tf.cast(value, tf.float32), [-1, value.shape[-1]]) for value in values]
        found = [weights_of(value) for value in values]
        if all(weights is None for weights in found):
            return cls(tf.concat(parts, 0), None)
        ones = [tf.ones_like(x[:, :1]) / tf.cast(tf.shape(x)[0], tf.float32) for x in parts]
        weights = [one if own is None else tf.reshape(own, [-1, 1]) for one, own in zip(ones, found, strict=True)]
        return cls(tf.concat(parts, 0), tf.concat(weights, 0) / len(values))

    def mean(self) -> tf.Tensor:
        return channel_means(self.x) if self.weights is None else tf.reduce_sum(self.x * self.weights, axis=0)

    def products(self) -> tf.Tensor:
        """Return the mean products of channels, (channels, channels)."""
        if self.weights is None:
            return tf.matmul(self.x, self.x, transpose_a=True) / tf.cast(tf.shape(self.x)[0], tf.float32)
        return tf.matmul(self.x * self.weights, self.x, transpose_a=True)

    def folded(self, x: tf.Tensor, period: int) -> "_Rows":
        """Return the rows `x`, which have the same weights as these, in rows of `period` channels."""
        repeats = (x.shape[-1] or period) // period
        weights = None if self.weights is None else tf.repeat(self.weights, repeats, axis=0) / repeats
        return _Rows(tf.reshape(x, [-1, period]), weights)


def _states_of(call: Call, number: int, values: dict[int, Any]) -> tf.Tensor:
    """Return the states of one cell of a recurrent layer in a call."""
    rule: Any = rule_for(call.layer)
    return rule.states(call, [values[slot] for slot in call.inputs])[number]


def can_predict(elements: Elements) -> bool:
    """Return whether elements are consumed as channels, at most one per channel, and none is a weight."""
    columns: dict[Place, list[Columns]] = {}
    for gate in elements.gates:
        columns.setdefault((gate.call, gate.position), []).append(gate.columns)
    twice = any((np.sum([c >= 0 for c in found], axis=0) > 1).any() for found in columns.values())
    only_channels = all(gate.where not in ("kernel", "output") for gate in elements.inner_gates)
    return bool(elements.gates) and only_channels and not twice


def _moments(mean: Array, products: Array, ridge: float) -> Moments:
    scale = np.sqrt(np.maximum(np.diag(products), 0.0))
    scale = np.where(scale > 1e-6 * max(scale.max(), 1e-30), scale, np.inf)
    correlation = products / scale[:, np.newaxis] / scale
    safe = np.where(np.isfinite(scale), scale, 1.0)
    np.fill_diagonal(correlation, 1.0 + ridge)
    return Moments(mean, safe, correlation, np.asarray(np.linalg.inv(correlation), np.float64))
