"""Attention heads."""

from typing import TYPE_CHECKING

import numpy as np

from ..graph import Graph, all_layers
from ..layers import rule_for
from ._gates import InnerGate
from ._table import Choice, Found

if TYPE_CHECKING:
    import keras


def find(model: "keras.Model", graph: Graph, choice: Choice) -> Found:
    """Heads of every attention layer; a mask multiplies what the output projection reads of a head."""
    layers = all_layers(model)
    number = {id(layer): k for k, layer in enumerate(layers)}
    names, indices, params, macs, gates, known = [], [], [], [], [], []
    read = {*graph.outputs, *(slot for call in graph.calls for slot in call.inputs)}
    left_out: dict[str, str] = {}
    for layer in layers:
        heads = rule_for(layer).heads(layer)
        if heads is None:
            continue
        name = graph.names[id(layer)]
        known.append(name)
        if any(call.layer is layer and not read.isdisjoint(call.outputs[1:]) for call in graph.calls):
            left_out[name] = "its attention scores, which all heads have a share in, are read as well"
            continue
        if not choice.takes(name):
            continue
        gates.append(InnerGate("heads", number[id(heads.projection)], np.arange(len(names), len(names) + heads.count)))
        names += [name] * heads.count
        indices += range(heads.count)
        params += [heads.params] * heads.count
        shapes = [call.input_shapes for call in graph.calls if call.layer is layer]
        macs += [sum(heads.macs(shape) for shape in shapes) if shapes else np.nan] * heads.count
    return Found(
        layers=names,
        kinds=["head"] * len(names),
        indices=np.array(indices, dtype=np.int64),
        params=np.array(params, dtype=np.int64),
        macs=np.array(macs, dtype=np.float64),
        inner_gates=tuple(gates),
        left_out=tuple(left_out.items()),
        known=tuple(known),
    )
