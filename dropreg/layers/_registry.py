"""The registry of layer rules."""

from typing import Any

import keras

from ..errors import ParameterError
from ._common import Unknown
from ._rule import Rule

_RULES: dict[type, "Rule"] = {}
_OPERATION_RULES: dict[str, "Rule"] = {}


def register(*layers: type, rule: Rule) -> None:
    """Say how channels flow through layers of your own.

    Parameters
    ----------
    *layers : type
        Layer classes; subclasses without a rule of their own inherit it.
    rule : Rule
        For example ``Carry()`` for a layer that treats every channel by itself.

    Raises
    ------
    ParameterError
        If `rule` is no `Rule` or one of `layers` is no class.
    """
    if not isinstance(rule, Rule):
        raise ParameterError(f"`rule` must be a dropreg.layers.Rule, received {rule!r}: pass an instance.")
    for layer in layers:
        if not isinstance(layer, type):
            raise ParameterError(f"`layers` must be classes, received {layer!r}: pass type(layer).")
        _RULES[layer] = rule


def register_operations(*names: str, rule: Rule) -> None:
    """The same for functions of ``keras.ops`` in a Functional model, by their class name."""
    for name in names:
        _OPERATION_RULES[name] = rule


def rule_for(layer: Any) -> Rule:
    """The rule for a layer.

    Parameters
    ----------
    layer : keras.layers.Layer or keras.Operation

    Returns
    -------
    Rule
        That of the nearest class among those that it inherits from, `Unknown` if none has one; of an operation by
        the name of its class.
    """
    if not isinstance(layer, keras.layers.Layer):
        return _OPERATION_RULES.get(type(layer).__name__, Unknown())
    for kind in type(layer).__mro__:
        if kind in _RULES:
            return _RULES[kind]
    return Unknown()
