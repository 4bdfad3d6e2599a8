"""Account for the layers that have weights but no elements."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

from ..graph import Call, Graph, all_layers, replaced_method, sublayers, variables_of
from ..layers import FIXED, Channels, Unknown, rule_for
from ._blocks import calls_of_branches
from ._table import Elements, Kind
from ._units import KINDS_OF_UNITS, trace_channels

_REGISTER = "register one with dropreg.layers.register"


def account(graph: Graph, elements: Elements, kinds: Collection[Kind], known: Collection[str] | None) -> Elements:
    """Return `elements` with all other layers that have weights among its `followers` or `left_out`.

    The latter have the reason and what can be done. Where not all layers were asked for, `known` are those that could
    have elements of these `kinds`: they, and those with their channels, are in neither.
    """
    named = {layer for tied in elements.members for layer, _ in tied} | {name for name, _ in elements.left_out}
    if graph.inside is not None:
        more = _inside(graph, graph.model, named, of_units=not set(KINDS_OF_UNITS).isdisjoint(kinds))
        return replace(elements, left_out=(*elements.left_out, *more))
    channels, inside = trace_channels(graph), calls_of_branches(graph, elements)
    of_units = {kind for kinds in KINDS_OF_UNITS.values() for kind in kinds}
    each = zip(elements.members, elements.kinds, strict=True)
    taken = {unit for tied, kind in each if kind in of_units for unit in tied}
    found, followers = dict[str, str](), dict[str, None]()
    for index, call in enumerate(graph.calls):
        if call.name in named or call.name in (known or ()) or not getattr(call.layer, "weights", ()):
            continue
        names = _names_inside(graph, call.layer)
        if index in inside:
            followers[call.name] = None
        elif isinstance(rule_for(call.layer), Unknown):
            method = replaced_method(call.layer)
            found[call.name] = (
                f"its class {call.kind} has no rule: {_REGISTER}"
                if method is None
                else f"its method `{method}` was replaced on this one layer: define it in a subclass with a rule"
            )
        elif named.isdisjoint(names):
            free = _free(channels, call, names)
            sources = [channels.sources[label] for label in free]
            if not taken.isdisjoint((source.layer, source.index) for source in sources):
                followers[call.name] = None
            elif known is None or not _is_of(channels, free, kinds):
                found[call.name] = _reason(graph, channels, call, free)
    return replace(
        elements,
        left_out=(*elements.left_out, *found.items()),
        followers=tuple(name for name in followers if name not in found),
    )


def _names_inside(graph: Graph, layer: Any) -> list[str]:
    """Return the names of a layer and of the layers inside it, such as the directions of a Bidirectional layer."""
    return [graph.names[id(part)] for part in all_layers(layer) if id(part) in graph.names]


def _free(channels: Channels, call: Call, names: Collection[str]) -> list[int]:
    """Return the labels that can be removed of a call's own units, or else of the channels that pass through it."""
    own = [label for label, source in enumerate(channels.sources) if source.layer in names]
    through = {label for slot in (*call.inputs, *call.outputs) for label in channels.slots[slot].tolist()}
    free = ([label for label in of if channels.pinned(label) is None] for of in (own, sorted(through - {FIXED})))
    return next(filter(None, free), [])


def _kind_of(channels: Channels, label: int) -> str:
    """Return the kind of elements that the unit with a label belongs to."""
    return _kind_of_unit(channels.sources[channels.root(label)].kind)


def _kind_of_unit(kind: str) -> str:
    return next(of for of, known in KINDS_OF_UNITS.items() if kind in known)


def _is_of(channels: Channels, free: list[int], kinds: Collection[Kind]) -> bool:
    return bool(free) and _kind_of(channels, free[0]) in kinds


def _reason(graph: Graph, channels: Channels, call: Call, free: list[int]) -> str:
    """Return why no weights of a layer are removed with elements."""
    if free:
        return f"its channels are elements of kind '{_kind_of(channels, free[0])}'"
    if id(call.layer) in channels.refused:
        return channels.refused[id(call.layer)]
    if rule_for(call.layer).heads(call.layer) is not None:
        return "its heads are elements of kind 'heads'"
    names = _names_inside(graph, call.layer)
    own = next((label for label, source in enumerate(channels.sources) if source.layer in names), None)
    pinned = None if own is None else channels.pinned(own)
    return pinned or "it has no units of its own, and its input channels are kept"


def _inside(graph: Graph, parent: Any, named: Collection[str], *, of_units: bool) -> Iterator[tuple[str, str]]:
    """Yield the layers with weights inside a subclassed model, or inside a layer without a rule, that are not named."""
    for layer in sublayers(parent):
        name, rule = graph.names[id(layer)], rule_for(layer)
        if name in named or not getattr(layer, "weights", ()):
            continue
        if isinstance(rule, Unknown) and not variables_of(layer):
            yield from _inside(graph, layer, named, of_units=of_units)
        elif rule.heads(layer) is not None:
            yield name, "its heads are elements of kind 'heads'"
        elif not set(named).intersection(_names_inside(graph, layer)):
            units = None if of_units else rule.units(layer)
            if units is not None:
                yield name, f"its units are elements of kind '{_kind_of_unit(units[1])}'"
                continue
            yield name, f"masks cannot multiply its outputs: its class {type(layer).__name__} has no rule with units"
