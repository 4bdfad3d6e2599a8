"""Base classes and functions that the rules of several families share."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from ..graph import Call, Shape
from ._channels import Channels, Labels, Read, fixed
from ._rule import Array, Cut, Kept, Rule, unchanged


class LinearReader(Rule):
    """A layer that multiplies its first input by a kernel, adds a bias and applies an activation.

    The weights of an activation that is a layer come after the bias.
    """

    n_kernels = 1
    """Number of weights before the bias."""

    def has_bias(self, call: Call) -> bool:
        """Return whether the layer has a bias, which `shifted` changes."""
        return bool(call.layer.use_bias)

    def linear_copy(self, call: Call, config: dict[str, Any]) -> Any:
        """Return a new layer, not yet built, with this config but a linear activation."""
        return self.remake(call, {**config, "activation": "linear"})

    def respond(self, call: Call, config: dict[str, Any], weights: list[Array], batch: Array) -> Array:
        """Return what a layer with this config and these weights computes from a batch before its activation."""
        layer = self.linear_copy(call, config)
        layer.build(batch.shape)
        layer.set_weights(weights[: len(layer.weights)])
        return np.asarray(layer(batch.astype(np.float32)), np.float64)

    def shifted(self, call: Call, weights: list[Array], shift: Array) -> list[Array]:
        """Return the weights with `shift`, shape (outputs,), added to the bias, if there is one."""
        if not self.has_bias(call):
            return weights
        bias = weights[self.n_kernels]
        return [*weights[: self.n_kernels], (bias + shift).astype(bias.dtype), *weights[self.n_kernels + 1 :]]

    def kernel_rows(self, call: Call, weights: list[Array]) -> list[Array] | None:
        """Return a matrix (input channels, numbers) for each group of channels, which the kernel multiplies them by.

        None if the layer does not multiply its input by a single kernel, so that it cannot be refitted.
        """
        return None

    def with_kernel_rows(self, call: Call, weights: list[Array], rows: list[Array]) -> list[Array]:
        """Return the weights with another kernel, in the form that `kernel_rows` returns."""
        return [*rows, *weights[1:]]

    def state_rows(self, call: Call, weights: list[Array]) -> list[Array]:
        """Return the kernel that multiplies the state, shape (units, numbers), of each recurrent cell.

        Empty if there are no states, or if a cell does not only multiply its state by a kernel.
        """
        return []

    def with_state_rows(self, call: Call, weights: list[Array], rows: list[Array], shifts: list[Array]) -> list[Array]:
        """Return the weights with new kernels for the states, and with `shifts` added to the biases, if any."""
        raise NotImplementedError


class KernelRule(LinearReader):
    """A layer that computes units, each from all input channels (of its group)."""

    def uses(self, call: Call) -> tuple[int, int, float]:
        """Return the weights per input channel, the weights per unit, and the positions at which they are used."""
        raise NotImplementedError

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        if channels_first(call):
            return pin_all(call, inputs, channels, "has data_format='channels_first' and hides", CHANNELS_LAST)
        per_input, per_unit, n_positions = self.uses(call)
        first = add_gate(call, index, 0, inputs[0], channels)
        labels = add_units(self, call, channels)
        channels.charge(inputs[0], params=per_input if first else 0, macs=per_input * n_positions)
        bias = self.has_bias(call)
        channels.charge(labels, params=per_unit + bias if first else 0, macs=per_unit * n_positions)
        return [labels]

    def macs(self, call: Call) -> float:
        per_input, _, n_positions = self.uses(call)
        return n_channels(call.input_shapes[0]) * per_input * n_positions


class Carry(Rule):
    """The rule of a layer in which channel j of the output depends only on channel j of the input.

    Examples
    --------
    >>> import dropreg as dr, keras
    >>> class Doubled(keras.layers.Layer):
    ...     def call(self, x):
    ...         return 2 * x
    >>> dr.layers.register(Doubled, rule=dr.layers.Carry())
    """

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        labels = inputs[0]
        n_weights = sum(math.prod(weight.shape) for weight in getattr(call.layer, "weights", ()))
        if n_weights:
            first = channels.share(call.layer, labels)
            channels.charge(labels, params=n_weights / len(labels) if first else 0.0)
        return [labels] * len(call.outputs)

    def cut(self, call: Call, kept_in: Sequence[Kept], kept_out: Sequence[Kept]) -> Cut:
        kept = kept_in[0]
        original = unchanged(call)
        return Cut(original.config, [cut_trailing(weight, kept) for weight in original.weights])


class Mix(Rule):
    """The rule of a layer whose outputs depend on all input channels, so that none of them can be removed exactly.

    Examples
    --------
    >>> import dropreg as dr, keras
    >>> isinstance(dr.layers.rule_for(keras.layers.LayerNormalization()), dr.layers.Mix)
    True
    """

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        return pin_all(call, inputs, channels, "mixes")


class Unknown(Rule):
    """The rule of a layer without a registered rule; its input channels cannot be removed.

    Examples
    --------
    >>> import dropreg as dr, keras
    >>> isinstance(dr.layers.rule_for(keras.layers.Layer()), dr.layers.Unknown)
    True
    """

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        return pin_all(call, inputs, channels, "has no rule (dropreg.layers.register) for")


def cut_trailing(array: Array, kept: Kept) -> Array:
    """Return the kept entries along the trailing axis of `array`, or `array` if that axis has another length."""
    return array[..., kept] if array.shape[-1:] == kept.shape else array


CHANNELS_LAST = "it has data_format='channels_first': build it with data_format='channels_last'"


def pin_all(call: Call, inputs: list[Labels], channels: Channels, verb: str, reason: str = "") -> list[Labels]:
    """Pin all inputs of `call`, which `verb` describes, and return fixed labels for its outputs.

    `reason` says why the layer itself is left out, and what can be done; by default as `verb`.
    """
    remedy = "dropreg.layers.register takes another rule"
    channels.refused.setdefault(id(call.layer), reason or f"it {verb} its input channels, which are kept: {remedy}")
    for labels in inputs:
        channels.pin(labels, f"layer '{call.name}' ({call.kind}) {verb} its input channels")
    return [fixed(n_channels(shape)) for shape in call.output_shapes]


def channels_first(call: Call) -> bool:
    """Return whether the channels of a layer's input are not on the trailing axis."""
    return getattr(call.layer, "data_format", "channels_last") != "channels_last"


