"""Single weights, and groups of them."""

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ParameterError
from ..graph import all_layers, sublayers, variables_of
from ._gates import InnerGate
from ._groups import Groups, check_groups, group_numbers
from ._replacements import Replacement
from ._table import Choice, Found, found

if TYPE_CHECKING:
    import keras


def find(model: "keras.Model", choice: Choice, groups: Groups | None, replacement: Replacement | None = None) -> Found:
    """Find the scalars, or groups of scalars, of all kernels; `replacement` is what they become where dropped."""
    check_groups(groups)
    names, kinds, indices, params, known = [], [], [], [], []
    gates, left_out = [], []
    shapes: dict[str, tuple[int, ...]] = {}
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
        columns = np.where(numbers < 0, -1, numbers + len(names))
        gates.append(InnerGate("kernel", number, columns, position, replacement))
        names += [label] * count
        kinds += [kind] * count
        indices.append(np.arange(count))
        params.append(np.bincount(numbers[numbers >= 0], minlength=count))
        shapes[label] = shape
    if isinstance(groups, Mapping) and (unknown := set(groups) - set(known)):
        raise ParameterError(
            f"`groups` names '{sorted(unknown)[0]}', which is no layer with a kernel: expected some of "
            f"{', '.join(dict.fromkeys(known))}."
        )
    numbers, sizes = (np.concatenate([*arrays, np.zeros(0, np.int64)]) for arrays in (indices, params))
    more: dict[str, Any] = {"inner_gates": tuple(gates), "left_out": tuple(left_out), "kernel_shapes": shapes}
    return found(names, kinds, numbers, sizes, known=dict.fromkeys(known), **more)


def kernels(model: "keras.Model") -> list[tuple[int, int, Any, str, str]]:
    """Return (layer number, variable number, variable, label, layer name) of every kernel of the model, each once.

    Kernels are the variables of rank 2 or more, except biases. The label is the layer's name where that is unique, with
    the name of the layer around it where it is not, and with that of the variable where the layer has several.
    """
    layers = all_layers(model)
    names = Counter(layer.name for layer in layers)
    around = {id(child): layer for layer in layers[1:] for child in sublayers(layer)}
    result, seen = [], set()
    for number, layer in enumerate(layers):
        own = variables_of(layer)
        here = [(k, v) for k, v in enumerate(own) if len(v.shape) > 1 and v.name != "bias" and "seed" not in v.name]
        owner = around[id(layer)].name if id(layer) in around else layer.name
        path = f"{owner}/{layer.name}" if names[layer.name] > 1 and id(layer) in around else layer.name
        for position, variable in here:
            if id(variable) not in seen:
                seen.add(id(variable))
                label = f"{path}.{variable.name}" if len(here) > 1 else path
                result.append((number, position, variable, label, owner))
    return result
