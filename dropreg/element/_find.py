"""Find the elements of a model: one file for each family of kinds."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ModelError, ParameterError
from ..graph import Graph, all_layers, trace_graph
from . import _activations, _blocks, _heads, _subclassed, _units, _weights
from ._accounts import account
from ._gates import Columns
from ._groups import Groups
from ._replacements import Quantized, Replacement, check_replacement
from ._table import KINDS, Choice, Elements, Found, Kind, model_signature

if TYPE_CHECKING:
    import keras

    Layers = str | keras.layers.Layer | Collection[str | keras.layers.Layer]

_NEEDED: dict[Kind, tuple[str, str]] = {
    "neurons": (
        "at least one hidden Dense, convolution or recurrent layer",
        "no Dense, convolution or recurrent layer",
    ),
    "embeddings": ("an Embedding that is the input of Dense, convolution or recurrent layers", "no Embedding"),
    "heads": ("a MultiHeadAttention or GroupedQueryAttention", "no attention layer"),
    "layers": ("a layer with weights whose output has the shape of its input", "no such layer"),
    "branches": ("an Add whose branches compute something", "no such Add"),
    "weights": ("a layer with a kernel", "no kernel"),
    "activations": ("a layer with a kernel", "no kernel"),
}
"""What a model must have for each kind, and how an error says that it has none."""


def elements(
    model: "keras.Model | Graph",
    kind: Kind | Sequence[Kind] = "neurons",
    *,
    include: "Layers | None" = None,
    exclude: "Layers" = (),
    groups: "Groups | None" = None,
    replacement: "Replacement | None" = None,
) -> Elements:
    """Find the elements of `model`: the parts of it that can be removed.

    Units that must be removed together (those added to one another by an Add, a depthwise filter and its source, the
    groups of a convolution) form one element. Units that cannot be removed exactly are left out, with the reason in
    `Elements.left_out`, which also names all other layers with weights none of which are removed with an element.

    Parameters
    ----------
    model : keras.Model
        A built model; it is not changed. Of a subclassed model, whose connections are unknown, masks multiply the
        layers' outputs: impacts can be estimated, but no smaller model can be built.
    kind : str or sequence of str
        "neurons": units of Dense layers, filters of convolutions, recurrent units. "embeddings": dimensions of
        embeddings. "heads": attention heads. "layers": layers with weights whose output has the shape of their input;
        the identity replaces them. "branches": branches of an Add, of which another one is kept. "weights": every
        scalar of the kernels, or groups of scalars. "activations": the outputs of layers with a kernel, one element
        for each layer. Several kinds make one table.
    include : str, keras.layers.Layer or collection of them, optional
        The layers whose elements are listed, by name or as layers of `model`; all by default. A layer stands for
        itself and the layers inside it. Where several layers have the same name, the names of the models and layers
        around one are put before its own: "encoder/dense".
    exclude : str, keras.layers.Layer or collection of them, optional
        The layers whose elements are not listed; an element tied to a unit of one of them is not listed either.
    groups : {"rows", "columns", "layers"}, Block or mapping of str to array, optional
        Groups of weights, each of which is one element: the rows or columns of a kernel (a column belongs to one
        output channel), all of it, blocks of it, or, for each layer named, integers of the kernel's shape that number
        the groups (-1 = always kept). By default each weight is an element.
    replacement : Quantized or Clustered, optional
        What weights and activations become where they are dropped: rounded or shared values, computed from the weights
        of the model that is masked. By default weights become zero. Required for "activations", whose scale is that of
        the largest output of each example.

    Returns
    -------
    Elements

    Raises
    ------
    ModelError
        If the model is not built, it has no such elements, or Keras does not run on TensorFlow.
    ParameterError
        If `kind` is unknown, a layer is not in the model or has no such elements, or a layer of `include` cannot be
        removed.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> dr.elements(model)
    Elements: 400 in 2 layers
      layer   kind  elements  params     macs
    dense_1 neuron       300  265500 265200.0
    dense_2 neuron       100   31100  31000.0
    left out: 'logits': the model's output needs it
    >>> len(dr.elements(model, exclude="dense_1"))
    100
    >>> len(dr.elements(model, "weights", include=model.layers[-1], groups="columns"))
    10
    """
    kinds: list[Any] = list(kind) if isinstance(kind, Collection) and not isinstance(kind, str) else [kind]
    wrong = [name for name in kinds if name not in KINDS]
    if wrong or not kinds or len(set(kinds)) != len(kinds):
        received = repr(wrong[0]) if wrong else f"{kinds}"
        raise ParameterError(f"`kind` must be one of {', '.join(KINDS)}, or several of them, received {received}.")
    _check_replacement(kinds, replacement)
    if groups is not None and "weights" not in kinds:
        raise ParameterError(f"`groups` must go with kind='weights', received kind={kind!r}: leave it out.")

    graph = trace_graph(model)
    traced = graph.model
    everything = Choice(None, frozenset())
    included = {} if include is None else _names_by_entry("include", include, traced, graph, kinds)
    excluded = _names_by_entry("exclude", exclude, traced, graph, kinds)
    chosen = None if include is None else frozenset().union(*included.values())
    choice = Choice(chosen, frozenset().union(*excluded.values()))
    parts = [_find(traced, graph, name, choice, groups, replacement) for name in kinds]
    _check_names(included, excluded, parts)
    if not any(len(part.elements) for part in parts):
        if choice != everything and any(
            len(_find(traced, graph, name, everything, groups, replacement).elements) for name in kinds
        ):
            raise ParameterError(
                f"`include` and `exclude` must leave at least one element, received include="
                f"{None if include is None else list(included)} and exclude={list(excluded)}: name fewer layers."
            )
        reasons = "; ".join(f"'{layer}': {reason}" for part in parts for layer, reason in part.elements.left_out)
        needed, missing = _NEEDED[kinds[0]]
        raise ModelError(
            f"model '{traced.name}' has none of {', '.join(kinds)} that can be dropped ({reasons or missing}): "
            f"expected {needed}."
        )
    joined = _join([part.elements for part in parts], model_signature(graph))
    known = None if choice == everything else {name for part in parts for name in part.known}
    return joined if set(kinds) <= {"weights", "activations"} else account(graph, joined, kinds, known)


def _names_by_entry(
    parameter: str, entries: "Layers", model: "keras.Model", graph: Graph, kinds: Sequence[Kind]
) -> dict[str, tuple[str, ...]]:
    """Return the layer names that each entry of `include` or `exclude` stands for, by the name of the entry."""
    import keras

    result: dict[str, tuple[str, ...]] = {}
    written_out = {call.name: call.layer for call in graph.composites}
    for given in [entries] if isinstance(entries, str | keras.layers.Layer) else entries:
        entry = written_out.get(given, given) if isinstance(given, str) else given
        if isinstance(entry, str):
            result[entry] = (entry,)
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
            inside, layers = {id(layer) for layer in all_layers(entry)}, all_layers(model)
            names = [name for key, name in graph.names.items() if key in inside]
            if "weights" in kinds:
                names += [label for k, _, _, label, _ in _weights.kernels(model) if id(layers[k]) in inside]
            result[graph.names[id(entry)]] = tuple(names)
    return result


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
    reasons = {layer: reason for part in parts for layer, reason in part.elements.left_out}
    settled = {name for names in exclude.values() for name in names}
    for part in parts:
        settled.update(part.elements.layers, (layer for tied in part.elements.ties.values() for layer, _ in tied))
    for entry, names in include.items():
        reason = next((reasons[name] for name in names if name in reasons), None)
        if reason is not None and settled.isdisjoint(names):
            raise ParameterError(f"`include` names '{entry}', whose units cannot be dropped: {reason}. Leave it out.")


def _join(parts: Sequence[Elements], signature: str) -> Elements:
    """Join elements of several kinds to one table, numbered in order."""
    starts = np.cumsum([0, *(len(part) for part in parts)]).tolist()
    numbered = list(zip(parts, starts, strict=False))

    def shifted(columns: Columns, start: int) -> Columns:
        return np.where(columns < 0, columns, columns + start)

    return Elements(
        layers=tuple(name for part in parts for name in part.layers),
        kinds=tuple(name for part in parts for name in part.kinds),
        indices=np.concatenate([part.indices for part in parts]),
        params=np.concatenate([part.params for part in parts]),
        macs=np.concatenate([part.macs for part in parts]),
        ties={j + start: units for part, start in numbered for j, units in part.ties.items()},
        gates=tuple(
            replace(gate, columns=shifted(gate.columns, start)) for part, start in numbered for gate in part.gates
        ),
        inner_gates=tuple(
            replace(gate, columns=shifted(gate.columns, start)) for part, start in numbered for gate in part.inner_gates
        ),
        left_out=tuple(dict.fromkeys(reason for part in parts for reason in part.left_out)),
        signature=signature,
        kernel_shapes={name: shape for part in parts for name, shape in part.kernel_shapes.items()},
        equal=tuple(dict.fromkeys(pair for part in parts for pair in part.equal)),
    )


def _check_replacement(kinds: Sequence[Any], replacement: "Replacement | None") -> None:
    if replacement is None:
        if "activations" in kinds:
            raise ParameterError(
                "`replacement` must be given with kind='activations', received None: pass dropreg.Quantized(8)."
            )
        return
    check_replacement("replacement", replacement)
    if set(kinds) - {"weights", "activations"}:
        raise ParameterError(
            f"`replacement` must go with kind='weights' or 'activations', received kind={kinds[0]!r}: leave it out."
        )
    if "activations" in kinds and not isinstance(replacement, Quantized):
        raise ParameterError(
            f"`replacement` of activations must be dropreg.Quantized, received {replacement!r}: pass Quantized(8)."
        )


def _find(
    model: "keras.Model",
    graph: Graph,
    kind: Kind,
    choice: Choice,
    groups: Groups | None,
    replacement: "Replacement | None",
) -> Found:
    """Find the elements of one kind in the layers chosen."""
    if kind == "weights":
        return _weights.find(model, choice, groups, replacement)
    if kind == "activations":
        assert isinstance(replacement, Quantized)
        return _activations.find(model, choice, replacement)
    if kind == "heads":
        return _heads.find(model, graph, choice)
    if kind == "layers":
        return _blocks.find_layers(model, graph, choice)
    if graph.inside is not None and kind == "branches":
        raise ModelError(
            f"model '{model.name}' is a subclassed model, whose graph lies in Python code, so its branches cannot be "
            "found: ask for kind='layers', or rebuild it as keras.Model(inputs, outputs)."
        )
    if graph.inside is not None:
        return _subclassed.find(model, graph, kind, choice)
    return _blocks.find_branches(graph, choice) if kind == "branches" else _units.find(model, graph, kind, choice)
