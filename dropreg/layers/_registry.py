"""The registry of layer rules."""

from typing import Any

import keras

from ..errors import ParameterError
from ._common import Unknown
from ._rule import Rule

_RULES: dict[type, "Rule"] = {}
_OPERATION_RULES: dict[str, "Rule"] = {}


def register(*layers: type, rule: Rule) -> None:
    """Register the rule of layer classes of your own, or replace that of Keras layers.

    Parameters
    ----------
    *layers : type
        Layer classes; subclasses without a rule of their own inherit it.
    rule : Rule
        For example ``Carry()`` for a layer that computes each channel from the same channel of its input.

    Raises
    ------
    ParameterError
        If `rule` is not a `Rule` or one of `layers` is not a class.

    Examples
    --------
    >>> import dropreg as dr, keras
    >>> class Squared(keras.layers.Layer):
    ...     def call(self, x):
    ...         return x * x
    >>> dr.layers.register(Squared, rule=dr.layers.Carry())
    >>> type(dr.layers.rule_for(Squared())).__name__
    'Carry'
    """
    if not isinstance(rule, Rule):
        raise ParameterError(f"`rule` must be a dropreg.layers.Rule, received {rule!r}: pass an instance.")
    for layer in layers:
        if not isinstance(layer, type):
            raise ParameterError(f"`layers` must be classes, received {layer!r}: pass type(layer).")
        _RULES[layer] = rule


def register_operations(*names: str, rule: Rule) -> None:
    """Register the rule of functions of ``keras.ops`` in a Functional model, by the name of their operation class."""
    for name in names:
        _OPERATION_RULES[name] = rule


def rule_for(layer: Any) -> Rule:
    """Return the rule of a layer.

    Parameters
    ----------
    layer : keras.layers.Layer or keras.Operation

    Returns
    -------
    Rule
        That of the first class in its method resolution order that has one, else `Unknown`. Operations are found by
        the name of their class.

    Examples
    --------
    >>> import dropreg as dr, keras
    >>> dr.layers.rule_for(keras.layers.Dense(10)).units(keras.layers.Dense(10))
    (10, 'neuron')
    """
    if not isinstance(layer, keras.layers.Layer):
        return _OPERATION_RULES.get(type(layer).__name__, Unknown())
    for kind in type(layer).__mro__:
        if kind in _RULES:
            return _RULES[kind]
    return Unknown()
