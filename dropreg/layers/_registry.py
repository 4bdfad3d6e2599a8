"""The registry of layer rules."""

from collections.abc import Collection
from typing import Any

import keras

from ..errors import ParameterError
from ..graph import replaced_method
from ._common import Unknown
from ._rule import Rule

_RULES: dict[type, "Rule"] = {}
_OPERATION_RULES: dict[str, "Rule"] = {}


def register(*layers: type, rule: Rule) -> None:
    """Register the rule of layer classes of your own, or replace that of Keras layers.

    Parameters
    ----------
    *layers : type
        Layer classes. Subclasses inherit the rule unless they override a computation of the class.
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
        That of the first class in its method resolution order that has one, else `Unknown`, also for a subclass that
        overrides a computation such as ``call``: register a rule for it; `Unknown` where a method was replaced on the
        layer itself. Operations are found by the name of their
        class.

    Examples
    --------
    >>> import dropreg as dr, keras
    >>> dr.layers.rule_for(keras.layers.Dense(10)).units(keras.layers.Dense(10))
    (10, 'neuron')
    """
    if not isinstance(layer, keras.layers.Layer):
        return _OPERATION_RULES.get(type(layer).__name__, Unknown())
    if replaced_method(layer) is not None:
        return Unknown()
    return _RULES.get(inherited_from(type(layer), _RULES), Unknown())


def inherited_from(kind: type, registered: Collection[type]) -> type:
    """Return the registered class whose computations a layer class has unchanged, else the class itself."""
    overridden: set[str] = set()
    for base in kind.__mro__:
        if base in registered:
            return base if not any(hasattr(base, name) for name in overridden) else kind
        if not base.__module__.startswith("keras.src."):
            overridden |= {name for name, value in vars(base).items() if _computes(name, value)}
    return kind


def _computes(name: str, value: Any) -> bool:
    """Return whether an attribute of a class is a method that a computation may depend on."""
    harmless = (name.startswith("__") and name != "__call__") or name in (
        "get_config",
        "from_config",
        "compute_output_shape",
        "compute_output_spec",
    )
    return not harmless and (callable(value) or isinstance(value, property | classmethod | staticmethod))
