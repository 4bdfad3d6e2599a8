"""Mixtures of examples, to learn from a teacher what no example shows.

Few examples are soon known by heart. A teacher can be asked about any input, also about one halfway between two
examples, and a student that agrees with it there agrees with it as a function (Beyer et al. 2022, "Knowledge
distillation: A good teacher is patient and consistent", section 3; mixtures as of Zhang et al. 2018, "mixup: Beyond
Empirical Risk Minimization").
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ..graph import call_outputs


def continuous(model: keras.Model, inputs: Sequence[npt.NDArray[Any]]) -> list[bool]:
    """For each input whether outputs have a gradient by it; none have by tokens, of which there are no mixtures.

    Parameters
    ----------
    inputs : sequence of ndarray, shape (n_examples, ...)
        At least one example.
    """
    tensors = [tf.convert_to_tensor(x[:1]) for x in inputs]
    floating = [tensor for tensor in tensors if tensor.dtype.is_floating]
    with keras.StatelessScope(collect_losses=True), tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(floating)
        outputs = call_outputs(model, tensors, training=False)
    found = iter(tape.gradient(outputs, floating))
    return [tensor.dtype.is_floating and next(found) is not None for tensor in tensors]


def mixed(
    inputs: Sequence[npt.NDArray[Any]], may_mix: Sequence[bool], share: float, rng: np.random.Generator
) -> list[npt.NDArray[Any]]:
    """A batch in which some examples are mixed with others of it: r x + (1 - r) x', with r uniform in [0, 1).

    Parameters
    ----------
    inputs : sequence of ndarray, shape (n_examples, ...)
        Those of one example are mixed in the same proportion and with the same other example.
    may_mix : sequence of bool
        For each input whether it is mixed; the others stay.
    share : float
        Chance of an example to be mixed.
    """
    n_examples = len(inputs[0])
    others = rng.permutation(n_examples)
    weights = np.where(rng.random(n_examples) < share, rng.random(n_examples), 1.0)

    def mix(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        own = weights.astype(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))
        return own * x + (1 - own) * x[others]

    return [mix(x) if may else x for x, may in zip(inputs, may_mix, strict=True)]
