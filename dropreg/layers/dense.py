"""Dense layers: every unit reads all channels of the trailing axis."""

from typing import Any

from keras import layers

from ..channels import Channels, Labels
from ..graph import Call
from .base import Rule, positions, read, register, source


class DenseRule(Rule):
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


register(layers.Dense, rule=DenseRule())
