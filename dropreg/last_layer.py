"""The last layer, which learns along while masks are drawn.

Merging fits the last layer of the smaller network to the whole network's predictions (`dropreg.merging`), which makes
up for much of what is lost, for some selections more than for others. What counts is the outcome afterwards, the
least over the last layer's weights. Its derivative by the mask is that at the best weights, held fixed (the envelope
theorem), so weights that follow the masks suffice.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from .graph import Call

_STEP = 0.02


class LastLayer:
    """Weights of a model's last layer that stand in for its own; the layer itself is as it was.

    Parameters
    ----------
    layer : keras.layers.Dense
        With a bias.

    Attributes
    ----------
    weights : list of keras.Variable
        Kernel and bias, which start as those of the layer.
    """

    def __init__(self, layer: keras.layers.Dense) -> None:
        self._own: list[Any] = list(layer.weights)
        self.weights = [keras.Variable(variable.numpy(), dtype=variable.dtype) for variable in self._own]
        size = float(np.sqrt(np.mean(np.square(self.weights[0].numpy()))))
        self._optimizer = keras.optimizers.Adam(max(_STEP * size, 1e-8), beta_2=0.99)

    @classmethod
    def of(cls, calls: Sequence[Call]) -> "LastLayer | None":
        """That of the last dense layer among `calls`, None where merging fits none.

        Merging fits one that is called once, for whole examples, and has a bias.
        """
        dense = [call for call in calls if isinstance(call.layer, keras.layers.Dense)]
        if not dense:
            return None
        last = dense[-1]
        called = sum(call.layer is last.layer for call in dense)
        fits = called == 1 and last.layer.use_bias and len(last.input_shapes[0]) == 2 and len(last.layer.weights) == 2
        return cls(last.layer) if fits else None

    @property
    def variables(self) -> list[tf.Variable]:
        """What to watch and to differentiate by."""
        return [weight.value for weight in self.weights]

    def replacements(self) -> list[tuple[Any, tf.Tensor]]:
        """The layer's own variables and their values in a stateless scope."""
        return [(own, tf.convert_to_tensor(weight.value)) for own, weight in zip(self._own, self.weights, strict=True)]

    def step(self, gradients: Sequence[Any]) -> None:
        """Go on against `gradients`, by about a fiftieth of the kernel's root mean square (Adam)."""
        self._optimizer.apply([tf.constant(gradient, tf.float32) for gradient in gradients], self.weights)
