"""Access to private parts of Keras; no other module imports ``keras.src`` or reads its private attributes."""

import inspect
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from threading import RLock
from typing import Any

import keras
from keras.src.backend import get_keras_mask, set_keras_mask  # noqa: F401 (for _timesteps)
from keras.src.backend.common import global_state
from keras.src.models.functional import Functional
from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR
from keras.src.saving.serialization_lib import ObjectSharingScope


def names_of(model: keras.Model) -> dict[int, str]:
    """Return the name of each layer by its ``id``, as in `Graph.names`."""
    paths: dict[int, str] = {}

    def walk(parent: Any, around: str) -> None:
        for layer in sublayers(parent):
            if id(layer) not in paths:
                paths[id(layer)] = f"{around}{layer.name}"
                walk(layer, f"{around}{layer.name}/")

    walk(model, "")
    plain = {key: path.rpartition("/")[2] for key, path in paths.items()}
    count = Counter(plain.values())
    return {key: name if count[name] == 1 else paths[key] for key, name in plain.items()}


def all_layers(model: Any) -> list[Any]:
    """Return `model` and all layers in it, each once, in an order that only the model's structure determines."""
    return model._flatten_layers()


def sublayers(layer: Any) -> list[Any]:
    """Return the layers directly inside `layer`, each once."""
    return layer._flatten_layers(include_self=False, recursive=False)


