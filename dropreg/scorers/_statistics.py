"""Statistics of units without masks: the norms of kernels and the moments of activations."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._utils import Array
from ..element import Elements, Gate
from ..errors import ModelError, ParameterError
from ..network import Question

if TYPE_CHECKING:
    from ..graph import Call

_BATCH = 500


def check_units(elements: Elements, what: str, kinds: str = "neurons and filters") -> None:
    """Raise ParameterError unless all elements are units of layers, ModelError if their consumers are not known."""
    if any(gate.where == "output" for gate in elements.inner_gates):
        raise ModelError(
            f"{what} must know which layers consume a unit, received elements of a subclassed model, whose graph is "
            "hidden in Python code: rebuild it as keras.Model(inputs, outputs), or use a scorer that runs the model, "
            "such as leave_one_out."
        )
    others = sorted(set(elements.kinds) - {"neuron", "filter"})
    if others:
        raise ParameterError(
            f"{what} is defined for {kinds}, received elements of kind {', '.join(others)}: use a scorer that runs or "
            "differentiates the model, such as leave_one_out or taylor."
        )


def are_weights(elements: Elements) -> bool:
    """Return whether all elements are weights or groups of weights."""
    return bool(elements.inner_gates) and not elements.gates and all(g.where == "kernel" for g in elements.inner_gates)


def weight_squares(model: Any, elements: Elements, factors: Any = None) -> Array:
    """Return the sum of squares of each element's weights (n_elements,), times ``factors(layer, value)`` if given.

    Of weights with a replacement these are the squares of the changes.
    """
    from ..graph import all_layers, variables_of

    layers, total = all_layers(model), np.zeros(len(elements))
    for gate in elements.inner_gates:
        layer = layers[gate.layer]
        value = np.asarray(variables_of(layer)[gate.variable].value, np.float64)
        if gate.replacement is not None:
            value = value - gate.replacement.values(value)
        squares = value**2 if factors is None else value**2 * factors(layer, value)
        total += by_element(gate.columns, squares.reshape(-1), len(elements))
    return total


def consumers(model: Any, elements: Elements) -> Iterator[tuple[Gate, Any, Array]]:
    """Yield each gate, the layer that consumes its units, and the sum of squared weights of each input channel.

    A shared layer is yielded once for each of its calls.
    """
    from ..graph import trace_graph
    from ..layers import kernel_of

    graph = trace_graph(model)
    for gate in elements.gates:
        layer = graph.calls[gate.call].layer
        yield gate, layer, kernel_of(layer).outgoing


def incoming_squares(model: Any, elements: Elements) -> Array:
    """Return the sum of squared weights that compute each element's units, shape (n_elements,)."""
    from ..graph import all_layers, trace_graph
    from ..layers import kernel_of

    graph = trace_graph(model)
    layers = {graph.names.get(id(layer), layer.name): layer for layer in all_layers(graph.model)}
    squares = {name: kernel_of(layers[name]).incoming for name in {n for tied in elements.members for n, _ in tied}}
    return np.array([sum(squares[name][index] for name, index in tied) for tied in elements.members])


def outgoing_squares(model: Any, elements: Elements) -> Array:
    """Return the sum of squared weights that consume each element (n_elements,); those of a shared layer count once."""
    total, seen = np.zeros(len(elements)), set()
    for gate, layer, outgoing in consumers(model, elements):
        if id(layer) not in seen:
            seen.add(id(layer))
            total += by_element(gate.columns, outgoing, len(elements))
    return total


def by_element(columns: npt.NDArray[np.int64], values: Array, n_elements: int) -> Array:
    """Return the sum over channels of `values` for each element, shape (n_elements,)."""
    gated = columns >= 0
    return np.bincount(columns[gated], weights=values[gated], minlength=n_elements).astype(np.float64)


class Activations(NamedTuple):
    """Moments of the values at one gate over examples and positions, each of shape (channels,)."""

    mean: Array
    mean_square: Array
    nonzero: Array  # fraction of values that are not zero


def activations(question: Question) -> list[Activations]:
    """Return the moments at every gate of the original model over all examples, by one forward pass of each."""
    calls = question.graph.calls
    read = [calls[gate.call] for gate in question.elements.gates]
    return _moments(question, read, [gate.position for gate in question.elements.gates])


def input_squares(question: Question) -> dict[int, Array]:
    """Return the mean square of each input channel, by the ``id`` of each layer whose kernel has elements."""
    from ..graph import all_layers

    layers = all_layers(question.model)
    gated = {id(layers[gate.layer]) for gate in question.elements.inner_gates}
    calls = [call for call in question.graph.calls if id(call.layer) in gated]
    found: dict[int, Array] = {}
    for call, moments in zip(calls, _moments(question, calls, [0] * len(calls)), strict=True):
        found[id(call.layer)] = found.get(id(call.layer), 0.0) + moments.mean_square
    return found


def _moments(question: Question, calls: Sequence["Call"], positions: Sequence[int]) -> list[Activations]:
    """Return the moments of one input of each call in the original model, over all examples."""
    import tensorflow as tf

    from ..graph import channel_means, measured_as
    from ..network import MaskedNetwork

    def moments(values: dict[int, Any]) -> list[tf.Tensor]:
        found = []
        for call, position in zip(calls, positions, strict=True):
            read = values[call.inputs[position]]
            value = tf.cast(read, tf.float32)
            parts = value, tf.square(value), tf.cast(tf.not_equal(value, 0.0), tf.float32)
            found.append(tf.stack([channel_means(measured_as(part, read)) for part in parts]))
        return found

    network = MaskedNetwork(question.graph, question.elements)
    return [Activations(*total) for total in network.average(moments, question.examples, _BATCH)]
