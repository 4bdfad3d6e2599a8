"""Trace a Keras model: expand it into a graph of calls."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
import tensorflow as tf

from ..errors import ModelError
from ._access import (
    functional_of,
    is_nested,
    is_opaque,
    names_of,
    nodes_of,
    output_names_of,
    quantization_of,
    replaced_method,
)
from ._calls import Call, Graph, Ref, Shape
from ._composite import Expansion, expand, trace_call
from ._padding import StepMasks, observe
from ._sharing import shared_weights
from ._sizes import Size
from ._timesteps import step_mask

_SOME = 11
"""Any size, in place of an unknown one."""


def trace_graph(model: "keras.Model | Graph") -> Graph:
    """Trace a model: write it out as a `Graph`. A `Graph` is returned unchanged, so that nothing is traced twice.

    Raises
    ------
    ModelError
        If `model` is not a Keras model or not built.
    """
    return model if isinstance(model, Graph) else _trace(model)


def trace_layers(graph: Graph) -> Graph:
    """Return the graph of the same model in which the call of a composite layer is a single call."""
    return _trace(graph.model, composites=False) if graph.composites or graph.whole else graph


def keeps_its_shape(call: Call) -> bool:
    """Return whether the output of a composite layer has the shape of its first input, whatever its unknown sizes."""
    shapes = [tuple(size or _SOME for size in shape) for shape in call.input_shapes]
    tensors = {
        slot: keras.KerasTensor(shape, dtype)
        for slot, shape, dtype in zip(call.inputs, shapes, call.dtypes, strict=True)
    }

    def fill(leaf: Any) -> Any:
        return tensors[leaf.slot] if isinstance(leaf, Ref) else leaf

    args, kwargs = keras.tree.map_structure(fill, call.args), keras.tree.map_structure(fill, call.kwargs)
    found = trace_call(call.layer, tuple(tensors.values()), args, kwargs)
    return found is not None and len(found.outputs) == 1 and tuple(found.outputs[0].shape) == shapes[0]


def _trace(model: keras.Model, *, composites: bool = True) -> Graph:
    if not isinstance(model, keras.Model):
        raise ModelError(
            f"`model` must be a keras.Model, received {type(model).__name__}: load a saved one with "
            "keras.saving.load_model."
        )
    if is_opaque(model):
        return _trace_subclassed(model, composites=composites)
    functional = functional_of(model)
    if functional is None:
        raise ModelError(
            f"model '{model.name}' is not built, so its units cannot be counted: call "
            "model.build(input_shape), or begin it with keras.Input(shape)."
        )
    nodes = tuple(nodes_of(functional))
    named = {"input_names": tuple(t.name for t in functional.inputs), "output_names": output_names_of(functional)}
    dtypes = tuple(str(tensor.dtype) for tensor in functional.inputs)
    writer = _Writer(names_of(model), composites=composites)
    return _graph(model, writer, Expansion(tuple(functional.inputs), nodes, tuple(functional.outputs)), dtypes, named)


def _trace_subclassed(model: Any, *, composites: bool) -> Graph:
    """Return the calls inside a subclassed model, or a graph with a single call if they cannot be traced."""
    from ._subclassed import model_inputs, trace_opaque

    if composites and quantization_of(model) is None and replaced_method(model, inside=False) is None:
        for inputs, argument in model_inputs(model):
            found = trace_call(model, inputs, (argument,), {})
            if found is not None:
                whole = trace_opaque(model)
                named = {"input_names": whole.input_names, "output_names": whole.output_names}
                writer = _Writer(names_of(model), own_names=False)
                return replace(
                    _graph(model, writer, found, whole.input_dtypes, named),
                    traced_dtype=str(inputs[0].dtype),
                    whole=whole.calls[0],
                )
    return trace_opaque(model)


def _graph(
    model: Any, writer: "_Writer", traced: Expansion, dtypes: tuple[str | None, ...], named: dict[str, Any]
) -> Graph:
    """Write out the calls of a model that takes inputs of these dtypes, None for any."""
    inputs = tuple(writer.new_slot(tensor) for tensor in traced.inputs)
    outputs = writer.write_out(traced, inputs)
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in traced.inputs]
    masks = StepMasks({}, ((),) * len(writer.calls), frozenset())
    if any(writer.masked):
        masks = observe(model, writer.calls, inputs, specs)
    calls = tuple(replace(c, unmasked=slots) for c, slots in zip(writer.calls, masks.removed, strict=True))
    return Graph(
        model=model,
        calls=calls,
        inputs=inputs,
        outputs=outputs,
        shapes=tuple(writer.shapes),
        input_dtypes=dtypes,
        names=writer.names,
        mask_ranks=tuple(masks.ranks.get(slot) for slot in range(len(writer.shapes))),
        padded=masks.padded,
        shared=shared_weights(model, calls, inputs, specs),
        composites=tuple(writer.composites),
        rowless=_rowless(calls),
        **named,
    )


def _rowless(calls: Sequence[Call]) -> frozenset[int]:
    """Return the slots that are sizes, or are computed from such slots alone."""
    found: set[int] = set()
    for call in calls:
        if isinstance(call.layer, Size) or (call.inputs and found.issuperset(call.inputs)):
            found.update(call.outputs)
    return frozenset(found)


class _Writer:
    """Collects the calls of a model, with the calls inside nested models and composite layers in place of theirs.

    `names` are the names of the layers by their ``id``. Operations have `own_names` unless a run has made them.
    """

    def __init__(self, names: dict[int, str], *, composites: bool = True, own_names: bool = True) -> None:
        self.names, self._expands, self._own_names = names, composites, own_names
        self.calls: list[Call] = []
        self.composites: list[Call] = []
        self.shapes: list[Shape] = []
        self.masked: list[bool] = []
        self._counts: Counter[str] = Counter()

    def new_slot(self, tensor: Any) -> int:
        """Return a new slot for a symbolic tensor."""
        self.shapes.append(tuple(tensor.shape))
        self.masked.append(step_mask(tensor) is not None)
        return len(self.shapes) - 1

    def write_out(self, traced: Expansion, inputs: Sequence[int], around: str = "") -> tuple[int, ...]:
        """Append the calls of `traced` on the slots `inputs`; returns its output slots.

        A nested model that takes a mask as an extra input remains one call, because its layers use the mask implicitly.
        Operations inside a composite layer are named after the layer `around` them.
        """
        slots = {id(tensor): slot for tensor, slot in zip(traced.inputs, inputs, strict=True)}
        for node in traced.nodes:
            tensors, layer = node.input_tensors, node.operation
            if node.is_input or any(id(tensor) not in slots for tensor in tensors):
                continue
            read = tuple(slots[id(tensor)] for tensor in tensors)
            inner = self._inside(node)
            if inner is None:
                written = tuple(self.new_slot(tensor) for tensor in node.output_tensors)
                self.calls.append(self._call(node, slots, read, written, around))
            elif is_nested(layer):
                written = self.write_out(inner, read, around)
            else:
                written = self.write_out(inner, read, self.names[id(layer)])
                self.composites.append(self._call(node, slots, read, written, around))
            slots.update({id(t): slot for t, slot in zip(node.output_tensors, written, strict=True)})
        return tuple(slots[id(tensor)] for tensor in traced.outputs)

    def _inside(self, node: Any) -> Expansion | None:
        """Return the calls inside the layer that a node calls; None if it remains one call."""
        layer = node.operation
        if not is_nested(layer):
            return expand(layer, node) if self._expands else None
        functional = functional_of(layer)
        if len(node.input_tensors) != len(functional.inputs):
            return None
        return Expansion(tuple(functional.inputs), tuple(nodes_of(functional)), tuple(functional.outputs))

    def _call(self, node: Any, slots: dict[int, int], read: tuple, written: tuple, around: str) -> Call:
        def refer(leaf: Any) -> Any:
            return Ref(slots[id(leaf)]) if isinstance(leaf, keras.KerasTensor) else leaf

        args, kwargs = node.arguments.convert(refer)
        if around:  # arguments of a composite layer that it only passes on
            kwargs = {key: value for key, value in kwargs.items() if value is not None}
        name = self.names.get(id(node.operation), str(node.operation.name))
        if (around or not self._own_names) and id(node.operation) not in self.names:
            name = "/".join([*([around] if around else []), type(node.operation).__name__.lower()])
            self._counts[name] += 1
            name = name if self._counts[name] == 1 else f"{name}_{self._counts[name] - 1}"
        return Call(
            layer=node.operation,
            args=args,
            kwargs=kwargs,
            inputs=read,
            outputs=written,
            input_shapes=tuple(self.shapes[slot] for slot in read),
            output_shapes=tuple(self.shapes[slot] for slot in written),
            name=name,
            dtypes=tuple(str(tensor.dtype) for tensor in node.input_tensors),
        )
