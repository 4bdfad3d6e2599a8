"""Access to private parts of Keras: the only module that imports ``keras.src`` or reads private attributes."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import Any

import keras
from keras.src.backend import get_keras_mask, set_keras_mask
from keras.src.models.functional import Functional

__all__ = ["get_keras_mask", "set_keras_mask"]


def names_of(model: keras.Model) -> dict[int, str]:
    """`Graph.names`."""
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
    """`model` and every layer in it, each once, in an order that depends on the model's structure alone."""
    return model._flatten_layers()


def sublayers(layer: Any) -> list[Any]:
    """The layers directly inside `layer`, each once."""
    return layer._flatten_layers(include_self=False, recursive=False)


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
    return "call" if quantization_of(layer) is None else "quantized_call"


def quantization_of(layer: Any) -> str | None:
    """Quantization mode of a layer, such as ``"int8"``; None if it is not quantized."""
    return getattr(layer, "quantization_mode", None)


def takes_training(layer: Any) -> bool:
    """Whether the layer's ``call`` has an argument ``training``."""
    return getattr(layer, "_call_has_training_arg", False)


def built_shapes(model: Any) -> dict[str, Any]:
    """Shapes that `model` was built with, by argument of its ``call``; empty if it was not built."""
    return model._build_shapes_dict or {}


def attention_projections(layer: Any) -> dict[str, Any]:
    """The dense sublayers of an attention layer: ``query``, ``key``, ``value``, ``output``, and ``gate`` if any."""
    parts = {part: getattr(layer, f"_{part}_dense") for part in ("query", "key", "value")}
    if (gate := getattr(layer, "_gate_dense", None)) is not None:
        parts["gate"] = gate
    return {**parts, "output": layer._output_dense}


def is_opaque(model: keras.Model) -> bool:
    """Whether the graph of `model` lies in Python code, so that it is one call."""
    return not isinstance(model, keras.Sequential) and not is_nested(model)


def is_nested(layer: Any) -> bool:
    """Whether `layer` is a model whose calls can be written out in place of its own."""
    if isinstance(layer, keras.Sequential):
        return functional_of(layer) is not None
    return isinstance(layer, Functional) and type(layer).call is Functional.call


def functional_of(model: Any) -> Any:
    """The Functional model that `model` is or, if it is Sequential, holds; None if a Sequential is not built."""
    return model._functional if isinstance(model, keras.Sequential) else model


def nodes_of(functional: Any) -> Iterator[Any]:
    """The nodes of a Functional model, in an order in which they can run."""
    for depth in sorted(functional._nodes_by_depth, reverse=True):
        yield from functional._nodes_by_depth[depth]
