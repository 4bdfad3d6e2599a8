"""Rules of layers of KerasHub, by their names, so that KerasHub need not be installed."""

import math
from typing import Any

import numpy as np

from ..graph import Call, Shape
from ._attention import AttentionRule
from ._common import Carry, Mix, positions
from ._projections import Array, Heads, Projection
from ._registry import register
from ._remade import dense_parts, head_axis, remade, settings_of
from ._rule import Cut, Kept


class CachedAttentionRule(AttentionRule):
    """An attention layer that takes and returns a cache; without some heads it still does so for all of them."""

    def cut_heads(self, call: Call, kept: Kept) -> Cut:
        cut = super().cut_heads(call, kept)
        return Cut({**cut.config, "key_value_heads": cut.config["num_heads"]}, cut.weights)

    def remake(self, call: Call, config: dict[str, Any]) -> Any:
        return remade(type(call.layer))(**config) if "key_value_heads" in config else super().remake(call, config)


class GroupedAttentionRule(AttentionRule):
    """An attention layer in which consecutive query heads share a key and a value head; such groups are removed."""

    def heads(self, layer: Any) -> Heads | None:
        if not layer.built:
            return None
        parts = dense_parts(layer)
        n_heads = {part: dense.kernel.shape[head_axis(part, dense)] for part, dense in parts.items()}
        groups, sizes = n_heads["key"], {part: math.prod(dense.kernel.shape) for part, dense in parts.items()}
        biases = sum(math.prod(d.bias.shape) for part, d in parts.items() if part != "output" and d.bias is not None)
        each = n_heads["query"] // groups

        def macs(shapes: tuple[Shape, ...]) -> float:
            steps = positions(shapes[0])
            per_head = sum(parts[part].kernel.shape[-1] for part in ("query", "value"))
            return steps * sum(sizes.values()) / groups + steps * steps * each * per_head

        return Heads(groups, parts["output"], round((sum(sizes.values()) + biases) / groups), macs, each)

    def projections(self, layer: Any) -> dict[str, Projection]:
        return {"output": Projection(dense_parts(layer)["output"], 2, ("hidden_states", 0))}

    def blocked(self, call: Call, kept_out: Any = ()) -> str | None:
        if not getattr(call.layer, "query_head_dim_normalize", True):
            return "its scores are scaled by the number of heads (query_head_dim_normalize=False)"
        return super().blocked(call, kept_out)

    def cut_heads(self, call: Call, kept: Kept) -> Cut:
        parts = dense_parts(call.layer)
        groups = parts["key"].kernel.shape[head_axis("key", parts["key"])]
        kept_groups = kept.reshape(groups, -1).all(axis=1)
        chosen = {"query": kept, "output": kept, "key": kept_groups, "value": kept_groups}
        axes = {id(d.kernel): (head_axis(part, d), chosen[part]) for part, d in parts.items()}
        axes |= {id(d.bias): (-2, chosen[part]) for part, d in parts.items() if part != "output" and d.bias is not None}
        weights: list[Array] = []
        for weight, array in zip(call.layer.weights, call.layer.get_weights(), strict=True):
            axis, own = axes.get(id(weight), (0, None))
            weights.append(array if own is None else np.compress(own, array, axis))
        sizes = {"query_heads": int(kept.sum()), "key_value_heads": int(kept_groups.sum())}
        return Cut({**settings_of(call.layer), **sizes}, weights)

    def remake(self, call: Call, config: dict[str, Any]) -> Any:
        return remade(type(call.layer))(**config) if "query_heads" in config else super().remake(call, config)


register("keras_hub.CachedMultiHeadAttention", "keras_hub.WhisperCachedMultiHeadAttention", rule=CachedAttentionRule())
register(
    *("keras_hub.CachedGemmaAttention", "keras_hub.CachedGemma3Attention", "keras_hub.LlamaAttention"),
    *("keras_hub.CachedMistralAttention", "keras_hub.QwenAttention", "keras_hub.Qwen3Attention"),
    *("keras_hub.Qwen3MoeAttention", "keras_hub.Phi3Attention"),
    rule=GroupedAttentionRule(),
)
register(
    *("keras_hub.RMSNormalization", "keras_hub.LlamaLayerNorm", "keras_hub.MistralLayerNormalization"),
    *("keras_hub.QwenLayerNorm", "keras_hub.Qwen3LayerNorm", "keras_hub.Qwen3MoeLayerNorm", "keras_hub.T5LayerNorm"),
    *("keras_hub.Phi3LayerNorm", "keras_hub.MixtralLayerNormalization"),
    *("keras_hub.RotaryEmbedding", "keras_hub.LlamaRotaryEmbedding", "keras_hub.PositionEmbedding"),
    *("keras_hub.SinePositionEncoding", "keras_hub.ViTPatchingAndEmbedding"),
    rule=Mix(),
)
register("keras_hub.DINOV2LayerScale", "keras_hub.DINOV3LayerScale", rule=Carry())
