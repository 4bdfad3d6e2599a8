"""Convolutions: ordinary, transposed, depthwise and separable."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers

from ..graph import Call
from ._channels import Channels, Labels
from ._common import LinearReader, n_channels, pin_all, positions, read, source
from ._registry import register
from ._rule import Array, Cut, Kept, Rule, unchanged


def _channels_first(call: Call, inputs: list[Labels], channels: Channels) -> list[Labels] | None:
    """The flow of a layer with channels in front, which is not walked; None for channels last."""
    if call.layer.data_format == "channels_last":
        return None
    return pin_all(call, inputs, channels, "has data_format='channels_first' and hides")


class ConvRule(LinearReader):
    """Reads all input channels (of a group), computes `filters` filters."""

    transposed = False

    def units(self, layer: Any) -> tuple[int, str] | None:
        return layer.filters, "filter"

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        if (refused := _channels_first(call, inputs, channels)) is not None:
            return refused
        layer, labels_in = call.layer, inputs[0]
        groups = getattr(layer, "groups", 1)
        taps = math.prod(layer.kernel_size)
        n_positions = positions(call.input_shapes[0] if self.transposed else call.output_shapes[0])
        first = read(call, index, 0, labels_in, channels)
        labels = source(call, layer.filters, "filter", channels)
        if groups > 1:
            _tie_groups(labels_in, groups, call, channels)
            _tie_groups(labels, groups, call, channels)
        reads, writes = taps * layer.filters / groups, taps * len(labels_in) / groups
        channels.charge(labels_in, params=reads if first else 0, macs=reads * n_positions)
        channels.charge(labels, params=writes + layer.use_bias if first else 0, macs=writes * n_positions)
        return [labels]

    def cut(self, call: Call, kept_in: Sequence[Kept], kept_out: Sequence[Kept]) -> Cut:
        whole, columns = unchanged(call), kept_out[0]
        kernel, *bias = whole.weights
        groups = getattr(call.layer, "groups", 1)
        rows = kept_in[0][: len(kept_in[0]) // groups]  # groups lose the same channels
        kernel = kernel[..., columns, :][..., rows] if self.transposed else kernel[..., rows, :][..., columns]
        return Cut({**whole.config, "filters": int(columns.sum())}, [kernel, *(b[columns] for b in bias)])

    def kernel_rows(self, call: Call, weights: list[Array]) -> list[Array] | None:
        channels_in_front = np.moveaxis(weights[0], -1 if self.transposed else -2, 0)
        parts = np.split(channels_in_front, getattr(call.layer, "groups", 1), axis=-1)
        return [part.reshape(len(part), -1) for part in parts]

    def with_kernel_rows(self, call: Call, weights: list[Array], rows: list[Array]) -> list[Array]:
        axis = -1 if self.transposed else -2
        shape = list(np.moveaxis(weights[0], axis, 0).shape[1:])
        shape[-1] //= len(rows)
        kernel = np.concatenate([part.reshape(-1, *shape) for part in rows], axis=-1)
        return [np.moveaxis(kernel, 0, axis), *weights[1:]]

    def macs(self, call: Call) -> float:
        layer = call.layer
        n_positions = positions(call.input_shapes[0] if self.transposed else call.output_shapes[0])
        n_inputs = n_channels(call.input_shapes[0]) // getattr(layer, "groups", 1)
        return math.prod(layer.kernel_size) * n_inputs * layer.filters * n_positions


class ConvTransposeRule(ConvRule):
    """The same with the positions of the input."""

    transposed = True


def _tie_groups(labels: Labels, groups: int, call: Call, channels: Channels) -> None:
    """Tie channel j of every group, so that groups stay equally large when channels are removed."""
    first, *others = np.split(labels, groups)
    for other in others:
        channels.tie(first, other, f"the groups of layer '{call.name}' must stay equally large")


class DepthwiseConvRule(Rule):
    """Every input channel has `depth_multiplier` outputs of its own, which go with it."""

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        if (refused := _channels_first(call, inputs, channels)) is not None:
            return refused
        layer = call.layer
        first = channels.share(layer, inputs[0])
        labels = np.repeat(inputs[0], layer.depth_multiplier)
        taps = math.prod(layer.kernel_size)
        channels.charge(
            labels,
            params=taps + layer.use_bias if first else 0,
            macs=taps * positions(call.output_shapes[0]),
        )
        return [labels]

    def cut(self, call: Call, kept_in: Sequence[Kept], kept_out: Sequence[Kept]) -> Cut:
        whole = unchanged(call)
        kernel, *bias = whole.weights
        return Cut(whole.config, [kernel[..., kept_in[0], :], *(b[kept_out[0]] for b in bias)])

    def macs(self, call: Call) -> float:
        return math.prod(call.layer.kernel_size) * n_channels(call.output_shapes[0]) * positions(call.output_shapes[0])


class SeparableConvRule(LinearReader):
    """A depthwise convolution whose outputs a pointwise one reads."""

    def units(self, layer: Any) -> tuple[int, str] | None:
        return layer.filters, "filter"

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        if (refused := _channels_first(call, inputs, channels)) is not None:
            return refused
        layer, labels_in = call.layer, inputs[0]
        taps, depth = math.prod(layer.kernel_size), layer.depth_multiplier
        n_positions = positions(call.output_shapes[0])
        first = read(call, index, 0, labels_in, channels)
        labels = source(call, layer.filters, "filter", channels)
        reads = depth * (taps + layer.filters)
        writes = depth * len(labels_in)
        channels.charge(labels_in, params=reads if first else 0, macs=reads * n_positions)
        channels.charge(labels, params=writes + layer.use_bias if first else 0, macs=writes * n_positions)
        return [labels]

    def cut(self, call: Call, kept_in: Sequence[Kept], kept_out: Sequence[Kept]) -> Cut:
        whole, rows, columns = unchanged(call), kept_in[0], kept_out[0]
        depthwise, pointwise, *bias = whole.weights
        inner = np.repeat(rows, call.layer.depth_multiplier)
        weights = [depthwise[..., rows, :], pointwise[..., inner, :][..., columns], *(b[columns] for b in bias)]
        return Cut({**whole.config, "filters": int(columns.sum())}, weights)

    def macs(self, call: Call) -> float:
        layer = call.layer
        inner = n_channels(call.input_shapes[0]) * layer.depth_multiplier
        return inner * (math.prod(layer.kernel_size) + layer.filters) * positions(call.output_shapes[0])


register(layers.Conv1D, layers.Conv2D, layers.Conv3D, rule=ConvRule())
register(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose, rule=ConvTransposeRule())
register(layers.DepthwiseConv1D, layers.DepthwiseConv2D, rule=DepthwiseConvRule())
register(layers.SeparableConv1D, layers.SeparableConv2D, rule=SeparableConvRule())
