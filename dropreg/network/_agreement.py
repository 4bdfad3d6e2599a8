"""Check that the masked network with everything kept computes what the model computes.

All measurements compare with the original model, so a model whose outputs are random, depend on the other examples of a
batch, or differ from those of its own layers cannot be measured. The check runs a few examples once through the model
and once, half of them and with other random numbers, through the masked network.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from .._utils import spread_rows
from ..errors import ModelError
from ..graph import (
    Graph,
    all_layers,
    call_name,
    call_outputs,
    floats_per_row,
    patched,
    quantization_of,
    rows_that_fit,
    seed_states,
)
from ._masked import MaskedNetwork

if TYPE_CHECKING:
    from ..data import Examples
    from ..element import Elements

_MOST_EXAMPLES, _FLOATS = 32, 2**24
_ROUNDING = {"float64": 2.0**-23, "float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10, "int8": 2.0**-7}
_COARSE = 2.0**-4
Recorded = dict[tuple[int, int], list[npt.NDArray[Any]]]
"""The outputs of each call, by the ``id`` of the layer and the number of its call, in order."""


def check_agreement(graph: Graph, elements: "Elements", examples: "Examples") -> None:
    """Raise ModelError, with the layer's name, unless everything kept gives the outputs of ``model.predict``."""
    inputs = few_inputs(graph, examples)
    half = [x[: -(-len(x) // 2)] for x in inputs]
    network = MaskedNetwork(graph, elements, output=examples.output)
    everything = tf.ones([1 if elements.one_mask_a_batch else len(half[0]), len(elements)])
    own = _own_outputs(graph, inputs, seeds=1)[examples.output]
    found = difference(as_numbers(network(half, everything)), as_numbers(own)[: len(half[0])])
    if found > tolerance(graph.model):
        raise ModelError(_diagnosis(network, inputs, half, everything, found))


def few_inputs(graph: Graph, examples: "Examples") -> list[tf.Tensor]:
    """Return the inputs of up to 32 examples, fewer where their activations would be large."""
    floats = floats_per_row(graph, range(len(graph.calls)))
    rows = spread_rows(len(examples), rows_that_fit(floats, budget=_FLOATS, least=2, most=_MOST_EXAMPLES))
    return [tf.convert_to_tensor(x[rows]) for x in examples.inputs]


def tolerance(model: keras.Model) -> float:
    """Return the largest relative difference by rounding: half of the digits of the coarsest dtype in the model."""
    layers = all_layers(model)
    dtypes = {layer.compute_dtype for layer in layers} | {quantization_of(layer) or "float32" for layer in layers}
    return max(_ROUNDING.get(dtype, 0.0 if "int" in dtype else _COARSE) for dtype in dtypes - {None}) ** 0.5


def difference(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Return the largest difference relative to the largest value; infinity where others are not finite."""
    if found.shape != expected.shape:
        return np.inf
    finite = np.isfinite(expected)
    if not np.array_equal(np.where(finite, 0, expected), np.where(np.isfinite(found), 0, found), equal_nan=True):
        return np.inf
    largest = float(np.abs(expected, where=finite, out=np.zeros(expected.shape)).max(initial=0.0))
    furthest = float(np.abs(np.where(finite, found, 0.0) - np.where(finite, expected, 0.0)).max(initial=0.0))
    return furthest / max(largest, 1e-30)


def as_numbers(value: Any) -> npt.NDArray[np.float64]:
    """Return a tensor as an array of float64."""
    return tf.cast(value, tf.float64).numpy()


def _own_outputs(graph: Graph, inputs: Sequence[tf.Tensor], *, seeds: int = 0) -> list[Any]:
    """Return the model's own outputs; `seeds` is added to the state of its random number generators."""
    changed = [(state, state.value + seeds) for state in seed_states(graph.model)]
    with keras.StatelessScope(changed, collect_losses=True):
        return call_outputs(graph, inputs, training=False)


def _diagnosis(
    network: MaskedNetwork, inputs: list[tf.Tensor], half: list[tf.Tensor], everything: tf.Tensor, found: float
) -> str:
    """Return the error message: the first layer whose outputs differ, why, and what to do."""
    graph, n = network.graph, len(half[0])
    first = _recorded(graph, lambda: _own_outputs(graph, inputs))
    other = _recorded(graph, lambda: _own_outputs(graph, inputs, seeds=1))
    layer = _first_that_differs(graph, other, first)
    if layer is not None:
        return (
            f"{layer} must give the same outputs in each call in inference mode, received random ones: two calls of "
            "`predict` differ, so nothing can be measured. Let its `call` take `training` and skip what is random "
            "where it is False, or rebuild the model without the layer."
        )
    part = _recorded(graph, lambda: _own_outputs(graph, half))
    layer = _first_that_differs(graph, part, {key: [x[:n] for x in values] for key, values in first.items()})
    if layer is not None:
        return (
            f"{layer} must treat every example by itself in inference mode, received outputs that change with the "
            "other examples of a batch: rows with different masks share a batch, so they cannot be measured. Let its "
            "`call` use stored statistics where `training` is False, or rebuild the model without the layer."
        )
    walked = _recorded(graph, lambda: network(half, everything))
    layer = _first_that_differs(graph, walked, part)
    model = f"model '{graph.model.name}' ({type(graph.model).__name__})"
    return (
        f"{layer or model} must compute the same when its layers are called one by one as in `predict`, received "
        f"outputs that differ by {found:.2g} of the largest: it depends on more than its inputs and `training`, or its "
        "class changes how layers are called. Rebuild it as keras.Model(inputs, outputs) of layers that compute all "
        "in their `call`."
    )


def _recorded(graph: Graph, run: Callable[[], Any]) -> Recorded:
    """Run the model and return the outputs of every call inside it."""
    layers = {id(layer): layer for layer in (*all_layers(graph.model)[1:], *(call.layer for call in graph.calls))}
    layers.pop(id(graph.model), None)
    found: Recorded = {}

    def recorder(layer: Any) -> Callable[..., Any]:
        original, count = getattr(layer, call_name(layer)), itertools.count()

        def call(*args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            found[id(layer), next(count)] = list(_arrays(result))
            return result

        return call

    with patched([(layer, call_name(layer), recorder(layer)) for layer in layers.values()]):
        run()
    return found


def _arrays(result: Any) -> Iterator[npt.NDArray[Any]]:
    """Yield the numbers in the result of a call; text and symbolic tensors hold none."""
    for value in keras.tree.flatten(result):
        if (
            isinstance(value, tf.Tensor)
            and hasattr(value, "numpy")
            and (value.dtype.is_floating or value.dtype.is_integer)
        ):
            yield as_numbers(value)


def _first_that_differs(graph: Graph, found: Recorded, expected: Recorded) -> str | None:
    """Return the first layer whose outputs differ, by name and class; None if all agree."""
    layers = {id(layer): layer for layer in (*all_layers(graph.model), *(call.layer for call in graph.calls))}
    limit = tolerance(graph.model)
    for key in (key for key in expected if key in found):
        pairs = itertools.zip_longest(found[key], expected[key], fillvalue=np.zeros(0))
        if any(difference(one, other) > limit for one, other in pairs):
            layer = layers[key[0]]
            return f"layer '{graph.names.get(key[0], layer.name)}' ({type(layer).__name__})"
    return None
