"""Single weights, and groups of them."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ParameterError
from ..graph import all_layers, sublayers, variables_of
from ._gates import InnerGate
from ._groups import Groups, check_groups, group_numbers
from ._table import Choice, Found

if TYPE_CHECKING:
    import keras


def find(model: "keras.Model", choice: Choice, groups: Groups | None) -> Found:
    """Scalars (or groups of scalars) of all variables of rank 2 or more but biases, each variable once."""
    check_groups(groups)
    names: list[str] = []
    kinds: list[str] = []
    indices, params, gates, left_out = [], [], [], []
    shapes: dict[str, tuple[int, ...]] = {}
    known: list[str] = []
    total = 0
    for number, position, variable, label, owner in kernels(model):
        known += [label, owner]
        if not choice.takes(label, owner) or (isinstance(groups, Mapping) and label not in groups):
            continue
        if not str(variable.dtype).startswith(("float", "bfloat")):
            left_out.append((label, f"its kernel is quantized ({variable.dtype}): drop weights before quantizing"))
            continue
        shape = tuple(variable.shape)
        kind, numbers = group_numbers(groups, label, shape)
        count = int(numbers.max(initial=-1)) + 1
        gates.append(InnerGate("kernel", number, np.where(numbers < 0, -1, numbers + total), position))
        names += [label] * count
        kinds += [kind] * count
        indices.append(np.arange(count))
        params.append(np.bincount(numbers[numbers >= 0], minlength=count))
        shapes[label] = shape
        total += count
    if isinstance(groups, Mapping) and (unknown := set(groups) - set(known)):
        raise ParameterError(
            f"`groups` names '{sorted(unknown)[0]}', which is no layer with a kernel: expected some of "
            f"{', '.join(dict.fromkeys(known))}."
        )
    sizes = np.concatenate([*params, np.zeros(0, np.int64)]).astype(np.int64)
    return Found(
        layers=names,
        kinds=kinds,
        indices=np.concatenate([*indices, np.zeros(0, np.int64)]).astype(np.int64),
        params=sizes,
        macs=np.full(len(names), np.nan),
        inner_gates=tuple(gates),
        left_out=tuple(left_out),
        known=tuple(dict.fromkeys(known)),
        kernel_shapes=shapes,
    )


def kernels(model: "keras.Model") -> list[tuple[int, int, Any, str, str]]:
    """(layer number, variable number, variable, label, layer name) of every kernel of the model, each once.

    The label is the layer's name where that tells the kernel, else with the names of the layers around
    it or of the variable.
    """
    layers = all_layers(model)
    names = Counter(layer.name for layer in layers)
    around = {id(child): layer for layer in layers[1:] for child in sublayers(layer)}
    found, seen = [], set()
    for number, layer in enumerate(layers):
        own = variables_of(layer)
        here = [(k, v) for k, v in enumerate(own) if len(v.shape) > 1 and v.name != "bias" and "seed" not in v.name]
        for position, variable in here:
            if id(variable) in seen:
                continue
            seen.add(id(variable))
            unclear = names[layer.name] > 1 and id(layer) in around
            label = f"{around[id(layer)].name}/{layer.name}" if unclear else layer.name
            label = f"{label}.{variable.name}" if len(here) > 1 else label
            owner = around[id(layer)].name if id(layer) in around else layer.name
            found.append((number, position, variable, label, owner))
    return found
