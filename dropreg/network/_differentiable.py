"""Check that an outcome has a derivative with respect to the masks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ..errors import ModelError, ParameterError
from ..graph import Call, Graph, step_mask, with_step_mask
from ._evaluator import Evaluator
from ._outcomes import Outcome


def non_differentiable(evaluator: Evaluator) -> str | None:
    """Return the first layer that leaves elements without a gradient, or None if all elements have one.

    A call that computes floats from values that masks change must have a gradient. One that computes integers or
    booleans from them (a comparison, say) is passed over if each element also changes the output along a path with
    gradients. A call whose results are the same for other values, such as a size, does not depend on the masks.
    """
    network, graph = evaluator.network, evaluator.network.graph
    needed = set(graph.upstream([network.output]))
    used = {network.output, *(slot for number in needed for slot in graph.calls[number].inputs)}
    entries = network.entries()
    inside = {number for number, position, _ in entries if position is None}
    gated = {(number, position) for number, position, _ in entries}
    inputs = [tf.convert_to_tensor(x[:2]) for x in evaluator.question.examples.inputs]
    values: dict[int, Any] = dict(zip(graph.inputs, inputs, strict=True))
    changed, links = set[int](), dict[int, _Links]()
    with keras.StatelessScope(collect_losses=True):
        for number, call in enumerate(graph.calls):
            consumed = [tf.convert_to_tensor(values[slot]) for slot in call.inputs]
            reads = [
                position
                for position, slot in enumerate(call.inputs)
                if slot in changed or (number, position) in gated or number in inside
            ]
            if number in needed and reads:
                links[number] = _Links.of(call, consumed, reads)
                if used.intersection(call.outputs[k] for k in links[number].hidden):
                    return _named(call)
                changed.update(call.outputs[k] for _, k in links[number].all)
                results = links[number].results
            else:
                results = call.run(consumed)
            if number in inside:
                changed.update(call.outputs)
            values.update(zip(call.outputs, results, strict=True))
    all_paths = _leading(graph, network.output, {number: found.all for number, found in links.items()})
    smooth = _leading(graph, network.output, {number: found.smooth for number, found in links.items()})
    reached, with_gradient = set[int](), set[int]()
    for number, position, columns in entries:
        places = {(number, position)} if position is not None else set(graph.calls[number].outputs)
        reached.update(columns.tolist() if places & all_paths else ())
        with_gradient.update(columns.tolist() if places & smooth else ())
    without = reached - with_gradient - {-1}
    first = [number for number, _, columns in entries if without.intersection(columns.tolist())]
    steps = [k for k in graph.downstream(first) if k in links and links[k].all - links[k].smooth] if first else []
    return _named(graph.calls[steps[0]]) if steps else None


@dataclass
class _Links:
    """Which inputs of a call its results depend on, as pairs of positions.

    Attributes
    ----------
    results : list of tf.Tensor
    smooth, all : set of (int, int)
        Inputs and results with a gradient, and all that depend on each other.
    hidden : set of int
        Floats that depend on floats without a gradient.
    """

    results: list[Any]
    smooth: set[tuple[int, int]] = field(default_factory=set)
    all: set[tuple[int, int]] = field(default_factory=set)
    hidden: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, call: Call, consumed: Sequence[tf.Tensor], reads: Sequence[int]) -> "_Links":
        """Return the links of a call between its inputs numbered `reads` and its results."""
        floats = [position for position in reads if consumed[position].dtype.is_floating]
        with tf.GradientTape(persistent=True) as tape:
            tape.watch([consumed[position] for position in floats])
            found = cls(call.run(consumed))
        for k, result in enumerate(found.results):
            gradients = [None] * len(floats)
            if result.dtype.is_floating and floats:
                gradients = tape.gradient(result, [consumed[position] for position in floats])
            found.smooth.update((p, k) for p, gradient in zip(floats, gradients, strict=True) if gradient is not None)
        found.all.update(found.smooth)
        unknown = set(range(len(found.results))).difference(k for _, k in found.smooth)
        for k in _dependent(call, consumed, reads, found.results, unknown):
            found.all.update((position, k) for position in reads)
            if floats and found.results[k].dtype.is_floating:
                found.hidden.add(k)
        return found


def _dependent(
    call: Call, consumed: Sequence[tf.Tensor], reads: Sequence[int], results: Sequence[Any], unknown: set[int]
) -> set[int]:
    """Return which of the `unknown` results of a call are others for other values of some of its inputs."""
    rng, found = np.random.default_rng(0), set[int]()
    for change in (_reversed, _negated, _noise):
        if found == unknown:
            break
        given = [change(x, rng) if position in reads else x for position, x in enumerate(consumed)]
        try:
            others = call.run([with_step_mask(new, step_mask(x)) for new, x in zip(given, consumed, strict=True)])
        except (ValueError, tf.errors.OpError):  # values that the layer refuses
            return unknown
        found |= {k for k in unknown if not _same(results[k], others[k])}
    return found


def _same(x: Any, other: Any) -> bool:
    """Return whether two results are equal, NaN included."""
    return np.array_equal(x, other, equal_nan=x.dtype.is_floating)


def _reversed(x: Any, rng: np.random.Generator) -> Any:
    return tf.reshape(tf.reverse(tf.reshape(x, [-1]), [0]), tf.shape(x))


def _negated(x: Any, rng: np.random.Generator) -> Any:
    return -x if x.dtype.is_floating else tf.logical_not(x) if x.dtype.is_bool else tf.zeros_like(x)


def _noise(x: Any, rng: np.random.Generator) -> Any:
    if not x.dtype.is_floating:
        return x if x.dtype.is_bool else x + 1
    return tf.cast(rng.normal(scale=10.0, size=x.shape), x.dtype)


def _leading(graph: Graph, output: int, links: dict[int, set[tuple[int, int]]]) -> set[Any]:
    """Return the slots, and the inputs of calls (call, position), that lead to the output along links."""
    found: set[Any] = {output}
    for number in sorted(links, reverse=True):
        call = graph.calls[number]
        positions = {position for position, k in links[number] if call.outputs[k] in found}
        found.update((number, position) for position in positions)
        found.update(call.inputs[position] for position in positions)
    return found


def _named(call: Call) -> str:
    return f"'{call.name}' ({call.kind})"


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
