"""Trace a Keras model: expand it into a graph of calls."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import keras
import tensorflow as tf

from ..errors import ModelError
from ._access import functional_of, is_nested, is_opaque, names_of, nodes_of, output_names_of
from ._calls import Call, Graph, Ref, Shape
from ._padding import StepMasks, observe
from ._sharing import shared_weights
from ._timesteps import step_mask


def trace_graph(model: "keras.Model | Graph") -> Graph:
    """Trace a model: write it out as a `Graph`. A `Graph` is returned unchanged, so that nothing is traced twice.

    Raises
    ------
    ModelError
        If `model` is not a Keras model or not built.
    """
    return model if isinstance(model, Graph) else _trace(model)


def _trace(model: keras.Model) -> Graph:
    if not isinstance(model, keras.Model):
        raise ModelError(
            f"`model` must be a keras.Model, received {type(model).__name__}: load a saved one with "
            "keras.saving.load_model."
        )
    if is_opaque(model):
        from ._subclassed import trace_opaque

        return trace_opaque(model)
    functional = functional_of(model)
    if functional is None:
        raise ModelError(
            f"model '{model.name}' is not built, so its units cannot be counted: call "
            "model.build(input_shape), or begin it with keras.Input(shape)."
        )
    shapes: list[Shape] = []
    masked: list[bool] = []
    calls: list[Call] = []
    names = names_of(model)

    def new_slot(tensor: keras.KerasTensor) -> int:
        shapes.append(tuple(tensor.shape))
        masked.append(step_mask(tensor) is not None)
        return len(shapes) - 1

    inputs = tuple(new_slot(tensor) for tensor in functional.inputs)
    outputs = _write_out(functional, inputs, new_slot, calls, shapes)
    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in functional.inputs]
    masks = StepMasks({}, ((),) * len(calls), frozenset())
    if any(masked):
        masks = observe(model, calls, inputs, specs)
    named = tuple(
        replace(call, name=names.get(id(call.layer), call.name), unmasked=slots)
        for call, slots in zip(calls, masks.removed, strict=True)
    )
    return Graph(
        model=model,
        calls=named,
        inputs=inputs,
        outputs=outputs,
        shapes=tuple(shapes),
        input_names=tuple(tensor.name for tensor in functional.inputs),
        output_names=output_names_of(functional),
        input_dtypes=tuple(str(tensor.dtype) for tensor in functional.inputs),
        names=names,
        mask_ranks=tuple(masks.ranks.get(slot) for slot in range(len(shapes))),
        padded=masks.padded,
        shared=shared_weights(model, named, inputs, specs),
    )


def _write_out(
    functional: Any,
    inputs: Sequence[int],
    new_slot: Callable[[keras.KerasTensor], int],
    calls: list[Call],
    shapes: list[Shape],
) -> tuple[int, ...]:
    """Append the calls of `functional` on the slots `inputs` to `calls`; returns its output slots.

    A nested model that takes a mask as an extra input remains one call, because its layers use the mask implicitly.
    """
    slots = {id(tensor): slot for tensor, slot in zip(functional.inputs, inputs, strict=True)}
    for node in nodes_of(functional):
        tensors, inner = node.input_tensors, node.operation
        if node.is_input or any(id(tensor) not in slots for tensor in tensors):
            continue
        read = tuple(slots[id(tensor)] for tensor in tensors)
        if is_nested(inner) and len(read) == len(functional_of(inner).inputs):
            written = _write_out(functional_of(inner), read, new_slot, calls, shapes)
        else:
            written = tuple(new_slot(tensor) for tensor in node.output_tensors)
            calls.append(_call(node, slots, read, written, shapes))
        slots.update({id(t): slot for t, slot in zip(node.output_tensors, written, strict=True)})
    return tuple(slots[id(tensor)] for tensor in functional.outputs)


def _call(node: Any, slots: dict[int, int], read: tuple, written: tuple, shapes: list[Shape]) -> Call:
    def refer(leaf: Any) -> Any:
        return Ref(slots[id(leaf)]) if isinstance(leaf, keras.KerasTensor) else leaf

    args, kwargs = node.arguments.convert(refer)
    return Call(
        layer=node.operation,
        args=args,
        kwargs=kwargs,
        inputs=read,
        outputs=written,
        input_shapes=tuple(shapes[slot] for slot in read),
        output_shapes=tuple(shapes[slot] for slot in written),
        name=str(node.operation.name),
    )
