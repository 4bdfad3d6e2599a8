"""The private parts of Keras that dropreg reads."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import RLock
from typing import Any

import keras
from keras.src.models.functional import Functional


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


def is_opaque(model: keras.Model) -> bool:
    """Whether the graph of `model` lies in Python code, so that it is one call."""
    return not isinstance(model, keras.Sequential) and not is_nested(model)


def is_nested(layer: Any) -> bool:
    """Whether `layer` is a model whose calls can be written out in place of its own."""
    if isinstance(layer, keras.Sequential):
        return layer._functional is not None
    return isinstance(layer, Functional) and type(layer).call is Functional.call
