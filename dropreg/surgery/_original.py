"""A model to be cut, traced once."""

from dataclasses import dataclass

import keras

from ..element import trace_channels
from ..graph import Graph, trace_graph
from ..layers import Channels
from ._clones import check_can_clone, refuse_subclassed, seeds_kept


@dataclass(frozen=True)
class Original:
    """A model, the graph of its calls, and the channels of every tensor in the graph."""

    model: keras.Model
    graph: Graph
    channels: Channels


@seeds_kept()
def trace_original(model: keras.Model | Graph) -> Original:
    """Trace a model; raises ModelError if it is not a built Keras model, or one whose layers cannot be copied."""
    graph = trace_graph(model)
    refuse_subclassed(graph, "made smaller")
    check_can_clone(graph)
    return Original(graph.model, graph, trace_channels(graph))
