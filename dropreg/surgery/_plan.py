"""What a selection means for a graph: which channels, heads, calls and branches stay."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..element import KINDS_OF_UNITS, Elements, Selection
from ..errors import ModelError
from ..graph import Graph, all_layers
from ..layers import Channels, Kept, rule_for
from ._original import Original

Columns = npt.NDArray[np.int64]
_UNITS = {kind for kinds in KINDS_OF_UNITS.values() for kind in kinds}


@dataclass(frozen=True)
class Plan:
    """What is left of a graph.

    Attributes
    ----------
    kept : mapping of int to Kept
        What stays of the trailing axis of each slot.
    heads : mapping of int to Kept
        Heads that stay of the layers (by ``id``) that lose some.
    aliases : mapping of int to int
        Slots that are no longer computed, and the slot that takes the place of each.
    branches : mapping of int to tuple of int
        Inputs that stay, by their position, of the calls that lose some but not all but one.
    """

    kept: Mapping[int, Kept]
    heads: Mapping[int, Kept]
    aliases: Mapping[int, int]
    branches: Mapping[int, tuple[int, ...]]

    def slot(self, slot: int) -> int:
        """The slot that takes the place of `slot`, itself where it stays."""
        while slot in self.aliases:
            slot = self.aliases[slot]
        return slot

    def live_calls(self, graph: Graph) -> list[int]:
        """Calls that the outputs still depend on, in order."""
        wanted = {self.slot(slot) for slot in graph.outputs}
        live = []
        for index in range(len(graph.calls) - 1, -1, -1):
            call = graph.calls[index]
            if wanted.intersection(call.outputs):
                live.append(index)
                stay = self.branches.get(index, range(len(call.inputs)))
                wanted.update(self.slot(call.inputs[position]) for position in stay)
        return live[::-1]


def columns_of_labels(channels: Channels, elements: Elements) -> Columns:
    """Element of each label, -1 for none; the last entry serves ``FIXED``."""
    columns = np.full(len(channels.sources) + 1, -1, dtype=np.int64)
    groups: dict[int, list[int]] = {}
    for label in range(len(channels.sources)):
        groups.setdefault(channels.root(label), []).append(label)
    waiting: dict[tuple[tuple[str, int], ...], list[list[int]]] = {}
    for labels in groups.values():
        units = tuple((channels.sources[label].layer, channels.sources[label].index) for label in labels)
        waiting.setdefault(units, []).append(labels)
    for column, (kind, units) in enumerate(zip(elements.kinds, elements.members, strict=True)):
        if kind in _UNITS:
            if not waiting.get(units):
                raise ModelError(
                    f"the elements of the selection must be found in the model again, received "
                    f"'{elements.names[column]}' that is not: call dropreg.elements(model) again."
                )
            columns[waiting[units].pop(0)] = column
    return columns


def keep_by_slot(channels: Channels, columns: Columns, kept: npt.NDArray[np.bool_]) -> dict[int, Kept]:
    """What stays of the trailing axis of each slot; label ``FIXED`` and column -1 are the last entries."""
    of_label = np.append(kept, [True])[columns]
    return {slot: of_label[labels] for slot, labels in channels.slots.items()}


def make_plan(original: Original, columns: Columns, selection: Selection) -> Plan:
    """Translate a selection into what is left of a graph.

    Raises
    ------
    ModelError
        If something would be empty, or lies where surgery does not reach.
    """
    elements, graph = selection.elements, original.graph
    by_slot = keep_by_slot(original.channels, columns, selection.kept)
    _refuse_empty(graph, by_slot)
    aliases = aliases_of(original, selection)
    branches = {index: stay for index, stay in _branches(graph, selection).items() if len(stay) > 1}
    for slot, other in aliases.items():
        if not np.array_equal(by_slot[slot], by_slot[other]):
            kinds = ", ".join(sorted(set(elements.kinds)))
            name = next(call.name for call in graph.calls if slot in call.outputs)
            raise ModelError(
                f"layer '{name}' must have all its units or lose the same as what takes its place where it or a branch "
                f"of it goes, received a selection of {kinds} that cuts it as well: prune one kind after the other, or "
                "pass on_blocked='keep'."
            )
    return Plan(by_slot, _heads(original, selection), aliases, branches)


def _refuse_empty(graph: Graph, kept: dict[int, Kept]) -> None:
    for call in graph.calls:
        for slot in call.outputs:
            if not kept[slot].any():
                raise ModelError(
                    f"layer '{call.name}' ({call.kind}) must keep at least one of its {len(kept[slot])} units, the "
                    "selection drops them all: select with floor=1."
                )


def aliases_of(original: Original, selection: Selection) -> dict[int, int]:
    """Slots written by layers, or by sums of which one branch stays, that go, and the slots that take their place."""
    aliases = _bypassed(original, selection)
    for index, stay in _branches(original.graph, selection).items():
        if len(stay) == 1:
            call = original.graph.calls[index]
            aliases[call.outputs[0]] = call.inputs[stay[0]]
    return aliases


def _bypassed(original: Original, selection: Selection) -> dict[int, int]:
    """Slots written by layers that are left out, and what these layers read."""
    layers = all_layers(original.model)
    aliases = {}
    for gate in selection.elements.inner_gates:
        if gate.where != "bypass" or selection.kept[gate.columns].all():
            continue
        layer = layers[gate.layer]
        calls = _calls_of(original.graph, layer)
        aliases.update({call.outputs[0]: call.inputs[0] for call in calls})
    return aliases


def _calls_of(graph: Graph, layer: Any) -> list[Any]:
    calls = [call for call in graph.calls if call.layer is layer]
    if not calls:
        raise ModelError(
            f"layer '{layer.name}' ({type(layer).__name__}) must be called in the model's own graph to be cut, but it "
            "lies inside another layer: keep its elements."
        )
    return calls


def _branches(graph: Graph, selection: Selection) -> dict[int, tuple[int, ...]]:
    """Positions of the inputs that stay, of each call that loses some."""
    dropped: dict[int, set[int]] = {}
    kinds = np.array(selection.elements.kinds, dtype=object)
    for gate in selection.elements.gates:
        column = gate.columns[0]
        if column >= 0 and kinds[column] == "branch" and not selection.kept[column]:
            dropped.setdefault(gate.call, set()).add(gate.position)
    return {
        index: tuple(k for k in range(len(graph.calls[index].inputs)) if k not in gone)
        for index, gone in dropped.items()
    }


def _heads(original: Original, selection: Selection) -> dict[int, Kept]:
    """Heads that stay of the layers, by their ``id``, that lose some."""
    layers = all_layers(original.model)
    owners = {}
    for layer in layers:
        found = rule_for(layer).heads(layer)
        if found is not None:
            owners[id(found.projection)] = layer
    result = {}
    for gate in selection.elements.inner_gates:
        if gate.where != "heads" or selection.kept[gate.columns].all():
            continue
        layer = owners[id(layers[gate.layer])]
        call = _calls_of(original.graph, layer)[0]
        stay = selection.kept[gate.columns]
        if not stay.any():
            raise ModelError(
                f"layer '{call.name}' ({call.kind}) must keep at least one of its {len(stay)} heads, the selection "
                "drops them all: select with floor=1, or drop its branch (kind='branches')."
            )
        reason = rule_for(layer).blocked(call)
        if reason is not None:
            raise ModelError(f"layer '{call.name}' ({call.kind}) cannot lose heads, because {reason}.")
        result[id(layer)] = stay
    return result
