"""Rules of convolutions: ordinary, transposed, depthwise and separable."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers

from ..graph import Call
from ._channels import Channels, Labels
from ._common import CHANNELS_LAST, KernelRule, channels_first, cut_trailing, n_channels, pin_all, positions
from ._registry import register
from ._rule import Array, Cut, Kept, Rule, unchanged


class ConvRule(KernelRule):
    """A convolution, each of whose filters consumes all input channels of its group."""

    transposed = False

    def units(self, layer: Any) -> tuple[int, str] | None:
        return layer.filters, "filter"

    def uses(self, call: Call) -> tuple[int, int, float]:
        taps, groups = math.prod(call.layer.kernel_size), getattr(call.layer, "groups", 1)
        n_positions = positions(call.input_shapes[0] if self.transposed else call.output_shapes[0])
        return taps * call.layer.filters // groups, taps * n_channels(call.input_shapes[0]) // groups, n_positions

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        outputs, groups = super().flow(call, index, inputs, channels), getattr(call.layer, "groups", 1)
        if groups > 1 and not channels_first(call):
            for labels in (inputs[0], *outputs):
                first, *others = np.split(labels, groups)
                for other in others:  # so that all groups lose the same channels
                    channels.tie(first, other, f"the groups of layer '{call.name}' must stay equally large")
        return outputs

    def cut(self, call: Call, kept_in: Sequence[Kept], kept_out: Sequence[Kept]) -> Cut:
        original, columns = unchanged(call), kept_out[0]
        kernel, *bias = original.weights
        groups = getattr(call.layer, "groups", 1)
        rows = kept_in[0][: len(kept_in[0]) // groups]  # all groups lose the same channels
        kernel = kernel[..., columns, :][..., rows] if self.transposed else kernel[..., rows, :][..., columns]
        return Cut(
            {**original.config, "filters": int(columns.sum())}, [kernel, *(cut_trailing(b, columns) for b in bias)]
        )

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


class ConvTransposeRule(ConvRule):
    """A transposed convolution, which applies its kernel at the positions of the input."""

    transposed = True


class DepthwiseConvRule(Rule):
    """A depthwise convolution; each input channel has `depth_multiplier` outputs, which are removed with it."""

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        if channels_first(call):
            return pin_all(call, inputs, channels, "has data_format='channels_first' and hides", CHANNELS_LAST)
        layer = call.layer
        first = channels.share(layer, inputs[0])
        labels = np.repeat(inputs[0], layer.depth_multiplier)
        taps = math.prod(layer.kernel_size)
        n_positions = positions(call.output_shapes[0])
        channels.charge(labels, params=taps + layer.use_bias if first else 0, macs=taps * n_positions)
        return [labels]

    def cut(self, call: Call, kept_in: Sequence[Kept], kept_out: Sequence[Kept]) -> Cut:
        original = unchanged(call)
        kernel, *bias = original.weights
        return Cut(original.config, [kernel[..., kept_in[0], :], *(cut_trailing(b, kept_out[0]) for b in bias)])

    def macs(self, call: Call) -> float:
        return math.prod(call.layer.kernel_size) * n_channels(call.output_shapes[0]) * positions(call.output_shapes[0])


class SeparableConvRule(ConvRule):
    """A depthwise convolution followed by a pointwise one."""

    n_kernels = 2

    def uses(self, call: Call) -> tuple[int, int, float]:
        taps, depth = math.prod(call.layer.kernel_size), call.layer.depth_multiplier
        n_inputs, n_positions = n_channels(call.input_shapes[0]), positions(call.output_shapes[0])
        return depth * (taps + call.layer.filters), depth * n_inputs, n_positions

    def cut(self, call: Call, kept_in: Sequence[Kept], kept_out: Sequence[Kept]) -> Cut:
        original, rows, columns = unchanged(call), kept_in[0], kept_out[0]
        depthwise, pointwise, *bias = original.weights
        inner = np.repeat(rows, call.layer.depth_multiplier)
        weights = [
            depthwise[..., rows, :],
            pointwise[..., inner, :][..., columns],
            *(cut_trailing(b, columns) for b in bias),
        ]
        return Cut({**original.config, "filters": int(columns.sum())}, weights)

    def kernel_rows(self, call: Call, weights: list[Array]) -> list[Array] | None:
        return None


register(layers.Conv1D, layers.Conv2D, layers.Conv3D, rule=ConvRule())
register(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose, rule=ConvTransposeRule())
register(layers.DepthwiseConv1D, layers.DepthwiseConv2D, rule=DepthwiseConvRule())
register(layers.SeparableConv1D, layers.SeparableConv2D, rule=SeparableConvRule())
