"""Embeddings: a dimension is a unit like any other."""

from typing import Any

from keras import layers

from ..channels import Channels, Labels
from ..graph import Call
from .base import Rule, register, source


class EmbeddingRule(Rule):
    """Reads numbers, computes `output_dim` dimensions."""

    def units(self, layer: Any) -> tuple[int, str] | None:
        return layer.output_dim, "dimension"

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        before = len(channels.sources)
        labels = source(call, call.layer.output_dim, "dimension", channels)
        channels.charge(labels, params=call.layer.input_dim if len(channels.sources) > before else 0.0)
        return [labels]


register(layers.Embedding, rule=EmbeddingRule())
