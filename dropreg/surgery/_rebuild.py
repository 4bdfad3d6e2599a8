"""Build a new model from the kept parts of a graph."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from .._utils import first_line
from ..errors import ModelError
from ..graph import Call, Graph, Ref
from ..layers import Cut, Rule, rule_for, unchanged
from ._clones import check_same_sharing, clones, with_clones
from ._original import Original
from ._plan import Plan


@dataclass(frozen=True)
class Rebuilt:
    """A new model and the graph that it was built from."""

    before: Graph
    after: Graph  # its slots have the numbers of those before, and hold the same values for the kept channels
    pairs: tuple[tuple[Call, Call], ...]  # the kept calls, before and after
    plan: Plan
    model: keras.Model  # described by `after`


def rebuild(original: Original, plan: Plan) -> Rebuilt:
    """Build the model that `plan` describes, with new layers.

    Nested models are flattened; a layer whose name is taken gets a number.
    """
    graph = original.graph
    inputs = symbolic_inputs(graph)
    values: dict[int, Any] = dict(zip(graph.inputs, inputs, strict=True))
    with clones(graph) as made:
        builder = Builder(graph, plan, values, made)
        pairs = [builder.add(index) for index in plan.live_calls(graph)]
    check_same_sharing([(old, new.layer) for old, new in pairs], original.model.weights)
    ends, calls = tuple(plan.slot(slot) for slot in graph.outputs), tuple(new for _, new in pairs)
    known = tuple(tuple(values[k].shape) if k in values else shape for k, shape in enumerate(graph.shapes))
    after = replace(graph, calls=calls, outputs=ends, shapes=known)
    built = assemble(graph, inputs, [values[slot] for slot in ends], [call.layer for call in calls])
    return Rebuilt(graph, after, tuple(pairs), plan, built)


def symbolic_inputs(graph: Graph) -> list[Any]:
    """Return new symbolic inputs like those of a graph."""
    described = zip(graph.inputs, graph.input_dtypes, graph.input_names, strict=True)
    return [
        keras.Input(batch_shape=graph.shapes[slot], dtype=dtype or graph.traced_dtype, name=name)
        for slot, dtype, name in described
    ]


class Builder:
    """Makes the new calls of a graph one after the other.

    `values` has the symbolic tensors by slot, at first those of the inputs; `made` the new layers by the ``id`` of the
    old ones, as from `clones`.
    """

    def __init__(self, graph: Graph, plan: Plan, values: dict[int, Any], made: dict[int, Any]) -> None:
        self.graph, self.plan, self.values, self._made = graph, plan, values, made
        self._names = {tensor.name for tensor in values.values()}
        self._done = set[int]()

    def free_name(self, name: str) -> str:
        """Return `name`, with a number if it is taken."""
        return _free_name(name, self._names)

    def add(self, index: int) -> tuple[Call, Call]:
        """Return the kept call number `index` and its new one, whose outputs are added to `values`."""
        old, made, values, plan = self.graph.calls[index], self._made, self.values, self.plan
        is_new = id(old.layer) not in self._done
        cut, rule = _cut(old, plan), rule_for(old.layer)
        if is_new:
            self._done.add(id(old.layer))
            name = self.free_name(old.layer.name)
            config = _without_arrays(cut.config) if cut.weights else cut.config
            if id(old.layer) not in made:  # a layer that holds it may have made it
                made[id(old.layer)] = _from_config(rule, old, {**with_clones(config, made), "name": name})
            made[id(old.layer)].name = name
        new = _rewired(replace(old, layer=made[id(old.layer)]), old, index, plan)
        outputs = keras.tree.flatten(_call_symbolically(new, values))
        if is_new and cut.weights:
            _set_weights(new, cut, rule.blocked(old))
            rule.finish(new.layer)
        values.update(zip(new.outputs, outputs, strict=True))
        shapes = [tuple(tuple(values[slot].shape) for slot in slots) for slots in (new.inputs, new.outputs)]
        return old, replace(new, input_shapes=shapes[0], output_shapes=shapes[1])


def _cut(call: Call, plan: Plan) -> Cut:
    if id(call.layer) in plan.heads:
        return rule_for(call.layer).cut_heads(call, plan.heads[id(call.layer)])
    ins, outs = [plan.kept[slot] for slot in call.inputs], [plan.kept[slot] for slot in call.outputs]
    if all(kept.all() for kept in (*ins, *outs)):
        return unchanged(call)
    return rule_for(call.layer).cut(call, ins, outs)


def _from_config(rule: Rule, call: Call, config: dict[str, Any]) -> Any:
    """Build a new layer from its config; raises ModelError if the config is incomplete."""
    try:
        return rule.remake(call, config)
    except (TypeError, ValueError) as error:
        raise ModelError(
            f"layer '{call.name}' ({call.kind}) must be rebuilt from its config, received the error "
            f"'{first_line(error)}': give the class a get_config that names all its arguments, and register functions "
            "of your own with keras.saving.register_keras_serializable."
        ) from error


def _set_weights(new: Call, cut: Cut, reason: str | None) -> None:
    """Set the weights of a new layer; raises ModelError if it has other ones, for example without an adapter."""
    try:
        new.layer.set_weights(cut.weights)
    except ValueError as error:
        raise ModelError(
            f"layer '{new.name}' ({new.kind}) cannot be rebuilt from its config, because "
            f"{reason or f'the rebuilt layer has other weights ({first_line(error)})'}."
        ) from error


def _without_arrays(config: dict[str, Any]) -> dict[str, Any]:
    """Replace initializers that hold arrays of the old shape; the weights are set afterwards anyway."""
    return config | {
        name: "zeros"
        for name, value in config.items()
        if name.endswith("_initializer") and np.ndim(getattr(keras.initializers.get(value), "value", 0)) > 0
    }


def _rewired(new: Call, old: Call, index: int, plan: Plan) -> Call:
    """Keep the remaining arguments of a call and take them from the slots that replace removed ones."""
    args, kwargs = rule_for(old.layer).cut_arguments(old, [plan.kept[slot] for slot in old.inputs])
    positions = plan.branches.get(index)
    if positions is not None:  # a sum of three or more branches, given as one list
        args = ([Ref(old.inputs[position]) for position in positions], *args[1:])

    def replaced(leaf: Any) -> Any:
        return Ref(plan.slot(leaf.slot)) if isinstance(leaf, Ref) else leaf

    args, kwargs = keras.tree.map_structure(replaced, args), keras.tree.map_structure(replaced, kwargs)
    inputs = tuple(leaf.slot for leaf in keras.tree.flatten((args, kwargs)) if isinstance(leaf, Ref))
    return replace(new, args=args, kwargs=kwargs, inputs=inputs)


def _call_symbolically(call: Call, values: dict[int, Any]) -> Any:
    """Call the layer on symbolic tensors, without fixing ``training``, so that the new model can be trained."""

    def fill(leaf: Any) -> Any:
        return values[leaf.slot] if isinstance(leaf, Ref) else leaf

    args: Any = keras.tree.map_structure(fill, call.args)
    kwargs: Any = keras.tree.map_structure(fill, call.kwargs)
    return call.layer(*args, **kwargs)


def _free_name(name: str, names: set[str]) -> str:
    """Return `name`, with a number if it is in `names`, and add it to them."""
    number, free = 1, name
    while free in names:
        free, number = f"{name}_{number}", number + 1
    names.add(free)
    return free


def assemble(graph: Graph, inputs: list[Any], outputs: list[Any], layers: list[Any]) -> keras.Model:
    """Return a Sequential model for a flat Sequential model, else a Functional one with the same input structure."""
    model: Any = graph.model
    pack: Callable[..., Any] = keras.tree.pack_sequence_as
    if graph.whole is not None:
        return keras.Model(
            pack(graph.whole.args[0], inputs), outputs if len(outputs) > 1 else outputs[0], name=model.name
        )
    if isinstance(model, keras.Sequential):
        if graph.composites or any(isinstance(layer, keras.Model) for layer in model.layers):
            return keras.Model(inputs[0], outputs[0], name=model.name)
        own = [layer for layer in layers if isinstance(layer, keras.layers.Layer)]  # Keras adds mask operations itself
        return keras.Sequential([inputs[0], *own], name=model.name)
    return keras.Model(pack(model.input, inputs), pack(model.output, outputs), name=model.name)
