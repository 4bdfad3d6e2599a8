"""New layers of KerasHub classes whose ``get_config`` does not say all, or cannot say what is removed.

They are made from the attributes of the original layer. An attention layer, whose size of a head may follow from the
configured number of heads, is built as configured and then keeps only its own heads. It takes and returns the cache of
all heads, so that ``generate`` works with layers that have different numbers of heads.
"""

import functools
import importlib
import inspect
from typing import Any

import keras

from ..errors import ModelError
from ..graph import replace_sublayer

_PACKAGE = "keras_hub"
_OWN = ("query_heads", "key_value_heads")
_COUNTS = {
    "query_heads": ("num_query_heads", "_num_query_heads"),
    "key_value_heads": ("num_key_value_heads", "_num_key_value_heads"),
    "each": ("num_key_value_groups", "_num_key_value_groups"),
}
"""Attributes that hold numbers of heads."""


def counts_of_heads() -> set[str]:
    """Return the names of the attributes of attention layers that hold numbers of heads."""
    return {name for names in _COUNTS.values() for name in names} | {"num_heads", "_num_heads"}


def is_remade(layer: Any) -> bool:
    """Return whether new layers like this one are made from its attributes: its config does not say all."""
    if isinstance(layer, Remade):
        return True
    kind = type(layer)
    if kind.__module__.partition(".")[0] != _PACKAGE or not isinstance(layer, keras.layers.Layer):
        return False
    try:
        config = layer.get_config()
        kind.from_config(dict(config))
    except (TypeError, ValueError, AttributeError, NotImplementedError):
        return True
    return not set(_parameters(kind)).issubset(config)


def _parameters(kind: type) -> list[str]:
    """Return the names of the parameters of a class's own constructor."""
    if not kind.__init__.__module__.startswith(_PACKAGE):
        return []
    named = inspect.signature(kind.__init__).parameters.values()
    return [p.name for p in named if p.name != "self" and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def settings_of(layer: Any, kind: Any = None) -> dict[str, Any]:
    """Return the arguments that a layer, of class `kind`, was made with, from its attributes."""
    if isinstance(layer, Remade):
        return dict(layer.settings)
    found = {"name": layer.name, "dtype": keras.dtype_policies.serialize(layer.dtype_policy)}
    for name in _parameters(kind or type(layer)):
        attribute = next((a for a in (name, f"_{name}") if hasattr(layer, a)), None)
        if attribute is not None:
            found[name] = _as_plain(getattr(layer, attribute))
    return found


def _as_plain(value: Any) -> Any:
    if isinstance(value, keras.initializers.Initializer):
        return keras.initializers.serialize(value)
    return keras.activations.serialize(value) if callable(value) else value


class Remade:
    """What the classes of `remade` add to a layer."""

    settings: dict[str, Any]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        """Return a layer of the class that the configuration names."""
        config = dict(config)
        if not config.get("module"):
            return cls(**config)
        return remade(named_class(config))(**config)


def named_class(config: dict[str, Any]) -> Any:
    """Return the class of KerasHub that a configuration names, and remove the two entries that name it."""
    module, name = config.pop("module"), config.pop("kind")
    if module.partition(".")[0] != _PACKAGE:
        raise ModelError(f"a remade layer must be of a class of {_PACKAGE}, received {module}.{name}.")
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise ModelError(
            f"{_PACKAGE} must be installed to load layer '{config.get('name')}' ({name}), received the error "
            f"'{error}': install dropreg[kerashub]."
        ) from error


@functools.cache
def remade(kind: Any) -> Any:
    """Return a subclass of a class of KerasHub whose config says how its layers were made.

    Attention layers may have `query_heads` and `key_value_heads` of their own.
    """
    if issubclass(kind, Remade):
        return kind

    class Made(Remade, kind):
        def __init__(self, **settings: Any) -> None:
            given = {name: value for name, value in settings.items() if name not in _OWN}
            if isinstance(given.get("kernel_initializer"), dict):
                given["kernel_initializer"] = keras.initializers.get(given["kernel_initializer"])
            super().__init__(**given)
            self.settings = settings

        @functools.wraps(kind.build)
        def build(self, *args: Any, **kwargs: Any) -> None:
            super().build(*args, **kwargs)
            if _OWN[0] in self.settings:
                _resize(self, *(self.settings[name] for name in _OWN))

        @functools.wraps(kind.call)
        def call(self, *args: Any, **kwargs: Any) -> Any:
            cache, own = kwargs.get("cache"), self.settings.get(_OWN[1])
            if cache is None or own is None:
                return super().call(*args, **kwargs)
            mine = keras.tree.map_structure(lambda heads: heads[..., :own, :], cache)  # one array, or keys and values
            result, updated = super().call(*args, **{**kwargs, "cache": mine})
            joined = [
                keras.ops.concatenate([new, heads[..., own:, :]], axis=-2)
                for new, heads in zip(keras.tree.flatten(updated), keras.tree.flatten(cache), strict=True)
            ]
            return result, keras.tree.pack_sequence_as(updated, joined)

        def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
            given: Any = keras.tree.map_structure(_as_dense, (args, kwargs))
            return super().compute_output_spec(*given[0], **given[1])

        def get_config(self) -> dict[str, Any]:
            return {**self.settings, "name": self.name, "module": kind.__module__, "kind": kind.__name__}

    Made.__name__ = Made.__qualname__ = "Remade"
    return Made


def _as_dense(value: Any) -> Any:
    """Return a dense symbolic tensor in place of a sparse one: Keras takes products with constants to be sparse."""
    is_sparse = isinstance(value, keras.KerasTensor) and value.sparse
    return keras.KerasTensor(value.shape, value.dtype) if is_sparse else value


def _resize(layer: Any, query_heads: int, key_value_heads: int) -> None:
    """Replace the projections of a built attention layer by new ones with these numbers of heads."""
    attributes = {id(value): name for name, value in vars(layer).items()}
    for part, dense in dense_parts(layer).items():
        heads = key_value_heads if part in ("key", "value") else query_heads
        config, letters = dense.get_config(), kernel_letters(dense)
        sizes = dict(zip(letters, dense.kernel.shape, strict=True)) | {letters[head_axis(part, dense)]: heads}
        if part != "output":
            config["output_shape"] = (None, heads, dense.kernel.shape[-1])
        new = type(dense).from_config(config)
        new.build(tuple(sizes.get(letter) for letter in dense.equation.partition(",")[0]))
        replace_sublayer(layer, attributes[id(dense)], new)
    counts = {"query_heads": query_heads, "key_value_heads": key_value_heads, "each": query_heads // key_value_heads}
    for key, names in _COUNTS.items():
        for name in names:
            if hasattr(layer, name):
                setattr(layer, name, counts[key])


def dense_parts(layer: Any) -> dict[str, Any]:
    """Return the projections of an attention layer, whose attributes may begin with an underscore."""
    names = [
        (part, name) for part in ("query", "key", "value", "output") for name in (f"_{part}_dense", f"{part}_dense")
    ]
    return {part: getattr(layer, name) for part, name in names if hasattr(layer, name)}


def kernel_letters(dense: Any) -> str:
    """Return the letters of the axes of the kernel of an EinsumDense layer."""
    return dense.equation.partition(",")[2].partition("->")[0]


def head_axis(part: str, dense: Any) -> int:
    """Return the axis of the kernel of a projection that numbers the heads."""
    inputs, _, rest = dense.equation.partition(",")
    return kernel_letters(dense).index((inputs if part == "output" else rest)[-2])


keras.saving.get_custom_objects()["Remade"] = Remade
