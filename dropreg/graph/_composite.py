"""Write composite layers out: trace the ``call`` of a layer as the calls of the layers inside it.

The call runs once on symbolic tensors. Where this is not possible, or would not compute the same, the layer remains one
call.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras

from ._access import (
    all_layers,
    is_nested,
    keras_base,
    names_restored,
    nodes_restored,
    nodes_that_compute,
    patched,
    quantization_of,
    replaced_method,
    sublayers,
    variables_of,
)
from ._sharing import Reads
from ._sizes import symbolic_sizes
from ._timesteps import step_mask

_ATOMS: set[Hashable] = set()
_METHODS = ("call", "compute_output_spec")


@dataclass(frozen=True)
class Expansion:
    """The nodes of a layer's call, in running order, on symbolic `inputs`."""

    inputs: tuple[Any, ...]
    nodes: tuple[Any, ...]
    outputs: tuple[Any, ...]


def keep_as_one_call(kind: Hashable) -> None:
    """Keep the calls of a layer class, given by itself or as in `qualified_name`, and of its subclasses as one call."""
    _ATOMS.add(kind)


def qualified_name(kind: type) -> str:
    """Return the names of the package and of the class: "keras_hub.TransformerEncoder"."""
    return f"{kind.__module__.partition('.')[0]}.{kind.__name__}"


def expand(layer: Any, node: Any) -> Expansion | None:
    """Return the calls inside the call of `layer` at a node of a Functional model; None if it remains one call."""
    if not _is_composite(layer) or any(step_mask(tensor) is not None for tensor in node.input_tensors):
        return None
    inputs = {id(tensor): keras.KerasTensor(tensor.shape, tensor.dtype) for tensor in node.input_tensors}

    def fill(leaf: Any) -> Any:
        return inputs[id(leaf)] if isinstance(leaf, keras.KerasTensor) else leaf

    args, kwargs = node.arguments.convert(fill)
    found = trace_call(layer, tuple(inputs[id(tensor)] for tensor in node.input_tensors), args, kwargs)
    if found is None or len(found.outputs) != len(node.output_tensors):
        return None
    pairs = list(zip(found.outputs, node.output_tensors, strict=True))
    same = all(len(new.shape) == len(old.shape) and new.dtype == old.dtype for new, old in pairs)
    masked = any(step_mask(tensor) is not None for pair in pairs for tensor in pair)
    return found if same and not masked else None


def trace_call(layer: Any, inputs: Sequence[Any], args: Any, kwargs: Any) -> Expansion | None:
    """Run ``layer.call`` on symbolic tensors and return the calls inside.

    None if that fails, or if the call uses weights outside the calls of its layers.
    """
    inner = all_layers(layer)
    with nodes_restored(inner), names_restored(), patched(_output_specs(inner)), symbolic_sizes(), Reads() as outside:
        try:
            outputs = keras.tree.flatten(layer.call(*_as_computed(layer, args), **_as_computed(layer, kwargs)))
        except Exception:  # any code of the layer's author may fail on symbolic tensors
            return None
        if outside.found or not outputs or not all(isinstance(tensor, keras.KerasTensor) for tensor in outputs):
            return None
        nodes = nodes_that_compute(outputs)
        if not _is_closed(layer, nodes):
            return None
        return Expansion(tuple(inputs), tuple(nodes), tuple(outputs))


def _output_specs(layers: Sequence[Any]) -> list[tuple[Any, str, Any]]:
    """Return what to replace in layers that define ``call`` anew, but inherit how its output shapes are found."""
    found = []
    for layer in layers:
        order = type(layer).__mro__
        call, spec = (next(k for k, base in enumerate(order) if name in vars(base)) for name in _METHODS)
        if call < spec and order[spec] not in (keras.layers.Layer, keras.Operation):
            found.append((layer, "compute_output_spec", partial(keras.Operation.compute_output_spec, layer)))
    return found


def _as_computed(layer: Any, arguments: Any) -> Any:
    """Cast symbolic floating-point arguments to the dtype that the layer computes in, as its ``__call__`` does."""
    dtype = layer.compute_dtype

    def cast(leaf: Any) -> Any:
        is_tensor = isinstance(leaf, keras.KerasTensor) and str(leaf.dtype).startswith(("float", "bfloat"))
        return keras.ops.cast(leaf, dtype) if is_tensor and layer.autocast and leaf.dtype != dtype else leaf

    return keras.tree.map_structure(cast, arguments)


def _is_composite(layer: Any) -> bool:
    """Return whether a layer consists of other layers, and nobody has registered how it treats channels as a whole."""
    if not isinstance(layer, keras.layers.Layer) or is_nested(layer) or not layer.built:
        return False
    if keras_base(type(layer)) not in (keras.layers.Layer, keras.Model) or quantization_of(layer) is not None:
        return False
    if any(key in _ATOMS for base in type(layer).__mro__ for key in (base, qualified_name(base))):
        return False
    return not variables_of(layer) and any(inner.weights for inner in sublayers(layer)) and not _is_changed(layer)


def _is_changed(layer: Any) -> bool:
    """Return whether a method was replaced on this one layer."""
    return replaced_method(layer, inside=False) is not None


def _is_closed(layer: Any, nodes: Sequence[Any]) -> bool:
    """Return whether all calls inside a layer are of layers that it holds or of operations, and get no weights."""
    inner = {id(part) for part in all_layers(layer)}
    for node in nodes:
        if isinstance(node.operation, keras.layers.Layer) and id(node.operation) not in inner:
            return False  # a layer made in the call, whose weights nobody holds
        arguments = keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
        if any(isinstance(leaf, keras.Variable) for leaf in arguments):
            return False
    return True
