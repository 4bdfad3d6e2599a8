"""What the outputs of a classifier are: logits or probabilities."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..data import Task

if TYPE_CHECKING:
    import keras

    from ..graph import Graph

_TOLERANCE = 1e-2  # by which probabilities in half precision miss a sum of one


def are_logits(model: "keras.Model | Graph", output: int, task: Task, outputs: npt.NDArray[np.floating]) -> bool:
    """Whether an output of a classifier is logits, else it is probabilities.

    The last layer says so if its activation is linear (logits), a softmax over classes or a sigmoid of labels
    (probabilities); else outputs are logits unless all of these could be probabilities.

    Parameters
    ----------
    model : keras.Model or Graph
    output : int
        Its number.
    task : str
    outputs : ndarray of float32, shape (n, ..., n_outputs)
        That output, for some examples.
    """
    ending = _last_activation(model, output)
    if ending == "linear":
        return True
    if ending == ("softmax" if task == "classes" else "sigmoid"):
        return False
    return not could_be_probabilities(task, outputs)


def could_be_probabilities(task: Task, outputs: npt.NDArray[np.floating]) -> bool:
    """Whether outputs (n, ..., n_outputs) lie in [0, 1], and for classes add up to one."""
    if task == "classes":
        return bool((outputs >= 0).all() and np.allclose(outputs.sum(axis=-1), 1.0, atol=_TOLERANCE))
    return bool(((outputs >= 0) & (outputs <= 1)).all())


def guess_task(outputs: npt.NDArray[np.floating]) -> Task:
    """What the outputs (n, ..., n_outputs) of a model without labels are: "classes" or "multilabel" if they show it.

    Numbers that are no probabilities may be logits or a regression; they are taken for the latter.
    """
    if outputs.shape[-1] > 1 and could_be_probabilities("classes", outputs):
        return "classes"
    return "multilabel" if could_be_probabilities("multilabel", outputs) else "regression"


def _last_activation(model: "keras.Model | Graph", output: int) -> str | None:
    """Name of the activation that gives an output; None where no layer tells it."""
    import keras

    from ..graph import trace_graph

    graph = trace_graph(model)
    writer = {slot: call for call in graph.calls for slot in call.outputs}
    call = writer.get(graph.outputs[output])
    while call is not None and _passes_on(call.layer):
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


def _passes_on(layer: Any) -> bool:
    """Whether a layer changes nothing but perhaps the precision."""
    import keras

    if isinstance(layer, keras.layers.Activation):
        return layer.activation is keras.activations.linear
    return isinstance(layer, keras.layers.Identity)
