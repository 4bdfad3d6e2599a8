"""Find the weights that consume each element: at zero they switch it off, and the model keeps its shape."""

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
    """Return the variables that consume the elements, each with a mask of the entries that consume kept ones.

    With the other entries at zero the model computes the same as the masked model. All selections of the same elements
    give the same variables in the same order.

    Raises
    ------
    ModelError
        If an element is consumed by something other than weights, such as a recurrent layer's own state.
    """
    elements = selection.elements
    if elements.one_mask_a_batch:
        return kernel_masks(all_layers(model), selection)
    kept, layers = np.append(selection.kept, [True]), all_layers(model)
    found: dict[int, tuple[Any, Mask]] = {}

    def add(variable: Any, mask: Mask) -> None:
        _, before = found.get(id(variable), (variable, np.ones(variable.shape, dtype=bool)))
        found[id(variable)] = variable, before & mask

    for gate in elements.gates:
        call = graph.calls[gate.call]
        masks = _rows(call, kept[gate.columns])
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
        heads = kept[gate.columns].reshape(-1, *[1] * (len(variable.shape) - 1))
        add(variable, np.broadcast_to(heads, variable.shape))
    return list(found.values())


def _rows(call: Call, kept: Mask) -> list[Mask] | None:
    """Return masks of the weights that consume kept channels only; None if no kernel consumes them."""
    rule = rule_for(call.layer)
    ones = [np.ones(weight.shape, dtype=bool) for weight in getattr(call.layer, "weights", ())]
    if not isinstance(rule, LinearReader) or (rows := rule.kernel_rows(call, ones)) is None:
        return None
    parts = np.split(kept, len(rows))
    cut = [row & part[:, np.newaxis] for row, part in zip(rows, parts, strict=True)]
    return rule.with_kernel_rows(call, ones, cut)


def _projection(layer: Any, gate: InnerGate) -> Any:
    """Return the kernel whose first axis consumes the heads; None for other gates."""
    if gate.where != "heads" or layer.kernel.shape[0] != len(gate.columns):
        return None
    return layer.kernel


def _refusal(selection: Selection, columns: npt.NDArray[np.int64], consumer: str) -> str:
    names = selection.elements.names
    some = concatenate_names([names[j] for j in dict.fromkeys(columns[columns >= 0].tolist())], 3)
    return (
        "elements must be consumed by kernels of Dense layers, convolutions or attention projections to be switched "
        f"off while training, received {some}, consumed by {consumer}: exclude their layers, or use "
        "dropreg.prune_iteratively."
    )
