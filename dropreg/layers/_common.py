"""Rules that several families share, and the registry."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from ..graph import Call, Shape
from ._channels import Channels, Labels, Read, fixed
from ._rule import Array, Cut, Kept, Rule, unchanged


class LinearReader(Rule):
    """A layer that multiplies its first input with a kernel, adds a bias and applies an activation."""

    def has_bias(self, call: Call) -> bool:
        """Whether `shifted` changes anything."""
        return bool(call.layer.use_bias)

    def linear_copy(self, call: Call, config: dict[str, Any]) -> Any:
        """The layer of a config without its activation, not yet built."""
        return self.remake(call, {**config, "activation": "linear"})

    def respond(self, call: Call, config: dict[str, Any], weights: list[Array], batch: Array) -> Array:
        """What the layer with this config and these weights computes of a batch before its activation."""
        layer = self.linear_copy(call, config)
        layer.build(batch.shape)
        layer.set_weights(weights)
        return np.asarray(layer(batch.astype(np.float32)), np.float64)

    def shifted(self, call: Call, weights: list[Array], shift: Array) -> list[Array]:
        """Weights whose bias is larger by `shift`, shape (outputs,); the same where there is no bias."""
        if not self.has_bias(call):
            return weights
        return [*weights[:-1], (weights[-1] + shift).astype(weights[-1].dtype)]

    def state_rows(self, call: Call, weights: list[Array]) -> list[Array]:
        """The kernels that states are multiplied with, each of shape (units, numbers), one for each cell.

        Empty where there are no states, or a cell does not read them that simply.
        """
        return []

    def with_state_rows(self, call: Call, weights: list[Array], rows: list[Array], shifts: list[Array]) -> list[Array]:
        """The weights with other kernels for the states, and biases that are larger by `shifts`, if there are any."""
        raise NotImplementedError

    def states(self, call: Call, values: Sequence[Any]) -> list[Any]:
        """States that each step reads in a call with these inputs, (rows, steps, units) for each cell."""
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

    def cut(self, call: Call, kept_in: Sequence[Kept], kept_out: Sequence[Kept]) -> Cut:
        kept = kept_in[0]
        whole = unchanged(call)
        return Cut(whole.config, [cut_trailing(weight, kept) for weight in whole.weights])


class Mix(Rule):
    """Every output depends on all input channels, so none of them can be removed exactly."""

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        return pin_all(call, inputs, channels, "mixes")


class Unknown(Rule):
    """A layer without a rule: what it reads stays."""

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        return pin_all(call, inputs, channels, "has no rule (dropreg.layers.register) for")


def cut_trailing(array: Array, kept: Kept) -> Array:
    """`array` without the entries of its trailing axis that go; as it is where that axis is another one."""
    return array[..., kept] if array.shape[-1:] == kept.shape else array


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


def readout(rule: Rule, call: Call) -> tuple[Array, Array] | None:
    """Kernel (inputs, outputs) and bias (outputs,) of a layer that treats every position by itself; None for others."""
    if not isinstance(rule, LinearReader) or not rule.has_bias(call):
        return None
    weights = call.layer.get_weights()
    rows, bias = rule.kernel_rows(call, weights), weights[-1]
    if rows is None or len(rows) > 1 or len(weights) != 2 or rows[0].shape[1] != len(bias):
        return None
    return rows[0].astype(np.float64), bias.astype(np.float64)


def is_elementwise(function: Callable[[Any], Any]) -> bool:
    """Whether `function` maps every entry by itself, found by changing one entry of a evaluator.

    A layer in place of a function is copied, for a call would build it; one with weights belongs to its channels.
    """
    evaluator = np.linspace(-2.0, 2.0, 8, dtype=np.float32)[np.newaxis].repeat(2, axis=0)
    evaluator[1, 3] += 1.0
    try:
        if isinstance(function, keras.layers.Layer):
            function = type(function).from_config(function.get_config())
        values = np.asarray(function(keras.ops.convert_to_tensor(evaluator)))
    except (TypeError, ValueError, NotImplementedError):
        return False
    if getattr(function, "weights", ()) or values.shape != evaluator.shape:
        return False
    others = np.arange(8) != 3
    return bool(np.array_equal(values[0, others], values[1, others]))


def n_channels(shape: Shape) -> int:
    """Length of the trailing axis, 1 for a tensor without one and for an unknown length."""
    return shape[-1] or 1 if len(shape) > 1 else 1


def positions(shape: Shape) -> float:
    """Number of positions (all axes but batch and channel), NaN if one is unknown."""
    return math.prod(math.nan if size is None else size for size in shape[1:-1])