def add_gate(call: Call, index: int, position: int, labels: Labels, channels: Channels) -> bool:
    """Add a gate at an input whose channels the layer's weights mix; returns True at the layer's first call."""
    channels.reads.append(Read(index, position, labels))
    return channels.share(call.layer, labels)


def add_units(rule: Rule, call: Call, channels: Channels) -> Labels:
    """Return the labels of the units that a call computes; they are pinned if its activation mixes them."""
    labels = channels.units(call.layer, *(rule.units(call.layer) or (0, "")))
    activation = getattr(call.layer, "activation", None)
    if activation is not None and not is_elementwise(activation):
        name = getattr(activation, "__name__", type(activation).__name__)
        channels.pin(labels, f"the activation '{name}' of layer '{call.name}' mixes its units")
    return labels


def readout(rule: Rule, call: Call) -> tuple[Array, Array] | None:
    """Return the kernel (inputs, outputs) and bias (outputs,) of a layer that acts on each position alone, or None."""
    if not isinstance(rule, LinearReader) or not rule.has_bias(call):
        return None
    weights = call.layer.get_weights()
    rows, bias = rule.kernel_rows(call, weights), weights[-1]
    if rows is None or len(rows) > 1 or len(weights) != 2 or rows[0].shape[1] != len(bias):
        return None
    return rows[0].astype(np.float64), bias.astype(np.float64)


def is_elementwise(function: Callable[[Any], Any]) -> bool:
    """Return whether `function` is elementwise, found by changing one entry of a test input.

    If it is a layer, a copy is called, because a call would build it. A layer with weights is not elementwise, because
    its weights belong to channels.
    """
    trial = np.linspace(-2.0, 2.0, 8, dtype=np.float32)[np.newaxis].repeat(2, axis=0)
    trial[1, 3] += 1.0
    try:
        if isinstance(function, keras.layers.Layer):
            function = type(function).from_config(function.get_config())
        values = np.asarray(function(keras.ops.convert_to_tensor(trial)))
    except (TypeError, ValueError, NotImplementedError):
        return False
    if getattr(function, "weights", ()) or values.shape != trial.shape:
        return False
    others = np.arange(8) != 3
    return bool(np.array_equal(values[0, others], values[1, others]))


def n_channels(shape: Shape) -> int:
    """Return the length of the trailing axis.

    Parameters
    ----------
    shape : tuple of (int or None)
        Batch axis included.

    Returns
    -------
    int
        1 if there is no axis besides the batch, or its length is unknown.

    Examples
    --------
    >>> import dropreg as dr
    >>> dr.layers.n_channels((None, 28, 28, 3))
    3
    """
    return shape[-1] or 1 if len(shape) > 1 else 1


def positions(shape: Shape) -> float:
    """Return the number of positions: the product of all axes but batch and channels.

    Parameters
    ----------
    shape : tuple of (int or None)
        Batch axis included.

    Returns
    -------
    float
        NaN if a length is unknown.

    Examples
    --------
    >>> import dropreg as dr
    >>> dr.layers.positions((None, 28, 28, 3))
    784
    """
    return math.prod(math.nan if size is None else size for size in shape[1:-1])
