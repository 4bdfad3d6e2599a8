"""Call a model on a list of tensors, one per input."""

from collections.abc import Sequence
from typing import Any

import keras

from ._access import is_opaque
from ._calls import Graph
from ._memory import MOST_FLOATS, floats_per_row, rows_that_fit
from ._trace import trace_graph

BATCH = 500
"""Largest number of examples in one forward pass."""


def batch_size_of(graph: Graph) -> int:
    """Return the number of examples in one forward pass of a model, fewer than `BATCH` where they need much memory."""
    floats = floats_per_row(graph, range(len(graph.calls)))
    return rows_that_fit(floats, budget=MOST_FLOATS, least=1, most=BATCH)


def call_outputs(model: keras.Model | Graph, inputs: Sequence[Any], *, training: bool) -> list[Any]:
    """The model's outputs for one tensor for each input; a subclassed model always runs in inference mode."""
    called: Any = model.model if isinstance(model, Graph) else model
    if is_opaque(called):
        graph = trace_graph(model)
        return (graph.whole or graph.calls[0]).run(inputs)
    pack: Any = keras.tree.pack_sequence_as
    arranged = inputs[0] if isinstance(called, keras.Sequential) else pack(called.input, list(inputs))
    return keras.tree.flatten(called(arranged, training=training))


def call_model(model: keras.Model | Graph, inputs: Sequence[Any], *, training: bool, output: int = 0) -> Any:
    """One of the model's outputs for one tensor for each input."""
    return call_outputs(model, inputs, training=training)[output]
