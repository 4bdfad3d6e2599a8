"""Positions of outputs that count: those that the model's own mask (of padded steps, as in Keras) does not hide."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .._utils import concatenate_names
from ..errors import DataError
from ..graph import Graph, at_positions, batch_size_of, call_model, map_batches, step_mask


def counted_positions(graph: Graph, inputs: Sequence[npt.NDArray[Any]], output: int) -> npt.NDArray[np.bool_] | None:
    """Return which positions of output number `output` count for these inputs, True = counts.

    The shape is that of the output without its last axis; None stands for all positions. Raise DataError if no
    position of an example counts.
    """
    if not graph.hides(output):
        return None

    import keras

    def positions(*batch: Any) -> Any:
        with keras.StatelessScope(collect_losses=True):
            given = call_model(graph, batch, training=False, output=output)
        return at_positions(given, step_mask(given))

    counted = map_batches(positions, inputs, batch_size_of(graph))[0]
    empty = np.flatnonzero(~counted.reshape(len(counted), -1).any(axis=1))
    if len(empty):
        raise DataError(
            f"`data` must have examples with at least one step that model '{graph.model.name}' does not mask, received "
            f"{len(empty)} without (examples {concatenate_names(empty.tolist())}): leave them out."
        )
    return None if counted.all() else counted
