"""New layers from the configs of old ones, which share weights and hold one another as the old ones do."""

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from ..errors import ModelError
from ..graph import Call, Graph, all_layers, replaced_method, sharing_scope

_REMEDY = (
    "let its get_config serialize the layers that it holds with keras.saving.serialize_keras_object, and its "
    "from_config deserialize them"
)


@contextmanager
def seeds_kept() -> Iterator[None]:
    """Restore the state of Python's `random` on exit: Keras draws the default seeds of new layers from it."""
    state = random.getstate()
    try:
        yield
    finally:
        random.setstate(state)


def refuse_subclassed(graph: Graph, action: str) -> None:
    """Raise ModelError if a model is a single call, and so cannot be, for example, "copied" (`action`)."""
    model = graph.model
    if graph.inside is not None:
        raise ModelError(
            f"model '{model.name}' ({type(model).__name__}) is a subclassed model, whose graph lies in Python code "
            f"that cannot be traced: it cannot be {action}. Use functions of keras.ops in its call, or rebuild it as "
            "keras.Model(inputs, outputs)."
        )


def check_can_clone(graph: Graph) -> None:
    """Raise ModelError if a copy of a layer would not compute the same.

    This is so if it uses weights of another layer that it does not hold, or a method was replaced on this one layer.
    """
    for call in graph.calls:
        if isinstance(call.layer, keras.layers.Layer) and (name := replaced_method(call.layer)) is not None:
            raise ModelError(
                f"layer '{call.name}' ({call.kind}) must have the methods of its class to be copied, but `{name}` was "
                "replaced on this one layer: define it in a subclass."
            )
        if (lender := graph.shared.lender(call.layer, call.name)) is not None:
            raise ModelError(
                f"layer '{call.name}' ({call.kind}) must hold the weights that it uses to be copied, but it reads "
                f"those of layer '{lender}' from outside: write a layer class whose constructor takes '{lender}', "
                "keeps it as an attribute, and serializes it in get_config."
            )


@contextmanager
def clones(graph: Graph) -> Iterator[dict[int, Any]]:
    """Provide a dict, to be filled, of new objects by the ``id`` of old ones.

    Inside the ``with`` block, configs of layers that hold others in the dict are deserialized with those new layers.
    """
    called = {id(call.layer): call for call in graph.calls}.values()
    counts = Counter(id(layer) for call in called for layer in call.layers())
    with sharing_scope([key for key, count in counts.items() if count > 1]) as made:
        yield made


def holds_layers(config: Any) -> bool:
    """Return whether a config contains layers that are not serialized."""
    return any(isinstance(leaf, keras.layers.Layer) for leaf in keras.tree.flatten(config))


def with_clones(config: dict[str, Any], made: dict[int, Any]) -> dict[str, Any]:
    """Replace the layers in a config that are not serialized by new ones, which are added to `made`."""
    if not holds_layers(config):
        return config

    def new(leaf: Any) -> Any:
        if isinstance(leaf, keras.layers.Layer) and id(leaf) not in made:
            classes = {type(layer).__name__: type(layer) for layer in all_layers(leaf)}
            serialized: Any = keras.saving.serialize_keras_object(leaf)
            made[id(leaf)] = keras.saving.deserialize_keras_object(serialized, custom_objects=classes)
        return made[id(leaf)] if isinstance(leaf, keras.layers.Layer) else leaf

    return {name: keras.tree.map_structure(new, value) for name, value in config.items()}


def clone_function(made: dict[int, Any]) -> Callable[[Any], Any]:
    """Return a function for ``keras.models.clone_model`` that adds the new layers to `made`."""

    def clone(layer: Any) -> Any:
        if id(layer) not in made:
            new = type(layer).from_config(with_clones(layer.get_config(), made))
            made.setdefault(id(layer), new)
        return made[id(layer)]

    return clone


def check_same_sharing(pairs: Iterable[tuple[Call, Any]], originals: Iterable[Any]) -> None:
    """Raise ModelError unless new layers share weights as the old ones do, and none with the original model.

    `pairs` are old calls with their new layers, `originals` the weights of the original model.
    """
    taken = {id(weight) for weight in originals}
    new_of: dict[int, tuple[Any, str]] = {}
    for call, layer in pairs:
        for before, after in zip(getattr(call.layer, "weights", ()), getattr(layer, "weights", ()), strict=True):
            first, holder = new_of.setdefault(id(before), (after, call.name))
            if id(after) in taken:
                raise ModelError(
                    f"layer '{call.name}' ({call.kind}) must have weights of its own in a copy, but its config holds "
                    f"those of the original: {_REMEDY}."
                )
            if after is not first:
                raise ModelError(
                    f"layer '{call.name}' ({call.kind}) must share weights with layer '{holder}' in a copy too, but "
                    f"its config does not say so: {_REMEDY}."
                )
