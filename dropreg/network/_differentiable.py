"""Check that an outcome has a derivative with respect to the masks."""

from typing import Any

import keras
import tensorflow as tf

from ..errors import ModelError, ParameterError
from ._evaluator import Evaluator
from ._outcomes import Outcome


def non_differentiable(evaluator: Evaluator) -> str | None:
    """Return the first layer without a gradient between masks and outputs, or None if all layers have one."""
    graph, network = evaluator.network.graph, evaluator.network
    between = graph.upstream([network.output], network.frontier)
    inputs = [tf.convert_to_tensor(x[:2]) for x in evaluator.question.examples.inputs]
    values: dict[int, Any] = dict(zip(graph.inputs, inputs, strict=True))
    with keras.StatelessScope(collect_losses=True):
        for number, call in enumerate(graph.calls):
            consumed = [tf.convert_to_tensor(values[slot]) for slot in call.inputs]
            sources = [value for value in consumed if value.dtype.is_floating]
            with tf.GradientTape() as tape:
                tape.watch(sources)
                results = call.run(consumed)
            values.update(zip(call.outputs, results, strict=True))
            if number in between and sources and all(g is None for g in tape.gradient(results, sources)):
                return f"'{call.name}' ({call.kind})"
    return None


def check_differentiable(evaluator: Evaluator, what: str) -> None:
    """Raise unless the outcome itself, without a surrogate, has a derivative with respect to the masks.

    Raises ParameterError if the outcome is a step function or declared as not differentiable, ModelError if a layer
    between the elements and the output has no gradient. `what` names the method that needs the derivative.
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
            "without: use a scorer of forward passes, such as leave_one_out, or dropreg.estimate with "
            "sampling=dropreg.Sampling(gradients=False)."
        )
