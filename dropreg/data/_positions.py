"""Positions of outputs that count: those that the model's own mask (of padded steps, as in Keras) does not hide."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from .._utils import concatenate_names
from ..errors import DataError
from ..graph import BATCH, at_positions, call_model, step_mask, trace_graph, traced


def counted_positions(
    model: keras.Model, inputs: Sequence[npt.NDArray[Any]], output: int
) -> npt.NDArray[np.bool_] | None:
    """Return which positions of output number `output` count for these inputs, True = counts.

    The shape is that of the output without its last axis; None stands for all positions. Raise DataError if no
    position of an example counts.
    """
    if not trace_graph(model).hides(output):
        return None

    def positions(batch: list[Any]) -> tf.Tensor:
        with keras.StatelessScope(collect_losses=True):
            given = call_model(model, batch, training=False, output=output)
        return at_positions(given, step_mask(given))

    starts = range(0, len(inputs[0]), BATCH)
    run = traced(positions, list(inputs), runs=len(starts))
    counted = np.concatenate([run([tf.convert_to_tensor(x[k : k + BATCH]) for x in inputs]).numpy() for k in starts])
    empty = np.flatnonzero(~counted.reshape(len(counted), -1).any(axis=1))
    if len(empty):
        raise DataError(
            f"`data` must have examples with at least one step that model '{model.name}' does not mask, received "
            f"{len(empty)} without (examples {concatenate_names(empty.tolist())}): leave them out."
        )
    return None if counted.all() else counted
