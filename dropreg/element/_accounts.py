"""Account for the layers that have weights but no elements."""

from collections.abc import Collection, Iterator
from typing import Any

from ..graph import Call, Graph, all_layers, replaced_method, sublayers, variables_of
from ..layers import FIXED, Channels, Unknown, rule_for
from ._table import Elements, Kind
from ._units import KINDS_OF_UNITS, trace_channels

_REGISTER = "register one with dropreg.layers.register"


def unaccounted(graph: Graph, elements: Elements, kinds: Collection[Kind]) -> list[tuple[str, str]]:
    """Return the layers with weights that are not named yet, each with the reason and what can be done.

    Where units are asked for, these are all layers none of whose weights are removed with an element; else those
    without a rule.
    """
    named = {layer for tied in elements.members for layer, _ in tied} | {name for name, _ in elements.left_out}
    of_units = not set(KINDS_OF_UNITS).isdisjoint(kinds)
    if graph.inside is not None:
        return list(_inside(graph, graph.model, named)) if of_units else []
    channels = trace_channels(graph) if of_units else None
    found: dict[str, str] = {}
    for call in graph.calls:
        if call.name in named or not getattr(call.layer, "weights", ()):
            continue
        if isinstance(rule_for(call.layer), Unknown):
            method = replaced_method(call.layer)
            found[call.name] = (
                f"its class {call.kind} has no rule: {_REGISTER}"
                if method is None
                else f"its method `{method}` was replaced on this one layer: define it in a subclass with a rule"
            )
        elif channels is not None and named.isdisjoint(_names_inside(graph, call.layer)):
            reason = _reason(graph, channels, call, kinds)
            found |= {call.name: reason} if reason else {}
    return list(found.items())


def _names_inside(graph: Graph, layer: Any) -> list[str]:
    """Return the names of a layer and of the layers inside it, such as the directions of a Bidirectional layer."""
    return [graph.names[id(part)] for part in all_layers(layer) if id(part) in graph.names]


def _reason(graph: Graph, channels: Channels, call: Call, kinds: Collection[Kind]) -> str | None:
    """Return why no weights of a layer are removed with elements of `kinds`; None if some are."""
    names = _names_inside(graph, call.layer)
    own = [label for label, source in enumerate(channels.sources) if source.layer in names]
    through = {label for slot in (*call.inputs, *call.outputs) for label in channels.slots[slot].tolist()}
    free = [label for label in (*own, *sorted(through - {FIXED})) if channels.pinned(label) is None]
    if free:
        kind = channels.sources[channels.root(free[0])].kind
        of = next(of for of, known in KINDS_OF_UNITS.items() if kind in known)
        return None if of in kinds else f"its channels are elements of kind '{of}'"
    if id(call.layer) in channels.refused:
        return channels.refused[id(call.layer)]
    return channels.pinned(own[0]) if own else "it has no units of its own, and its input channels are kept"


def _inside(graph: Graph, parent: Any, named: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yield the layers with weights inside a subclassed model, or inside a layer without a rule, that are not named."""
    for layer in sublayers(parent):
        name, rule = graph.names[id(layer)], rule_for(layer)
        if name in named or not getattr(layer, "weights", ()):
            continue
        if isinstance(rule, Unknown) and not variables_of(layer):
            yield from _inside(graph, layer, named)
        elif rule.heads(layer) is not None:
            yield name, "its heads are elements of kind 'heads'"
        elif not set(named).intersection(_names_inside(graph, layer)):
            yield name, f"masks cannot multiply its outputs: its class {type(layer).__name__} has no rule with units"
