"""Rule of embeddings, whose dimensions are units."""

from collections.abc import Sequence
from typing import Any

from keras import layers

from ..graph import Call
from ._channels import Channels, Labels
from ._common import add_units, n_channels, pin_all, positions
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


class ReversibleEmbeddingRule(EmbeddingRule):
    """An embedding that also projects channels back to its entries: its dimensions are kept if it does."""

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        (labels,) = super().flow(call, index, inputs, channels)
        if not _is_reversed(call):
            if not call.layer.tie_weights:
                channels.pin(labels, "it has separate weights for reverse=True (tie_weights=False)")
            return [labels]
        channels.pin(labels, "it is also called with reverse=True")
        return pin_all(call, inputs, channels, "projects (reverse=True)", "it is also called with reverse=True")

    def macs(self, call: Call) -> float:
        entries = n_channels(call.output_shapes[0])
        return n_channels(call.input_shapes[0]) * entries * positions(call.input_shapes[0]) if _is_reversed(call) else 0


def _is_reversed(call: Call) -> bool:
    """Return whether a call projects channels to entries."""
    return bool(call.kwargs.get("reverse", False))


register(layers.Embedding, rule=EmbeddingRule())
if hasattr(layers, "ReversibleEmbedding"):  # new in Keras 3.13
    register(layers.ReversibleEmbedding, rule=ReversibleEmbeddingRule())
