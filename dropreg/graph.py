"""The calls of a Keras model in the order in which they run, nested models written out.

A subclassed model, whose graph lies in Python code, is one opaque call. This module and
`dropreg.step_masks` alone read the private bookkeeping of Keras (``keras.src``).
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import RLock
from typing import Any

import keras
import tensorflow as tf
from keras.src.models.functional import Functional

from .errors import ModelError, ParameterError
from .hidden_steps import StepMasks, observe
from .step_masks import step_mask, with_step_mask

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
    name : str
        Of the layer, as in `Graph.names`.
    unmasked : tuple of int
        Slots among `inputs` that layers before have taken the masks of steps off, in the order of the model.
    """

    layer: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_shapes: tuple[Shape, ...]
    output_shapes: tuple[Shape, ...]
    name: str
    unmasked: tuple[int, ...] = ()

    @property
    def kind(self) -> str:
        return type(self.layer).__name__

    def layers(self) -> list[Any]:
        """What is called and all layers in it."""
        return self.layer._flatten_layers() if isinstance(self.layer, keras.layers.Layer) else [self.layer]

    def _as_given(self, slot: int, value: Any) -> Any:
        """The value that the layer gets: another tensor where it has a mask, which some layers take off."""
        mask = step_mask(value)
        if mask is None:
            return value
        return with_step_mask(tf.identity(value), None if slot in self.unmasked else mask)

    def positions_of(self, argument: str, place: int) -> list[int]:
        """Which of `inputs` were passed as one argument, by name or as number `place`."""
        value = self.kwargs.get(argument, self.args[place] if place < len(self.args) else None)
        return [self.inputs.index(leaf.slot) for leaf in keras.tree.flatten(value) if isinstance(leaf, Ref)]

    def run(self, values: Sequence[Any]) -> list[Any]:
        """Call the layer for inference on `values`, one tensor for each slot of `inputs`; gives a list of tensors."""
        return self.run_on({s: self._as_given(s, value) for s, value in zip(self.inputs, values, strict=True)})

    def run_on(self, by_slot: dict[int, Any]) -> list[Any]:
        """`run` on tensors by slot, which layers may take the masks of steps off."""

        def fill(leaf: Any) -> Any:
            return by_slot[leaf.slot] if isinstance(leaf, Ref) else leaf

        args: Any = keras.tree.map_structure(fill, self.args)
        kwargs: Any = keras.tree.map_structure(fill, self.kwargs)
        if getattr(self.layer, "_call_has_training_arg", False):
            kwargs = {**kwargs, "training": False}
        return keras.tree.flatten(self.layer(*args, **kwargs))


@dataclass(frozen=True)
class Inside:
    """One call of a layer inside an opaque model, in the order in which they ran.

    Attributes
    ----------
    layer : keras.layers.Layer
    input_shape, output_shape : Shape or None
        Batch axis included; None where the layer takes or gives several tensors.
    is_output : bool
        Whether the model hands this very tensor out.
    """

    layer: Any
    input_shape: Shape | None
    output_shape: Shape | None
    is_output: bool


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
    input_names, output_names : tuple of str
    input_dtypes : tuple of (str or None)
        None where any numbers will do.
    names : dict of int to str
        What each layer is called, by its ``id``: its name, behind those of the models and layers around it where
        several layers have the same one ("encoder/dense").
    mask_ranks : tuple of (int or None)
        Rank of Keras' mask of steps (`dropreg.step_masks`) that the value in each slot comes with; None without one.
    padded : frozenset of int
        Slots whose values come with a mask of steps wherever no layer before takes it off.
    inside : tuple of Inside or None
        The calls inside a subclassed model, which itself is the only call; None for other models.
    """

    calls: tuple[Call, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    shapes: tuple[Shape, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    input_dtypes: tuple[str | None, ...]
    names: dict[int, str]
    mask_ranks: tuple[int | None, ...]
    padded: frozenset[int] = frozenset()
    inside: tuple[Inside, ...] | None = None

    def hides(self, output: int) -> bool:
        """Whether the model's mask of steps can hide positions of output number `output`."""
        slot = self.outputs[output]
        return 1 < (self.mask_ranks[slot] or 0) < len(self.shapes[slot])

    def output_number(self, output: int | str) -> int:
        """Position of an output given by its position or name.

        Raises
        ------
        ParameterError
            If there is no such output.
        """
        if isinstance(output, str) and output in self.output_names:
            return self.output_names.index(output)
        if isinstance(output, int) and not isinstance(output, bool) and 0 <= output < len(self.outputs):
            return output
        raise ParameterError(
            f"`output` must be one of {', '.join(self.output_names)} or its number from 0 to {len(self.outputs) - 1}, "
            f"received {output!r}."
        )


