"""Parameters and multiply-adds of what a mask leaves."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ._table import Elements

if TYPE_CHECKING:
    import keras

_UNITS = {"neuron", "filter"}


@dataclass(frozen=True)
class Overlap:
    """Weights between two elements, which go once though both name them.

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
    """What elements cost, alone and together.

    Attributes
    ----------
    params, macs : ndarray of float64, shape (n_elements,)
        What goes when an element goes alone; multiply-adds for one example, NaN where unknown.
    total : int
        Parameters of the whole model.
    overlaps : tuple of Overlap
    """

    params: npt.NDArray[np.float64]
    macs: npt.NDArray[np.float64]
    total: int
    overlaps: tuple[Overlap, ...]

    def saved(self, kept: npt.NDArray[np.bool_]) -> tuple[float, float]:
        """Parameters and multiply-adds that are gone under a mask `kept` (n_elements,), True = kept."""
        gone = ~kept
        params, macs = float(self.params[gone].sum()), float(self.macs[gone].sum())
        padded = np.append(gone, False)  # the last entry serves what is always kept
        for overlap in self.overlaps:
            pairs = int(padded[overlap.inputs].sum()) * int(padded[overlap.units].sum())
            params -= pairs * overlap.params
            macs -= pairs * overlap.macs
        return params, macs

    def remaining_params(self, kept: npt.NDArray[np.bool_]) -> int:
        """Parameters that a mask `kept` (n_elements,) leaves."""
        return round(self.total - self.saved(kept)[0])


def cost_of(model: "keras.Model", elements: Elements) -> Cost:
    """What the elements of `model` cost.

    For neurons and filters a weight between two elements is counted once when both go. Other kinds
    are taken to be disjoint.
    """
    overlaps = _overlaps(model, elements) if set(elements.kinds) <= _UNITS else []
    params, macs = elements.params.astype(np.float64), elements.macs
    return Cost(params, macs, int(model.count_params()), tuple(overlaps))


def _overlaps(model: "keras.Model", elements: Elements) -> list[Overlap]:
    """One for every call that reads elements and computes units which are elements too."""
    from ..graph import trace_graph
    from ..layers import kernel_of, positions

    graph, seen, found = trace_graph(model), set(), []
    element_of = {unit: number for number, tied in enumerate(elements.members) for unit in tied}
    for gate in elements.gates:
        call = graph.calls[gate.call]
        kernel = kernel_of(call.layer)
        units = np.array([element_of.get((call.name, unit), -1) for unit in range(len(kernel.incoming))])
        over = positions(call.input_shapes[0] if kernel.on_input else call.output_shapes[0])
        first = id(call.layer) not in seen
        seen.add(id(call.layer))
        found.append(Overlap(gate.columns, units, kernel.pair if first else 0.0, kernel.pair * over))
    return found


def total_macs(model: "keras.Model") -> float:
    """Multiply-adds of the model's kernels for one example, NaN where a layer's are not known."""
    from ..errors import ModelError
    from ..graph import trace_graph
    from ..layers import kernel_of, positions

    total = 0.0
    for call in trace_graph(model).calls:
        if all(len(weight.shape) < 2 for weight in getattr(call.layer, "weights", ())):
            continue
        try:
            kernel = kernel_of(call.layer)
        except ModelError:
            return float("nan")
        over = positions(call.input_shapes[0] if kernel.on_input else call.output_shapes[0])
        total += (kernel.pair * len(kernel.incoming) * len(kernel.outgoing) + kernel.alone) * over
    return total
