"""The table of a model's elements: the parts of it that can be removed."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from .._utils import check_type
from ..errors import ModelError, ParameterError
from ._gates import Columns, Gate, InnerGate
from ._replacements import Replacement

if TYPE_CHECKING:
    from ..graph import Graph

Kind = Literal["neurons", "embeddings", "heads", "layers", "branches", "weights", "activations"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_SUFFIX = {
    "head": ".head",
    "key/value group": ".group",
    "branch": ".branch",
    "row": ".row",
    "column": ".column",
    "block": ".block",
    "kernel": ".kernel",
    "activation": ".activation",
}


@dataclass(frozen=True, repr=False)
class Elements:
    """The elements of a model, in the order of their layers; made by `dropreg.elements`.

    ``len(elements)`` is their number, iteration gives their names, and ``elements["layer"]`` the elements of one layer.

    Attributes
    ----------
    layers, kinds : tuple of str
        Layer of each element (of its first unit, where several units are tied), and what it is: "neuron" (Dense),
        "filter" (convolution), "recurrent unit", "dimension" (of an embedding), "head", "key/value group" (of
        heads), "layer", "branch", "weight", or a group of weights: "row", "column", "block", "kernel", "group"; or
        "activation".
    indices : ndarray of int64, shape (n_elements,)
        Position of that unit in its layer; of a weight, in the flattened kernel.
    params : ndarray of int64, shape (n_elements,)
        Number of parameters that are removed when this element alone is removed.
    macs : ndarray of float64, shape (n_elements,)
        Multiply-adds for one example that are saved when this element alone is removed; NaN where they are unknown.
    ties : mapping of int to tuple of (str, int)
        Every (layer, index) of the elements that consist of several units.
    gates : tuple of Gate
        The inputs of calls that masks multiply.
    inner_gates : tuple of InnerGate
        The places inside layers where masks act.
    left_out : tuple of (str, str)
        Layers with weights that are not removed with any element, and the reason.
    followers : tuple of str
        Layers without elements of their own whose weights are removed with elements of others, such as a
        BatchNormalization with the neurons before it, or the layers of a branch.
    signature : str
        Hash of the model's structure.
    kernel_shapes : mapping of str to tuple of int
        Shape of the kernel that weights belong to, by the name in `layers`.
    equal : tuple of (str, str)
        Pairs of layers that must keep equally many units in a smaller model: the directions of a Bidirectional layer.
        Masks need not respect this.

    Examples
    --------
    >>> import dropreg as dr
    >>> elements = dr.elements(dr.datasets.load_model("mlp"))
    >>> list(elements)[:2]
    ['dense_1[0]', 'dense_1[1]']
    >>> len(elements["dense_2"])
    100
    """

    layers: tuple[str, ...]
    kinds: tuple[str, ...]
    indices: npt.NDArray[np.int64]
    params: npt.NDArray[np.int64]
    macs: npt.NDArray[np.float64]
    ties: Mapping[int, tuple[tuple[str, int], ...]] = field(default_factory=dict)
    gates: tuple[Gate, ...] = ()
    inner_gates: tuple[InnerGate, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    signature: str = ""
    kernel_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    equal: tuple[tuple[str, str], ...] = ()
    followers: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the elements."""
        return iter(self.names)

    def __getitem__(self, layer: str) -> "Elements":
        """Return the elements of one layer, including those that are tied to units of other layers."""
        known = dict.fromkeys(name for tied in self.members for name, _ in tied)
        if layer not in known:
            raise ParameterError(
                f"elements[...] must be given one of the layers {', '.join(known)}, received {layer!r}: pass the name "
                "of a layer with elements."
            )
        part = take(self, self.columns_of(layer))
        return replace(
            part,
            left_out=tuple((name, reason) for name, reason in self.left_out if name == layer),
            followers=(),
            equal=tuple(pair for pair in self.equal if all(len(part.columns_of(name)) for name in pair)),
        )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Name of each element, such as ``"dense_1[17]"``; tied units are named after the first of them."""
        each = zip(self.layers, self.kinds, self.indices.tolist(), strict=True)
        return tuple(self._name(layer, kind, index) for layer, kind, index in each)

    def _name(self, layer: str, kind: str, index: int) -> str:
        if kind == "layer":
            return layer
        if kind in ("kernel", "activation"):
            return f"{layer}{_SUFFIX[kind]}"
        if kind == "weight":
            place = np.unravel_index(index, self.kernel_shapes[layer])
            return f"{layer}[{','.join(str(int(k)) for k in place)}]"
        return f"{layer}{_SUFFIX.get(kind, '')}[{index}]"

    @property
    def members(self) -> tuple[tuple[tuple[str, int], ...], ...]:
        """Every (layer, index) that each element removes; more than one where units are tied."""
        each = enumerate(zip(self.layers, self.indices.tolist(), strict=True))
        return tuple(self.ties.get(j, ((layer, index),)) for j, (layer, index) in each)

    @property
    def one_mask_a_batch(self) -> bool:
        """Whether all examples of a forward pass share one mask, because masks multiply the weights."""
        return any(gate.where == "kernel" for gate in self.inner_gates)

    @property
    def replacement(self) -> Replacement | None:
        """What elements become where they are dropped; None for zeros, the identity, or several replacements."""
        found = {gate.replacement for gate in self.inner_gates}
        return None if self.gates or len(found) != 1 else found.pop()

    def to_frame(self) -> pd.DataFrame:
        """Return the elements as a table.

        Returns
        -------
        DataFrame
            One row for each element: element (its name), layer, kind, index, params, macs, units (number of tied
            units, 1 if there are no others).
        """
        units = np.array([len(self.ties.get(j, (0,))) for j in range(len(self))], dtype=np.int64)
        names = {"element": self.names, "layer": self.layers, "kind": self.kinds, "index": self.indices}
        return pd.DataFrame({**names, "params": self.params, "macs": self.macs, "units": units})

    def by_layer(self) -> pd.DataFrame:
        """Count the elements of each layer.

        Returns
        -------
        DataFrame
            One row for each layer and kind: layer, kind, elements (how many), and params and macs, summed over the
            elements.
        """
        frame = pd.DataFrame({"layer": self.layers, "kind": self.kinds, "params": self.params, "macs": self.macs})
        groups = frame.groupby(["layer", "kind"], sort=False, as_index=False)
        total = ("macs", lambda macs: macs.sum(skipna=False))
        return groups.agg(elements=("params", "size"), params=("params", "sum"), macs=total)

    def columns_of(self, layer: str) -> Columns:
        """Return the elements that remove a unit of a layer, those tied to units of other layers included.

        Parameters
        ----------
        layer : str

        Returns
        -------
        ndarray of int64, shape (n_columns,)
            Numbers of the elements, ascending; empty for a layer without elements.
        """
        found = [j for j, tied in enumerate(self.members) if any(name == layer for name, _ in tied)]
        return np.array(found, dtype=np.int64)

    def __repr__(self) -> str:
        lines = [f"Elements: {len(self):,} in {len(set(self.layers))} layers", self.by_layer().to_string(index=False)]
        if self.replacement is not None:
            lines.append(f"dropped elements become {self.replacement}")
        lines += [f"'{first}' and '{second}' must keep equally many" for first, second in self.equal]
        if self.followers:
            names = ", ".join(f"'{name}'" for name in self.followers)
            lines.append(f"removed with them: weights of {names}")
        lines += [f"left out: '{layer}': {reason}" for layer, reason in self.left_out]
        return "\n".join(lines)


@dataclass(frozen=True)
class Choice:
    """The layers asked for; `include` is None for all."""

    include: frozenset[str] | None
    exclude: frozenset[str]

    def takes(self, *layers: str) -> bool:
        """Whether something that belongs to all of `layers` is asked for."""
        return self.exclude.isdisjoint(layers) and (self.include is None or not self.include.isdisjoint(layers))


class Found(NamedTuple):
    """The elements of one kind, and the layers that have such elements or would have them but for `left_out`."""

    elements: Elements
    known: tuple[str, ...]


def found(
    layers: Sequence[str],
    kinds: Sequence[str],
    indices: npt.ArrayLike,
    params: npt.ArrayLike,
    macs: npt.ArrayLike | None = None,
    *,
    known: Iterable[str],
    **fields: Any,
) -> Found:
    """Make the result of a finder; `macs` is None where all are unknown, `fields` are the others of `Elements`."""
    numbers = np.asarray(indices, dtype=np.int64), np.asarray(params, dtype=np.int64)
    costs = np.full(len(layers), np.nan) if macs is None else np.asarray(macs, dtype=np.float64)
    return Found(Elements(tuple(layers), tuple(kinds), *numbers, costs, **fields), tuple(known))


def take(elements: Elements, columns: Columns) -> Elements:
    """Return some of the elements, by their numbers in ascending order."""
    number_of = np.full(len(elements) + 1, -1, dtype=np.int64)  # the last entry is for what is always kept
    number_of[columns] = np.arange(len(columns))
    gates = [replace(gate, columns=number_of[gate.columns]) for gate in elements.gates]
    inner_gates = [replace(gate, columns=number_of[gate.columns]) for gate in elements.inner_gates]
    return replace(
        elements,
        layers=tuple(elements.layers[j] for j in columns),
        kinds=tuple(elements.kinds[j] for j in columns),
        indices=elements.indices[columns],
        ties={int(number_of[j]): tied for j, tied in elements.ties.items() if number_of[j] >= 0},
        params=elements.params[columns],
        macs=elements.macs[columns],
        gates=tuple(gate for gate in gates if (gate.columns >= 0).any()),
        inner_gates=tuple(gate for gate in inner_gates if (gate.columns >= 0).any()),
    )


def model_signature(graph: "Graph") -> str:
    """Return a hash of the calls and shapes of a model, equal for two models of the same structure."""
    lines = [f"{call.kind} {call.name} {call.inputs} {call.output_shapes}" for call in graph.calls]
    lines += [f"{type(c.layer).__name__} {c.layer.name} {c.input_shape} {c.output_shape}" for c in graph.inside or ()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def check_elements(elements: Elements) -> None:
    """Raise ParameterError unless these are elements."""
    check_type("elements", elements, Elements, "call dropreg.elements(model)")


def check_fits(elements: Elements, graph: "Graph", name: str, what: str = "`elements` were found") -> None:
    """Raise ModelError unless `elements` were found in a model of this structure."""
    check_elements(elements)
    if elements.signature != model_signature(graph):
        raise ModelError(
            f"{what} in another model than '{name}', or it has changed since: call dropreg.elements(model) again."
        )
