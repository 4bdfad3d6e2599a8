"""Convolutions: ordinary, transposed, depthwise and separable."""

import math
from typing import Any

import numpy as np
from keras import layers

from ..channels import Channels, Labels
from ..graph import Call
from .base import Rule, pin_all, positions, read, register, source


def _channels_first(call: Call, inputs: list[Labels], channels: Channels) -> list[Labels] | None:
    """The flow of a layer with channels in front, which is not walked; None for channels last."""
    if call.layer.data_format == "channels_last":
        return None
    return pin_all(call, inputs, channels, "has data_format='channels_first' and hides")


class ConvRule(Rule):
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


class SeparableConvRule(Rule):
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


register(layers.Conv1D, layers.Conv2D, layers.Conv3D, rule=ConvRule())
register(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose, rule=ConvTransposeRule())
register(layers.DepthwiseConv1D, layers.DepthwiseConv2D, rule=DepthwiseConvRule())
register(layers.SeparableConv1D, layers.SeparableConv2D, rule=SeparableConvRule())
