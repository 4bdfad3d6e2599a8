"""Count the numbers that the calls of a model hold for one example, and choose batches that fit into memory.

The outputs of a built-in layer are what it holds. A call of a layer with layers inside, of a subclassed model or of a
layer class of one's own holds more than its outputs: its operations are traced, and their results counted.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import keras
import tensorflow as tf

from ._calls import Call, Graph
from ._compile import compiled

MOST_FLOATS = 2**28
"""Largest number of floats (1 GiB) for the activations of one batch."""
_ROWS = 7919
"""Rows of the traced batch: a prime, so that sizes of activations are its multiples and those of weights are not."""
_VIEWS = {"ExpandDims", "Identity", "PreventGradient", "Reshape", "Squeeze", "StopGradient"}
_IN_PLACE = {
    *("Add", "AddV2", "BiasAdd", "Elu", "Erf", "Exp", "LeakyRelu", "Log", "Maximum", "Minimum", "Mul", "Neg", "Pow"),
    *("RealDiv", "Relu", "Relu6", "Rsqrt", "Selu", "Sigmoid", "Softmax", "Softplus", "Sqrt", "Square", "Sub", "Tanh"),
}
_COUNTED: WeakKeyDictionary[Any, tuple[Any, dict[int, int]]] = WeakKeyDictionary()


def floats_per_row(graph: Graph, numbers: Iterable[int]) -> int:
    """Return the floats that the calls with these numbers hold for one example; unknown sizes count as 1."""
    inside = _inside(graph)
    return sum(inside.get(number, _of_outputs(graph.calls[number])) for number in numbers)


def rows_that_fit(floats: int, *, budget: int, least: int, most: int) -> int:
    """Return how many rows of `floats` each make up `budget` floats, from `least` to `most`.

    There are fewer than `least` rows, but at least one, where they would need more than `MOST_FLOATS`.
    """
    floats = max(floats, 1)
    return min(max(budget // floats, min(least, max(MOST_FLOATS // floats, 1))), most)


def size_of(shape: Sequence[int | None]) -> int:
    """Return the size of one row of a tensor of this shape, batch axis included; unknown sizes count as 1."""
    return math.prod(size or 1 for size in shape[1:])


def _of_outputs(call: Call) -> int:
    return sum(size_of(shape) for shape in call.output_shapes)


def _holds_more(call: Call) -> bool:
    """Return whether a call can hold more than its outputs."""
    return len(call.layers()) > 1 or not type(call.layer).__module__.startswith("keras.")


def _inside(graph: Graph) -> dict[int, int]:
    """Return the floats of each call that holds more than its outputs, at least those; cached for each model."""
    holding = [number for number, call in enumerate(graph.calls) if _holds_more(call)]
    structure = [(id(call.layer), call.inputs, call.outputs) for call in graph.calls]
    known, found = _COUNTED.get(graph.model, (None, None))
    if found is None or known != structure:
        found = _traced(graph, holding) if holding else {}
        _COUNTED[graph.model] = structure, found
    return found


def _traced(graph: Graph, holding: Sequence[int]) -> dict[int, int]:
    """Run the calls that lead to those of `holding` on symbolic tensors, and count the results of operations."""
    rows = graph.shapes[graph.inputs[0]][0] or _ROWS
    shapes = [graph.shapes[slot][1:] for slot in graph.inputs]
    dtypes = [dtype or graph.traced_dtype for dtype in graph.input_dtypes]
    specs = [tf.TensorSpec([rows, *shape], dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    names: dict[int, list[str]] = {}

    def run(*inputs: Any) -> None:
        values, here = dict(zip(graph.inputs, inputs, strict=True)), tf.compat.v1.get_default_graph()
        for number in graph.upstream(slot for k in holding for slot in graph.calls[k].outputs):
            call, before = graph.calls[number], len(here.get_operations())
            values.update(zip(call.outputs, call.run([values[slot] for slot in call.inputs]), strict=True))
            names[number] = [operation.name for operation in here.get_operations()[before:]]

    with keras.StatelessScope(collect_losses=True):
        traced = compiled(run, specs).get_concrete_function().graph.as_graph_def(add_shapes=True)
    bodies = {function.signature.name: _Nodes(function.node_def, rows) for function in traced.library.function}
    top = _Nodes(traced.node, rows)
    return {k: max(top.floats(names[k], bodies), _of_outputs(graph.calls[k])) for k in holding}


class _Nodes:
    """The operations of a graph or of the body of a loop, for batches of `rows`."""

    def __init__(self, nodes: Iterable[Any], rows: int) -> None:
        self._nodes, self._rows = {node.name: node for node in nodes}, rows
        self._shapes = {
            name: [[axis.size for axis in shape.dim] for shape in node.attr["_output_shapes"].list.shape]
            for name, node in self._nodes.items()
        }
        read = (name for node in self._nodes.values() for name in node.input)
        self._consumers = Counter(_producer(name) for name in read if not name.startswith("^"))

    def floats(self, names: Iterable[str], bodies: dict[str, "_Nodes"]) -> int:
        """Return the floats for one row in the results of operations, without those that overwrite their input."""
        total = 0
        for name in names:
            node = self._nodes[name]
            if node.op not in _VIEWS and not self._is_in_place(name):
                total += sum(self._floats(shape) for shape in self._shapes[name])
            if node.op in ("While", "StatelessWhile"):
                body = bodies[node.attr["body"].func.name]
                total += self._steps(node) * body.floats(list(body._nodes), bodies)
        return total

    def _floats(self, shape: Sequence[int]) -> int:
        """Return the size of a tensor for one row, 0 where it has no axis of rows; unknown axes are -1."""
        size = math.prod(max(n, 1) for n in shape)
        return 0 if size % self._rows else size // self._rows

    def _is_in_place(self, name: str) -> bool:
        """Return whether an elementwise operation can overwrite an input that no other operation consumes."""
        node = self._nodes[name]
        read = map(_producer, node.input)
        same = (x for x in read if self._consumers[x] == 1 and self._shapes.get(x) == self._shapes[name])
        return node.op in _IN_PLACE and any(same)

    def _steps(self, loop: Any) -> int:
        """Return the number of steps of the sequences that a loop runs over; unknown numbers count as 1."""
        sources = [self._nodes[x] for x in map(_producer, loop.input) if x in self._nodes]
        lists = [_producer(node.input[0]) for node in sources if node.op == "TensorListFromTensor"]
        return max((self._shapes[name][0][0] for name in lists if name in self._shapes), default=1)


def _producer(name: str) -> str:
    """Return the operation that computes the input `name` of another: "add" for "add:0" and "^add"."""
    return name.lstrip("^").partition(":")[0]
