"""The calls of a Keras model in the order in which they run, nested models written out.

This is the only module that reads the private bookkeeping of Keras (``keras.src``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras.src.models.functional import Functional

from .errors import ModelError

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Ref:
    """Stands for the value in slot `slot` among a call's arguments."""

    slot: int


@dataclass(frozen=True)
class Call:
    """One call of one layer.

    Attributes
    ----------
    layer : keras.layers.Layer or keras.Operation
        What is called; shared layers occur in several calls.
    args, kwargs : nested structure
        The arguments, with a `Ref` wherever a tensor was passed.
    inputs, outputs : tuple of int
        Slots read and written, in the order of the flattened arguments and results.
    input_shapes, output_shapes : tuple of Shape
        Shapes of those slots, batch axis included.
    """

    layer: Any
    args: tuple
    kwargs: dict
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_shapes: tuple[Shape, ...]
    output_shapes: tuple[Shape, ...]

    @property
    def name(self) -> str:
        return str(self.layer.name)

    @property
    def kind(self) -> str:
        return type(self.layer).__name__

    def run(self, values: Sequence[Any]) -> list[Any]:
        """Call the layer on `values`, one tensor for each slot of `inputs`; gives a list of tensors."""
        by_slot = dict(zip(self.inputs, values, strict=True))

        def fill(leaf: Any) -> Any:
            return by_slot[leaf.slot] if isinstance(leaf, Ref) else leaf

        args: Any = keras.tree.map_structure(fill, self.args)
        kwargs: Any = keras.tree.map_structure(fill, self.kwargs)
        return keras.tree.flatten(self.layer(*args, **kwargs))


@dataclass(frozen=True)
class Graph:
    """A model as a list of calls in single-assignment form.

    Attributes
    ----------
    calls : tuple of Call
        In an order in which they can run.
    inputs, outputs : tuple of int
        Slots of the model's inputs and outputs.
    shapes : tuple of Shape
        Shape of each slot, batch axis included.
    """

    calls: tuple[Call, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    shapes: tuple[Shape, ...]


def trace_graph(model: keras.Model) -> Graph:
    """Write out a Sequential or Functional model as a `Graph`.

    Raises
    ------
    ModelError
        If `model` is no Keras model, is not built, or is a subclassed model.
    """
    functional = _functional(model)
    shapes: list[Shape] = []
    calls: list[Call] = []

    def new_slot(tensor: keras.KerasTensor) -> int:
        shapes.append(tuple(tensor.shape))
        return len(shapes) - 1

    inputs = tuple(new_slot(tensor) for tensor in functional.inputs)
    outputs = _write_out(functional, inputs, new_slot, calls, shapes)
    return Graph(tuple(calls), inputs, outputs, tuple(shapes))


def _functional(model: Any) -> Functional:
    """The Functional model inside `model`, or an error that says what works."""
    if not isinstance(model, keras.Model):
        raise ModelError(
            f"`model` must be a keras.Model, received {type(model).__name__}: load a saved one with "
            "keras.saving.load_model."
        )
    if isinstance(model, keras.Sequential):
        if model._functional is None:
            raise ModelError(
                f"model '{model.name}' is not built, so its units cannot be counted: call "
                "model.build(input_shape), or begin it with keras.Input(shape)."
            )
        return model._functional
    if not isinstance(model, Functional) or type(model).call is not Functional.call:
        raise ModelError(
            f"model '{model.name}' ({type(model).__name__}) is a subclassed model: its graph lies in "
            "Python code and cannot be walked. Sequential and Functional models work; rebuild it as "
            "keras.Model(inputs, outputs), or pass its Functional part."
        )
    return model


def is_nested(layer: Any) -> bool:
    """Whether `layer` is a model whose calls can be written out in place of its own."""
    if isinstance(layer, keras.Sequential):
        return layer._functional is not None
    return isinstance(layer, Functional) and type(layer).call is Functional.call


def _write_out(
    functional: Functional,
    inputs: Sequence[int],
    new_slot: Callable[[keras.KerasTensor], int],
    calls: list[Call],
    shapes: list[Shape],
) -> tuple[int, ...]:
    """Append the calls of `functional`, fed by the slots `inputs`; gives its output slots."""
    slots = {id(tensor): slot for tensor, slot in zip(functional.inputs, inputs, strict=True)}
    for depth in sorted(functional._nodes_by_depth, reverse=True):
        for node in functional._nodes_by_depth[depth]:
            tensors = node.input_tensors
            if node.is_input or any(id(tensor) not in slots for tensor in tensors):
                continue
            read = tuple(slots[id(tensor)] for tensor in tensors)
            if is_nested(node.operation):
                written = _write_out(_functional(node.operation), read, new_slot, calls, shapes)
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
    )
