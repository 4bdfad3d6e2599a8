"""Units of a subclassed model, whose connections are unknown: masks multiply the outputs of its layers."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..graph import Graph, all_layers
from ..layers import rule_for
from ._blocks import n_params
from ._gates import InnerGate
from ._table import Choice, Found, Kind, found
from ._units import KINDS_OF_UNITS

if TYPE_CHECKING:
    import keras


def find(model: "keras.Model", graph: Graph, kind: Kind, choice: Choice) -> Found:
    """Find the units of every layer that was called, except where they are the model's output."""
    number = {id(layer): k for k, layer in enumerate(all_layers(model))}
    kinds = KINDS_OF_UNITS.get(kind, ())
    called: dict[int, Any] = {}
    left_out: dict[str, str] = {}
    for call in graph.inside or ():
        units = rule_for(call.layer).units(call.layer)
        if units is None or units[1] not in kinds or id(call.layer) not in number:
            continue
        called[id(call.layer)] = call.layer
        if call.is_output:
            left_out[graph.names[id(call.layer)]] = "the model's output needs it"
    if called and not left_out:
        last = list(called.values())[-1]
        if graph.shapes[graph.outputs[0]][-1] == rule_for(last).units(last)[0]:  # type: ignore[index]
            left_out[graph.names[id(last)]] = "it is the last layer and as wide as the model's output, which needs it"
    names, unit_kinds, indices, params, gates = [], [], [], [], []
    for layer in called.values():
        name = graph.names[id(layer)]
        if name in left_out or not choice.takes(name):
            continue
        count, unit_kind = rule_for(layer).units(layer) or (0, "")
        gates.append(InnerGate("output", number[id(layer)], np.arange(len(names), len(names) + count)))
        names += [name] * count
        unit_kinds += [unit_kind] * count
        indices += range(count)
        params += [n_params(layer) // count] * count
    more = {"inner_gates": tuple(gates), "left_out": tuple(left_out.items())}
    return found(names, unit_kinds, indices, params, known=[graph.names[key] for key in called], **more)
