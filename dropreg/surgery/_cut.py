"""Build the smaller model of a selection."""

from dataclasses import replace

import numpy as np

from .._utils import concatenate_names
from ..data import Examples
from ..element import Elements, Floor, Selection, check_fits, largest_fraction
from ..errors import ModelError, ParameterError
from ..layers import rule_for
from ._agreement import check_cut
from ._clones import seeds_kept
from ._compiling import compile_like
from ._merging import LeastSquares, merge_into, resolve_merge
from ._original import Original
from ._own_class import put_back
from ._plan import Columns, columns_of_labels, keep_by_slot, make_plan, replacements
from ._pruned import OnBlocked, Pruned
from ._rebuild import rebuild
from ._sizes import compare_sizes
from ._zeros import drop_weights

Blocked = tuple[tuple[str, str], ...]
"""Names of layers that are not cut, and why."""


@seeds_kept()
def cut(
    original: Original,
    selection: Selection,
    examples: Examples | None = None,
    *,
    merge: str | LeastSquares | None = None,
    on_blocked: OnBlocked = "raise",
) -> Pruned:
    """Return the model without the elements that a selection removes, merged with `examples`, which are checked.

    With `examples` the smaller model is compared with the masked network, before it is merged. Other parameters and
    errors are those of `dropreg.remove`.
    """
    strategy = resolve_merge(merge, examples is not None)
    if on_blocked not in ("raise", "keep"):
        raise ParameterError(f"`on_blocked` must be one of raise, keep, received {on_blocked!r}.")
    check_fits(selection.elements, original.graph, original.model.name, "`selection` was made for elements")
    columns = columns_of_labels(original.channels, selection.elements)
    selection, blocked = _without_blocked(original, columns, selection, on_blocked)
    if on_blocked == "keep":
        selection, aligned = _align(original, columns, selection)
        blocked += aligned
    rebuilt = rebuild(original, make_plan(original, columns, selection))
    drop_weights(original.model, rebuilt, selection)
    if examples is not None:
        check_cut(original, selection, rebuilt, examples)
    merged, name = None, "none"
    if strategy is not None and examples is not None:
        classes = examples.labels is not None and examples.task == "classes"
        merged = merge_into(rebuilt, examples, strategy, classes=classes)
        name = strategy.name
    sizes = compare_sizes(rebuilt)
    model, other_class = put_back(original, rebuilt, selection)
    compile_like(model, original.model)
    sizes = replace(sizes, models=(sizes.models[0], model))
    return Pruned(model, original.model, selection, name, merged, blocked, sizes, other_class=other_class)


def check_can_cut(original: Original, elements: Elements, floor: Floor) -> None:
    """Raise ModelError if a selection that removes a random half of the elements cannot be cut."""
    check_fits(elements, original.graph, original.model.name)
    trial = Selection.random(elements, min(0.5, largest_fraction(elements, floor)), floor=floor)
    _without_blocked(original, columns_of_labels(original.channels, elements), trial, "raise")


def _without_blocked(
    original: Original, columns: Columns, selection: Selection, on_blocked: OnBlocked
) -> tuple[Selection, Blocked]:
    """Keep all elements of the layers that cannot be cut, or raise ModelError if there are any."""
    blocked: dict[str, str] = {}
    kept, slots = selection.kept.copy(), original.channels.slots
    for call in original.graph.calls:
        touched = np.unique(np.concatenate([columns[slots[slot]] for slot in (*call.inputs, *call.outputs)]))
        touched = touched[touched >= 0]
        removed = touched[~kept[touched]]
        if not len(removed):
            continue
        by_slot = keep_by_slot(original.channels, columns, kept)
        reason = rule_for(call.layer).blocked(call, [by_slot[slot] for slot in call.outputs])
        if reason is None:
            continue
        if on_blocked == "raise":
            names = concatenate_names([selection.elements.names[j] for j in removed], 3)
            raise ModelError(
                f"layer '{call.name}' ({call.kind}) must be cut to remove {names}, but {reason}. Keep those elements, "
                "or pass on_blocked='keep'."
            )
        blocked.setdefault(call.name, reason)
        kept[touched] = True
    return replace(selection, kept=kept), tuple(blocked.items())


def _align(original: Original, columns: Columns, selection: Selection) -> tuple[Selection, Blocked]:
    """Keep elements until every bypassed slot has the same kept channels as the slot that replaces it."""
    kept, before, channels = selection.kept.copy(), None, original.channels
    names = {slot: call.name for call in original.graph.calls for slot in call.outputs}
    aligned: dict[str, str] = {}
    while before is None or (kept != before).any():
        before = kept.copy()
        by_slot = keep_by_slot(channels, columns, kept)
        for pair in replacements(original, selection).items():
            differ = by_slot[pair[0]] != by_slot[pair[1]]
            found = np.concatenate([columns[channels.slots[slot]][differ] for slot in pair])
            kept[found[found >= 0]] = True
            if differ.any():
                aligned[names[pair[0]]] = "it or a branch of it is removed, and its replacement keeps these units"
    return replace(selection, kept=kept), tuple(aligned.items())
