"""Call a model on a list of tensors, one per input."""

from collections.abc import Sequence
from typing import Any

import keras

from ._access import is_opaque
from ._trace import trace_graph

BATCH = 500
"""Number of examples in one forward pass."""


def call_outputs(model: keras.Model, inputs: Sequence[Any], *, training: bool) -> list[Any]:
    """Return all outputs of the model for one tensor per input; a subclassed model always runs in inference mode."""
    if is_opaque(model):
        return trace_graph(model).calls[0].run(inputs)
    pack: Any = keras.tree.pack_sequence_as
    arranged = inputs[0] if isinstance(model, keras.Sequential) else pack(model.input, list(inputs))
    return keras.tree.flatten(model(arranged, training=training))


def call_model(model: keras.Model, inputs: Sequence[Any], *, training: bool, output: int = 0) -> Any:
    """Return output number `output` of the model for one tensor per input."""
    return call_outputs(model, inputs, training=training)[output]
