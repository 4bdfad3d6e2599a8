"""Rules of layers that combine branches."""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import keras
import numpy as np
from keras import layers

from ..graph import Call
from ._channels import Channels, Labels
from ._common import cut_trailing, pin_all
from ._registry import register
from ._rule import Cut, Kept, Rule, unchanged


class TieRule(Rule):
    """An elementwise operation on several tensors, which ties channel j of all of them."""

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        width = max(len(labels) for labels in inputs)
        reason = f"layer '{call.name}' ({call.kind}) joins it with channels that cannot be dropped"
        for labels in inputs:
            if len(labels) != width:
                channels.pin(labels, f"layer '{call.name}' ({call.kind}) repeats it over channels")
        full = [labels for labels in inputs if len(labels) == width]
        return [reduce(lambda tied, labels: channels.tie(tied, labels, reason), full)]

    def cut(self, call: Call, kept_in: Sequence[Kept], kept_out: Sequence[Kept]) -> Cut:
        return unchanged(call)

    def cut_arguments(self, call: Call, kept_in: Sequence[Kept]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Remove the same channels from arrays among the arguments, as in ``x + bias``."""
        kept = max(kept_in, key=len)

        def without(leaf: Any) -> Any:
            return cut_trailing(np.asarray(leaf), kept) if getattr(leaf, "shape", ()) else leaf

        args: Any = keras.tree.map_structure(without, call.args)
        kwargs: Any = keras.tree.map_structure(without, call.kwargs)
        return args, kwargs


class AddRule(TieRule):
    """A sum, from which branches can be removed."""

    adds = True


class ConcatenateRule(Rule):
    """A concatenation of channels, or along another axis, which ties the channels."""

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
register("Add", rule=AddRule())
register("Subtract", "Multiply", "Maximum", "Minimum", rule=_TIES)
register("Concatenate", rule=ConcatenateRule())