def trace_graph(model: keras.Model) -> Graph:
    """Write out a model as a `Graph`.

    Raises
    ------
    ModelError
        If `model` is no Keras model, is not built, or Keras does not run on TensorFlow.
    """
    if (backend := keras.config.backend()) != "tensorflow":
        raise ModelError(
            f"Keras must run on TensorFlow, received the backend '{backend}': save the model, set the environment "
            "variable KERAS_BACKEND=tensorflow before Keras is imported, and load it there."
        )
    if not isinstance(model, keras.Model):
        raise ModelError(
            f"`model` must be a keras.Model, received {type(model).__name__}: load a saved one with "
            "keras.saving.load_model."
        )
    if is_opaque(model):
        from .opaque import trace_opaque

        return trace_opaque(model)
    functional = _functional(model)
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
        masks = observe(model, calls, inputs, outputs, specs)
    return Graph(
        calls=tuple(
            replace(call, name=names.get(id(call.layer), call.name), unmasked=slots)
            for call, slots in zip(calls, masks.taken_off, strict=True)
        ),
        inputs=inputs,
        outputs=outputs,
        shapes=tuple(shapes),
        input_names=tuple(tensor.name for tensor in functional.inputs),
        output_names=tuple(functional.output_names),
        input_dtypes=tuple(str(tensor.dtype) for tensor in functional.inputs),
        names=names,
        mask_ranks=tuple(masks.ranks.get(slot) for slot in range(len(shapes))),
        padded=masks.padded,
    )


def names_of(model: keras.Model) -> dict[int, str]:
    """`Graph.names`."""
    paths: dict[int, str] = {}

    def walk(parent: Any, around: str) -> None:
        for layer in parent._flatten_layers(include_self=False, recursive=False):
            if id(layer) not in paths:
                paths[id(layer)] = f"{around}{layer.name}"
                walk(layer, f"{around}{layer.name}/")

    walk(model, "")
    plain = {key: path.rpartition("/")[2] for key, path in paths.items()}
    count = Counter(plain.values())
    return {key: name if count[name] == 1 else paths[key] for key, name in plain.items()}


def all_layers(model: keras.Model) -> list[Any]:
    """Every layer in `model`, itself first, each once, in an order that its structure alone decides."""
    return model._flatten_layers()


def variables_of(layer: Any) -> list[Any]:
    """The variables that belong to `layer` itself, not to its sublayers."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


_PATCHING = RLock()
_ABSENT = object()


@contextmanager
def patched(changes: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """Give layers other attributes (layer, name, value) for a while, such as another ``call``.

    One thread at a time; every attribute is as it was afterwards, also when something raises.
    """
    with _PATCHING:
        before = [(layer, name, vars(layer).get(name, _ABSENT)) for layer, name, _ in changes]
        try:
            for layer, name, value in changes:
                vars(layer)[name] = value
            yield
        finally:
            for layer, name, value in before:
                if value is _ABSENT:
                    vars(layer).pop(name, None)
                else:
                    vars(layer)[name] = value


def call_name(layer: Any) -> str:
    """The method that ``layer(...)`` ends up in."""
    return "call" if getattr(layer, "quantization_mode", None) is None else "quantized_call"


def _functional(model: Any) -> Functional:
    """The Functional model inside `model`, or an error that says what to do."""
    if isinstance(model, keras.Sequential):
        if model._functional is None:
            raise ModelError(
                f"model '{model.name}' is not built, so its units cannot be counted: call "
                "model.build(input_shape), or begin it with keras.Input(shape)."
            )
        return model._functional
    return model


def is_opaque(model: keras.Model) -> bool:
    """Whether the graph of `model` lies in Python code, so that it is one call."""
    return not isinstance(model, keras.Sequential) and not is_nested(model)


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
    """Append the calls of `functional`, fed by the slots `inputs`; gives its output slots.

    A nested model that is given a mask beside its inputs is one call: the layers in it read the mask unseen.
    """
    slots = {id(tensor): slot for tensor, slot in zip(functional.inputs, inputs, strict=True)}
    for depth in sorted(functional._nodes_by_depth, reverse=True):
        for node in functional._nodes_by_depth[depth]:
            tensors = node.input_tensors
            if node.is_input or any(id(tensor) not in slots for tensor in tensors):
                continue
            read = tuple(slots[id(tensor)] for tensor in tensors)
            if is_nested(node.operation) and len(read) == len(_functional(node.operation).inputs):
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
        name=str(node.operation.name),
    )
