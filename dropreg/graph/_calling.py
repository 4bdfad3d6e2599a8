"""Call a model on a list of tensors, one per input."""

from collections.abc import Sequence
from typing import Any

import keras

from ._access import is_opaque
from ._calls import Graph
from ._trace import trace_graph

BATCH = 500
"""Number of examples in one forward pass."""


def call_outputs(model: keras.Model | Graph, inputs: Sequence[Any], *, training: bool) -> list[Any]:
    """The model's outputs for one tensor for each input; a subclassed model always runs in inference mode."""
    called: Any = model.model if isinstance(model, Graph) else model
    if is_opaque(called):
        return trace_graph(model).calls[0].run(inputs)
    pack: Any = keras.tree.pack_sequence_as
    arranged = inputs[0] if isinstance(called, keras.Sequential) else pack(called.input, list(inputs))
    return keras.tree.flatten(called(arranged, training=training))


def call_model(model: keras.Model | Graph, inputs: Sequence[Any], *, training: bool, output: int = 0) -> Any:
    """One of the model's outputs for one tensor for each input."""
    return call_outputs(model, inputs, training=training)[output]
