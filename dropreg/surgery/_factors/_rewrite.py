"""Build a model in which some layers are replaced by others."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from ..._utils import Array
from ...graph import Call
from ...layers import rule_for
from .._clones import check_same_sharing, clones, seeds_kept
from .._compiling import compile_like
from .._holding import Hold
from .._original import Original
from .._plan import keep_everything
from .._rebuild import Builder, assemble, symbolic_inputs


@dataclass(frozen=True)
class Part:
    """A new layer of the class of the called one, with another config, name included, and other weights."""

    like: Call
    config: dict[str, Any]
    weights: list[Array]

    def make(self, name: str | None = None, shape: Sequence[int | None] | None = None) -> Any:
        """Return the layer; with a shape of its input it is built and has its weights."""
        layer: Any = rule_for(self.like.layer).remake(self.like, {**self.config, "name": name or self.config["name"]})
        if shape is not None:
            layer.build(tuple(shape))
            layer.set_weights(self.weights)
        return layer


@seeds_kept()
def rewrite(original: Original, parts: Mapping[int, Sequence[Part]]) -> keras.Model:
    """Return a copy in which layers, by their ``id``, are replaced by others, one after the other; by none if empty."""
    graph = original.graph
    inputs = symbolic_inputs(graph)
    values: dict[int, Any] = dict(zip(graph.inputs, inputs, strict=True))
    new: dict[int, list[Any]] = {}
    pairs, layers = [], []
    with clones(graph) as made:
        builder = Builder(graph, keep_everything(graph), values, made)
        for index in builder.plan.live_calls(graph):
            call = graph.calls[index]
            if id(call.layer) not in parts:
                pairs.append(builder.add(index))
                layers.append(pairs[-1][1].layer)
                continue
            value = values[call.inputs[0]]
            for number, part in enumerate(parts[id(call.layer)]):
                chain = new.setdefault(id(call.layer), [])
                if number == len(chain):
                    chain.append(part.make(builder.free_name(part.config["name"]), value.shape))
                    layers.append(chain[number])
                value = chain[number](value)
            values[call.outputs[0]] = value
    check_same_sharing([(old, made_call.layer) for old, made_call in pairs], original.model.weights)
    _hold_same_zeros(pairs)
    model = assemble(graph, inputs, [values[slot] for slot in graph.outputs], layers)
    compile_like(model, original.model)
    return model


def _hold_same_zeros(pairs: Sequence[tuple[Call, Call]]) -> None:
    for old, new in pairs:
        for before, after in zip(getattr(old.layer, "weights", ()), getattr(new.layer, "weights", ()), strict=True):
            if isinstance(before.constraint, Hold) and np.shape(before) == np.shape(after):
                after.constraint = before.constraint
