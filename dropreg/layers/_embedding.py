"""Rule of embeddings, whose dimensions are units."""

from collections.abc import Sequence
from typing import Any

from keras import layers

from ..graph import Call
from ._channels import Channels, Labels
from ._common import add_units
from ._registry import register
from ._rule import Cut, Kept, Rule, unchanged


class EmbeddingRule(Rule):
    """An embedding, which looks up `output_dim` numbers for each integer."""

    def units(self, layer: Any) -> tuple[int, str] | None:
        return layer.output_dim, "dimension"

    def vocabulary(self, layer: Any) -> int | None:
        return layer.input_dim

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        before = len(channels.sources)
        labels = add_units(self, call, channels)
        channels.charge(labels, params=call.layer.input_dim if len(channels.sources) > before else 0.0)
        return [labels]

    def cut(self, call: Call, kept_in: Sequence[Kept], kept_out: Sequence[Kept]) -> Cut:
        original = unchanged(call)
        config = {**original.config, "output_dim": int(kept_out[0].sum())}
        return Cut(config, [weight[:, kept_out[0]] for weight in original.weights])


register(layers.Embedding, rule=EmbeddingRule())
