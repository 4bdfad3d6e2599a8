"""Rule of attention layers: heads are elements, and the projections mix the input channels."""

import math
from typing import Any

import numpy as np
from keras import layers

from ..graph import Call, Shape, attention_projections
from ._channels import Channels, Labels
from ._common import pin_all, positions
from ._projections import Heads, Projection
from ._registry import register
from ._rule import Array, Cut, Kept, Rule, unchanged

_QUERY, _VALUE = ("query", 0), ("value", 1)


class AttentionRule(Rule):
    """An attention layer, whose heads are slices of the query, key, value and output projections."""

    def heads(self, layer: Any) -> Heads | None:
        if not layer.built:
            return None
        count = layer.num_query_heads if hasattr(layer, "num_query_heads") else layer.num_heads
        parts = attention_projections(layer)
        projection, own = parts["output"], [parts[part] for part in ("query", "key", "value")]
        sizes = {id(part): sum(math.prod(weight.shape) for weight in part.weights) for part in own}
        shared = getattr(layer, "num_key_value_heads", count)
        repeats = count // shared
        written = math.prod(projection.kernel.shape) / count
        params = sizes[id(own[0])] / count + written
        if repeats == 1:  # otherwise several heads share a key head, which is kept as long as one of them is
            params += (sizes[id(own[1])] + sizes[id(own[2])]) / count
        shapes_of: list[Any] = [tuple(part.kernel.shape) for part in own]
        kernels = [math.prod(shape) / heads for shape, heads in zip(shapes_of, (count, shared, shared), strict=True)]
        width = shapes_of[0][-1] + shapes_of[2][-1]

        def macs(shapes: tuple[Shape, ...]) -> float:
            queries, keys = positions(shapes[0]), positions(shapes[:2][-1])
            projected = queries * (kernels[0] + written)
            projected += keys * (kernels[1] + kernels[2]) if repeats == 1 else 0
            return projected + queries * keys * width

        return Heads(count, projection, round(params), macs)

    def projections(self, layer: Any) -> dict[str, Projection]:
        return {  # the output projection mixes two axes: heads and their channels
            part: Projection(dense, 2 if part == "output" else 1, _VALUE if part in ("key", "value") else _QUERY)
            for part, dense in attention_projections(layer).items()
        }

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        reason = "its heads are elements of kind 'heads'"
        return pin_all(call, inputs, channels, f"projects ({reason})", reason)

    def macs(self, call: Call) -> float:
        found = self.heads(call.layer)
        return math.nan if found is None else found.count * found.macs(call.input_shapes)

    def cut_heads(self, call: Call, kept: Kept) -> Cut:
        """Remove heads; where shared key heads would serve unequal numbers of query heads, each gets its own copy."""
        layer, original = call.layer, unchanged(call)
        queries = np.flatnonzero(kept)
        config = {**original.config, "num_heads": len(queries)}
        keys = queries
        if hasattr(layer, "num_query_heads"):
            keys, repeats = _shared(queries, len(kept) // layer.num_key_value_heads)
            del config["num_heads"]
            config |= {"num_query_heads": len(keys) * repeats, "num_key_value_heads": len(keys)}
        parts = attention_projections(layer)
        outputs = {id(weight) for weight in parts["output"].weights}
        shared = {id(weight) for part in ("key", "value") for weight in parts[part].weights}
        weights = []
        for weight, array in zip(layer.weights, original.weights, strict=True):
            chosen = keys if id(weight) in shared else queries
            weights.append(_output_heads(weight, array, chosen) if id(weight) in outputs else array[..., chosen, :])
        return Cut(config, weights)


def _shared(queries: Array, repeats: int) -> tuple[Array, int]:
    """Return the key heads of the kept query heads, and the number of query heads that share each."""
    keys, counts = np.unique(queries // repeats, return_counts=True)
    if (counts == counts[0]).all():
        return keys, int(counts[0])
    return queries // repeats, 1


def _output_heads(weight: Any, array: Array, queries: Array) -> Array:
    """Return a weight of the output projection for the kept heads; its bias does not change."""
    return array if weight.name == "bias" else array[queries]


register(layers.MultiHeadAttention, layers.GroupQueryAttention, rule=AttentionRule())
