"""Rules of normalizations: per channel (BatchNormalization) or across channels (the others)."""

from collections.abc import Sequence

import numpy as np
from keras import layers

from ..graph import Call
from ._channels import Channels, Labels
from ._common import Carry, Mix, cut_trailing, pin_all
from ._registry import register
from ._rule import Array, Cut, Kept, Moments, unchanged


class BatchNormalizationRule(Carry):
    """A batch normalization, which carries channels if it normalizes the trailing axis."""

    matches_moments = True

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        rank = len(call.input_shapes[0])
        if call.layer.axis not in (-1, rank - 1):
            wrong = f"normalizes axis {call.layer.axis}, not the trailing one"
            return pin_all(call, inputs, channels, f"{wrong}, of", f"it {wrong}: build it with axis=-1")
        return super().flow(call, index, inputs, channels)

    def with_moments(self, call: Call, weights: list[Array], before: Moments, after: Moments) -> list[Array]:
        """Return moving statistics whose distance from the input's moments, in standard deviations, is as before."""
        mean, variance = weights[-2:]
        alive = (before.variance > 0) & (after.variance > 0)
        ratio = np.sqrt(np.divide(after.variance, before.variance, where=alive, out=np.ones_like(before.variance)))
        epsilon = call.layer.epsilon
        new_variance = np.maximum((variance + epsilon) * ratio**2 - epsilon, 0.0)
        new_mean = after.mean - (before.mean - mean) * ratio
        return [*weights[:-2], new_mean.astype(mean.dtype), new_variance.astype(variance.dtype)]


class RescalingRule(Carry):
    """A rescaling, which carries channels; scales and offsets per channel are removed with them."""

    def cut(self, call: Call, kept_in: Sequence[Kept], kept_out: Sequence[Kept]) -> Cut:
        config = unchanged(call).config
        for name in ("scale", "offset"):
            if np.ndim(getattr(call.layer, name)):
                config[name] = cut_trailing(np.asarray(getattr(call.layer, name)), kept_in[0]).tolist()
        return Cut(config, [])


register(layers.BatchNormalization, rule=BatchNormalizationRule())
register(layers.Rescaling, rule=RescalingRule())
register(layers.LayerNormalization, layers.RMSNormalization, layers.GroupNormalization, rule=Mix())
register(layers.UnitNormalization, rule=Mix())
