"""Whole layers and residual branches: what can go and leave every shape as it is."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ..graph import Call, Graph, Shape, all_layers
from ..layers import n_channels, rule_for
from ._gates import Gate, InnerGate
from ._table import Choice, Found

if TYPE_CHECKING:
    import keras

_OTHER_SHAPE = "its output has another shape than its input, so the layers behind it could not do without it"
_UNKNOWN_SHAPE = "only the same shape can go on in its place, and sizes are unknown of"


def n_params(layer: Any) -> int:
    """Scalars of all weights of a layer and those in it."""
    return sum(math.prod(weight.shape) for weight in getattr(layer, "weights", ()))


def find_layers(model: "keras.Model", graph: Graph, choice: Choice) -> Found:
    """Layers with weights that map a tensor to one of the same shape, and can be left out."""
    number = {id(layer): k for k, layer in enumerate(all_layers(model))}
    calls = [(call.layer, _one(_read(call)), _one(call.output_shapes)) for call in graph.calls]
    if graph.inside is not None:
        calls = [(call.layer, call.input_shape, call.output_shape) for call in graph.inside]
    reasons: dict[int, str] = {}
    layers: dict[int, Any] = {}
    for layer, read, written in calls:
        if id(layer) in number and n_params(layer):
            layers[id(layer)] = layer
            if read is None or read != written:
                reasons[id(layer)] = _OTHER_SHAPE
            elif None in read[1:]:
                reasons.setdefault(id(layer), f"{_UNKNOWN_SHAPE} {read}")
    found = [layer for key, layer in layers.items() if key not in reasons and choice.takes(graph.names[id(layer)])]
    return Found(
        layers=[graph.names[id(layer)] for layer in found],
        kinds=["layer"] * len(found),
        indices=np.zeros(len(found), dtype=np.int64),
        params=np.array([n_params(layer) for layer in found], dtype=np.int64),
        macs=np.full(len(found), np.nan),
        inner_gates=tuple(
            InnerGate("bypass", number[id(layer)], np.array([column])) for column, layer in enumerate(found)
        ),
        left_out=tuple((graph.names[key], reasons[key]) for key in layers if key in reasons),
        known=tuple(graph.names[id(layer)] for layer in layers.values()),
    )


def _read(call: Call) -> tuple[Shape, ...]:
    """Shapes of what a call reads, but for masks of steps."""
    masks = call.positions_of("mask", len(call.args))
    return tuple(shape for position, shape in enumerate(call.input_shapes) if position not in masks)


def _one(shapes: tuple[Shape, ...]) -> Shape | None:
    """The only shape, or that of all inputs where they are the same tensor again (self-attention)."""
    return shapes[0] if len(set(shapes)) == 1 else None


def find_branches(graph: Graph, choice: Choice) -> Found:
    """Branches of an Add that compute something, beside another one that stays.

    Beside the identity every other branch is an element. Where all branches have weights of their own,
    the one with the fewest calls (the projection of a shortcut) stays.
    """
    writer = {slot: index for index, call in enumerate(graph.calls) for slot in call.outputs}
    names, indices, params, gates, known = [], [], [], [], []
    for index, call in enumerate(graph.calls):
        if not rule_for(call.layer).adds or len(call.inputs) < 2 or len(set(call.input_shapes)) > 1:
            continue
        above = {slot: set(graph.upstream([slot])) for slot in call.inputs}
        alone = [above[slot].difference(*(above[s] for s in above if s != slot)) for slot in call.inputs]
        weighted = [any(n_params(graph.calls[k].layer) for k in calls) for calls in alone]
        shortcut = min(range(len(alone)), key=lambda k: len(alone[k])) if all(weighted) else -1
        for position, calls in enumerate(alone):
            if not weighted[position] or position == shortcut:
                continue
            name = graph.calls[writer[call.inputs[position]]].name
            known.append(name)
            if not choice.takes(name):
                continue
            gates.append(Gate(index, position, np.full(n_channels(call.input_shapes[position]), len(names))))
            names.append(name)
            indices.append(position)
            layers = {id(graph.calls[k].layer): graph.calls[k].layer for k in calls}
            params.append(sum(n_params(layer) for layer in layers.values()))
    return Found(
        layers=names,
        kinds=["branch"] * len(names),
        indices=np.array(indices, dtype=np.int64),
        params=np.array(params, dtype=np.int64),
        macs=np.full(len(names), np.nan),
        gates=tuple(gates),
        known=tuple(known),
    )
