"""The last layer, which learns along while masks are drawn.

Merging fits the last layer of the smaller network to the whole network's predictions (`dropreg.surgery`), which makes
up for much of what is lost, for some selections more than for others. What counts is the outcome afterwards, the
least over the last layer's weights. Its derivative by the mask is that at the best weights, held fixed (the envelope
theorem), so weights that follow the masks suffice.

They follow by steps that go down whatever the masks: the second derivatives of the divergence by the layer's outputs
are bounded (by 1/2 for a softmax [1]_), so a Newton step with the bound in their place never goes too far. Such a step
is as small as what is left to learn, so that weights come to rest where next to nothing is dropped.

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
    """Weights of a model's last layer that stand in for its own; the layer itself is as it was.

    Parameters
    ----------
    layer : keras.layers.Layer
        With a kernel and a bias, such as Dense.
    moments : ndarray of float64, shape (inputs + 1, inputs + 1)
        Mean products of what it reads, and of 1, over examples and positions.

    Attributes
    ----------
    weights : list of keras.Variable
        Kernel and bias, which start as those of the layer.
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
        """The call of the last layer with a kernel among `calls`, None where merging fits none.

        Merging fits one that is called once, treats every position by itself, has a bias, and gives what the last of
        the calls gives, up to an activation.
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
        """What to watch and to differentiate by."""
        return [weight.value for weight in self.weights]

    def replacements(self) -> list[tuple[Any, tf.Tensor]]:
        """The layer's own variables and their values in a stateless scope."""
        return [(own, tf.convert_to_tensor(weight.value)) for own, weight in zip(self._own, self.weights, strict=True)]

    def step(self, gradients: Sequence[Any], curvature: float, rows: int) -> None:
        """Go on against the mean `gradients` by kernel and bias of so many rows.

        `curvature` bounds the second derivatives of what they differentiate by the layer's outputs. Few rows tell
        little of many inputs: the step is rows / (rows + inputs) of what would be safe with all.
        """
        by_kernel = np.reshape(gradients[0], (-1, len(gradients[1])))
        gradient = np.concatenate([by_kernel, gradients[1][np.newaxis]]).astype(np.float64)
        change = self._inverse @ gradient * (rows / (rows + len(gradient)) / curvature)
        for weight, part in zip(self.weights, (change[:-1], change[-1]), strict=True):
            weight.assign(weight.numpy() - np.reshape(part, weight.shape))
