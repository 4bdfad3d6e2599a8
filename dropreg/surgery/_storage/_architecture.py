"""The architecture of a model as JSON, checked before Keras builds anything from it."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from ..._utils import first_line
from ...errors import ModelError
from ...graph import all_layers, without_values
from .._clones import seeds_kept

Table = Sequence[tuple[str, str, tuple[int, ...]]]
"""Path, type and shape of each weight."""
_PACKAGES = ("keras", "keras_hub", "dropreg", "builtins")
"""Packages whose classes may be imported by the name that a file gives; others must be registered or passed."""
_REFUSED = ("__lambda__", "Lambda", "TFSMLayer", "TorchModuleWrapper", "FlaxLayer", "JaxLayer", "__typespec__")
_DEEPEST = 200


def describe(model: keras.Model) -> dict[str, Any]:
    """Return the model's architecture; ModelError if it cannot be built from that alone."""
    for layer in all_layers(model):
        if hasattr(layer, "save_assets"):
            raise ModelError(
                f"layer '{layer.name}' ({type(layer).__name__}) must keep all that it knows in its config and weights "
                "to be packed, but it writes files of its own: apply it before the model, or save a .keras file."
            )
    try:
        config: Any = keras.saving.serialize_keras_object(model)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ModelError(
            f"model '{model.name}' must have a config to be packed, received the error '{first_line(error)}': give its "
            "classes a get_config that names all arguments."
        ) from error
    config.pop("compile_config", None)
    return config


def check_config(config: Any, known: Mapping[str, Any] | None = None) -> None:
    """Raise ValueError if a config asks for code, for files, or for classes of packages that nobody has registered."""
    registered = {**keras.saving.get_custom_objects(), **(known or {})}
    waiting = [(config, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > _DEEPEST:
            raise ValueError("a config that is nested too deeply")
        if isinstance(value, dict):
            _check_object(value, registered)
            waiting += [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, list):
            waiting += [(inner, depth + 1) for inner in value]


def _check_object(value: dict[str, Any], registered: Mapping[str, Any]) -> None:
    if isinstance(value.get("vocabulary"), str):
        raise ValueError("a layer that reads its vocabulary from a file")
    if "class_name" not in value:
        return
    name, module, key = (value.get(part) for part in ("class_name", "module", "registered_name"))
    if not all(part is None or isinstance(part, str) for part in (name, module, key)):
        raise ValueError("an object without a name")
    if name in _REFUSED:
        raise ValueError(f"an object of class '{name}', which runs code from the file")
    if module is None or key in registered or value.get("config") in [k for k in registered if name == "function"]:
        return
    if module.partition(".")[0] not in _PACKAGES:
        raise ValueError(f"an object of class '{module}.{name}', which is not registered")


@seeds_kept()
def check_builds(config: dict[str, Any], table: Table, known: Mapping[str, Any] | None = None) -> None:
    """Raise ValueError if a config cannot be built, or has other weights than the table.

    The model is built symbolically, so that nothing large is allocated by mistake.
    """
    with without_values():
        found = table_of(_from_config(config, known))
    if [(kind, shape) for _, kind, shape in found] != [(kind, shape) for _, kind, shape in table]:
        raise ValueError(f"an architecture with other weights ({_size(found):,} numbers, not {_size(table):,})")


@seeds_kept()
def build(config: dict[str, Any], known: Mapping[str, Any] | None = None) -> keras.Model:
    """Build a model from a checked config; ValueError if that fails."""
    return _from_config(config, known)


def _from_config(config: dict[str, Any], known: Mapping[str, Any] | None) -> keras.Model:
    try:
        with keras.saving.custom_object_scope(dict(known or {})):
            model: Any = keras.saving.deserialize_keras_object(copy.deepcopy(config), safe_mode=True)
    except Exception as error:  # a config from a file can make any class fail in any way
        raise ValueError(f"an architecture that cannot be built ({first_line(error)})") from error
    if not isinstance(model, keras.Model) or not model.built:
        raise ValueError("no model")
    return model


def table_of(model: keras.Model) -> Table:
    """Return path, type and shape of a model's weights."""
    return [(str(weight.path), str(weight.dtype), tuple(map(int, weight.shape))) for weight in model.weights]


def _size(table: Table) -> int:
    return sum(math.prod(shape) for _, _, shape in table)
