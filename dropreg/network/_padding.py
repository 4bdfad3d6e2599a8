"""Time step masks of values whose padded steps do not affect the measured output."""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from ..graph import Graph, step_mask, with_same_masks


def idle_masks(graph: Graph, inputs: Sequence[Any]) -> dict[int, tf.Tensor]:
    """Return the step masks (rows, steps) of the values in the slots `idle_slots`, for some inputs.

    In a compiled function, only the values that the masks depend on are computed.
    """
    idle = idle_slots(graph)
    if not idle:
        return {}
    values = dict(zip(graph.inputs, inputs, strict=True))
    with keras.StatelessScope(collect_losses=True):
        for call in graph.calls:
            values.update(zip(call.outputs, call.run_on(with_same_masks(call, values)), strict=True))
    return {slot: tf.cast(step_mask(values[slot]), tf.bool) for slot in sorted(idle)}


def idle_slots(graph: Graph) -> frozenset[int]:
    """Return the slots with step masks whose hidden steps do not affect the measured output."""
    from ..layers import rule_for

    hidden = {slot for slot in graph.outputs if graph.mask_ranks[slot] is not None}
    busy = {slot for call in graph.calls for slot in (*call.inputs, *call.outputs) if slot not in graph.padded}
    busy |= set(graph.outputs) - hidden
    for call in reversed(graph.calls):
        masked_outputs = [slot for slot in call.outputs if slot in graph.padded]
        leaves_out = call.kwargs.get("mask") is not None
        if busy.intersection(masked_outputs) or not (masked_outputs or leaves_out):
            busy.update(call.inputs)
        elif rule_for(call.layer).projections(call.layer):
            busy.update(call.unmasked)  # attention consumes hidden steps of inputs whose mask it ignores
    return graph.padded - busy
