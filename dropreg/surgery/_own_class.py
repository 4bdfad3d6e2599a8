"""Put a smaller model back into the class of KerasHub that the original model belongs to.

Removing parts gives a Functional model of the layers inside the blocks. A new model of the original's class is made
with the sizes that its configuration can say; layers of other sizes are changed one by one. All weights are then
copied. The result is used only if it computes what the Functional model does.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .._utils import first_line
from ..element import Selection
from ..errors import ModelError
from ..graph import all_layers, call_outputs, names_restored, settings_in, sublayers, variables_of
from ..layers import Resized, base_class, base_config, counts_of_heads, kerashub_part, resize, rule_for
from ..network import as_numbers, difference
from ._original import Original
from ._rebuild import Rebuilt

_TOLERANCE = 1e-6
_WIDTHS = ("intermediate_dim", "mlp_dim")
_HEADS = ("num_heads", "num_query_heads", "num_key_value_heads")


class _OtherClassError(Exception):
    """Why a model cannot be put back."""


def put_back(original: Original, rebuilt: Rebuilt, selection: Selection) -> tuple[keras.Model, str | None]:
    """Return a smaller model in the original's class of KerasHub, or as it is and the reason why."""
    if kerashub_part(original.model) is None:
        return rebuilt.model, None
    targets = {id(old.layer): new.layer for old, new in rebuilt.pairs if isinstance(new.layer, keras.layers.Layer)}
    try:
        if any(kind == "branch" for kind in np.array(selection.elements.kinds)[~selection.kept]):
            raise _OtherClassError("branches are removed, which its blocks always have")
        with names_restored():
            model = _Maker(targets, _removed_blocks(original, selection)).make(original.model)
        _check_same(model, rebuilt.model, original.model)
    except Exception as error:  # code of KerasHub, whose configurations need not be complete
        return rebuilt.model, first_line(error)
    return model, None


def copy_kerashub(model: Any) -> Any:
    """Return a copy of a model of KerasHub in its own class; None if it would not compute the same."""
    try:
        with names_restored():
            copied = _Maker({}, []).make(model)
        _check_same(copied, model, model)
    except Exception:  # as in `put_back`
        return None
    return copied


def _removed_blocks(original: Original, selection: Selection) -> list[Any]:
    """Return the layers that the identity replaces, without those inside others."""
    layers = all_layers(original.model)
    gates = [gate for gate in selection.elements.inner_gates if gate.where == "bypass"]
    removed = [layers[gate.layer] for gate in gates if not selection.kept[gate.columns].all()]
    inside = {id(part) for layer in removed for part in all_layers(layer) if part is not layer}
    return [layer for layer in removed if id(layer) not in inside]


