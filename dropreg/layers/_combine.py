"""Layers that join branches."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from ..graph import Call
from ._channels import Channels, Labels
from ._common import cut_trailing, pin_all
from ._registry import register, register_operations
from ._rule import Cut, Kept, Rule, unchanged


class TieRule(Rule):
    """Add, Multiply and the like: channel j of every branch goes into channel j of the result."""

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        width = max(len(labels) for labels in inputs)
        whole = [labels for labels in inputs if len(labels) == width]
        for labels in inputs:
            if len(labels) != width:
                channels.pin(labels, f"layer '{call.name}' ({call.kind}) repeats it over channels")
        tied = whole[0]
        for labels in whole[1:]:
            tied = channels.tie(
                tied, labels, f"layer '{call.name}' ({call.kind}) joins it with channels that cannot be dropped"
            )
        return [tied]

    def cut(self, call: Call, kept_in: Sequence[Kept], kept_out: Sequence[Kept]) -> Cut:
        return unchanged(call)

    def cut_arguments(self, call: Call, kept_in: Sequence[Kept]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arrays among the arguments, as in ``x + bias``, lose the same channels."""
        kept = max(kept_in, key=len)

        def without(leaf: Any) -> Any:
            return cut_trailing(np.asarray(leaf), kept) if getattr(leaf, "shape", ()) else leaf

        args: Any = keras.tree.map_structure(without, call.args)
        kwargs: Any = keras.tree.map_structure(without, call.kwargs)
        return args, kwargs


class AddRule(TieRule):
    """A sum, which can do without one of its branches."""

    adds = True


class ConcatenateRule(Rule):
    """Puts the channels of its branches side by side, or ties them along another axis."""

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        rank = len(call.output_shapes[0])
        axis = call.layer.axis % rank
        if axis == rank - 1:
            return [np.concatenate(inputs)]
        if axis == 0:
            return pin_all(call, inputs, channels, "joins examples, so it hides")
        return TieRule().flow(call, index, inputs, channels)

    def cut(self, call: Call, kept_in: Sequence[Kept], kept_out: Sequence[Kept]) -> Cut:
        return unchanged(call)


_TIES = TieRule()
register(layers.Add, rule=AddRule())
register(*(layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum), rule=_TIES)
register(layers.Concatenate, rule=ConcatenateRule())
register_operations("Add", rule=AddRule())
register_operations("Subtract", "Multiply", "Maximum", "Minimum", rule=_TIES)
register_operations("Concatenate", rule=ConcatenateRule())
