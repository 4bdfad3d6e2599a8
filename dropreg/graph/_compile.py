"""Compile functions to TensorFlow graphs."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf


def compiled(function: Callable[..., Any], specs: Sequence[Any] | None = None) -> Any:
    """Compile `function` to a TensorFlow graph with this input signature; AutoGraph is off, as in Keras' own `fit`.

    Translating Python control flow with AutoGraph would make every first call slower.
    """
    return tf.function(function, input_signature=specs, autograph=False)


_FEW = 2
"""Up to this many runs, eager execution is faster than building a graph first."""
_SMALL = 1 << 14
"""Largest total input size for eager execution, which holds all activations in memory until it ends."""


def traced(function: Callable[..., Any], *arrays: Any, runs: int | None = None) -> Callable[..., Any]:
    """Compile `function` for (nested lists of) arrays like these, with any number of rows.

    Returns `function` itself for so few `runs` on so few numbers that building a graph would take longer.
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
