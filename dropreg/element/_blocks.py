"""Layers and residual branches that can be removed without changing any shape."""

import math
from collections import Counter
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from ..graph import Call, Graph, Shape, all_layers, keeps_its_shape
from ..layers import n_channels, rule_for
from ._gates import Gate, InnerGate
from ._table import Choice, Elements, Found, found

if TYPE_CHECKING:
    import keras


def n_params(layer: Any) -> int:
    """Return the number of scalars in all weights of a layer and of the layers inside it."""
    return sum(math.prod(weight.shape) for weight in getattr(layer, "weights", ()))


def find_layers(model: "keras.Model", graph: Graph, choice: Choice) -> Found:
    """Find the layers with weights whose output has the shape of their input; the identity can replace them."""
    number = {id(layer): k for k, layer in enumerate(all_layers(model))}
    calls = [(call.layer, _only_shape(_input_shapes(call)), _single(call.output_shapes)) for call in graph.calls]
    calls += [(call.layer, call.input_shapes[0], _single(call.output_shapes)) for call in graph.composites]
    written_out = {id(call.layer): call for call in graph.composites}
    if graph.inside is not None:
        calls = [(call.layer, call.input_shape, call.output_shape) for call in graph.inside]
    reasons: dict[int, str] = {}
    layers: dict[int, Any] = {}
    for layer, before, after in calls:
        if id(layer) in number and n_params(layer):
            layers[id(layer)] = layer
            other = None if id(layer) in written_out else graph.shared.other(layer, graph.names[id(layer)])
            if other is not None:
                reasons.setdefault(id(layer), f"it shares weights with layer '{other}'")
            if after is None:
                reasons[id(layer)] = "it returns several tensors, so the identity cannot replace it"
            elif before is None or before != after:
                reasons[id(layer)] = "its output has another shape than its input, so the identity cannot replace it"
            elif None in before[1:] and not (id(layer) in written_out and keeps_its_shape(written_out[id(layer)])):
                unknown = f"its input has unknown sizes, {before}, so its output may have another shape"
                reasons.setdefault(id(layer), unknown)
    _choose_blocks(graph, reasons, choice)
    chosen = [layer for key, layer in layers.items() if key not in reasons and choice.takes(graph.names[id(layer)])]
    return found(
        [graph.names[id(layer)] for layer in chosen],
        ["layer"] * len(chosen),
        [0] * len(chosen),
        [n_params(layer) for layer in chosen],
        inner_gates=tuple(
            InnerGate("bypass", number[id(layer)], np.array([column])) for column, layer in enumerate(chosen)
        ),
        left_out=tuple((graph.names[key], reasons[key]) for key in layers if key in reasons),
        known=[graph.names[key] for key in layers],
    )


def _choose_blocks(graph: Graph, reasons: dict[int, str], choice: Choice) -> None:
    """Add to `reasons` the layers that hold several blocks, and those inside a block that is an element itself."""
    blocks = {id(call.layer): call for call in graph.composites}
    for call in graph.composites[::-1]:  # outer ones first
        inside = all_layers(call.layer)[1:]
        kinds = Counter(type(part) for part in inside if id(part) in blocks)
        if kinds and max(kinds.values()) > 1:
            reasons.setdefault(id(call.layer), "it holds several layers of one class, which are elements themselves")
        elif id(call.layer) not in reasons and choice.takes(call.name):
            for part in inside:
                reasons.setdefault(id(part), f"it lies inside layer '{call.name}', which is an element")


def _weights(graph: Graph, calls: Collection[int]) -> dict[int, int]:
    """Return the sizes of all weights that `calls` use, by the ``id`` of the weight."""
    return {id(w): math.prod(w.shape) for k in calls for w in getattr(graph.calls[k].layer, "weights", ())}


def _input_shapes(call: Call) -> tuple[Shape, ...]:
    """Return the shapes of a call's inputs, without its masks of time steps."""
    masks = call.positions_of("mask", len(call.args))
    return tuple(shape for position, shape in enumerate(call.input_shapes) if position not in masks)


def _only_shape(shapes: tuple[Shape, ...]) -> Shape | None:
    """Return the shape that all have (the inputs of self-attention are one tensor), None if they differ."""
    return shapes[0] if len(set(shapes)) == 1 else None


def _single(shapes: tuple[Shape, ...]) -> Shape | None:
    """Return the shape of a single tensor, None for several."""
    return shapes[0] if len(shapes) == 1 else None


def _own_calls(graph: Graph, call: Call) -> list[set[int]]:
    """Return the calls that compute each input of a call and no other of its inputs."""
    above = {slot: set(graph.upstream([slot])) for slot in call.inputs}
    return [above[slot].difference(*(above[other] for other in above if other != slot)) for slot in call.inputs]


def calls_of_branches(graph: Graph, elements: Elements) -> set[int]:
    """Return the calls that are removed with the branches among `elements`."""
    branches = {j for j, kind in enumerate(elements.kinds) if kind == "branch"}
    places = [(gate.call, gate.position) for gate in elements.gates if not branches.isdisjoint(gate.columns.tolist())]
    own = {index: _own_calls(graph, graph.calls[index]) for index, _ in places}
    return {call for index, position in places for call in own[index][position]}


def find_branches(graph: Graph, choice: Choice) -> Found:
    """Find the branches of every Add that have weights and can be removed because another branch remains.

    Where all branches have weights of their own, the one with the fewest calls (the projection of a shortcut) is
    always kept.
    """
    writer = {slot: index for index, call in enumerate(graph.calls) for slot in call.outputs}
    names, indices, params, gates, known = [], [], [], [], []
    for index, call in enumerate(graph.calls):
        if not rule_for(call.layer).adds or len(call.inputs) < 2 or len(set(call.input_shapes)) > 1:
            continue
        own = _own_calls(graph, call)
        weighted = [any(n_params(graph.calls[k].layer) for k in calls) for calls in own]
        shortcut = min(range(len(own)), key=lambda k: len(own[k])) if all(weighted) else -1
        for position, calls in enumerate(own):
            if not weighted[position] or position == shortcut:
                continue
            name = graph.calls[writer[call.inputs[position]]].name
            known.append(name)
            if not choice.takes(name):
                continue
            gates.append(Gate(index, position, np.full(n_channels(call.input_shapes[position]), len(names))))
            names.append(name)
            indices.append(position)
            inside, outside = _weights(graph, calls), _weights(graph, set(range(len(graph.calls))).difference(calls))
            params.append(sum(size for key, size in inside.items() if key not in outside))
    return found(names, ["branch"] * len(names), indices, params, gates=tuple(gates), known=known)
