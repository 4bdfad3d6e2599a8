"""What a rule is, the rules that several families share, and the registry."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from ..channels import Channels, Labels, Read, fixed
from ..errors import ParameterError
from ..graph import Call, Shape

_RULES: dict[type, "Rule"] = {}
_OPERATION_RULES: dict[str, "Rule"] = {}


@dataclass(frozen=True)
class Heads:
    """The attention heads of a layer.

    Attributes
    ----------
    count : int
    projection : keras.layers.Layer
        Sublayer that reads the heads, along the last axis but one of its input.
    params : int
        Parameters of one head.
    macs : callable
        Multiply-adds an example of one head, from the input shapes of the call.
    """

    count: int
    projection: Any
    params: int
    macs: Callable[[tuple[Shape, ...]], float]


class Rule:
    """How channels flow through one kind of layer.

    Attributes
    ----------
    adds : bool
        Whether the layer sums its inputs, so that one of them can go.
    """

    adds = False

    def heads(self, layer: Any) -> Heads | None:
        """The attention heads of `layer`, None if it has none."""
        return None

    def units(self, layer: Any) -> tuple[int, str] | None:
        """How many units `layer` computes along the trailing axis, and their kind; None if none."""
        return None

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        """Labels of the outputs of `call`.

        Parameters
        ----------
        call : Call
        index : int
            Position of `call` in the graph.
        inputs : list of Labels
            Labels of each input's trailing axis.
        channels : Channels
            Written to: new units, ties, pins, costs and reads.

        Returns
        -------
        list of Labels
            One for each output.
        """
        raise NotImplementedError


class Carry(Rule):
    """Entry j of the output's trailing axis depends on entry j of the input alone."""

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        labels = inputs[0]
        n_weights = sum(math.prod(weight.shape) for weight in getattr(call.layer, "weights", ()))
        if n_weights:
            first = channels.share(call.layer, labels)
            channels.charge(labels, params=n_weights / len(labels) if first else 0.0)
        return [labels] * len(call.outputs)


class Mix(Rule):
    """Every output depends on all input channels, so none of them can be removed exactly."""

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        return pin_all(call, inputs, channels, "mixes")


class Unknown(Rule):
    """A layer without a rule: what it reads stays."""

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        return pin_all(call, inputs, channels, "has no rule (dropreg.layers.register) for")


def pin_all(call: Call, inputs: list[Labels], channels: Channels, verb: str) -> list[Labels]:
    """Pin every input of `call`; its outputs are fixed."""
    for labels in inputs:
        channels.pin(labels, f"layer '{call.name}' ({call.kind}) {verb} the channels that it reads")
    return [fixed(n_channels(shape)) for shape in call.output_shapes]


def read(call: Call, index: int, position: int, labels: Labels, channels: Channels) -> bool:
    """Put a gate at an input whose channels the call's weights mix; True at the layer's first call."""
    channels.reads.append(Read(index, position, labels))
    return channels.share(call.layer, labels)


def source(call: Call, count: int, kind: str, channels: Channels) -> Labels:
    """Labels of the units a call computes, pinned if its activation mixes them."""
    labels = channels.units(call.layer, count, kind)
    activation = getattr(call.layer, "activation", None)
    if activation is not None and not is_elementwise(activation):
        name = getattr(activation, "__name__", type(activation).__name__)
        channels.pin(labels, f"the activation '{name}' of layer '{call.name}' mixes its units")
    return labels


def is_elementwise(function: Callable[[Any], Any]) -> bool:
    """Whether `function` maps every entry by itself, found by changing one entry of a probe."""
    probe = np.linspace(-2.0, 2.0, 8, dtype=np.float32)[np.newaxis].repeat(2, axis=0)
    probe[1, 3] += 1.0
    try:
        values = np.asarray(function(keras.ops.convert_to_tensor(probe)))
    except (TypeError, ValueError):
        return False
    if values.shape != probe.shape:
        return False
    others = np.arange(8) != 3
    return bool(np.array_equal(values[0, others], values[1, others]))


def n_channels(shape: Shape) -> int:
    """Length of the trailing axis, 1 for a tensor without one and for an unknown length."""
    return shape[-1] or 1 if len(shape) > 1 else 1


def positions(shape: Shape) -> float:
    """Number of positions (all axes but batch and channel), NaN if one is unknown."""
    return math.prod(math.nan if size is None else size for size in shape[1:-1])


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
    """The rule of the nearest class among those `layer` inherits from, `Unknown` if none has one."""
    if not isinstance(layer, keras.layers.Layer):
        return _OPERATION_RULES.get(type(layer).__name__, Unknown())
    for kind in type(layer).__mro__:
        if kind in _RULES:
            return _RULES[kind]
    return Unknown()
