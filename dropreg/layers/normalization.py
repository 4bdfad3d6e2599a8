"""Normalizations: by channel (BatchNormalization) or over channels (the others)."""

from keras import layers

from ..channels import Channels, Labels
from ..graph import Call
from .base import Carry, Mix, Rule, pin_all, register


class BatchNormalizationRule(Rule):
    """Carries channels when it normalizes the trailing axis."""

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        rank = len(call.input_shapes[0])
        if call.layer.axis not in (-1, rank - 1):
            return pin_all(call, inputs, channels, f"normalizes axis {call.layer.axis}, not the trailing one, of")
        return Carry().flow(call, index, inputs, channels)


register(layers.BatchNormalization, rule=BatchNormalizationRule())
register(layers.Rescaling, rule=Carry())
register(
    layers.LayerNormalization,
    layers.RMSNormalization,
    layers.GroupNormalization,
    layers.UnitNormalization,
    rule=Mix(),
)
