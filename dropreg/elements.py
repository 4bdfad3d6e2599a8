"""What can be dropped in a model."""

import difflib
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from .errors import ModelError, ParameterError

if TYPE_CHECKING:
    import keras

    from .channels import Channels
    from .graph import Graph

KINDS = ("neurons",)


@dataclass(frozen=True)
class Gate:
    """Where masks enter the network: in front of one input of one call.

    Attributes
    ----------
    call, position : int
        Which call of the graph, and which of its inputs.
    columns : ndarray of int64, shape (channels,)
        Element that each entry of the input's trailing axis belongs to, -1 for always kept.
    """

    call: int
    position: int
    columns: npt.NDArray[np.int64]


@dataclass(frozen=True, repr=False)
class Elements:
    """The elements of a model, in the order of their layers.

    Attributes
    ----------
    names : tuple of str
        One for each element, such as ``"dense_1[17]"``; tied units are named after the first.
    layers, kinds : tuple of str
        Layer of the (first) unit; "neuron" (Dense) or "filter" (convolution).
    indices : ndarray of int64, shape (n_elements,)
        Position of that unit in its layer.
    members : tuple of tuple of (str, int)
        Every (layer, index) that is dropped together; more than one where channels are tied.
    params : ndarray of int64, shape (n_elements,)
        Parameters that go when this element alone goes.
    macs : ndarray of float64, shape (n_elements,)
        Multiply-adds an example that go with it; NaN where a size is unknown.
    gates : tuple of Gate
        Where the elements are read.
    left_out : tuple of (str, str)
        Layers with units that cannot be dropped, and why.
    signature : str
        Tells one model's structure from another's.
    """

    names: tuple[str, ...]
    layers: tuple[str, ...]
    kinds: tuple[str, ...]
    indices: npt.NDArray[np.int64]
    members: tuple[tuple[tuple[str, int], ...], ...]
    params: npt.NDArray[np.int64]
    macs: npt.NDArray[np.float64]
    gates: tuple[Gate, ...]
    left_out: tuple[tuple[str, str], ...]
    signature: str

    def __len__(self) -> int:
        return len(self.names)

    def to_frame(self) -> pd.DataFrame:
        """One row an element: element, layer, kind, index, params, macs, units (tied ones counted)."""
        return pd.DataFrame(
            {
                "element": self.names,
                "layer": self.layers,
                "kind": self.kinds,
                "index": self.indices,
                "params": self.params,
                "macs": self.macs,
                "units": [len(tied) for tied in self.members],
            }
        )

    def by_layer(self) -> pd.DataFrame:
        """One row a layer: layer, kind, elements, params, macs (summed over its elements)."""
        groups = self.to_frame().groupby(["layer", "kind"], sort=False, as_index=False)
        return groups.agg(elements=("element", "size"), params=("params", "sum"), macs=("macs", "sum"))

    def columns_of(self, layer: str) -> npt.NDArray[np.int64]:
        """Elements that drop a unit of `layer`."""
        found = [j for j, tied in enumerate(self.members) if any(name == layer for name, _ in tied)]
        return np.array(found, dtype=np.int64)

    def __repr__(self) -> str:
        lines = [f"Elements: {len(self)} in {len(set(self.layers))} layers", self.by_layer().to_string(index=False)]
        lines += [f"left out: '{layer}': {reason}" for layer, reason in self.left_out]
        return "\n".join(lines)


def elements(
    model: "keras.Model",
    kind: Literal["neurons"] = "neurons",
    *,
    include: Collection[str] | None = None,
    exclude: Collection[str] = (),
) -> Elements:
    """Find what can be dropped in `model`.

    Channels that only make sense together (the branches of an Add, a depthwise filter and its
    source, the groups of a convolution) form one element. Units whose removal could not be done
    exactly are left out, with the reason in `Elements.left_out`.

    Parameters
    ----------
    model : keras.Model
        Sequential or Functional, built. It is not changed.
    kind : {"neurons"}
        Units of Dense layers and filters of convolutions.
    include : collection of str, optional
        Names of the layers to take; all by default.
    exclude : collection of str, optional
        Names of the layers to leave whole; an element tied to one of them is left out too.

    Returns
    -------
    Elements

    Raises
    ------
    ModelError
        If the model is not built, is subclassed, or nothing in it can be dropped.
    ParameterError
        If `kind` is unknown, a name is no layer with units, or a named layer cannot be dropped.
    """
    if kind not in KINDS:
        raise ParameterError(f"`kind` must be one of {', '.join(KINDS)}, received {kind!r}.")
    from .graph import trace_graph

    graph = trace_graph(model)
    channels = _trace_channels(graph)
    chosen = _choose(channels, _checked_names(include, exclude, channels))
    if not chosen and (include is not None or exclude) and _choose(channels, (None, set())):
        raise ParameterError(
            f"`include` and `exclude` must leave at least one element, received include={include} and "
            f"exclude={exclude}: name fewer layers."
        )
    if not chosen:
        reasons = "; ".join(f"'{layer}': {reason}" for layer, reason in _left_out(channels, set()))
        raise ModelError(
            f"model '{model.name}' has no unit that can be dropped ({reasons or 'no Dense or Conv layer'}): "
            "expected at least one hidden Dense or convolution layer."
        )
    return _collect(graph, channels, chosen)


