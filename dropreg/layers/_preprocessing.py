"""Rules of preprocessing layers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers

from ..graph import Call
from ._common import Carry, Mix, cut_trailing
from ._registry import register
from ._rule import Cut, Kept
from ._shape import SpatialRule

register(
    *(layers.RandomFlip, layers.RandomRotation, layers.RandomTranslation, layers.RandomZoom, layers.RandomCrop),
    *(layers.RandomContrast, layers.RandomBrightness, layers.CenterCrop),
    rule=SpatialRule(),
)


class NormalizationRule(Carry):
    """A feature normalization, whose statistics are weights (then `finish` applies them) or in its config."""

    def cut(self, call: Call, kept_in: Sequence[Kept], kept_out: Sequence[Kept]) -> Cut:
        cut = super().cut(call, kept_in, kept_out)
        for name in ("mean", "variance"):
            if np.ndim(cut.config.get(name, 0)) > 0:
                cut.config[name] = cut_trailing(np.asarray(cut.config[name]), kept_in[0]).tolist()
        return cut

    def finish(self, layer: Any) -> None:
        layer.finalize_state()


class LookupRule(Mix):
    """A layer that maps values to integers by a vocabulary, which must be copied."""

    def remake(self, call: Call, config: dict[str, Any]) -> Any:
        known = call.layer.get_vocabulary(include_special_tokens=False)
        return type(call.layer).from_config({**config, "vocabulary": known} if known else config)


register(layers.Normalization, rule=NormalizationRule())
register(layers.IntegerLookup, layers.StringLookup, layers.TextVectorization, rule=LookupRule())
register(*(layers.CategoryEncoding, layers.Discretization, layers.Hashing, layers.HashedCrossing), rule=Mix())