def variables_of(layer: Any) -> list[Any]:
    """Return the variables that belong to `layer` itself, not to its sublayers."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def seed_states(model: Any) -> list[Any]:
    """Return the states of all random number generators that a run of `model` can use."""
    shared = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    own = [variable for variable in model.variables if variable.name == "seed_generator_state"]
    return own if shared is None else [*own, shared.state]


_PATCHING = RLock()
_PATCHED: set[tuple[int, str]] = set()
_ABSENT = object()


@contextmanager
def patched(changes: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    """Set attributes of layers, given as (layer, name, value), inside a ``with`` block, and restore them after it.

    Only one thread at a time enters such a block.
    """
    with _PATCHING:
        before = [(layer, name, vars(layer).get(name, _ABSENT)) for layer, name, _ in changes]
        ours = {(id(layer), name) for layer, name, _ in changes} - _PATCHED
        _PATCHED.update(ours)
        try:
            for layer, name, value in changes:
                vars(layer)[name] = value
            yield
        finally:
            _PATCHED.difference_update(ours)
            for layer, name, value in before:
                if value is _ABSENT:
                    vars(layer).pop(name, None)
                else:
                    vars(layer)[name] = value


@cache
def operation_names() -> frozenset[str]:
    """Return the names of the classes that stand for functions of ``keras.ops`` in a Functional model."""
    kinds, found = [keras.Operation], set[str]()
    for kind in kinds:
        kinds += kind.__subclasses__()
        found |= {kind.__name__} if kind.__module__.startswith("keras.src.ops.") else set()
    return frozenset(found)


def replaced_method(layer: Any, *, inside: bool = True) -> str | None:
    """Return the name of a method that was replaced on this one layer, or on one `inside` it; None if there is none."""
    for part in all_layers(layer) if inside else [layer]:
        for name in vars(part).keys() & _methods_of(type(part)):
            if (id(part), name) not in _PATCHED:
                return name
    return None


@cache
def _methods_of(kind: type) -> frozenset[str]:
    """Return the names of the methods of a layer class that Keras never replaces itself on a layer."""
    if issubclass(kind, keras.Model):
        return frozenset({"call"})
    return frozenset(name for name, _ in inspect.getmembers(kind, inspect.isfunction)) - {"build", "quantize"}


class _Marked(dict[int, dict[str, Any]]):
    """Configs by ``id``, to which no other object can be added: the ``id`` of a temporary one may be used again."""

    def __setitem__(self, number: int, config: dict[str, Any]) -> None:
        pass


@contextmanager
def sharing_scope(numbers: Iterable[int]) -> Iterator[dict[int, Any]]:
    """Mark the objects with these ``id`` in configs that contain them, and provide a dict of new objects by ``id``.

    A config that contains a marked object is deserialized with the new one in the dict, or else adds it there.
    """
    marked, made = _Marked({number: {} for number in numbers}), dict[int, Any]()
    with ObjectSharingScope():
        global_state.set_global_attribute("shared_objects/id_to_config_map", marked)
        global_state.set_global_attribute("shared_objects/id_to_obj_map", made)
        yield made


@contextmanager
def without_values() -> Iterator[None]:
    """Inside a ``with`` block, new variables have shapes but no values, and never get any."""
    key = "uninitialized_variables"
    waiting = global_state.get_global_attribute(key)
    global_state.set_global_attribute(key, [])
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        global_state.set_global_attribute(key, waiting or [])  # the next scope would give them values


@contextmanager
def nodes_restored(layers: Sequence[Any]) -> Iterator[None]:
    """Forget, on exit, the calls on symbolic tensors that layers record inside a ``with`` block."""
    kept = [(layer, list(layer._inbound_nodes), list(layer._outbound_nodes)) for layer in layers]
    try:
        yield
    finally:
        for layer, inbound, outbound in kept:
            layer._inbound_nodes[:], layer._outbound_nodes[:] = inbound, outbound


@contextmanager
def names_restored() -> Iterator[None]:
    """Restore, on exit, the numbers that Keras gives to new layers and operations without a name."""
    key = "object_name_uids"
    kept = global_state.get_global_attribute(key)
    global_state.set_global_attribute(key, defaultdict(int, kept or {}))
    try:
        yield
    finally:
        global_state.set_global_attribute(key, kept)


def nodes_that_compute(tensors: Iterable[Any]) -> list[Any]:
    """Return the recorded calls that symbolic tensors depend on, in an order in which they can run."""
    found: dict[int, Any] = {}
    waiting = [(tensor, False) for tensor in tensors][::-1]
    while waiting:
        tensor, ready = waiting.pop()
        history = getattr(tensor, "_keras_history", None)
        if history is None or history.operation is None:
            continue
        node = history.operation._inbound_nodes[history.node_index]
        if id(node) in found:
            continue
        if ready:
            found[id(node)] = node
        else:
            waiting.append((tensor, True))
            waiting += [(before, False) for before in node.input_tensors[::-1]]
    return list(found.values())


def keras_base(kind: type) -> type | None:
    """Return the first class in the method resolution order of `kind` that belongs to Keras; None without one."""
    return next((base for base in kind.__mro__ if base.__module__.startswith("keras.src.")), None)


def replace_sublayer(layer: Any, attribute: str, new: Any) -> None:
    """Put a new, built layer in the place of the one that an attribute of a layer, built or not, refers to."""
    old, tracker = getattr(layer, attribute), layer._tracker
    locked, place = tracker.locked, next(k for k, inner in enumerate(layer._layers) if inner is old)
    tracker.unlock()
    tracker.untrack(old)
    setattr(layer, attribute, new)
    layer._layers.insert(place, layer._layers.pop())
    tracker.locked = locked


_IDENTITY = ("name", "_path", "_parent_path", "_inbound_nodes", "_outbound_nodes", "build", "quantize")


def take_over(layer: Any, other: Any) -> None:
    """Give a built layer the class, settings, weights and sublayers of another one, which is not used afterwards.

    The layer keeps its name and its place in other layers and in Functional models.
    """
    layer.__class__ = type(other)
    vars(layer).update({name: value for name, value in vars(other).items() if name not in _IDENTITY})


def refresh_shapes(functional: Any) -> None:
    """Correct the shapes of the symbolic tensors of a Functional model whose layers have changed."""
    for node in nodes_of(functional):
        if node.is_input:
            continue
        specs = node.operation.compute_output_spec(*node.arguments.args, **node.arguments.kwargs)
        for tensor, spec in zip(node.output_tensors, keras.tree.flatten(specs), strict=True):
            tensor._shape = tuple(spec.shape)


def settings_in(layer: Any) -> dict[str, Any]:
    """Return the attributes of a layer that are numbers, texts, booleans or None, without those of every layer."""
    common = vars(keras.layers.Layer())
    return {
        name: value
        for name, value in vars(layer).items()
        if (value is None or type(value) in (bool, int, float, str)) and name not in common and name[:5] != "_self"
    }


def call_name(layer: Any) -> str:
    """Return the name of the method that ``layer(...)`` calls."""
    return "call" if quantization_of(layer) is None else "quantized_call"


def quantization_of(layer: Any) -> str | None:
    """Return the quantization mode of a layer, such as ``"int8"``; None if it is not quantized."""
    return getattr(layer, "quantization_mode", None)


def built_shapes(model: Any) -> dict[str, Any]:
    """Return the shapes that `model` was built with, by argument of its ``call``; empty if it is not built."""
    return model._build_shapes_dict or {}


def attention_projections(layer: Any) -> dict[str, Any]:
    """Return the dense sublayers of an attention layer: "query", "key", "value", "gate" if it has one, and "output"."""
    parts = {part: getattr(layer, f"_{part}_dense") for part in ("query", "key", "value")}
    if (gate := getattr(layer, "_gate_dense", None)) is not None:
        parts["gate"] = gate
    return {**parts, "output": layer._output_dense}


def metric_function(metric: Any) -> Any:
    """Return the function (a partial one) of labels and outputs whose mean a metric is; None for other metrics."""
    return partial(metric._fn, **metric._fn_kwargs) if isinstance(metric, keras.metrics.MeanMetricWrapper) else None


def metric_direction(metric: Any) -> bool | None:
    """Return whether a greater value of a metric is better; None if it does not say."""
    return {"up": True, "down": False}.get(getattr(metric, "_direction", None) or "")


def compile_settings(model: Any) -> dict[str, Any]:
    """Return the arguments that `model` was compiled with; empty if it is not compiled."""
    return dict(model._compile_config.config) if model.compiled and hasattr(model, "_compile_config") else {}


def schedule_of(optimizer: Any) -> Any:
    """Return the schedule of the learning rate of an optimizer; None without one."""
    rate = getattr(optimizer, "_learning_rate", None)
    return rate if isinstance(rate, keras.optimizers.schedules.LearningRateSchedule) else None


def is_opaque(model: keras.Model) -> bool:
    """Return whether `model` has a call of its own, so that its graph is Python code that only a run reveals."""
    if not isinstance(model, keras.Sequential | Functional) or "call" in vars(model):
        return True
    return type(model).call is not (keras.Sequential if isinstance(model, keras.Sequential) else Functional).call


def is_nested(layer: Any) -> bool:
    """Return whether `layer` is a model whose inner calls can replace its own call in the graph."""
    return isinstance(layer, keras.Model) and not is_opaque(layer) and functional_of(layer) is not None


def functional_of(model: Any) -> Any:
    """Return `model`, or the Functional model inside a Sequential one (None if that is not built)."""
    return model._functional if isinstance(model, keras.Sequential) else model


def output_names_of(functional: Any) -> tuple[str, ...]:
    """Return the names that Keras gives the outputs of a Functional model: the keys of a dict, else names of layers."""
    structure = functional._outputs_struct
    if isinstance(structure, dict) and all(isinstance(value, keras.KerasTensor) for value in structure.values()):
        keys = {id(value): str(key) for key, value in structure.items()}
        return tuple(keys[id(tensor)] for tensor in functional.outputs)
    return tuple(functional.output_names)


def nodes_of(functional: Any) -> Iterator[Any]:
    """Yield the nodes of a Functional model in an order in which they can run."""
    for depth in sorted(functional._nodes_by_depth, reverse=True):
        yield from functional._nodes_by_depth[depth]
