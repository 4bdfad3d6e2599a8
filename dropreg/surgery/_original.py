"""The model to be cut, traced once."""

from dataclasses import dataclass

import keras

from ..element import trace_channels
from ..errors import ModelError
from ..graph import Graph, trace_graph
from ..layers import Channels
from ._copying import refuse_subclassed, seeds_kept


@dataclass(frozen=True)
class Original:
    """A model, the graph of its calls and the channels of every tensor in it."""

    model: keras.Model
    graph: Graph
    channels: Channels


@seeds_kept()
def trace_original(model: keras.Model | Graph) -> Original:
    """Trace a model that can be cut.

    Raises
    ------
    ModelError
        If it is no built Keras model, or a subclassed one, whose graph lies in Python code.
    """
    graph = trace_graph(model)
    if graph.inside is not None:
        raise ModelError(refuse_subclassed(graph.model, "made smaller"))
    return Original(graph.model, graph, trace_channels(graph))
