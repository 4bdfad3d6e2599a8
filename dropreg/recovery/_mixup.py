"""Mixtures of examples (mixup) as additional inputs for distillation.

A few examples are soon memorized. A teacher can label any input, also mixtures of two examples, and a student that
agrees with the teacher there matches it as a function (Beyer et al. 2022, "Knowledge distillation: A good teacher is
patient and consistent", section 3; mixtures as in Zhang et al. 2018, "mixup: Beyond Empirical Risk Minimization").
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ..graph import call_outputs


def continuous(model: keras.Model, inputs: Sequence[npt.NDArray[Any]]) -> list[bool]:
    """Return for each input (at least one example) whether outputs have a gradient by it; tokens have none."""
    tensors = [tf.convert_to_tensor(x[:1]) for x in inputs]
    floating = [tensor for tensor in tensors if tensor.dtype.is_floating]
    with keras.StatelessScope(collect_losses=True), tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(floating)
        outputs = call_outputs(model, tensors, training=False)
    found = iter(tape.gradient(outputs, floating))
    return [tensor.dtype.is_floating and next(found) is not None for tensor in tensors]


def mixed(
    inputs: Sequence[npt.NDArray[Any]], may_mix: Sequence[bool], share: float, rng: np.random.Generator
) -> tuple[list[npt.NDArray[Any]], npt.NDArray[np.bool_]]:
    """Return a batch in which some examples are mixed with others, and which: r x + (1 - r) x', r uniform in [0, 1).

    Parameters
    ----------
    inputs : sequence of ndarray, shape (n_examples, ...)
        All inputs of an example are mixed in the same proportion and with the same other example.
    may_mix : sequence of bool
        For each input whether it is mixed.
    share : float
        Probability that an example is mixed.
    """
    n_examples = len(inputs[0])
    others = rng.permutation(n_examples)
    weights = np.where(rng.random(n_examples) < share, rng.random(n_examples), 1.0)

    def mix(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        own = weights.astype(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))
        return own * x + (1 - own) * x[others]

    return [mix(x) if may else x for x, may in zip(inputs, may_mix, strict=True)], weights < 1.0
