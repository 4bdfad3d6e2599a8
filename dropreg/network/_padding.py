"""Masks of padded steps for the inputs of one pass."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from ..graph import step_mask, with_same_masks

if TYPE_CHECKING:
    from ..graph import Graph


def idle_masks(graph: "Graph", inputs: Sequence[Any]) -> dict[int, tf.Tensor]:
    """Masks (rows, steps) of the values in the slots `idle_slots` for some inputs; to be called in a graph.

    There only what masks follow from is computed.
    """
    idle = idle_slots(graph)
    if not idle:
        return {}
    values = dict(zip(graph.inputs, inputs, strict=True))
    with keras.StatelessScope(collect_losses=True):
        for call in graph.calls:
            values.update(zip(call.outputs, call.run_on(with_same_masks(call, values)), strict=True))
    return {slot: tf.cast(step_mask(values[slot]), tf.bool) for slot in sorted(idle)}


def idle_slots(graph: "Graph") -> frozenset[int]:
    """Slots with masks whose hidden steps influence nothing that is measured."""
    from ..layers import rule_for

    hidden = {slot for slot in graph.outputs if graph.mask_ranks[slot] is not None}
    busy = {slot for call in graph.calls for slot in (*call.inputs, *call.outputs) if slot not in graph.padded}
    busy |= set(graph.outputs) - hidden
    for call in reversed(graph.calls):
        handed_on = [slot for slot in call.outputs if slot in graph.padded]
        leaves_out = call.kwargs.get("mask") is not None
        if busy.intersection(handed_on) or not (handed_on or leaves_out):
            busy.update(call.inputs)
        elif rule_for(call.layer).projections(call.layer):
            busy.update(call.unmasked)  # attention reads hidden steps whose mask it does not see
    return graph.padded - busy