def _trace_channels(graph: "Graph") -> "Channels":
    """Follow the channels of every tensor through the rules of the layers."""
    from .channels import Channels, fixed
    from .layers.base import n_channels, rule_for

    channels = Channels()
    labels = {slot: fixed(n_channels(graph.shapes[slot])) for slot in graph.inputs}
    for index, call in enumerate(graph.calls):
        read = [labels[slot] for slot in call.inputs]
        written = rule_for(call.layer).flow(call, index, read, channels)
        for slot, shape, row in zip(call.outputs, call.output_shapes, written, strict=True):
            if len(row) != n_channels(shape):
                raise ModelError(
                    f"the rule of layer '{call.name}' ({call.kind}) must label the {n_channels(shape)} channels "
                    f"of its output, received {len(row)} labels: register a rule that fits."
                )
            labels[slot] = row
    for slot in graph.outputs:
        channels.pin(labels[slot], "the model's output needs it")
    channels.slots.update(labels)
    return channels


def _checked_names(
    include: Collection[str] | None, exclude: Collection[str], channels: "Channels"
) -> tuple[set[str] | None, set[str]]:
    """`include` and `exclude` as sets, every name known and every included layer droppable."""
    known = list(dict.fromkeys(source.layer for source in channels.sources))
    for parameter, names in (("include", include or ()), ("exclude", exclude)):
        if isinstance(names, str):
            raise ParameterError(f"`{parameter}` must be a list of layer names, received the string {names!r}.")
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" Did you mean '{near[0]}'?" if near else ""
                raise ParameterError(
                    f"`{parameter}` names '{name}', which is no layer with units: expected some of "
                    f"{', '.join(known)}.{hint}"
                )
    reasons = dict(_left_out(channels, set()))
    droppable = {s.layer for label, s in enumerate(channels.sources) if channels.pinned(label) is None}
    for name in include or ():
        if name not in droppable:
            raise ParameterError(
                f"`include` names '{name}', whose units cannot be dropped: {reasons[name]}. Leave it out."
            )
    return (None if include is None else set(include)), set(exclude)


def _choose(channels: "Channels", names: tuple[set[str] | None, set[str]]) -> dict[int, list[int]]:
    """Labels of each element that is droppable and asked for, keyed by the label that stands for it."""
    include, exclude = names
    groups: dict[int, list[int]] = {}
    for label in range(len(channels.sources)):
        if channels.pinned(label) is None:
            groups.setdefault(channels.root(label), []).append(label)
    chosen = {}
    for root, labels in groups.items():
        layers = {channels.sources[label].layer for label in labels}
        if not layers & exclude and (include is None or layers & include):
            chosen[root] = labels
    return chosen


def _left_out(channels: "Channels", taken: set[int]) -> list[tuple[str, str]]:
    """Layers with pinned units, with the first reason of each."""
    reasons: dict[str, str] = {}
    for label, source in enumerate(channels.sources):
        reason = channels.pinned(label)
        if reason is not None and label not in taken:
            reasons.setdefault(source.layer, reason)
    return list(reasons.items())


def _collect(graph: "Graph", channels: "Channels", chosen: dict[int, list[int]]) -> Elements:
    """Number the chosen elements and place their gates."""
    column_of = np.full(len(channels.sources) + 1, -1, dtype=np.int64)  # the last entry serves FIXED
    for column, labels in enumerate(chosen.values()):
        column_of[labels] = column
    gates = []
    for read in channels.reads:
        columns = column_of[read.labels]
        if (columns >= 0).any():
            gates.append(Gate(read.call, read.position, columns))
    firsts = [channels.sources[labels[0]] for labels in chosen.values()]
    params, macs = np.array(channels.params), np.array(channels.macs)
    return Elements(
        names=tuple(f"{source.layer}[{source.index}]" for source in firsts),
        layers=tuple(source.layer for source in firsts),
        kinds=tuple(source.kind for source in firsts),
        indices=np.array([source.index for source in firsts], dtype=np.int64),
        members=tuple(
            tuple((channels.sources[label].layer, channels.sources[label].index) for label in labels)
            for labels in chosen.values()
        ),
        params=np.array([round(params[labels].sum()) for labels in chosen.values()], dtype=np.int64),
        macs=np.array([macs[labels].sum() for labels in chosen.values()]),
        gates=tuple(gates),
        left_out=tuple(_left_out(channels, {label for labels in chosen.values() for label in labels})),
        signature=model_signature(graph),
    )


def model_signature(graph: "Graph") -> str:
    """Hash of the calls and shapes of a model: equal for two models of the same structure."""
    lines = [f"{call.kind} {call.name} {call.inputs} {call.output_shapes}" for call in graph.calls]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def check_fits(elements: Elements, graph: "Graph", name: str, what: str = "`elements` were found") -> None:
    """Raise ModelError unless `elements` were found in a model of this structure."""
    if elements.signature != model_signature(graph):
        raise ModelError(
            f"{what} in another model than '{name}', or it has changed since: call "
            "dropreg.elements(model) again."
        )


def concatenate_names(names: Sequence[Any], limit: int = 5) -> str:
    """The first few of `names` for an error text."""
    shown = ", ".join(str(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
