"""Infer whether outputs of a model are logits, probabilities or numbers."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..data import Task, compiled_loss
from ..graph import trace_graph
from ..layers import last_activation

if TYPE_CHECKING:
    import keras

    from ..graph import Graph

_TOLERANCE = 1e-2  # rounding error of a sum of probabilities in half precision


def are_logits(model: "keras.Model | Graph", output: int, task: Task, outputs: npt.NDArray[np.floating]) -> bool:
    """Return whether outputs (n, ..., n_outputs) of a classifier, from output number `output`, are logits.

    The last layer decides if its activation is linear (logits), or a softmax of classes or a sigmoid of labels
    (probabilities). Otherwise the compiled loss does; without one, outputs are logits unless all of them could be
    probabilities.
    """
    graph = trace_graph(model)
    ending = last_activation(graph, output)
    if ending == "linear":
        return True
    if ending == ("softmax" if task == "classes" else "sigmoid"):
        return False
    said = compiled_loss(graph, output).from_logits
    return not _could_be_probabilities(task, outputs) if said is None else said


def _could_be_probabilities(task: Task, outputs: npt.NDArray[np.floating]) -> bool:
    """Return whether outputs (n, ..., n_outputs) lie in [0, 1] and, for classes, sum to 1."""
    if task == "classes":
        return bool((outputs >= 0).all() and np.allclose(outputs.sum(axis=-1), 1.0, atol=_TOLERANCE))
    return bool(((outputs >= 0) & (outputs <= 1)).all())


def guess_task(outputs: npt.NDArray[np.floating]) -> Task:
    """Return the task of outputs (n, ..., n_outputs) without labels: "classes" or "multilabel" for probabilities.

    Other numbers may be logits or a regression; the result is "regression".
    """
    if outputs.shape[-1] > 1 and _could_be_probabilities("classes", outputs):
        return "classes"
    return "multilabel" if _could_be_probabilities("multilabel", outputs) else "regression"
