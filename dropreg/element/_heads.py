"""Attention heads."""

from typing import TYPE_CHECKING

import numpy as np

from ..graph import Graph, all_layers
from ..layers import rule_for
from ._gates import InnerGate
from ._table import Choice, Found, found

if TYPE_CHECKING:
    import keras


def find(model: "keras.Model", graph: Graph, choice: Choice) -> Found:
    """Find the heads of every attention layer; a mask multiplies a head's input to the output projection."""
    layers = all_layers(model)
    number = {id(layer): k for k, layer in enumerate(layers)}
    names, kinds, indices, params, macs, gates, known = [], [], [], [], [], [], []
    consumed = {*graph.outputs, *(slot for call in graph.calls for slot in call.inputs)}
    left_out: dict[str, str] = {}
    for layer in layers:
        heads = rule_for(layer).heads(layer)
        if heads is None:
            continue
        name = graph.names[id(layer)]
        known.append(name)
        if any(call.layer is layer and not consumed.isdisjoint(call.outputs[1:]) for call in graph.calls):
            left_out[name] = "its attention scores, which depend on all heads, are used too"
            continue
        if (other := graph.shared.other(layer, name)) is not None:
            left_out[name] = f"it shares weights with layer '{other}'"
            continue
        if not choice.takes(name):
            continue
        columns = np.repeat(np.arange(len(names), len(names) + heads.count), heads.each)
        gates.append(InnerGate("heads", number[id(heads.projection)], columns))
        kinds += ["head" if heads.each == 1 else "key/value group"] * heads.count
        names += [name] * heads.count
        indices += range(heads.count)
        params += [heads.params] * heads.count
        shapes = [call.input_shapes for call in graph.calls if call.layer is layer]
        macs += [sum(heads.macs(shape) for shape in shapes) if shapes else np.nan] * heads.count
    more = {"inner_gates": tuple(gates), "left_out": tuple(left_out.items())}
    return found(names, kinds, indices, params, macs, known=known, **more)
