"""The physically smaller model: walks the graph and lets each layer's rule cut it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from .channels import FIXED, Channels, Labels
from .data import Data, check_data
from .elements import Elements, _choose, _trace_channels, check_fits, concatenate_names
from .errors import ModelError, ParameterError
from .graph import Call, Graph, trace_graph
from .latency import measure_latency
from .layers.base import Cut, Kept, rule_for, unchanged
from .merging import Merge, Patient, merge_into, resolve_merge
from .selection import Selection
from .sizes import Sizes, compare_sizes

OnBlocked = Literal["raise", "keep"]


@dataclass(frozen=True)
class Operated:
    """A model in the making beside the one it is made from.

    Attributes
    ----------
    before, after : Graph
        Call for call and slot for slot the same, but for the layers and the shapes.
    kept : dict of int to Kept
        What stays of each slot's trailing axis.
    model : keras.Model
        What `after` runs.
    """

    before: Graph
    after: Graph
    kept: dict[int, Kept]
    model: keras.Model


@dataclass(frozen=True, repr=False, eq=False)
class Pruned:
    """A smaller model and how it came about.

    Attributes
    ----------
    model : keras.Model
        A plain Keras model with smaller layers, not compiled. It saves to ``.keras``, reloads without dropreg and
        trains on.
    original : keras.Model
        The caller's, unchanged.
    selection : Selection
        What stays; with ``on_blocked="keep"`` more than was asked for.
    merge : str
        How the rest was merged into it.
    merged : DataFrame or None
        What merging found in each layer; see `dropreg.merging.merge_into`.
    blocked : tuple of (str, str)
        Layers that were kept whole although the selection drops some of their units, and why.
    report : Sizes
        Parameters, multiply-adds and bytes before and after.
    """

    model: keras.Model
    original: keras.Model
    selection: Selection
    merge: str
    merged: pd.DataFrame | None
    blocked: tuple[tuple[str, str], ...]
    report: Sizes

    def measure_latency(
        self, batch_sizes: Sequence[int] = (1, 64), *, threads: int = 1, repeats: int = 100, warm_up: int = 10
    ) -> pd.DataFrame:
        """Seconds a forward pass takes before and after; see `dropreg.latency.measure_latency`."""
        models = {"before": self.original, "after": self.model}
        return measure_latency(models, batch_sizes, threads=threads, repeats=repeats, warm_up=warm_up)

    def __repr__(self) -> str:
        lines = [f"Pruned model '{self.model.name}', merge: {self.merge}", repr(self.report)]
        lines += [f"kept whole: '{layer}': {reason}" for layer, reason in self.blocked]
        return "\n".join(lines)


def prune(
    model: keras.Model,
    selection: Selection,
    data: Data | None = None,
    *,
    merge: str | Merge | None = None,
    on_blocked: OnBlocked = "raise",
) -> Pruned:
    """Build the model without the elements that a selection drops.

    Without merging it computes what the masked network computes (`dropreg.masking`), up to rounding.

    Parameters
    ----------
    model : keras.Model
        Sequential or Functional. It is not changed.
    selection : Selection
        Of the elements of this model.
    data : (x, y), optional
        Held-out examples for merging; y may be None.
    merge : {"least_squares", "mean", "none"} or Merge, optional
        How layers that read what was removed make up for it; by default "least_squares" if there is `data`,
        else "none". See `dropreg.merging`.
    on_blocked : {"raise", "keep"}
        What to do where a layer cannot be cut: refuse, or keep all that it holds and say so in `Pruned.blocked`.

    Returns
    -------
    Pruned

    Raises
    ------
    ModelError
        If the selection was made for another model or for this one before it changed, a layer would be empty, or a
        layer cannot be cut.
    ParameterError
        If merging lacks data, or a parameter is unknown.
    DataError
        If the data do not fit the model.
    """
    if not isinstance(selection, Selection):
        raise ParameterError(
            f"`selection` must be a Selection, received {type(selection).__name__}: make one with dropreg.select or "
            "Selection.dropping."
        )
    if on_blocked not in ("raise", "keep"):
        raise ParameterError(f"`on_blocked` must be one of raise, keep, received {on_blocked!r}.")
    strategy = resolve_merge(merge, data is not None)
    graph = trace_graph(model)
    check_fits(selection.elements, graph, model.name, "`selection` was made for elements")
    examples = None if data is None or strategy is None else check_data(model, data)
    channels = _trace_channels(graph)
    columns = columns_of_labels(channels, selection.elements)
    selection, blocked = _settle(graph, channels, columns, selection, on_blocked)
    operated = operate(model, graph, keep_by_slot(channels, columns, selection.kept))
    merged = None
    if strategy is not None and examples is not None:
        by_slot = {slot: columns[labels] for slot, labels in channels.slots.items()}
        patient = Patient(graph, operated.after, operated.kept, by_slot, selection.elements.names)
        merged = merge_into(patient, examples.inputs, strategy)
    name = "none" if strategy is None else strategy.name
    sizes = compare_sizes(model, operated.model, graph, operated.after)
    return Pruned(operated.model, model, selection, name, merged, blocked, sizes)


def columns_of_labels(channels: Channels, elements: Elements) -> npt.NDArray[np.int64]:
    """Element of each label, -1 for none; the last entry serves ``FIXED``."""
    columns = np.full(len(channels.sources) + 1, -1, dtype=np.int64)
    column = 0
    for labels in _choose(channels, (None, set())).values():
        members = tuple((channels.sources[label].layer, channels.sources[label].index) for label in labels)
        if column < len(elements) and members == elements.members[column]:
            columns[labels] = column
            column += 1
    if column != len(elements):
        raise ModelError(
            f"the elements of the selection must be found in the model again, received '{elements.names[column]}' "
            "that is not: call dropreg.elements(model) again."
        )
    return columns


def keep_by_slot(
    channels: Channels, columns: npt.NDArray[np.int64], kept: npt.NDArray[np.bool_]
) -> dict[int, npt.NDArray[np.bool_]]:
    """What stays of the trailing axis of each slot."""
    of_column = np.append(kept, True)  # noqa: FBT003 - column -1 stays
    of_label = of_column[columns]
    assert FIXED == -1
    return {slot: of_label[labels] for slot, labels in channels.slots.items()}


def _settle(
    graph: Graph, channels: Channels, columns: npt.NDArray[np.int64], selection: Selection, on_blocked: OnBlocked
) -> tuple[Selection, tuple[tuple[str, str], ...]]:
    """The selection that can be done, and the layers that had to be kept whole for it."""
    blocked: dict[str, str] = {}
    kept = selection.kept.copy()
    for call in graph.calls:
        touched = np.unique(np.concatenate([_columns_at(channels, columns, slot) for slot in (*call.inputs, *call.outputs)]))
        losing = touched[~kept[touched]] if len(touched) else touched
        reason = rule_for(call.layer).blocked(call) if len(losing) else None
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
    _refuse_empty(graph, keep_by_slot(channels, columns, kept))
    return replace(selection, kept=kept), tuple(blocked.items())


def _columns_at(channels: Channels, columns: npt.NDArray[np.int64], slot: int) -> Labels:
    found = columns[channels.slots[slot]]
    return found[found >= 0]


def _refuse_empty(graph: Graph, kept: dict[int, Kept]) -> None:
    for call in graph.calls:
        for slot in call.outputs:
            if not kept[slot].any():
                raise ModelError(
                    f"layer '{call.name}' ({call.kind}) must keep at least one of its {len(kept[slot])} units, the "
                    "selection drops them all: select with floor=1."
                )


def operate(model: keras.Model, graph: Graph, kept: dict[int, Kept]) -> Operated:
    """Build the model that keeps `kept`, with layers of its own."""
    inputs = [
        keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name) for tensor in model.inputs
    ]
    values = dict(zip(graph.inputs, inputs, strict=True))
    names = {tensor.name for tensor in inputs}
    made: dict[int, tuple[Any, Cut]] = {}
    calls = []
    for call in graph.calls:
        ins, outs = [kept[slot] for slot in call.inputs], [kept[slot] for slot in call.outputs]
        first = id(call.layer) not in made
        if first:
            made[id(call.layer)] = _new_layer(call, ins, outs, names)
        layer, cut = made[id(call.layer)]
        args, kwargs = rule_for(call.layer).cut_arguments(call, ins)
        new = replace(call, layer=layer, args=args, kwargs=kwargs)
        written = new.run([values[slot] for slot in call.inputs])
        if cut.weights and first:
            layer.set_weights(cut.weights)
        values.update(zip(call.outputs, written, strict=True))
        calls.append(
            replace(
                new,
                input_shapes=tuple(tuple(values[slot].shape) for slot in call.inputs),
                output_shapes=tuple(tuple(values[slot].shape) for slot in call.outputs),
            )
        )
    outputs = [values[slot] for slot in graph.outputs]
    shapes = tuple(tuple(values[slot].shape) for slot in range(len(graph.shapes)))
    built = _assemble(model, inputs, outputs, [call.layer for call in calls])
    return Operated(graph, Graph(tuple(calls), graph.inputs, graph.outputs, shapes), kept, built)


def _new_layer(call: Call, kept_in: list[Kept], kept_out: list[Kept], names: set[str]) -> tuple[Any, Cut]:
    """The layer cut, under a name that no other layer has, and what it was cut to."""
    rule = rule_for(call.layer)
    whole = all(kept.all() for kept in (*kept_in, *kept_out))
    cut = unchanged(call) if whole else rule.cut(call, kept_in, kept_out)
    layer = rule.remake(call, {**cut.config, "name": _free_name(call.name, names)})
    return layer, cut


def _free_name(name: str, names: set[str]) -> str:
    """`name`, numbered where models nested in one another use it twice."""
    number, free = 1, name
    while free in names:
        free, number = f"{name}_{number}", number + 1
    names.add(free)
    return free


def _assemble(model: keras.Model, inputs: list[Any], outputs: list[Any], layers: list[Any]) -> keras.Model:
    """A Sequential model of a flat Sequential one, else a Functional model with the same structure of inputs."""
    if isinstance(model, keras.Sequential) and len(layers) == len(model.layers):
        return keras.Sequential([inputs[0], *layers], name=model.name)
    pack: Callable[..., Any] = keras.tree.pack_sequence_as
    return keras.Model(pack(model.input, inputs), pack(model.output, outputs), name=model.name)