@dataclass(frozen=True)
class _Maker:
    """Make a model of KerasHub without some blocks, and with other layers in the place of some.

    Attributes
    ----------
    targets : dict
        Layers that have the new sizes and weights, by the ``id`` of the original's layers.
    removed : list of keras.layers.Layer
    """

    targets: dict[int, Any]
    removed: list[Any]

    def make(self, old: Any) -> Any:
        """Return the new model of a backbone or a task."""
        if kerashub_part(old) == "backbone":
            config, changed = self._config(old)
            return self._fill(old, base_class(old).from_config(config), changed)
        if old.backbone is None:
            raise _OtherClassError("it has no backbone")
        config = {**base_config(old), "backbone": self.make(old.backbone), "preprocessor": old.preprocessor}
        return self._fill(old, base_class(old).from_config(config), set())

    def _config(self, backbone: Any) -> tuple[dict[str, Any], set[str]]:
        """Return the configuration of the new backbone, and the names of what differs from the original's."""
        config = base_config(backbone)
        new = dict(config)
        if self.removed:
            if "num_layers" not in config:
                raise _OtherClassError(f"'{self.removed[0].name}' is removed, which it always has")
            new["num_layers"] -= len(self.removed)
        if not isinstance(backbone, Resized):
            heads, width = self._shares(backbone)
            if heads is not None and config.get("head_dim", 0) is None:
                new["head_dim"] = config["hidden_dim"] // config["num_query_heads"]
            if "head_dim" in new:
                new.update(_scaled(new, _HEADS, heads))
            new.update(_scaled(new, _WIDTHS, width))
        return new, {name for name in new if new[name] != config.get(name)}

    def _shares(self, backbone: Any) -> tuple[Fraction | None, Fraction | None]:
        """Return the kept shares of heads and of feed-forward units; None where layers differ, or nothing is cut."""
        heads, widths = set[Fraction](), set[Fraction]()
        for old in all_layers(backbone):
            new = self.targets.get(id(old))
            if new is None or not old.weights:
                continue
            found = rule_for(old).heads(old)
            if found is not None:
                heads.add(Fraction(rule_for(new).heads(new).count, found.count))  # type: ignore[union-attr]
            elif (share := _size(new) / _size(old)) != 1:
                widths.add(share)
        return tuple(found.pop() if len(found) == 1 else None for found in (heads, widths))  # type: ignore[return-value]

    def _fill(self, old: Any, new: Any, changed: set[str]) -> Any:
        """Change the layers of a new model that must have other sizes or settings, and copy all weights."""
        pairs = self._pairs(old, new)
        sizes, changes, done = changed | {f"_{name}" for name in changed} | counts_of_heads(), [], set[int]()
        fitting = set[int]()  # layers inside others that have their weights, whose settings can still differ
        for number, mine, given in pairs:
            if mine is given or id(mine) in done or number == 0:
                continue
            target = self.targets.get(id(mine), mine)
            attributes = _other_settings(mine, given, sizes)
            if self._leads(mine) and id(mine) not in fitting:
                if _shapes(target) != _shapes(given):
                    done.update(map(id, all_layers(mine)))
                    changes.append((number, attributes, keras.saving.serialize_keras_object(target)))
                    continue
                fitting.update(map(id, all_layers(mine)))
            if attributes:
                changes.append((number, attributes, None))
        if changes or isinstance(getattr(new, "backbone", None), Resized):
            if base_class(old).__module__.partition(".")[0] != "keras_hub":
                raise _OtherClassError("its class is a subclass of your own, which cannot say other sizes")
            new = resize(new, changes)
        layers = all_layers(new)
        self._copy_weights((mine, layers[number]) for number, mine, _ in pairs)
        return new

    def _pairs(self, old: Any, new: Any) -> list[tuple[int, Any, Any]]:
        """Return the layers of two models side by side, each with its number in the new one; without a backbone's."""
        inside = {id(part) for layer in self.removed for part in all_layers(layer)}
        for model in (old, new):
            inside.update(map(id, [] if getattr(model, "backbone", None) is None else all_layers(model.backbone)))
        olds = [layer for layer in all_layers(old) if id(layer) not in inside]
        news = [(number, layer) for number, layer in enumerate(all_layers(new)) if id(layer) not in inside]
        if len(olds) != len(news) or not all(isinstance(a, type(b)) for a, (_, b) in zip(olds, news, strict=True)):
            what = f"without '{self.removed[0].name}'" if self.removed else "of these settings"
            raise _OtherClassError(f"its class has other layers than the model {what}")
        return [(number, mine, given) for mine, (number, given) in zip(olds, news, strict=True)]

    def _leads(self, layer: Any) -> bool:
        """Return whether a layer is changed and copied as one, with the layers inside."""
        return id(layer) in self.targets or not sublayers(layer) or rule_for(layer).heads(layer) is not None

    def _copy_weights(self, pairs: Iterable[tuple[Any, Any]]) -> None:
        done = set[int]()
        for old, new in pairs:
            if old is new or id(old) in done:
                continue
            new.trainable = old.trainable
            source = self.targets.get(id(old), old)
            if self._leads(old):
                done.update(map(id, all_layers(old)))
                _copy(source.weights, new.weights)
            else:
                _copy(variables_of(source), variables_of(new))


def _scaled(config: dict[str, Any], names: Iterable[str], share: Fraction | None) -> dict[str, int]:
    """Return the entries of a configuration times a share, if all are integers."""
    found = {name: config[name] * (1 if share is None else share) for name in names if config.get(name)}
    return {k: int(v) for k, v in found.items()} if all(v.denominator == 1 for v in found.values()) else {}


def _size(layer: Any) -> Fraction:
    """Return the size of the first weight of a layer, its kernel."""
    return Fraction(math.prod(layer.weights[0].shape))


def _shapes(layer: Any) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in layer.weights]


def _other_settings(old: Any, new: Any, sizes: set[str]) -> dict[str, Any]:
    """Return the settings of a layer that differ from those of a new one, apart from sizes."""
    if variables_of(old):
        return {}
    before, after = settings_in(old), settings_in(new)
    return {k: v for k, v in before.items() if k in after and k not in sizes and after[k] != v}


def _copy(sources: list[Any], variables: list[Any]) -> None:
    for source, variable in zip(sources, variables, strict=True):
        variable.assign(source)
        variable.constraint = source.constraint


def _check_same(model: Any, expected: Any, original: Any) -> None:
    """Raise ModelError unless two models give the same outputs for a few random inputs."""
    inputs = _some_inputs(original)
    with keras.StatelessScope(collect_losses=True):
        pairs = zip(*(call_outputs(each, inputs, training=False) for each in (model, expected)), strict=True)
        furthest = max(difference(as_numbers(mine), as_numbers(other)) for mine, other in pairs)
    if not furthest <= _TOLERANCE:
        raise ModelError(f"its outputs would differ by {furthest:.2g} of the largest")


def _some_inputs(model: Any, rows: int = 2, steps: int = 8) -> list[Any]:
    """Return random inputs; integers are below the size of the vocabulary if they are tokens, else 0 or 1."""
    rng, found = np.random.default_rng(0), []
    tokens = getattr(getattr(model, "backbone", model), "vocabulary_size", 2)
    for tensor in model.inputs:
        shape = [rows, *(steps if size is None else size for size in tensor.shape[1:])]
        if "float" in tensor.dtype:
            values = rng.normal(size=shape)
        elif "mask" in tensor.name:
            values = np.ones(shape)
            values[-1, -(shape[-1] // 4) :] = 0
        else:
            values = rng.integers(0, tokens if "token" in tensor.name else 2, shape)
        found.append(tf.cast(tf.convert_to_tensor(values), tensor.dtype))
    return found
