"""One layer to refit, and the channels that it consumes in both models."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ...graph import Call, call_name, counted_steps, patched, row_weights, with_counted, with_row_weights
from ...layers import Kept, rule_for
from ._ridge import solve
from ._side_by_side import Batch, Joined, Rows, SideBySide, Target, joined


@dataclass(frozen=True)
class Consumed:
    """Channels that a kernel consumes."""

    slots: list[int]  # whose values `rows` takes
    rows: Rows  # gives the channels before and after
    kept: Kept  # which of the channels before are kept


class MergedLayer:
    """The layer of the pair of calls with number `index`."""

    def __init__(self, models: SideBySide, index: int) -> None:
        self.models, self.plan = models, models.rebuilt.plan
        self.old, self.new = models.rebuilt.pairs[index]
        self.rule: Any = rule_for(self.old.layer)

    @property
    def pairs(self) -> list[tuple[Call, Call]]:
        """All calls of the layer, before and after."""
        return [pair for pair in self.models.rebuilt.pairs if pair[0].layer is self.old.layer]

    @property
    def slots(self) -> list[int]:
        """The first input of every call of the layer."""
        return [old.inputs[0] for old, _ in self.pairs]

    @property
    def consumed(self) -> Consumed:
        """The channels of the layer's first input."""
        return Consumed(self.slots, joined, self.plan.kept[self.old.inputs[0]])

    @property
    def states_kept(self) -> list[Kept]:
        """The kept states among those that the layer itself consumes."""
        return self.rule.of_states(self.old, [self.plan.kept[slot] for slot in self.old.outputs])

    def states(self) -> list[Consumed]:
        """Return the states that the layer consumes: all of the original model, and the kept ones among them."""
        rule, calls, kept = self.rule, [old for old, _ in self.pairs], self.states_kept
        slots = [slot for call in calls for slot in call.inputs]

        def rows(number: int, before: Batch, _: Batch) -> Joined:
            values = iter(before)
            parts = [rule.states(call, list(islice(values, len(call.inputs))))[number] for call in calls]
            states = joined(parts, parts)
            return states._replace(after=tf.gather(states.before, np.flatnonzero(kept[number]), axis=1))

        return [Consumed(slots, partial(rows, k), kept[k]) for k in range(len(kept))]

    def inside(self, part: str) -> Consumed:
        """Return the channels that a projection inside the layer consumes: for the output projection, the heads."""
        layer = self.old.layer
        size = self.rule.projections(layer)[part].n_channels
        kept = np.ones(size, dtype=bool)
        if part == "output" and id(layer) in self.plan.heads:
            heads = self.plan.heads[id(layer)]
            kept = np.repeat(heads, size // len(heads))
        olds, news = zip(*self.pairs, strict=True)

        def rows(before: Batch, after: Batch) -> Joined:
            return joined(_inputs_inside(olds, before, part), _inputs_inside(news, after, part))

        return Consumed([slot for old in olds for slot in old.inputs], rows, kept)

    def unexplained(self, ridges: Sequence[float]) -> float:
        """Return the held-out squared error of predicting the layer's original output from its present one."""
        kept = self.plan.kept[self.old.outputs[0]]
        target = Target(np.eye(len(kept)), np.zeros((int(kept.sum()), len(kept))))
        fit, held_out = self.models.sums([old.outputs[0] for old, _ in self.pairs], joined, [target])
        return solve(fit[0], held_out[0], np.eye(len(kept)), tuple(ridges), centre=True).error


def _inputs_inside(calls: Sequence[Call], values: Batch, part: str) -> list[tf.Tensor]:
    """Run `calls` on their inputs and return those of a projection inside the layer, each (rows, ..., channels)."""
    projection = rule_for(calls[0].layer).projections(calls[0].layer)[part]
    layer, name = projection.layer, call_name(projection.layer)
    function = getattr(layer, name)
    inputs: list[tf.Tensor] = []
    found: list[tuple[Any, Any]] = []

    def recording(value: tf.Tensor, *args: Any, **kwargs: Any) -> Any:
        shape = [*tf.unstack(tf.shape(value))[: -projection.bound], projection.n_channels]
        inputs.append(tf.reshape(value, shape))
        return function(value, *args, **kwargs)

    remaining = iter(values)
    with patched([(layer, name, recording)]), keras.StatelessScope(collect_losses=True):
        for call in calls:
            own = list(islice(remaining, len(call.inputs)))
            positions = call.positions_of(*projection.argument)
            steps = counted_steps(own[positions[0]]) if positions else None
            found.append((steps, row_weights(own[0])))
            call.run(own)
    return [
        with_row_weights(with_counted(value, steps), weights)
        for value, (steps, weights) in zip(inputs, found, strict=True)
    ]
