"""Outcomes that are metrics of a user's own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..data import Prediction
from ..errors import ParameterError
from ._outcomes import Outcome

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf


@dataclass(frozen=True)
class PerExample(Outcome):
    """A metric of your own, computed for every row by itself.

    A record goes on with the same function only. It is known by its code, its defaults and the plain values and
    functions that it encloses, not by arrays that it encloses nor by what it reads by a global name: give a metric
    that depends on such data another name when the data changes.

    Parameters
    ----------
    function : callable
        (labels, outputs) to a tensor of shape (rows,), made of TensorFlow or ``keras.ops`` calls, with
        ``keras.ops.where`` or ``cond`` in place of Python's ``if`` on a tensor, as in a Keras model, or decorated with
        ``tf.function``;
        labels as in `Outcome.measure`, outputs (rows, ..., n_outputs) as the network gives them.
        It sees all positions, those that the model masks included, whose labels are class 0, or zero.
    name : str
    greater_is_better : bool
    differentiable : bool
        Whether `function` has a useful gradient.
    """

    function: Callable[["tf.Tensor", "tf.Tensor"], "tf.Tensor"]
    name: str
    greater_is_better: bool
    differentiable: bool = False

    def measure(self, prediction: Prediction, labels: "tf.Tensor", whole: Prediction) -> "tf.Tensor":
        import tensorflow as tf

        values = tf.convert_to_tensor(self.function(labels, prediction.outputs))
        if values.shape.rank != 1 or not values.shape.is_compatible_with(prediction.outputs.shape[:1]):
            raise ParameterError(
                f"outcome '{self.name}' must return one number for each row, shape (rows,), received shape "
                f"{tuple(values.shape)} for {prediction.outputs.shape[0]} rows: reduce the other axes."
            )
        return tf.cast(values, tf.float32)


@dataclass(frozen=True)
class PerMask(Outcome):
    """A metric of your own that needs several examples, such as F1 or AUC.

    Goes with a design whose `examples_per_mask` is larger than 1. Records go on with the same function only; see
    `PerExample`.

    Parameters
    ----------
    function : callable
        (labels, outputs) to a number; arrays of the examples of one mask.
        It sees all positions, as `PerExample` does.
    name : str
    greater_is_better : bool
    differentiable : bool
        False: such a metric is measured on arrays.
    """

    function: "Callable[[np.ndarray, np.ndarray], float]"
    name: str
    greater_is_better: bool
    differentiable: bool = False

    def measure(self, prediction: Prediction, labels: "tf.Tensor", whole: Prediction) -> "tf.Tensor":
        raise TypeError("PerMask is measured over the examples of a mask, not row by row")

    def measure_mask(self, labels: "np.ndarray", outputs: "np.ndarray") -> float:
        """The metric over the examples of one mask.

        Parameters
        ----------
        labels : ndarray, shape (n_examples, ...)
        outputs : ndarray, shape (n_examples, ..., n_outputs)

        Returns
        -------
        float

        Raises
        ------
        ParameterError
            If it is no single number.
        """
        import numpy as np

        value = np.asarray(self.function(labels, outputs))
        if value.ndim != 0:
            raise ParameterError(
                f"outcome '{self.name}' must return one number for each mask, received shape {value.shape}."
            )
        return float(value)
