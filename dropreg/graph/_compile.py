"""Functions compiled to graphs."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf


def compiled(function: Callable[..., Any], specs: Sequence[Any] | None = None) -> Any:
    """`function` as a graph for arguments like `specs`, traced as it stands.

    As in Keras' own `fit` and `predict`, Python's `if` and loops are not translated for tensors, neither here nor in
    metrics that it calls: reading and translating their source would add to the time of every first call.
    """
    return tf.function(function, input_signature=specs, autograph=False)


_FEW = 2
"""So many runs end sooner as they are than a graph is made for them."""
_SMALL = 1 << 14
"""Numbers in the inputs of these; a run as it is holds all activations until it ends, a graph what it still needs."""


def traced(function: Callable[..., Any], *arrays: Any, runs: int | None = None) -> Callable[..., Any]:
    """`function` as a graph for arrays or tensors like these, lists of them included, with any number of rows.

    As it is where it will run so few times (`runs`, if that is known) on so few numbers that a graph would not pay.
    """
    if runs is not None and runs <= _FEW and sum(math.prod(x.shape) for x in tf.nest.flatten(arrays)) <= _SMALL:
        return function
    specs: Any = tf.nest.map_structure(lambda x: tf.TensorSpec([None, *x.shape[1:]], x.dtype), arrays)
    return compiled(function, specs).get_concrete_function()


def run_batches(function: Callable[..., Any], arrays: Sequence[Any], batch_size: int) -> Iterator[list[Any]]:
    """Run ``function(*batch)``, compiled, on consecutive batches of arrays; yields its flattened results as tensors."""
    starts = range(0, len(arrays[0]), batch_size)
    run = traced(lambda *batch: tf.nest.flatten(function(*batch)), *arrays, runs=len(starts))
    for start in starts:
        yield run(*(tf.convert_to_tensor(array[start : start + batch_size]) for array in arrays))


def map_batches(function: Callable[..., Any], arrays: Sequence[Any], batch_size: int) -> list[npt.NDArray[Any]]:
    """Results of `run_batches`, joined along the first axis."""
    parts = [[np.asarray(result) for result in results] for results in run_batches(function, arrays, batch_size)]
    return [np.concatenate(results) for results in zip(*parts, strict=True)]
