"""Refit the last layer jointly with the masks.

Merging refits the last layer of the smaller model to the original model's predictions (`dropreg.surgery`), which
compensates for much of the loss, for some selections more than for others. The relevant outcome is therefore the
minimum over the last layer's weights. Its derivative with respect to the mask is the derivative at the optimal weights,
held fixed (envelope theorem), so it is enough that the weights follow the masks.

They follow by steps that decrease the divergence for any masks: its second derivatives by the layer's outputs are
bounded (by 1/2 for a softmax [1]_), so a Newton step with this bound as curvature is never too long. Steps become small
as the fit converges, so the weights settle where almost no element is dropped.

References
----------
.. [1] Böhning, Lindsay (1988), "Monotonicity of Quadratic-Approximation Algorithms", Annals of the Institute of
   Statistical Mathematics 40, section 5; Böhning (1992), "Multinomial Logistic Regression Algorithm", same journal 44.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .._utils import Array
from ..graph import Call
from ..layers import LinearReader, readout, rule_for

_RIDGE = 0.01


class LastLayer:
    """Weights that replace those of a model's last layer in masked runs; the layer itself is not changed.

    Parameters
    ----------
    layer : keras.layers.Layer
        With a kernel and a bias, such as Dense.
    moments : ndarray of float64, shape (inputs + 1, inputs + 1)
        Mean products of its inputs, extended by a constant 1, over examples and positions.

    Attributes
    ----------
    weights : list of keras.Variable
        Kernel and bias, initially the layer's own.
    """

    def __init__(self, layer: keras.layers.Layer, moments: Array) -> None:
        self._own: list[Any] = list(layer.weights)
        self.weights: list[keras.Variable] = [
            keras.Variable(variable.numpy(), dtype=variable.dtype) for variable in self._own
        ]
        diagonal = np.diag(moments)
        spread = np.maximum(diagonal, 1e-6 * diagonal.max())
        self._inverse = np.linalg.inv(moments + _RIDGE * np.diag(spread))

    @staticmethod
    def call_among(calls: Sequence[Call]) -> Call | None:
        """Return the call of the last layer with a kernel among `calls`, None if merging does not refit it.

        Merging refits a layer that is called once, treats every position separately, has a bias, and computes the
        result of the last call up to an activation.
        """
        readers = [call for call in calls if isinstance(rule_for(call.layer), LinearReader)]
        if not readers:
            return None
        last = readers[-1]
        called = sum(call.layer is last.layer for call in readers)
        gives_all = last.output_shapes == calls[-1].output_shapes
        return last if called == 1 and gives_all and readout(rule_for(last.layer), last) is not None else None

    @property
    def variables(self) -> list[tf.Variable]:
        """The weights as TensorFlow variables, to differentiate by."""
        return [weight.value for weight in self.weights]

    def replacements(self) -> list[tuple[Any, tf.Tensor]]:
        """Return the layer's own variables and the values that replace them in a stateless scope."""
        return [(own, tf.convert_to_tensor(weight.value)) for own, weight in zip(self._own, self.weights, strict=True)]

    def step(self, gradients: Sequence[Any], curvature: float, rows: int) -> None:
        """Take a descent step along the mean `gradients` by kernel and bias over `rows` rows.

        `curvature` bounds the second derivatives of the objective by the layer's outputs. With few rows and many inputs
        the gradient is noisy, so the step is multiplied by rows / (rows + inputs).
        """
        by_kernel = np.reshape(gradients[0], (-1, len(gradients[1])))
        gradient = np.concatenate([by_kernel, gradients[1][np.newaxis]]).astype(np.float64)
        change = self._inverse @ gradient * (rows / (rows + len(gradient)) / curvature)
        for weight, part in zip(self.weights, (change[:-1], change[-1]), strict=True):
            weight.assign(weight.numpy() - np.reshape(part, weight.shape))
