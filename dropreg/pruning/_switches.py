"""Which weights read an element: at zero they switch it off, and the model keeps its shape."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from .._utils import concatenate_names
from ..element import InnerGate, Selection
from ..errors import ModelError
from ..graph import Call, Graph, all_layers
from ..layers import LinearReader, rule_for
from ..surgery import kernel_masks

Mask = npt.NDArray[np.bool_]


def find_switches(model: keras.Model, graph: Graph, selection: Selection) -> list[tuple[Any, Mask]]:
    """The variables that read the elements, and which of their entries read those that stay.

    With the other entries at zero the model computes what the masked network does.

    Parameters
    ----------
    model : keras.Model
    graph : Graph
        Of `model`.
    selection : Selection
        Of its elements.

    Returns
    -------
    list of (variable, ndarray of bool in the variable's shape)
        The same variables in the same order for every selection of the same elements.

    Raises
    ------
    ModelError
        If an element is read by something else than weights, such as a recurrent layer's own state.
    """
    elements = selection.elements
    if elements.one_mask_a_batch:
        return kernel_masks(all_layers(model), selection)
    stays, layers = np.append(selection.kept, [True]), all_layers(model)
    found: dict[int, tuple[Any, Mask]] = {}

    def add(variable: Any, mask: Mask) -> None:
        _, before = found.get(id(variable), (variable, np.ones(variable.shape, dtype=bool)))
        found[id(variable)] = variable, before & mask

    for gate in elements.gates:
        call = graph.calls[gate.call]
        masks = _rows(call, stays[gate.columns])
        if gate.position or masks is None:
            raise ModelError(_refusal(selection, gate.columns, f"layer '{call.name}' ({call.kind})"))
        for variable, mask in zip(call.layer.weights, masks, strict=True):
            if len(variable.shape) > 1:
                add(variable, mask)
    for gate in elements.inner_gates:
        layer = layers[gate.layer]
        variable = _projection(layer, gate)
        if variable is None:
            raise ModelError(_refusal(selection, gate.columns, f"the inside of layer '{layer.name}'"))
        kept = stays[gate.columns].reshape(-1, *[1] * (len(variable.shape) - 1))
        add(variable, np.broadcast_to(kept, variable.shape))
    return list(found.values())


def _rows(call: Call, kept: Mask) -> list[Mask] | None:
    """Entries of the layer's weights that do not read the channels that go; None if it has no kernel that does."""
    rule = rule_for(call.layer)
    ones = [np.ones(weight.shape, dtype=bool) for weight in getattr(call.layer, "weights", ())]
    if not isinstance(rule, LinearReader) or (rows := rule.kernel_rows(call, ones)) is None:
        return None
    parts = np.split(kept, len(rows))
    cut = [row & part[:, np.newaxis] for row, part in zip(rows, parts, strict=True)]
    return rule.with_kernel_rows(call, ones, cut)


def _projection(layer: Any, gate: InnerGate) -> Any:
    """The kernel whose first axis reads the heads; None for other gates."""
    if gate.where != "heads" or layer.kernel.shape[0] != len(gate.columns):
        return None
    return layer.kernel


def _refusal(selection: Selection, columns: npt.NDArray[np.int64], reader: str) -> str:
    names = selection.elements.names
    some = concatenate_names([names[j] for j in dict.fromkeys(columns[columns >= 0].tolist())], 3)
    return (
        f"elements must be read by kernels of Dense layers, convolutions or attention projections to be switched off "
        f"while training, received {some}, read by {reader}: exclude their layers, or use dropreg.prune_iteratively."
    )
