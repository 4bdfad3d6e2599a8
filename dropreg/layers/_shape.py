"""Rules of pooling, padding, flattening and reshaping."""

import math
from collections.abc import Sequence

import numpy as np
from keras import layers

from ..graph import Call, Shape
from ._channels import Channels, Labels
from ._common import Carry, channels_first, n_channels, pin_all
from ._registry import register
from ._rule import Cut, Kept, Rule, unchanged


class SpatialRule(Carry):
    """Pooling, padding or cropping of positions, in each channel separately."""

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        if channels_first(call):
            return pin_all(call, inputs, channels, "has data_format='channels_first' and hides")
        return [inputs[0]]


class RearrangeRule(Rule):
    """Flatten, Reshape or Permute, which move labels along with the entries.

    Channels are pinned unless all entries at one position of the new trailing axis have the same label.
    """

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        before, after = call.input_shapes[0], call.output_shapes[0]
        if channels_first(call) and len(before) > 2:
            return pin_all(call, inputs, channels, "has data_format='channels_first' and moves")
        labels = _rearrange(call, inputs[0], before, after)
        if labels is None:
            return pin_all(call, inputs, channels, "moves away from the trailing axis")
        return [labels]

    def cut(self, call: Call, kept_in: Sequence[Kept], kept_out: Sequence[Kept]) -> Cut:
        config = unchanged(call).config
        for name in ("target_shape", "newshape"):
            if name in config and config[name][-1] != -1:
                config[name] = (*config[name][:-1], int(kept_out[0].sum()))
        return Cut(config, [])


def _rearrange(call: Call, labels: Labels, before: Shape, after: Shape) -> Labels | None:
    dims = getattr(call.layer, "dims", None)
    if dims is not None:
        return labels if dims[-1] == len(dims) else None
    sizes = before[1:]
    if None in sizes or None in after[1:]:
        return labels if n_channels(before) == n_channels(after) else None
    if math.prod(n for n in sizes if n) != math.prod(n for n in after[1:] if n):
        return None  # the axis of examples takes up others
    entries = np.broadcast_to(labels, tuple(size or 1 for size in sizes)).reshape(-1, n_channels(after))
    return entries[0] if (entries == entries[0]).all() else None


register(
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D),
    *(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D),
    *(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D),
    *(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D),
    *(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D),
    *(layers.Cropping1D, layers.Cropping2D, layers.Cropping3D),
    *(layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D),
    layers.Resizing,
    rule=SpatialRule(),
)
register(layers.RepeatVector, rule=Carry())
register(layers.Flatten, layers.Reshape, layers.Permute, rule=RearrangeRule())
register("Reshape", rule=RearrangeRule())
