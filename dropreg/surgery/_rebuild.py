"""A new model from what is left of a graph."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from .._utils import first_line
from ..errors import ModelError
from ..graph import Call, Graph, Ref
from ..layers import Cut, Rule, rule_for, unchanged
from ._original import Original
from ._plan import Plan


@dataclass(frozen=True)
class Rebuilt:
    """A new model beside the one it is made from.

    Attributes
    ----------
    before, after : Graph
        Slots with the same number hold the same values, but for what is removed.
    pairs : tuple of (Call, Call)
        Calls before and after, of what is left.
    plan : Plan
    model : keras.Model
        What `after` runs.
    """

    before: Graph
    after: Graph
    pairs: tuple[tuple[Call, Call], ...]
    plan: Plan
    model: keras.Model


def rebuild(original: Original, plan: Plan) -> Rebuilt:
    """Build what `plan` leaves of a model, with layers of its own.

    Nested models are written out; a layer whose name is taken gets a number.
    """
    model, graph = original.model, original.graph
    inputs: list[Any] = [
        keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name) for tensor in model.inputs
    ]
    values: dict[int, Any] = dict(zip(graph.inputs, inputs, strict=True))
    names = {tensor.name for tensor in inputs}
    made: dict[int, Any] = {}
    pairs = []
    for index in plan.live_calls(graph):
        old = graph.calls[index]
        is_new = id(old.layer) not in made
        cut = _cut(old, plan)
        rule = rule_for(old.layer)
        if is_new:
            config = _with_any_shape(cut.config) if cut.weights else cut.config
            made[id(old.layer)] = _remade(rule, old, {**config, "name": _free_name(old.layer.name, names)})
        new = _rewired(replace(old, layer=made[id(old.layer)]), old, index, plan)
        written = keras.tree.flatten(_symbolic(new, values))
        if is_new and cut.weights:
            _give_weights(new, cut, rule.blocked(old))
            rule.finish(new.layer)
        values.update(zip(new.outputs, written, strict=True))
        pairs.append((old, _with_shapes(new, values)))
    outputs = [values[plan.slot(slot)] for slot in graph.outputs]
    calls = tuple(new for _, new in pairs)
    shapes = tuple(tuple(values[k].shape) if k in values else shape for k, shape in enumerate(graph.shapes))
    after = replace(graph, calls=calls, outputs=tuple(plan.slot(slot) for slot in graph.outputs), shapes=shapes)
    built = _assemble(model, inputs, outputs, [call.layer for call in calls])
    return Rebuilt(graph, after, tuple(pairs), plan, built)


def _cut(call: Call, plan: Plan) -> Cut:
    if id(call.layer) in plan.heads:
        return rule_for(call.layer).cut_heads(call, plan.heads[id(call.layer)])
    ins, outs = [plan.kept[slot] for slot in call.inputs], [plan.kept[slot] for slot in call.outputs]
    if all(kept.all() for kept in (*ins, *outs)):
        return unchanged(call)
    return rule_for(call.layer).cut(call, ins, outs)


def _remade(rule: Rule, call: Call, config: dict[str, Any]) -> Any:
    """A new layer from its config, or ModelError if that does not say all."""
    try:
        return rule.remake(call, config)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"layer '{call.name}' ({call.kind}) must be made anew from its config, received the error "
            f"'{first_line(error)}': give the class a get_config that names all its arguments, and register functions "
            "of your own with keras.saving.register_keras_serializable."
        ) from error


def _give_weights(new: Call, cut: Cut, reason: str | None) -> None:
    """Give a new layer its weights, or ModelError if it has others, for example without an adapter."""
    try:
        new.layer.set_weights(cut.weights)
    except ValueError as error:
        raise ModelError(
            f"layer '{new.name}' ({new.kind}) cannot be made anew from its config, because "
            f"{reason or f'its weights are others then ({first_line(error)})'}."
        ) from error


def _with_any_shape(config: dict[str, Any]) -> dict[str, Any]:
    """A config whose initializers hold no arrays of the old shape; the weights are known anyway."""
    return config | {
        name: "zeros"
        for name, value in config.items()
        if name.endswith("_initializer") and np.ndim(getattr(keras.initializers.get(value), "value", 0)) > 0
    }


def _rewired(new: Call, old: Call, index: int, plan: Plan) -> Call:
    """The call with the arguments and inputs that stay, from the slots that take the place of others."""
    args, kwargs = rule_for(old.layer).cut_arguments(old, [plan.kept[slot] for slot in old.inputs])
    stay = plan.branches.get(index)
    if stay is not None:  # a sum of three or more branches, given as one list
        slots = [old.inputs[position] for position in stay]
        args = ([Ref(slot) for slot in slots], *args[1:])

    def other(leaf: Any) -> Any:
        return Ref(plan.slot(leaf.slot)) if isinstance(leaf, Ref) else leaf

    args, kwargs = keras.tree.map_structure(other, args), keras.tree.map_structure(other, kwargs)
    leaves = keras.tree.flatten((args, kwargs))
    read = tuple(leaf.slot for leaf in leaves if isinstance(leaf, Ref))
    return replace(new, args=args, kwargs=kwargs, inputs=read)


def _symbolic(call: Call, values: dict[int, Any]) -> Any:
    """The call on symbolic tensors, with the arguments as they are: a model that trains must not be told not to."""

    def fill(leaf: Any) -> Any:
        return values[leaf.slot] if isinstance(leaf, Ref) else leaf

    args: Any = keras.tree.map_structure(fill, call.args)
    kwargs: Any = keras.tree.map_structure(fill, call.kwargs)
    return call.layer(*args, **kwargs)


def _with_shapes(call: Call, values: dict[int, Any]) -> Call:
    read, written = (tuple(tuple(values[slot].shape) for slot in slots) for slots in (call.inputs, call.outputs))
    return replace(call, input_shapes=read, output_shapes=written)


def _free_name(name: str, names: set[str]) -> str:
    """`name`, numbered where models nested in one another use it twice."""
    number, free = 1, name
    while free in names:
        free, number = f"{name}_{number}", number + 1
    names.add(free)
    return free


def _assemble(model: keras.Model, inputs: list[Any], outputs: list[Any], layers: list[Any]) -> keras.Model:
    """A Sequential model of a flat Sequential one, else a Functional model with the same structure of inputs."""
    if isinstance(model, keras.Sequential):
        nested = any(isinstance(layer, keras.Model) for layer in model.layers)
        if not nested:
            own = [layer for layer in layers if isinstance(layer, keras.layers.Layer)]  # masks find their own way
            return keras.Sequential([inputs[0], *own], name=model.name)
        return keras.Model(inputs[0], outputs[0], name=model.name)
    pack: Callable[..., Any] = keras.tree.pack_sequence_as
    return keras.Model(pack(model.input, inputs), pack(model.output, outputs), name=model.name)
