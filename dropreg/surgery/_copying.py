"""Copies of models, without side effects on random numbers."""

from typing import Any

import keras
import numpy as np

from .._utils import first_line
from ..errors import ModelError
from ..graph import Graph, all_layers, patched, trace_graph, trace_layers
from ..layers import kerashub_part, rule_for
from ._clones import (
    check_can_clone,
    check_same_sharing,
    clone_function,
    clones,
    holds_layers,
    refuse_subclassed,
    seeds_kept,
)
from ._holding import Hold
from ._original import trace_original
from ._own_class import copy_kerashub
from ._plan import keep_everything
from ._rebuild import rebuild


@seeds_kept()
def copy_model(model: keras.Model | Graph) -> keras.Model:
    """Return an uncompiled copy with the same structure, weights and `Hold` constraints.

    The copy of a subclassed model is a Functional model of the layers inside it; that of a model of KerasHub has its
    class.

    Raises
    ------
    ModelError
        If the model is subclassed, or a layer cannot be rebuilt from its config with the weights that it shares.
    """
    traced = trace_graph(model)
    original = traced.model
    refuse_subclassed(traced, "copied")
    if traced.whole is not None:
        return rebuild(trace_original(traced), keep_everything(traced)).model
    graph = trace_layers(traced)
    check_can_clone(graph)
    if kerashub_part(original) is not None:
        copied = copy_kerashub(original)
        return rebuild(trace_original(traced), keep_everything(traced)).model if copied is None else copied
    compiled = [(layer, "compiled", False) for layer in all_layers(original) if isinstance(layer, keras.Model)]
    try:
        with patched(compiled):
            copied = _clone_sharing(graph) if _shares(graph) else keras.models.clone_model(original)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ModelError(
            f"model '{original.name}' must have layers that can be rebuilt from their config, received the error "
            f"'{first_line(error)}': give their classes a get_config that names all arguments."
        ) from error
    copied.set_weights(original.get_weights())
    for layer in all_layers(copied):
        rule_for(layer).finish(layer)
    for old, new in zip(original.weights, copied.weights, strict=True):
        if isinstance(old.constraint, Hold):
            new.constraint = old.constraint.fresh()
    return copied


def _shares(graph: Graph) -> bool:
    """Return whether layers share weights, or a config holds layers of the original."""
    own = [call.layer for call in graph.calls if not type(call.layer).__module__.startswith("keras.src.")]
    return bool(graph.shared.users) or any(holds_layers(layer.get_config()) for layer in own)


def _clone_sharing(graph: Graph) -> Any:
    """Clone a model with layers that hold one another."""
    with clones(graph) as made:
        copied = keras.models.clone_model(graph.model, clone_function=clone_function(made), recursive=True)
        check_same_sharing([(call, made[id(call.layer)]) for call in graph.calls], graph.model.weights)
    return copied


def seed_layers(model: keras.Model, seed: int) -> None:
    """Set the state of every random layer in a model, such as Dropout, from `seed` alone."""
    states = [variable for variable in model.variables if variable.name == "seed_generator_state"]
    for number, state in enumerate(states):
        state.assign(np.array([seed % 2**32, number], dtype=np.uint32))
