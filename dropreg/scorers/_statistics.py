"""What is known of units without masking them: the kernels beside them and the activations that are read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .._utils import Array
from ..element import Elements, Gate
from ..errors import ModelError, ParameterError
from ..network import Question

if TYPE_CHECKING:
    from ..graph import Call

UNITS = {"neuron", "filter"}
_BATCH = 500


def check_units(elements: Elements, what: str, kinds: str = "neurons and filters") -> None:
    """Raise ParameterError unless all elements are units of layers, and ModelError if nobody knows who reads them."""
    if any(gate.where == "output" for gate in elements.inner_gates):
        raise ModelError(
            f"{what} must know which layers read a unit, received elements of a subclassed model, whose graph lies in "
            "Python code: rebuild it as keras.Model(inputs, outputs), or use a scorer that measures, such as "
            "leave_one_out."
        )
    others = sorted(set(elements.kinds) - UNITS)
    if others:
        raise ParameterError(
            f"{what} is defined for {kinds}, received elements of kind {', '.join(others)}: use a scorer that measures "
            "or differentiates, such as leave_one_out or taylor."
        )


def are_weights(elements: Elements) -> bool:
    """Whether all elements are weights or groups of them."""
    return bool(elements.inner_gates) and not elements.gates and all(g.where == "kernel" for g in elements.inner_gates)


def weight_squares(model: Any, elements: Elements, factors: Any = None) -> Array:
    """Sum of squares of each element's weights, shape (n_elements,), times `factors` (gate, value) if given."""
    from ..graph import all_layers, variables_of

    layers, total = all_layers(model), np.zeros(len(elements))
    for gate in elements.inner_gates:
        layer = layers[gate.layer]
        value = np.asarray(variables_of(layer)[gate.variable].value, np.float64)
        squares = value**2 if factors is None else value**2 * factors(layer, value)
        total += by_element(gate.columns, squares.reshape(-1), len(elements))
    return total


@dataclass(frozen=True)
class Reader:
    """A call that reads elements, and its kernel by input channel.

    Attributes
    ----------
    gate : Gate
    outgoing : ndarray of float64, shape (channels,)
        Sum of squared weights on each input channel.
    """

    gate: Gate
    outgoing: Array


def readers(model: Any, elements: Elements) -> Iterator[Reader]:
    """The readers of elements; a shared layer once for each call."""
    from ..graph import trace_graph
    from ..layers import kernel_of

    graph = trace_graph(model)
    for gate in elements.gates:
        yield Reader(gate, kernel_of(graph.calls[gate.call].layer).outgoing)


def incoming_squares(model: Any, elements: Elements) -> Array:
    """Sum of squared weights that compute each element's units, shape (n_elements,)."""
    from ..graph import all_layers, trace_graph
    from ..layers import kernel_of

    graph = trace_graph(model)
    layers = {graph.names.get(id(layer), layer.name): layer for layer in all_layers(graph.model)}
    squares = {name: kernel_of(layers[name]).incoming for name in {n for tied in elements.members for n, _ in tied}}
    return np.array([sum(squares[name][index] for name, index in tied) for tied in elements.members])


def outgoing_squares(model: Any, elements: Elements) -> Array:
    """Sum of squared weights that read each element, shape (n_elements,); those of a shared layer once."""
    from ..graph import trace_graph

    graph, total, seen = trace_graph(model), np.zeros(len(elements)), set()
    for reader in readers(graph, elements):
        layer = id(graph.calls[reader.gate.call].layer)
        if layer not in seen:
            seen.add(layer)
            total += by_element(reader.gate.columns, reader.outgoing, len(elements))
    return total


def by_element(columns: npt.NDArray[np.int64], values: Array, n_elements: int) -> Array:
    """Values of channels summed by element, shape (n_elements,)."""
    gated = columns >= 0
    return np.bincount(columns[gated], weights=values[gated], minlength=n_elements).astype(np.float64)


@dataclass(frozen=True)
class Activations:
    """Moments of what is read at one gate.

    Attributes
    ----------
    mean, mean_square, nonzero : ndarray of float64, shape (channels,)
        Over examples and positions; `nonzero` is the fraction that is not zero.
    """

    mean: Array
    mean_square: Array
    nonzero: Array


def activations(question: Question) -> list[Activations]:
    """Moments at every gate of the whole network, over all examples, one forward pass each."""
    calls = question.graph.calls
    read = [calls[gate.call] for gate in question.elements.gates]
    positions = [gate.position for gate in question.elements.gates]
    return moments_at(question, read, positions)


def input_squares(question: Question) -> dict[int, Array]:
    """Mean square of each input channel, by the ``id`` of the layers with a kernel among the inner gates."""
    from ..graph import all_layers

    layers = all_layers(question.model)
    gated = {id(layers[gate.layer]) for gate in question.elements.inner_gates}
    calls = [call for call in question.graph.calls if id(call.layer) in gated]
    found: dict[int, Array] = {}
    for call, moments in zip(calls, moments_at(question, calls, [0] * len(calls)), strict=True):
        found[id(call.layer)] = found.get(id(call.layer), 0.0) + moments.mean_square
    return found


def moments_at(question: Question, calls: Sequence["Call"], positions: Sequence[int]) -> list[Activations]:
    """Moments of what calls of the whole network read, each at one of its inputs, over all examples."""
    import tensorflow as tf

    from ..graph import channel_means, counted_steps, with_counted
    from ..network import MaskedNetwork

    def moments(values: dict[int, Any]) -> list[tf.Tensor]:
        found = []
        for call, position in zip(calls, positions, strict=True):
            read = values[call.inputs[position]]
            value = tf.cast(read, tf.float32)
            parts = value, tf.square(value), tf.cast(tf.not_equal(value, 0.0), tf.float32)
            found.append(tf.stack([channel_means(with_counted(part, counted_steps(read))) for part in parts]))
        return found

    network = MaskedNetwork(question.graph, question.elements)
    return [Activations(*total) for total in network.average(moments, question.examples, _BATCH)]
