"""Second moments of what layers compute before bias and activation."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ..._utils import Array
from ...data import Examples
from ...graph import Call, Graph, batch_size_of, run_batches
from ._matrices import linear_part, matrix_of
from ._rewrite import Part

_MOST_MOMENTS = 1 << 26
"""Entries of second moments that are kept at once."""


def second_moments(graph: Graph, examples: Examples, parts: Mapping[int, Part]) -> dict[int, Array]:
    """Return the mean of y y' over examples, positions and calls, shape (units, units), by the ``id`` of the layer.

    `parts` are linear layers that compute y from the input of the layer with this ``id``. Examples are read in batches.
    """
    calls = [call for call in graph.calls if id(call.layer) in parts]
    layers = {id(call.layer): parts[id(call.layer)].make(shape=call.input_shapes[0]) for call in calls}
    needed = graph.upstream([call.inputs[0] for call in calls])
    weights = np.ones(len(examples), np.float32) if examples.weights is None else examples.weights

    def products(weight: Any, *inputs: Any) -> list[Any]:
        values: dict[int, Any] = dict(zip(graph.inputs, inputs, strict=True))
        with keras.StatelessScope(collect_losses=True):
            for number in needed:
                call = graph.calls[number]
                values.update(zip(call.outputs, call.run([values[slot] for slot in call.inputs]), strict=True))
            return [_product(layers[id(call.layer)](values[call.inputs[0]]), weight) for call in calls]

    sums = [np.zeros((1, 1))] * len(calls)
    for found in run_batches(products, [weights, *examples.inputs], batch_size_of(graph)):
        sums = [total + np.asarray(one, np.float64) for total, one in zip(sums, found, strict=True)]
    moments: dict[int, Array] = {}
    for call, total in zip(calls, sums, strict=True):
        moments[id(call.layer)] = moments.get(id(call.layer), 0.0) + total / len(examples)
    return moments


def input_moments(graph: Graph, examples: Examples, calls: Mapping[str, Call]) -> dict[str, Array]:
    """Return the mean of x x' over examples, positions and calls, with x what a layer multiplies by its kernel.

    By the keys of `calls`, one call of each layer. Layers are measured together as far as memory allows.
    """
    found: dict[str, Array] = {}
    groups: list[list[str]] = [[]]
    size = 0
    for name, call in calls.items():
        n = len(matrix_of(call)) ** 2
        if groups[-1] and size + n > _MOST_MOMENTS:
            groups.append([])
            size = 0
        groups[-1].append(name)
        size += n
    for names in groups:
        parts = {}
        for name in names:
            call = calls[name]
            parts[id(call.layer)] = linear_part(call, call.layer.name, np.eye(len(matrix_of(call))))
        moments = second_moments(graph, examples, parts) if names else {}
        found |= {name: moments[id(calls[name].layer)] for name in names}
    return found


def _product(y: Any, weight: Any) -> Any:
    """Return the sum of w y y' over examples, and its mean over positions."""
    y = tf.cast(y, tf.float32)
    flat = tf.reshape(y, [tf.shape(y)[0], -1, y.shape[-1]])
    scaled = flat * weight[:, tf.newaxis, tf.newaxis]
    return tf.tensordot(scaled, flat, [[0, 1], [0, 1]]) / tf.cast(tf.shape(flat)[1], tf.float32)
