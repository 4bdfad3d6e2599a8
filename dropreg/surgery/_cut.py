"""The physically smaller model."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .._utils import concatenate_names
from ..data import Examples
from ..element import Elements, Floor, Selection, check_elements, check_fits, largest_fraction
from ..errors import ModelError, ParameterError
from ..layers import Channels, Labels, rule_for
from ._copying import seeds_kept
from ._merging import LeastSquares, merge_into, resolve_merge
from ._original import Original
from ._plan import aliases_of, columns_of_labels, keep_by_slot, make_plan
from ._pruned import OnBlocked, Pruned
from ._rebuild import rebuild
from ._sizes import compare_sizes
from ._zeros import drop_weights


@seeds_kept()
def cut(
    original: Original,
    selection: Selection,
    examples: Examples | None = None,
    *,
    merge: str | LeastSquares | None = None,
    on_blocked: OnBlocked = "raise",
) -> Pruned:
    """Build the model without the elements that a selection drops, merged with checked `examples`.

    Other parameters and errors as in `dropreg.prune`.
    """
    strategy = resolve_merge(merge, examples is not None)
    if on_blocked not in ("raise", "keep"):
        raise ParameterError(f"`on_blocked` must be one of raise, keep, received {on_blocked!r}.")
    _check_selection(selection, original)
    columns = columns_of_labels(original.channels, selection.elements)
    selection, blocked = _settle(original, columns, selection, on_blocked)
    if on_blocked == "keep":
        selection, aligned = _align(original, columns, selection)
        blocked += aligned
    rebuilt = rebuild(original, make_plan(original, columns, selection))
    drop_weights(original.model, rebuilt, selection)
    merged = None
    if strategy is not None and examples is not None:
        classes = examples.labels is not None and examples.task == "classes"
        merged = merge_into(rebuilt, examples.inputs, strategy, classes=classes)
    name = "none" if strategy is None else strategy.name
    return Pruned(
        *(rebuilt.model, original.model, selection, name, merged, blocked, compare_sizes(original.model, rebuilt))
    )


def check_can_cut(original: Original, elements: Elements, floor: Floor) -> None:
    """Raise ModelError if a selection that drops half of the elements, at random, cannot be cut."""
    check_elements(elements)
    trial = Selection.random(elements, min(0.5, largest_fraction(elements, floor)), floor=floor)
    _check_selection(trial, original)
    _settle(original, columns_of_labels(original.channels, elements), trial, "raise")


def _check_selection(selection: Selection, original: Original) -> None:
    check_fits(selection.elements, original.graph, original.model.name, "`selection` was made for elements")


def _settle(
    original: Original, columns: npt.NDArray[np.int64], selection: Selection, on_blocked: OnBlocked
) -> tuple[Selection, tuple[tuple[str, str], ...]]:
    """The selection that can be done, and the layers that had to be kept whole for it."""
    blocked: dict[str, str] = {}
    kept, channels = selection.kept.copy(), original.channels
    for call in original.graph.calls:
        slots = (*call.inputs, *call.outputs)
        touched = np.unique(np.concatenate([_columns_at(channels, columns, slot) for slot in slots]))
        losing = touched[~kept[touched]]
        by_slot = keep_by_slot(channels, columns, kept) if len(losing) else {}
        stay = [by_slot[slot] for slot in call.outputs] if len(losing) else []
        reason = rule_for(call.layer).blocked(call, stay) if len(losing) else None
        if reason is None:
            continue
        if on_blocked == "raise":
            names = concatenate_names([selection.elements.names[j] for j in losing], 3)
            raise ModelError(
                f"layer '{call.name}' ({call.kind}) must be cut to drop {names}, but {reason}. Keep those elements, or "
                "pass on_blocked='keep'."
            )
        blocked.setdefault(call.name, reason)
        kept[touched] = True
    return replace(selection, kept=kept), tuple(blocked.items())


def _align(
    original: Original, columns: npt.NDArray[np.int64], selection: Selection
) -> tuple[Selection, tuple[tuple[str, str], ...]]:
    """The selection by which what takes the place of a layer has the same units, and layers that units stay for."""
    kept, before, channels = selection.kept.copy(), None, original.channels
    names = {slot: call.name for call in original.graph.calls for slot in call.outputs}
    aligned: dict[str, str] = {}
    aliases = aliases_of(original, selection)
    while before is None or (kept != before).any():
        before = kept.copy()
        by_slot = keep_by_slot(channels, columns, kept)
        for pair in aliases.items():
            differ = by_slot[pair[0]] != by_slot[pair[1]]
            found = np.concatenate([columns[channels.slots[slot]][differ] for slot in pair])
            kept[found[found >= 0]] = True
            if differ.any():
                aligned[names[pair[0]]] = "it goes, or a branch of it does, and what takes its place has these units"
    return replace(selection, kept=kept), tuple(aligned.items())


def _columns_at(channels: Channels, columns: npt.NDArray[np.int64], slot: int) -> Labels:
    found = columns[channels.slots[slot]]
    return found[found >= 0]
