"""One layer of the smaller network, and what it reads in both networks."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ...graph import Call, call_name, counted_steps, patched, with_counted
from ...layers import Kept, rule_for
from .._rebuild import Rebuilt
from ._ridge import solve
from ._side_by_side import Batch, Rows, Target, Twins, joined


@dataclass(frozen=True)
class Patient:
    """One layer of the new model that is merged into: that of pair `index` of calls."""

    rebuilt: Rebuilt
    twins: Twins
    index: int

    @property
    def old(self) -> Call:
        return self.rebuilt.pairs[self.index][0]

    @property
    def new(self) -> Call:
        return self.rebuilt.pairs[self.index][1]

    @property
    def rule(self) -> Any:
        return rule_for(self.old.layer)

    @property
    def calls(self) -> list[Call]:
        """Every call of the layer."""
        return [old for old, _ in self.rebuilt.pairs if old.layer is self.old.layer]

    @property
    def slots(self) -> list[int]:
        """The first input of every call of the layer."""
        return [call.inputs[0] for call in self.calls]

    @property
    def read(self) -> "Channels":
        """What the layer reads of its first input."""
        plan, slot = self.rebuilt.plan, self.old.inputs[0]
        return Channels(self.slots, joined, plan.kept[slot])

    @property
    def states_kept(self) -> list[Kept]:
        """What stays of what it reads of its own states."""
        return self.rule.of_states(self.old, [self.rebuilt.plan.kept[slot] for slot in self.old.outputs])

    def states(self) -> list["Channels"]:
        """What it reads of its own states; those of the network before, with and without what goes."""
        rule, calls, kept = self.rule, self.calls, self.states_kept
        slots = [slot for call in calls for slot in call.inputs]

        def rows(number: int, before: Batch, _: Batch) -> tuple[tf.Tensor, tf.Tensor]:
            values = iter(before)
            parts = [rule.states(call, list(islice(values, len(call.inputs))))[number] for call in calls]
            whole = joined(parts, parts)[0]
            return whole, tf.gather(whole, np.flatnonzero(kept[number]), axis=1)

        return [Channels(slots, partial(rows, k), kept[k]) for k in range(len(kept))]

    def inside(self, part: str) -> "Channels":
        """What a projection inside the layer reads; the output projection reads the heads."""
        plan, layer = self.rebuilt.plan, self.old.layer
        size = self.rule.projections(layer)[part].n_channels
        kept = np.ones(size, dtype=bool)
        if part == "output" and id(layer) in plan.heads:
            heads = plan.heads[id(layer)]
            kept = np.repeat(heads, size // len(heads))
        pairs = [pair for pair in self.rebuilt.pairs if pair[0].layer is layer]
        slots = [slot for old, _ in pairs for slot in old.inputs]

        def rows(before: Batch, after: Batch) -> tuple[tf.Tensor, tf.Tensor]:
            olds, news = zip(*pairs, strict=True)
            return joined(_read_inside(olds, before, part), _read_inside(news, after, part))

        return Channels(slots, rows, kept)

    def unexplained(self, ridges: Sequence[float]) -> float:
        """Squared error of what the layer gave in the network before, predicted from what it gives now (held out)."""
        kept = self.rebuilt.plan.kept[self.old.outputs[0]]
        target = Target(np.eye(len(kept)), np.zeros((int(kept.sum()), len(kept))))
        fit, held_out = self.twins.sums([old.outputs[0] for old in self.calls], joined, [target])
        return solve(fit[0], held_out[0], np.eye(len(kept)), tuple(ridges), centre=True).error


@dataclass(frozen=True)
class Channels:
    """Channels that a kernel reads.

    Attributes
    ----------
    slots : list of int
        What `rows` takes the values of.
    rows : callable
        Rows of channels, before and after.
    kept : Kept
        Which of the channels before stay.
    """

    slots: list[int]
    rows: Rows
    kept: Kept


def _read_inside(calls: Sequence[Call], values: Batch, part: str) -> list[tf.Tensor]:
    """What a projection inside a layer reads in calls with these inputs, each (rows, ..., channels)."""
    projection = rule_for(calls[0].layer).projections(calls[0].layer)[part]
    layer, name = projection.layer, call_name(projection.layer)
    original, argument = getattr(layer, name), projection.argument
    read: list[tf.Tensor] = []
    counted: list[Any] = []

    def noting(value: tf.Tensor, *args: Any, **kwargs: Any) -> Any:
        shape = [*tf.unstack(tf.shape(value))[: -projection.bound], projection.n_channels]
        read.append(tf.reshape(value, shape))
        return original(value, *args, **kwargs)

    given = iter(values)
    with patched([(layer, name, noting)]), keras.StatelessScope(collect_losses=True):
        for call in calls:
            mine = list(islice(given, len(call.inputs)))
            positions = call.positions_of(*argument)
            counted.append(counted_steps(mine[positions[0]]) if positions else None)
            call.run(mine)
    return [with_counted(value, mask) for value, mask in zip(read, counted, strict=True)]
