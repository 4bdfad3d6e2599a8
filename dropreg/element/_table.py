"""What can be dropped in a model."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from .._utils import check_type
from ..errors import ModelError, ParameterError
from ._gates import Columns, Gate, InnerGate

if TYPE_CHECKING:
    from ..graph import Graph

Kind = Literal["neurons", "embeddings", "heads", "layers", "branches", "weights"]
KINDS: tuple[Kind, ...] = ("neurons", "embeddings", "heads", "layers", "branches", "weights")
_SUFFIX = {"head": ".head", "branch": ".branch", "row": ".row", "column": ".column", "block": ".block"}


@dataclass(frozen=True, repr=False)
class Elements:
    """The elements of a model, in the order of their layers.

    Attributes
    ----------
    layers, kinds : tuple of str
        Layer of the (first) unit; "neuron" (Dense), "filter" (convolution), "recurrent unit",
        "dimension" (of an embedding), "head", "layer", "branch", "weight", or a group of weights.
    indices : ndarray of int64, shape (n_elements,)
        Position of that unit in its layer; of a weight in its flattened kernel.
    params : ndarray of int64, shape (n_elements,)
        Parameters that go when this element alone goes.
    macs : ndarray of float64, shape (n_elements,)
        Multiply-adds an example that go with it; NaN where a size is unknown.
    ties : mapping of int to tuple of (str, int)
        Every (layer, index) of the elements that consist of several units.
    gates : tuple of Gate
        Where the elements are read.
    inner_gates : tuple of InnerGate
        Where masks act inside a layer.
    left_out : tuple of (str, str)
        Layers with units that cannot be dropped, and why.
    signature : str
        Tells one model's structure from another's.
    kernel_shapes : mapping of str to tuple of int
        Shape of the kernel that weights belong to, by layer and variable.
    equal : tuple of (str, str)
        Pairs of layers of which as many units must stay, the directions of a Bidirectional layer, for a smaller model
        to exist; masks need not.
    """

    layers: tuple[str, ...]
    kinds: tuple[str, ...]
    indices: npt.NDArray[np.int64]
    params: npt.NDArray[np.int64]
    macs: npt.NDArray[np.float64]
    ties: Mapping[int, tuple[tuple[str, int], ...]]
    gates: tuple[Gate, ...]
    inner_gates: tuple[InnerGate, ...]
    left_out: tuple[tuple[str, str], ...]
    signature: str
    kernel_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    equal: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the elements."""
        return iter(self.names)

    def __getitem__(self, layer: str) -> "Elements":
        """Return the elements of one layer, those that are tied to units of other layers included."""
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
            equal=tuple(pair for pair in self.equal if all(len(part.columns_of(name)) for name in pair)),
        )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """One for each element, such as ``"dense_1[17]"``; tied units are named after the first."""
        each = zip(self.layers, self.kinds, self.indices.tolist(), strict=True)
        return tuple(self._name(layer, kind, index) for layer, kind, index in each)

    def _name(self, layer: str, kind: str, index: int) -> str:
        if kind == "layer":
            return layer
        if kind == "weight":
            place = np.unravel_index(index, self.kernel_shapes[layer])
            return f"{layer}[{','.join(str(int(k)) for k in place)}]"
        return f"{layer}{_SUFFIX.get(kind, '')}[{index}]"

    @property
    def members(self) -> tuple[tuple[tuple[str, int], ...], ...]:
        """Every (layer, index) that is dropped together; more than one where units are tied."""
        each = enumerate(zip(self.layers, self.indices.tolist(), strict=True))
        return tuple(self.ties.get(j, ((layer, index),)) for j, (layer, index) in each)

    @property
    def one_mask_a_batch(self) -> bool:
        """Whether a forward pass can have one mask only, because masks multiply the weights themselves."""
        return any(gate.where == "kernel" for gate in self.inner_gates)

    def to_frame(self) -> pd.DataFrame:
        """The elements as a table.

        Returns
        -------
        DataFrame
            One row an element: element (its name), layer, kind, index, params, macs, units (tied ones counted).
        """
        units = np.ones(len(self), dtype=np.int64)
        for j, tied in self.ties.items():
            units[j] = len(tied)
        return pd.DataFrame(
            {
                "element": self.names,
                "layer": self.layers,
                "kind": self.kinds,
                "index": self.indices,
                "params": self.params,
                "macs": self.macs,
                "units": units,
            }
        )

    def by_layer(self) -> pd.DataFrame:
        """How much each layer holds.

        Returns
        -------
        DataFrame
            One row a layer and kind: layer, kind, elements, params, macs (summed over its elements).
        """
        frame = pd.DataFrame({"layer": self.layers, "kind": self.kinds, "params": self.params, "macs": self.macs})
        groups = frame.groupby(["layer", "kind"], sort=False, as_index=False)
        return groups.agg(elements=("params", "size"), params=("params", "sum"), macs=("macs", "sum"))

    def columns_of(self, layer: str) -> Columns:
        """Elements that drop a unit of a layer.

        Parameters
        ----------
        layer : str

        Returns
        -------
        ndarray of int64, shape (n_columns,)
            Their numbers, ascending, those tied to a unit of another layer included; none of a layer without elements.
        """
        found = {j for j, name in enumerate(self.layers) if name == layer and j not in self.ties}
        found |= {j for j, tied in self.ties.items() if any(name == layer for name, _ in tied)}
        return np.array(sorted(found), dtype=np.int64)

    def __repr__(self) -> str:
        lines = [f"Elements: {len(self):,} in {len(set(self.layers))} layers", self.by_layer().to_string(index=False)]
        lines += [f"as many stay of '{first}' as of '{second}'" for first, second in self.equal]
        lines += [f"left out: '{layer}': {reason}" for layer, reason in self.left_out]
        return "\n".join(lines)


@dataclass(frozen=True)
class Choice:
    """Which layers to take.

    Attributes
    ----------
    include : frozenset of str or None
        None for all.
    exclude : frozenset of str
    """

    include: frozenset[str] | None
    exclude: frozenset[str]

    def takes(self, *layers: str) -> bool:
        """Whether something that belongs to all of `layers` is taken."""
        return self.exclude.isdisjoint(layers) and (self.include is None or not self.include.isdisjoint(layers))


@dataclass(frozen=True)
class Found:
    """The elements of one kind, as the fields of `Elements`, numbered from 0.

    Attributes
    ----------
    known : tuple of str
        Layers that have elements of this kind, or would have if something did not stand in the way.
    """

    layers: Sequence[str] = ()
    kinds: Sequence[str] = ()
    indices: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    params: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    macs: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    ties: Mapping[int, tuple[tuple[str, int], ...]] = field(default_factory=dict)
    gates: tuple[Gate, ...] = ()
    inner_gates: tuple[InnerGate, ...] = ()
    left_out: tuple[tuple[str, str], ...] = ()
    known: tuple[str, ...] = ()
    kernel_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    equal: tuple[tuple[str, str], ...] = ()


def take(elements: Elements, columns: Columns) -> Elements:
    """Some of the elements, by their numbers in ascending order."""
    number_of = np.full(len(elements) + 1, -1, dtype=np.int64)  # the last entry serves what is always kept
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
    """Hash of the calls and shapes of a model: equal for two models of the same structure."""
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
