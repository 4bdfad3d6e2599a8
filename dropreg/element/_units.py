"""Units of layers, found by following the channels of every tensor through the rules of the layers."""

from typing import TYPE_CHECKING

import numpy as np

from ..errors import ModelError
from ..graph import Graph, all_layers
from ..layers import Channels, fixed, n_channels, rule_for
from ._gates import Gate, InnerGate
from ._table import Choice, Found, Kind, found

if TYPE_CHECKING:
    import keras

KINDS_OF_UNITS = {"neurons": ("neuron", "filter", "recurrent unit"), "embeddings": ("dimension",)}


def find(model: "keras.Model", graph: Graph, kind: Kind, choice: Choice) -> Found:
    """Find the units that can be removed; an element belongs to the kind of its first unit."""
    channels = trace_channels(graph)
    kinds = KINDS_OF_UNITS[kind]
    chosen = _choose(channels, choice, kinds)
    column_of = np.full(len(channels.sources) + 1, -1, dtype=np.int64)  # the last entry is for FIXED
    for column, labels in enumerate(chosen):
        column_of[labels] = column
    number = {id(layer): k for k, layer in enumerate(all_layers(model))}
    gates = [Gate(read.call, read.position, column_of[read.labels]) for read in channels.reads]
    states = [InnerGate("state", number[id(state.cell)], column_of[state.labels]) for state in channels.states]
    firsts = [channels.sources[labels[0]] for labels in chosen]
    params, macs = np.array(channels.params), np.array(channels.macs)
    units = [tuple((channels.sources[k].layer, channels.sources[k].index) for k in labels) for labels in chosen]
    taken = {layer for group in units for layer, _ in group}
    return found(
        [source.layer for source in firsts],
        [source.kind for source in firsts],
        [source.index for source in firsts],
        [round(params[labels].sum()) for labels in chosen],
        [macs[labels].sum() for labels in chosen],
        ties={j: tied for j, tied in enumerate(units) if len(tied) > 1},
        gates=tuple(gate for gate in gates if (gate.columns >= 0).any()),
        inner_gates=tuple(gate for gate in states if (gate.columns >= 0).any()),
        left_out=_left_out(channels, kinds, {label for labels in chosen for label in labels}),
        known=dict.fromkeys(source.layer for source in channels.sources if source.kind in kinds),
        equal=tuple(pair for pair in channels.equal if taken.issuperset(pair)),
    )


def trace_channels(graph: Graph) -> Channels:
    """Label the channels of every tensor, by the rules of the layers."""
    channels = Channels(graph.names)
    labels = {slot: fixed(n_channels(graph.shapes[slot])) for slot in graph.inputs}
    for index, call in enumerate(graph.calls):
        inputs, other = [labels[slot] for slot in call.inputs], graph.shared.other(call.layer, call.name)
        if other is not None:
            for row in inputs:
                reason = f"layer '{call.name}' ({call.kind}), which consumes it, shares weights with layer '{other}'"
                channels.pin(row, reason)
        outputs = rule_for(call.layer).flow(call, index, inputs, channels)
        for slot, shape, row in zip(call.outputs, call.output_shapes, outputs, strict=True):
            if other is not None:
                channels.pin(row, f"it shares weights with layer '{other}'")
            if len(row) != n_channels(shape):
                raise ModelError(
                    f"the rule of layer '{call.name}' ({call.kind}) must label the {n_channels(shape)} channels "
                    f"of its output, received {len(row)} labels: register a rule that fits."
                )
            labels[slot] = row
    for slot in graph.outputs:
        channels.pin(labels[slot], "the model's output needs it")
    channels.slots.update(labels)
    return channels


def _choose(channels: Channels, choice: Choice, kinds: tuple[str, ...]) -> list[list[int]]:
    """Return the labels of each element that can be removed and is asked for."""
    groups: dict[int, list[int]] = {}
    for label in range(len(channels.sources)):
        if channels.pinned(label) is None:
            groups.setdefault(channels.root(label), []).append(label)
    return [
        labels
        for labels in groups.values()
        if channels.sources[labels[0]].kind in kinds and choice.takes(*{channels.sources[k].layer for k in labels})
    ]


def _left_out(channels: Channels, kinds: tuple[str, ...], taken: set[int]) -> tuple[tuple[str, str], ...]:
    """Return the layers with units that must be kept, with the first reason of each."""
    reasons: dict[str, str] = {}
    for label, source in enumerate(channels.sources):
        reason = channels.pinned(label)
        if reason is not None and label not in taken and source.kind in kinds:
            reasons.setdefault(source.layer, reason)
    return tuple(reasons.items())
