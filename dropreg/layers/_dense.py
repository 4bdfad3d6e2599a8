"""Rule of dense layers."""

from collections.abc import Sequence
from typing import Any

from keras import layers

from ..graph import Call
from ._common import KernelRule, cut_trailing, n_channels, positions
from ._registry import register
from ._rule import Array, Cut, Kept, unchanged


class DenseRule(KernelRule):
    """A dense layer, whose neurons consume all channels of the trailing axis."""

    def units(self, layer: Any) -> tuple[int, str] | None:
        return layer.units, "neuron"

    def uses(self, call: Call) -> tuple[int, int, float]:
        return call.layer.units, n_channels(call.input_shapes[0]), positions(call.input_shapes[0])

    def cut(self, call: Call, kept_in: Sequence[Kept], kept_out: Sequence[Kept]) -> Cut:
        original, rows, columns = unchanged(call), kept_in[0], kept_out[0]
        kernel, *bias = original.weights
        weights = [kernel[rows][:, columns], *(cut_trailing(b, columns) for b in bias)]
        return Cut({**original.config, "units": int(columns.sum())}, weights)

    def kernel_rows(self, call: Call, weights: list[Array]) -> list[Array] | None:
        return [weights[0]]


register(layers.Dense, rule=DenseRule())
