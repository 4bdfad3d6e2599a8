"""The registry of layer rules."""

import difflib
import inspect
from collections.abc import Collection
from functools import cache
from typing import Any

import keras

from ..errors import ParameterError
from ..graph import keep_as_one_call, operation_names, qualified_name, replaced_method
from ._common import Unknown
from ._remade import Remade
from ._rule import Rule

_RULES: dict[Any, "Rule"] = {}
_OPERATION_RULES: dict[Any, "Rule"] = {}


def register(*layers: type | str, rule: Rule) -> None:
    """Register the rule of layer classes of your own or of functions of ``keras.ops``, or replace that of Keras layers.

    Parameters
    ----------
    *layers : type or str
        Layer classes; subclasses inherit the rule unless they override a computation of the class or add weights. A
        string is the class that stands for a function of ``keras.ops`` in a Functional model, such as "Erf" for
        ``keras.ops.erf``, or, with the name of its package, a layer class that need not be imported:
        "keras_hub.RotaryEmbedding".
    rule : Rule
        For example ``Carry()`` for a layer that computes each channel from the same channel of its input.

    Raises
    ------
    ParameterError
        If `rule` is not a `Rule`, or one of `layers` is neither a class nor the name of an operation of Keras.

    Examples
    --------
    >>> import dropreg as dr, keras
    >>> class Squared(keras.layers.Layer):
    ...     def call(self, x):
    ...         return x * x
    >>> dr.layers.register(Squared, rule=dr.layers.Carry())
    >>> type(dr.layers.rule_for(Squared())).__name__
    'Carry'
    >>> dr.layers.register("Erf", "Log1p", rule=dr.layers.Carry())  # keras.ops.erf, keras.ops.log1p
    """
    if not isinstance(rule, Rule):
        raise ParameterError(f"`rule` must be a dropreg.layers.Rule, received {rule!r}: pass an instance.")
    for layer in layers:
        if isinstance(layer, str) and "." not in layer:
            _check_operation(layer)
            _OPERATION_RULES[layer] = rule
            continue
        if not isinstance(layer, str | type):
            raise ParameterError(
                f"`layers` must be classes, or names of operations of Keras, received {layer!r}: pass type(layer)."
            )
        _RULES[layer] = rule
        keep_as_one_call(layer)


def _check_operation(name: str) -> None:
    """Raise ParameterError unless this is the class that stands for a function of ``keras.ops``."""
    known = operation_names()
    if name not in known:
        near = difflib.get_close_matches(name.replace("_", "").capitalize(), known, n=1)
        raise ParameterError(
            f"`layers` must be classes, or names of operations of Keras such as 'Erf', received {name!r}"
            f"{f': did you mean {near[0]!r}?' if near else ': pass the class of a layer.'}"
        )


def rule_for(layer: Any) -> Rule:
    """Return the rule of a layer.

    Parameters
    ----------
    layer : keras.layers.Layer or keras.Operation

    Returns
    -------
    Rule
        That of the first class in its method resolution order that has one, else `Unknown`, also for a subclass that
        overrides a computation such as ``call`` or adds weights: register a rule for it; `Unknown` where a method was
        replaced on the layer itself. Operations of Keras are found by the name of their class.

    Examples
    --------
    >>> import dropreg as dr, keras
    >>> dr.layers.rule_for(keras.layers.Dense(10)).units(keras.layers.Dense(10))
    (10, 'neuron')
    """
    if type(layer).__module__.startswith("keras.src.ops."):
        return _OPERATION_RULES.get(type(layer).__name__, Unknown())
    if not isinstance(layer, keras.layers.Layer):
        return _RULES.get(inherited_from(type(layer), _RULES), Unknown())
    known = inherited_from(type(layer), _RULES)
    if replaced_method(layer) is not None or (
        isinstance(known, type) and known is not type(layer) and _has_more_state(layer, known)
    ):
        return Unknown()
    return _RULES.get(known, Unknown())


def inherited_from(kind: type, registered: Collection[Any]) -> Any:
    """Return the registered class, or its name, whose computations `kind` has unchanged, else `kind` itself."""
    overridden: set[str] = set()
    for base in kind.__mro__:
        for key in (base, qualified_name(base)):
            if key in registered:
                return key if not any(hasattr(base, name) for name in overridden) else kind
        if not base.__module__.startswith("keras.src.") and not issubclass(base, Remade):
            overridden |= {name for name, value in vars(base).items() if _computes(name, value)}
    return kind


def _has_more_state(layer: Any, known: type) -> bool:
    """Return whether a layer has an attribute with weights that the class `known`, with a rule, does not set."""
    held = [name for name, value in vars(layer).items() if isinstance(value, keras.Variable | keras.layers.Layer)]
    return bool(held) and not _attributes_of(type(layer), known).issuperset(held)


@cache
def _attributes_of(kind: type, known: type) -> frozenset[str]:
    """Return the names of attributes in the code of the classes of Keras, and of `known`, among the bases of `kind`."""
    bases = [base for base in kind.__mro__ if base.__module__.startswith("keras.src.") or base in known.__mro__]
    functions = [value for base in bases for value in vars(base).values()]
    codes = [code for value in functions if (code := getattr(inspect.unwrap(value), "__code__", None)) is not None]
    return frozenset(name for code in codes for name in code.co_names)


def _computes(name: str, value: Any) -> bool:
    """Return whether an attribute of a class is a method that a computation may depend on."""
    harmless = (name.startswith("__") and name != "__call__") or name in (
        "get_config",
        "from_config",
        "compute_output_shape",
        "compute_output_spec",
    )
    return not harmless and (callable(value) or isinstance(value, property | classmethod | staticmethod))
