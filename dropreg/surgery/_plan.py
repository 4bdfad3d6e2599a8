"""Translate a selection into the channels, heads, calls and branches of a graph that are kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..element import KINDS_OF_UNITS, Elements, Selection
from ..errors import ModelError
from ..graph import Graph, all_layers
from ..layers import Channels, Kept, n_channels, rule_for
from ._original import Original

Columns = npt.NDArray[np.int64]
_UNITS = {kind for kinds in KINDS_OF_UNITS.values() for kind in kinds}


@dataclass(frozen=True)
class Plan:
    """The kept parts of a graph."""

    kept: Mapping[int, Kept]  # channels of the trailing axis of each slot
    heads: Mapping[int, Kept]  # of the layers, by their `id`, that lose some
    replaced: Mapping[int, int]  # slots that are no longer computed, each with the slot that replaces it
    branches: Mapping[int, tuple[int, ...]]  # positions of kept inputs, of calls that lose some and keep several

    def slot(self, slot: int) -> int:
        """Return the slot that finally replaces `slot`, or `slot` itself if it is computed."""
        while slot in self.replaced:
            slot = self.replaced[slot]
        return slot

    def live_calls(self, graph: Graph) -> list[int]:
        """Return the indices, in order, of the calls that the outputs still depend on."""
        wanted = {self.slot(slot) for slot in graph.outputs}
        live = []
        for index in range(len(graph.calls) - 1, -1, -1):
            call = graph.calls[index]
            if wanted.intersection(call.outputs):
                live.append(index)
                positions = self.branches.get(index, range(len(call.inputs)))
                wanted.update(self.slot(call.inputs[position]) for position in positions)
        return live[::-1]


def keep_everything(graph: Graph) -> Plan:
    """Return the plan that keeps all parts of a graph."""
    kept = {slot: np.ones(n_channels(shape), dtype=bool) for slot, shape in enumerate(graph.shapes)}
    return Plan(kept, {}, {}, {})


def columns_of_labels(channels: Channels, elements: Elements) -> Columns:
    """Return the element of each label, -1 for none; the additional last entry belongs to label ``FIXED``."""
    columns = np.full(len(channels.sources) + 1, -1, dtype=np.int64)
    groups: dict[int, list[int]] = {}
    for label in range(len(channels.sources)):
        groups.setdefault(channels.root(label), []).append(label)
    unassigned: dict[tuple[tuple[str, int], ...], list[list[int]]] = {}
    for labels in groups.values():
        units = tuple((channels.sources[label].layer, channels.sources[label].index) for label in labels)
        unassigned.setdefault(units, []).append(labels)
    for column, (kind, units) in enumerate(zip(elements.kinds, elements.members, strict=True)):
        if kind in _UNITS:
            if not unassigned.get(units):
                raise ModelError(
                    "the model must contain all elements of the selection, received "
                    f"'{elements.names[column]}', which it does not: call dropreg.elements(model) again."
                )
            columns[unassigned[units].pop(0)] = column
    return columns


def keep_by_slot(channels: Channels, columns: Columns, kept: npt.NDArray[np.bool_]) -> dict[int, Kept]:
    """Return the kept channels of each slot's trailing axis; channels without an element are kept."""
    of_label = np.append(kept, [True])[columns]
    return {slot: of_label[labels] for slot, labels in channels.slots.items()}


def make_plan(original: Original, columns: Columns, selection: Selection) -> Plan:
    """Translate a selection into a `Plan`; raises ModelError if a layer would be empty or cannot be cut."""
    graph, by_slot = original.graph, keep_by_slot(original.channels, columns, selection.kept)
    names = {}
    for call in graph.calls:
        names.update(dict.fromkeys(call.outputs, call.name))
        for slot in call.outputs:
            if not by_slot[slot].any():
                raise ModelError(
                    f"layer '{call.name}' ({call.kind}) must keep at least one of its {len(by_slot[slot])} units, the "
                    "selection removes them all: select with floor=1."
                )
    replaced = replacements(original, selection)
    for slot, other in replaced.items():
        if not np.array_equal(by_slot[slot], by_slot[other]):
            kinds = ", ".join(sorted(set(selection.elements.kinds)))
            raise ModelError(
                f"layer '{names[slot]}', which is removed or loses a branch, must keep the same units as its "
                f"replacement, received a selection of {kinds} that cuts them differently: remove one kind after the "
                "other, or pass on_blocked='keep'."
            )
    branches = {index: positions for index, positions in _branches(graph, selection).items() if len(positions) > 1}
    return Plan(by_slot, _heads(original, selection), replaced, branches)


def replacements(original: Original, selection: Selection) -> dict[int, int]:
    """Return the output slots of removed layers, and of sums of one kept branch, with the slots that replace them."""
    layers, calls = all_layers(original.model), original.graph.calls
    replaced = {}
    for gate in selection.elements.inner_gates:
        if gate.where == "bypass" and not selection.kept[gate.columns].all():
            found = _calls_of(original.graph, layers[gate.layer])
            replaced.update({call.outputs[0]: call.inputs[0] for call in found})
    for index, positions in _branches(original.graph, selection).items():
        if len(positions) == 1:
            replaced[calls[index].outputs[0]] = calls[index].inputs[positions[0]]
    return replaced


def _calls_of(graph: Graph, layer: Any) -> list[Any]:
    calls = [call for call in (*graph.calls, *graph.composites) if call.layer is layer]
    if not calls:
        raise ModelError(
            f"layer '{layer.name}' ({type(layer).__name__}) must be called in the model's own graph to be cut, but it "
            "lies inside another layer: keep its elements."
        )
    return calls


def _branches(graph: Graph, selection: Selection) -> dict[int, tuple[int, ...]]:
    """Return the positions of the kept inputs of each call that loses some."""
    removed: dict[int, set[int]] = {}
    for gate in selection.elements.gates:
        column = gate.columns[0]
        if column >= 0 and selection.elements.kinds[column] == "branch" and not selection.kept[column]:
            removed.setdefault(gate.call, set()).add(gate.position)
    return {
        index: tuple(k for k in range(len(graph.calls[index].inputs)) if k not in positions)
        for index, positions in removed.items()
    }


def _heads(original: Original, selection: Selection) -> dict[int, Kept]:
    """Return the kept heads of the layers, by their ``id``, that lose some."""
    layers = all_layers(original.model)
    found = [(layer, rule_for(layer).heads(layer)) for layer in layers]
    owners = {id(heads.projection): layer for layer, heads in found if heads is not None}
    result = {}
    for gate in selection.elements.inner_gates:
        kept = selection.kept[gate.columns]
        if gate.where != "heads" or kept.all():
            continue
        layer = owners[id(layers[gate.layer])]
        call = _calls_of(original.graph, layer)[0]
        if not kept.any():
            raise ModelError(
                f"layer '{call.name}' ({call.kind}) must keep at least one of its {len(kept)} heads, the selection "
                "removes them all: select with floor=1, or remove its branch (kind='branches')."
            )
        reason = rule_for(layer).blocked(call)
        if reason is not None:
            raise ModelError(f"layer '{call.name}' ({call.kind}) cannot lose heads, because {reason}.")
        result[id(layer)] = kept
    return result
