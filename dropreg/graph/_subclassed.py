"""Trace a subclassed model, whose graph is Python code that cannot be written out, as a graph with a single call."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from ..errors import ModelError
from ._access import all_layers, built_shapes, call_name, names_of, patched, variables_of
from ._calls import Call, Graph, Inside, Ref, Shape
from ._compile import compiled
from ._timesteps import step_mask

_DTYPES = ("float32", "int32")


def model_inputs(model: Any) -> Iterator[tuple[list[Any], Any]]:
    """Yield symbolic inputs of a subclassed model, flat and as the argument of its call, for each type they may have.

    There are none for a model that is not built or takes several arguments.
    """
    known = built_shapes(model)
    if model.built and len(known) == 1 and not variables_of(model):
        shapes = _built_shapes(model)
        for dtype in _DTYPES:
            argument = keras.tree.map_shape_structure(
                lambda shape, dtype=dtype: keras.KerasTensor(shape, dtype), shapes
            )
            yield keras.tree.flatten(argument), argument


def trace_opaque(model: Any) -> Graph:
    """Return a graph with one call, and record the calls inside the model in one run on symbolic tensors."""
    shapes, failure = _built_shapes(model), None
    for dtype in _DTYPES:
        specs = keras.tree.map_shape_structure(lambda shape, dtype=dtype: tf.TensorSpec(shape, dtype), shapes)
        try:
            inside, output_shapes, mask_ranks = _record_calls(model, specs)
            break
        except (TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
            failure = error
    else:
        raise ModelError(
            f"model '{model.name}' ({type(model).__name__}) must run on tensors of shape {shapes}, received the error "
            f"{failure}: call it once on a batch of data first."
        )
    flat: list[Shape] = [spec.shape for spec in keras.tree.flatten(specs)]
    slots = iter(range(len(flat)))
    arguments = keras.tree.map_structure(lambda spec: Ref(next(slots)), specs)
    n_inputs, n_outputs = len(flat), len(output_shapes)
    read, written = tuple(range(n_inputs)), tuple(range(n_inputs, n_inputs + n_outputs))
    input_shapes = tuple(tuple(shape) for shape in flat)
    call = Call(model, (arguments,), {}, read, written, input_shapes, output_shapes, model.name)
    return Graph(
        model=model,
        calls=(call,),
        inputs=read,
        outputs=written,
        shapes=(*input_shapes, *output_shapes),
        input_names=tuple(f"input_{k}" for k in read),
        output_names=tuple(f"output_{k}" for k in range(n_outputs)),
        input_dtypes=(None,) * n_inputs,
        names=names_of(model),
        mask_ranks=(*(None for _ in flat), *mask_ranks),
        traced_dtype=dtype,
        inside=inside,
    )


def _built_shapes(model: Any) -> Any:
    """Return the shapes that the model was built with, with an unknown batch axis."""
    known = built_shapes(model)
    if not model.built or not known:
        raise ModelError(
            f"model '{model.name}' ({type(model).__name__}) is not built, so its layers cannot be counted: call it "
            "once on a batch of data."
        )
    if len(known) != 1:
        raise ModelError(
            f"model '{model.name}' ({type(model).__name__}) must take one argument (a tensor, list or dict), received "
            f"{len(known)} ({', '.join(known)}): pass them as one list."
        )
    return keras.tree.map_shape_structure(lambda shape: (None, *shape[1:]), next(iter(known.values())))


def _record_calls(model: Any, specs: Any) -> tuple[tuple[Inside, ...], tuple[Shape, ...], tuple[int | None, ...]]:
    """Run `model` on symbolic tensors; returns its inner calls, and the shapes and mask ranks of its outputs."""
    calls: list[tuple[Any, Any, Any]] = []

    def recorder(layer: Any) -> Callable[..., Any]:
        original = getattr(layer, call_name(layer))

        def call(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            calls.append((layer, args[0] if args else None, result))
            return result

        return call

    changes = [(layer, call_name(layer), recorder(layer)) for layer in all_layers(model)[1:]]
    found: list[Any] = []

    def run(inputs: Any) -> None:
        calls.clear()
        found[:] = keras.tree.flatten(model(inputs, training=False))

    with patched(changes), keras.StatelessScope(collect_losses=True):
        compiled(run).get_concrete_function(specs)
    is_output = {id(tensor) for tensor in found}
    inside = tuple(Inside(layer, _shape(x), _shape(y), id(y) in is_output) for layer, x, y in calls)
    return inside, tuple(tuple(tensor.shape) for tensor in found), tuple(map(_mask_rank, found))


def _mask_rank(value: Any) -> int | None:
    mask = step_mask(value)
    return None if mask is None else len(mask.shape)


def _shape(value: Any) -> Shape | None:
    return tuple(value.shape) if isinstance(value, tf.Tensor) else None
