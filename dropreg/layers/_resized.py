"""Models of KerasHub classes some of whose layers have sizes of their own, which the class cannot say.

The configuration of such a model is that of its class and the list of changed layers. So the model can be saved as
``.keras`` and loaded again.
"""

import functools
import json
from collections.abc import Sequence
from typing import Any

import keras

from ..errors import ModelError
from ..graph import all_layers, qualified_name, refresh_shapes, take_over
from ._remade import named_class, settings_of

Change = tuple[int, dict[str, Any], dict[str, Any] | None]
"""Number of a layer in `all_layers`, its changed attributes, and the new layer, serialized, if it has other weights."""
_PLAIN = (bool, int, float, str)
_PARTS = {"keras_hub.Backbone": "backbone", "keras_hub.Task": "task"}


def kerashub_part(model: Any) -> str | None:
    """Return "backbone" or "task" for a model of KerasHub; None for others."""
    names = (qualified_name(base) for base in type(model).__mro__)
    return next((_PARTS[name] for name in names if name in _PARTS), None)


class Resized:
    """What the classes of `resized` add to a model of KerasHub."""

    changes: str

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Return a model of the class that the configuration names, with its changed layers."""
        config = dict(config)
        kind, changes = named_class(config), json.loads(config.pop("changes"))
        return resize(kind.from_config(config), changes)


@functools.cache
def resized(kind: Any) -> Any:
    """Return a subclass of a model class of KerasHub whose config says which layers were changed."""

    class Own(Resized, kind):
        def get_config(self) -> dict[str, Any]:
            named = {"module": kind.__module__, "kind": kind.__name__, "changes": self.changes}
            return {**super().get_config(), **named}

        def save_to_preset(self, *args: Any, **kwargs: Any) -> None:
            raise ModelError(
                f"model '{self.name}' must have layers whose sizes the configuration of {kind.__name__} can say to be "
                f"saved as a preset, received other sizes for {_named(self)}: remove equal shares of all layers, as "
                "with fraction=0.25 and floor=0.75, or save the model as .keras."
            )

    Own.__name__ = Own.__qualname__ = "Resized"
    return Own


def _named(model: Any) -> str:
    """Return the names of a few changed layers of a model, or of its backbone."""
    holder = model if json.loads(model.changes) else model.backbone
    layers = all_layers(holder)
    names = [layers[number].path for number, *_ in json.loads(holder.changes)]
    return f"{len(names)} layers, such as '{names[0]}'"


def resize(model: Any, changes: Sequence[Change]) -> Any:
    """Change layers of a new model of KerasHub, make its class a `Resized` one and return it."""
    layers = all_layers(model)
    for number, attributes, serialized in changes:
        for name, value in attributes.items():
            setattr(layers[number], name, value)
        if serialized is not None:
            take_over(layers[number], keras.saving.deserialize_keras_object(serialized))
    if any(layers[number] in model.layers for number, *_ in changes):
        refresh_shapes(model)
    model.__class__ = resized(type(model))
    model.changes = json.dumps([list(change) for change in changes])
    return model


def base_class(model: Any) -> Any:
    """Return the class of KerasHub that a model belongs to, which is not a `Resized` one."""
    return type(model).__mro__[2] if isinstance(model, Resized) else type(model)


def base_config(model: Any) -> dict[str, Any]:
    """Return the config of a model of KerasHub without its changed layers.

    Where ``get_config`` of the class misses an argument of the constructor, it is taken from the attributes.
    """
    kind = base_class(model)
    plain = {name: value for name, value in settings_of(model, kind).items() if isinstance(value, _PLAIN)}
    return {**plain, **kind.get_config(model)}


keras.saving.get_custom_objects()["Resized"] = Resized
