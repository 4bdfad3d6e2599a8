"""Infer whether outputs of a model are logits, probabilities or numbers."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..data import Task

if TYPE_CHECKING:
    import keras

    from ..graph import Graph

_TOLERANCE = 1e-2  # rounding error of a sum of probabilities in half precision


def are_logits(model: "keras.Model | Graph", output: int, task: Task, outputs: npt.NDArray[np.floating]) -> bool:
    """Return whether outputs (n, ..., n_outputs) of a classifier, from output number `output`, are logits.

    The last layer decides if its activation is linear (logits), or a softmax of classes or a sigmoid of labels
    (probabilities). Otherwise outputs are logits unless all of them could be probabilities.
    """
    ending = _last_activation(model, output)
    if ending == "linear":
        return True
    if ending == ("softmax" if task == "classes" else "sigmoid"):
        return False
    return not _could_be_probabilities(task, outputs)


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


def _last_activation(model: "keras.Model | Graph", output: int) -> str | None:
    """Return the name of the last activation before an output; None if no layer defines it."""
    import keras

    from ..graph import trace_graph

    graph = trace_graph(model)
    writer = {slot: call for call in graph.calls for slot in call.outputs}
    call = writer.get(graph.outputs[output])
    while call is not None and _is_identity(call.layer):
        call = writer.get(call.inputs[0])
    layer = None if call is None else call.layer
    while isinstance(layer, keras.layers.TimeDistributed):
        layer = layer.layer
    kind = type(layer).__name__
    if kind in ("Softmax", "Sigmoid"):
        return kind.lower() if getattr(layer, "axis", -1) == -1 else None
    known = (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Activation, keras.layers.Conv1D)
    if isinstance(layer, (*known, keras.layers.Conv2D, keras.layers.Conv3D)):
        return getattr(layer.activation, "__name__", None)
    return None


def _is_identity(layer: Any) -> bool:
    """Return whether a layer is the identity, up to precision."""
    import keras

    if isinstance(layer, keras.layers.Activation):
        return layer.activation is keras.activations.linear
    return isinstance(layer, keras.layers.Identity)
