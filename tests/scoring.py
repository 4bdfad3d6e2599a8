"""What tests of scorers share: models with data, losses of masks computed anew, and elements of one mask a batch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import models
import numpy as np
import tensorflow as tf

import dropreg as dr
from dropreg.network._masked import MaskedNetwork

GRID = sorted(models.BUILDERS)


OF_UNITS = sorted(set(GRID) - {"recurrent", "bidirectional", "encoder_decoder"})
"""Models whose elements are neurons and filters, read by layers whose kernels are known by channel."""


Labelled = tuple[Any, np.ndarray]


N = 6


@dataclass(frozen=True)
class OneMask(dr.Elements):
    """Units that take one mask a batch, as weights do."""

    @property
    def one_mask_a_batch(self) -> bool:
        return True


def one_mask(elements: dr.Elements) -> OneMask:
    return OneMask(**{name: getattr(elements, name) for name in dr.Elements.__dataclass_fields__})


def losses(network: MaskedNetwork, data: Labelled, mask: Any) -> tf.Tensor:
    """Cross-entropy of every example under one mask (n_elements,), written anew."""
    x, y = data
    inputs = x if isinstance(x, list) else [x]
    outputs = network(inputs, tf.broadcast_to(mask, [len(y), len(network.elements)]))
    if network.graph.calls[-1].name == "out" and np.allclose(np.sum(outputs, axis=-1), 1.0, atol=1e-4):
        outputs = tf.math.log(outputs)
    return tf.reduce_mean(tf.reshape(tf.nn.sparse_softmax_cross_entropy_with_logits(y, outputs), [len(y), -1]), axis=1)


def given(
    name: str, n: int = N, make: Callable[[str], keras.Model] = models.ready
) -> tuple[keras.Model, Labelled, dr.Elements, MaskedNetwork]:
    model = make(name)
    elements = dr.elements(model)
    return model, models.data_for(model, n), elements, MaskedNetwork(model, elements)


def without(n_elements: int, *dropped: int) -> np.ndarray:
    mask = np.ones(n_elements, np.float32)
    mask[list(dropped)] = 0.0
    return mask
