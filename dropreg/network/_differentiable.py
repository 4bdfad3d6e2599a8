"""Whether an outcome has a derivative with respect to the masks, all the way."""

from typing import Any

from ..errors import ModelError, ParameterError
from ._evaluator import Evaluator
from ._outcomes import Outcome


def non_differentiable(evaluator: Evaluator) -> str | None:
    """The first layer between masks and outputs that has no gradient, or None if all have one."""
    import keras
    import tensorflow as tf

    graph, network = evaluator.network.graph, evaluator.network
    reached = graph.upstream([network.output], network.frontier)
    inputs = [tf.convert_to_tensor(x[:2]) for x in evaluator.question.examples.inputs]
    values: dict[int, Any] = dict(zip(graph.inputs, inputs, strict=True))
    with keras.StatelessScope(collect_losses=True):
        for number, call in enumerate(graph.calls):
            read = [tf.convert_to_tensor(values[slot]) for slot in call.inputs]
            with tf.GradientTape() as tape:
                tape.watch([value for value in read if value.dtype.is_floating])
                written = call.run(read)
            values.update(zip(call.outputs, written, strict=True))
            sources = [value for value in read if value.dtype.is_floating]
            if number in reached and sources and all(g is None for g in tape.gradient(written, sources)):
                return f"'{call.name}' ({call.kind})"
    return None


def check_differentiable(evaluator: Evaluator, what: str) -> None:
    """Raise unless the outcome itself has a derivative with respect to the masks, all the way.

    Raises
    ------
    ParameterError
        If the outcome is a step function or declared not differentiable.
    ModelError
        If a layer on the way has no gradient.
    """
    outcome = evaluator.question.outcome
    if not outcome.differentiable or type(outcome).surrogate is not Outcome.surrogate:
        raise ParameterError(
            f"`outcome` must be differentiable for {what}, received '{outcome.name}': pass outcome='loss', 'margin' "
            "or 'divergence', or use a scorer of forward passes, such as leave_one_out."
        )
    layer = non_differentiable(evaluator)
    if layer is not None:
        raise ModelError(
            f"every layer between the elements and the output must have a gradient for {what}, received layer {layer} "
            "without: use a scorer of forward passes, such as leave_one_out, or dropreg.estimate with gradients=False."
        )
