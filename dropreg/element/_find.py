"""Finding the elements of each kind: one file a family."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ModelError, ParameterError
from ..graph import Graph, all_layers
from . import _blocks as blocks
from . import _heads as heads
from . import _subclassed as opaque
from . import _units as units
from . import _weights as weights
from ._gates import Columns, Gate, InnerGate
from ._groups import Groups
from ._table import KINDS, Choice, Elements, Found, Kind, model_signature

if TYPE_CHECKING:
    import keras

    Layers = str | keras.layers.Layer | Collection[str | keras.layers.Layer]


def elements(
    model: "keras.Model | Graph",
    kind: Kind | Sequence[Kind] = "neurons",
    *,
    include: "Layers | None" = None,
    exclude: "Layers" = (),
    groups: "Groups | None" = None,
) -> Elements:
    """Find what can be dropped in `model`.

    Channels that only make sense together (the branches of an Add, a depthwise filter and its
    source, the groups of a convolution) form one element. Units whose removal could not be done
    exactly are left out, with the reason in `Elements.left_out`.

    Parameters
    ----------
    model : keras.Model
        Built. It is not changed. Of a subclassed model, whose graph cannot be walked, the layers'
        outputs are dropped: impacts can be estimated, but the model cannot be made smaller.
    kind : str or sequence of str
        "neurons": units of Dense layers, filters of convolutions, recurrent units. "embeddings":
        dimensions of embeddings. "heads": attention heads. "layers": layers with weights whose output
        has the shape of their input, dropped by leaving them out. "branches": branches of an Add
        beside which another one stays. "weights": every scalar of the kernels, or groups of them.
        Several kinds make one table.
    include : str, keras.layers.Layer or collection of them, optional
        The layers whose elements are listed, by name or as layers of `model`; all by default. A layer stands for
        itself and the layers inside it. Where several layers have the same name, the names of the models and layers
        around one are put before its own: "encoder/dense".
    exclude : str, keras.layers.Layer or collection of them, optional
        The layers whose elements are not listed; an element tied to a unit of one of them is not listed either.
    groups : optional
        How weights go together: "rows", "columns", ``dropreg.Block(rows, columns)``, or a mapping
        of layer names to integer arrays of the kernel's shape (-1 = always kept).

    Returns
    -------
    Elements

    Raises
    ------
    ModelError
        If the model is not built, nothing in it can be dropped, or Keras does not run on TensorFlow.
    ParameterError
        If `kind` is unknown, a name is no layer with such elements, or a named layer cannot be dropped.
    """
    kinds: list[Any] = list(kind) if isinstance(kind, Collection) and not isinstance(kind, str) else [kind]
    wrong = [name for name in kinds if name not in KINDS]
    if wrong or not kinds or len(set(kinds)) != len(kinds):
        received = repr(wrong[0]) if wrong else f"{kinds}"
        raise ParameterError(f"`kind` must be one of {', '.join(KINDS)}, or several of them, received {received}.")
    if groups is not None and "weights" not in kinds:
        raise ParameterError(f"`groups` must go with kind='weights', received kind={kind!r}: leave it out.")
    from ..graph import trace_graph

    graph = trace_graph(model)
    traced = graph.model
    everything = Choice(None, frozenset())
    included = {} if include is None else _names_by_entry("include", include, traced, graph, kinds)
    excluded = _names_by_entry("exclude", exclude, traced, graph, kinds)
    choice = Choice(
        None if include is None else frozenset().union(*included.values()), frozenset().union(*excluded.values())
    )
    parts = [find(traced, graph, name, choice, groups) for name in kinds]
    _check_names(included, excluded, parts)
    if not any(len(part.layers) for part in parts):
        if choice != everything and any(len(find(traced, graph, name, everything, groups).layers) for name in kinds):
            raise ParameterError(
                f"`include` and `exclude` must leave at least one element, received include="
                f"{list(included) if include is not None else None} and exclude={list(excluded)}: name fewer layers."
            )
        reasons = "; ".join(f"'{layer}': {reason}" for part in parts for layer, reason in part.left_out)
        raise ModelError(
            f"model '{traced.name}' has none of {', '.join(kinds)} that can be dropped "
            f"({reasons or MISSING[kinds[0]]}): expected {EXPECTED[kinds[0]]}."
        )
    return _join(parts, model_signature(graph))


def _names_by_entry(
    parameter: str, entries: "Layers", model: "keras.Model", graph: Graph, kinds: Sequence[Kind]
) -> dict[str, tuple[str, ...]]:
    """Return the layer names that each entry of `include` or `exclude` stands for, by the name of the entry.

    A layer stands for itself and the layers inside it.
    """
    import keras

    found: dict[str, tuple[str, ...]] = {}
    for entry in [entries] if isinstance(entries, str | keras.layers.Layer) else entries:
        if isinstance(entry, str):
            found[entry] = (entry,)
        elif not isinstance(entry, keras.layers.Layer):
            raise ParameterError(
                f"`{parameter}` must hold names of layers or layers of the model, received {entry!r} "
                f"({type(entry).__name__})."
            )
        elif id(entry) not in graph.names:
            raise ParameterError(
                f"`{parameter}` must hold layers of model '{model.name}', received the {type(entry).__name__} layer "
                f"'{entry.name}', which is not in it: pass one of model.layers, or a name."
            )
        else:
            inside = {id(layer) for layer in all_layers(entry)}
            names = [name for key, name in graph.names.items() if key in inside]
            labels = []
            if "weights" in kinds:
                layers = all_layers(model)
                labels = [label for k, _, _, label, _ in weights.kernels(model) if id(layers[k]) in inside]
            found[graph.names[id(entry)]] = tuple(dict.fromkeys([*names, *labels]))
    return found


def _check_names(
    include: Mapping[str, tuple[str, ...]], exclude: Mapping[str, tuple[str, ...]], parts: Sequence[Found]
) -> None:
    """Raise ParameterError unless every entry names a layer with units, and every included one can be removed."""
    known = list(dict.fromkeys(name for part in parts for name in part.known))
    for parameter, entries in (("include", include), ("exclude", exclude)):
        for entry, names in entries.items():
            if not any(name in known for name in names):
                near = difflib.get_close_matches(entry, known, n=1)
                hint = f" Did you mean '{near[0]}'?" if near else ""
                raise ParameterError(
                    f"`{parameter}` names '{entry}', which is no layer with units: expected some of "
                    f"{', '.join(known)}.{hint}"
                )
    reasons = {layer: reason for part in parts for layer, reason in part.left_out}
    excluded = {name for names in exclude.values() for name in names}
    taken = {layer for part in parts for layer in part.layers}
    taken |= {layer for part in parts for units in part.ties.values() for layer, _ in units}
    for entry, names in include.items():
        reason = next((reasons[name] for name in names if name in reasons), None)
        if reason is not None and taken.union(excluded).isdisjoint(names):
            raise ParameterError(f"`include` names '{entry}', whose units cannot be dropped: {reason}. Leave it out.")


def _join(parts: Sequence[Found], signature: str) -> Elements:
    """Elements of several kinds in one, numbered in order."""
    starts = np.cumsum([0, *(len(part.layers) for part in parts)])

    def moved(columns: Columns, start: int) -> Columns:
        return np.where(columns < 0, columns, columns + start)

    return Elements(
        layers=tuple(name for part in parts for name in part.layers),
        kinds=tuple(name for part in parts for name in part.kinds),
        indices=np.concatenate([part.indices for part in parts]),
        params=np.concatenate([part.params for part in parts]),
        macs=np.concatenate([part.macs for part in parts]),
        ties={
            j + int(start): units for part, start in zip(parts, starts, strict=False) for j, units in part.ties.items()
        },
        gates=tuple(
            Gate(gate.call, gate.position, moved(gate.columns, start))
            for part, start in zip(parts, starts, strict=False)
            for gate in part.gates
        ),
        inner_gates=tuple(
            InnerGate(gate.where, gate.layer, moved(gate.columns, start), gate.variable)
            for part, start in zip(parts, starts, strict=False)
            for gate in part.inner_gates
        ),
        left_out=tuple(dict.fromkeys(reason for part in parts for reason in part.left_out)),
        signature=signature,
        kernel_shapes={name: shape for part in parts for name, shape in part.kernel_shapes.items()},
        equal=tuple(dict.fromkeys(pair for part in parts for pair in part.equal)),
    )


EXPECTED: dict[Kind, str] = {
    "neurons": "at least one hidden Dense, convolution or recurrent layer",
    "embeddings": "an Embedding whose dimensions Dense, convolution or recurrent layers read",
    "heads": "a MultiHeadAttention or GroupedQueryAttention",
    "layers": "a layer with weights whose output has the shape of its input",
    "branches": "an Add whose branches compute something",
    "weights": "a layer with a kernel",
}
MISSING: dict[Kind, str] = {
    "neurons": "no Dense, convolution or recurrent layer",
    "embeddings": "no Embedding",
    "heads": "no attention layer",
    "layers": "no such layer",
    "branches": "no such Add",
    "weights": "no kernel",
}


def find(model: "keras.Model", graph: Graph, kind: Kind, choice: Choice, groups: Groups | None) -> Found:
    """Elements of one kind among the layers chosen.

    Parameters
    ----------
    model : keras.Model
    graph : Graph
        Of `model`.
    kind : str
    choice : Choice
    groups : see `dropreg.elements`
    """
    if kind == "weights":
        return weights.find(model, choice, groups)
    if kind == "heads":
        return heads.find(model, graph, choice)
    if kind == "layers":
        return blocks.find_layers(model, graph, choice)
    if graph.inside is not None and kind == "branches":
        raise ModelError(
            f"model '{model.name}' is a subclassed model, whose graph lies in Python code, so its branches cannot be "
            "found: ask for kind='layers', or rebuild it as keras.Model(inputs, outputs)."
        )
    if graph.inside is not None:
        return opaque.find(model, graph, kind, choice)
    if kind == "branches":
        return blocks.find_branches(graph, choice)
    return units.find(model, graph, kind, choice)
