"""Dense layers: every unit reads all channels of the trailing axis."""

from collections.abc import Sequence
from typing import Any

from keras import layers

from ..graph import Call
from ._channels import Channels, Labels
from ._common import LinearReader, n_channels, positions, read, source
from ._registry import register
from ._rule import Array, Cut, Kept, unchanged


class DenseRule(LinearReader):
    """Reads the trailing axis, computes `units` neurons."""

    def units(self, layer: Any) -> tuple[int, str] | None:
        return layer.units, "neuron"

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        layer, n_inputs = call.layer, len(inputs[0])
        n_positions = positions(call.input_shapes[0])
        first = read(call, index, 0, inputs[0], channels)
        labels = source(call, layer.units, "neuron", channels)
        channels.charge(inputs[0], params=layer.units if first else 0, macs=layer.units * n_positions)
        channels.charge(labels, params=n_inputs + layer.use_bias if first else 0, macs=n_inputs * n_positions)
        return [labels]

    def cut(self, call: Call, kept_in: Sequence[Kept], kept_out: Sequence[Kept]) -> Cut:
        whole, rows, columns = unchanged(call), kept_in[0], kept_out[0]
        kernel, *bias = whole.weights
        weights = [kernel[rows][:, columns], *(b[columns] for b in bias)]
        return Cut({**whole.config, "units": int(columns.sum())}, weights)

    def kernel_rows(self, call: Call, weights: list[Array]) -> list[Array] | None:
        return [weights[0]]

    def with_kernel_rows(self, call: Call, weights: list[Array], rows: list[Array]) -> list[Array]:
        return [*rows, *weights[1:]]

    def macs(self, call: Call) -> float:
        return n_channels(call.input_shapes[0]) * call.layer.units * positions(call.input_shapes[0])


register(layers.Dense, rule=DenseRule())
