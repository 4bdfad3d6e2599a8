"""Parameters and multiply-adds that remain under a mask."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from ..graph import trace_graph
from ..layers import kernel_of, positions
from ._table import Elements

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Overlap:
    """Weights between two elements, which are removed once if both are.

    Attributes
    ----------
    inputs, units : ndarray of int64, shape (channels,) and (units,)
        Element of each input channel and of each unit of a layer, -1 for always kept.
    params, macs : float
        Of one pair of a channel and a unit.
    """

    inputs: npt.NDArray[np.int64]
    units: npt.NDArray[np.int64]
    params: float
    macs: float


@dataclass(frozen=True)
class Cost:
    """Costs of elements alone, shape (n_elements,), parameters of the model in total, and overlaps of elements."""

    params: npt.NDArray[np.float64]
    macs: npt.NDArray[np.float64]
    total: int
    overlaps: tuple[Overlap, ...]

    def saved(self, kept: npt.NDArray[np.bool_]) -> tuple[float, float]:
        """Return the parameters and multiply-adds that a mask `kept` (n_elements,) removes, True = kept."""
        removed = ~kept
        params, macs = float(self.params[removed].sum()), float(self.macs[removed].sum())
        padded = np.append(removed, False)  # the last entry is for what is always kept
        for overlap in self.overlaps:
            pairs = int(padded[overlap.inputs].sum()) * int(padded[overlap.units].sum())
            params -= pairs * overlap.params
            macs -= pairs * overlap.macs
        return params, macs


def cost_of(model: "keras.Model", elements: Elements) -> Cost:
    """Return what the elements of `model` cost.

    A weight between two neurons or filters is counted once if both are removed. Elements of other kinds are taken to be
    disjoint.
    """
    overlaps = _overlaps(model, elements) if set(elements.kinds) <= {"neuron", "filter"} else ()
    return Cost(elements.params.astype(np.float64), elements.macs, int(model.count_params()), tuple(overlaps))


def _overlaps(model: "keras.Model", elements: Elements) -> Iterator[Overlap]:
    """Yield one overlap for every call whose inputs are elements, with its units that are elements too."""
    graph, seen = trace_graph(model), set()
    element_of = {unit: number for number, tied in enumerate(elements.members) for unit in tied}
    for gate in elements.gates:
        call = graph.calls[gate.call]
        kernel = kernel_of(call.layer)
        units = np.array([element_of.get((call.name, unit), -1) for unit in range(len(kernel.incoming))])
        params = 0.0 if id(call.layer) in seen else kernel.pair  # a shared layer's weights count once
        seen.add(id(call.layer))
        yield Overlap(gate.columns, units, params, kernel.pair * _n_positions(call, kernel))


def _n_positions(call: Any, kernel: Any) -> float:
    """Return at how many positions a call applies its kernel."""
    return positions(call.input_shapes[0] if kernel.on_input else call.output_shapes[0])


def total_macs(model: "keras.Model") -> float:
    """Return the multiply-adds of the model's kernels for one example, NaN where a layer's are unknown."""
    total = 0.0
    for call in trace_graph(model).calls:
        if all(len(weight.shape) < 2 for weight in getattr(call.layer, "weights", ())):
            continue
        try:
            kernel = kernel_of(call.layer)
        except ModelError:
            return float("nan")
        per_position = kernel.pair * len(kernel.incoming) * len(kernel.outgoing) + kernel.alone
        total += per_position * _n_positions(call, kernel)
    return total
