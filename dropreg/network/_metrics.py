"""Outcomes that are user-defined metrics."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .._utils import check_version
from ..data import Prediction
from ..errors import ParameterError
from ._outcomes import Outcome

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class PerExample(Outcome):
    """A user-defined metric of single rows.

    A run in a folder resumes only with the same function. It is compared by its code and by what it uses: defaults,
    closure, global variables and helper functions, and the data that they hold. Where some of it cannot be compared,
    such as a compiled function or an open file, `version` identifies the function instead.

    Parameters
    ----------
    function : callable
        ``function(labels, outputs)`` returns a tensor of shape (rows,). Labels are as in `Outcome.measure`, outputs
        (rows, ..., n_outputs) as the network returns them, at all positions; positions that the model masks have the
        first class as label. The function is made of TensorFlow or ``keras.ops`` calls, not of NumPy, with
        ``keras.ops.where`` or ``cond`` in place of Python's ``if`` on a tensor, or is decorated with ``tf.function``.
    name : str
    greater_is_better : bool
    differentiable : bool
        Whether `function` has a useful gradient.
    version : str, optional
        Identifies the values of the metric in the place of its code and data: choose another whenever they change.

    Raises
    ------
    ParameterError
        If `version` is neither None nor a string that is not empty.

    Examples
    --------
    >>> import keras
    >>> import dropreg as dr
    >>> def in_top_3(labels, outputs):
    ...     return keras.ops.in_top_k(labels, outputs, k=3)
    >>> metric = dr.outcomes.PerExample(in_top_3, "top 3", greater_is_better=True)
    >>> model, data = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
    >>> dr.sample(model, data, dr.elements(model), rows=200, outcomes=metric).baseline.columns.tolist()
    ['top 3']
    """

    function: Callable[["tf.Tensor", "tf.Tensor"], "tf.Tensor"]
    name: str
    greater_is_better: bool
    differentiable: bool = False
    version: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_version(self.version)

    def measure(self, prediction: Prediction, labels: "tf.Tensor", original: Prediction) -> "tf.Tensor":
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
    """A user-defined metric of several examples, such as F1 or AUC.

    It needs a design with `examples_per_mask` greater than 1. A run resumes only with the same function, see
    `PerExample`. If examples have weights, `function` must have a parameter `sample_weight`, as metrics of scikit-learn
    have, which gets their weights (n_examples,).

    Parameters
    ----------
    function : callable
        ``function(labels, outputs)`` returns a number from the arrays of all examples of one mask, at all positions as
        in `PerExample`.
    name : str
    greater_is_better : bool
    version : str, optional
        As in `PerExample`.

    Raises
    ------
    ParameterError
        If `version` is neither None nor a string that is not empty.

    Examples
    --------
    >>> import dropreg as dr
    >>> def accuracy_of_shirts(labels, outputs):
    ...     return (outputs.argmax(axis=1) == 6)[labels == 6].sum() / max((labels == 6).sum(), 1)
    >>> metric = dr.outcomes.PerMask(accuracy_of_shirts, "shirts", greater_is_better=True)
    >>> sampling = dr.Sampling(design=dr.designs.Bernoulli(0.3, examples_per_mask=50), fidelity=None)
    >>> model, data = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
    >>> dr.sample(model, data, dr.elements(model), rows=200, outcomes=metric, sampling=sampling).to_frame().shape
    (4, 401)
    """

    function: Callable[[np.ndarray, np.ndarray], float]
    name: str
    greater_is_better: bool
    differentiable: bool = field(default=False, init=False)
    version: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_version(self.version)

    def measure(self, prediction: Prediction, labels: "tf.Tensor", original: Prediction) -> "tf.Tensor":
        raise TypeError("PerMask is measured over the examples of a mask, not row by row")

    @property
    def takes_weights(self) -> bool:
        """Whether the function has a parameter ``sample_weight``."""
        return "sample_weight" in inspect.signature(self.function).parameters

    def measure_mask(self, labels: np.ndarray, outputs: np.ndarray, weights: np.ndarray) -> float:
        """Return the metric of labels (n_examples, ...) and outputs (n_examples, ..., n_outputs) of one mask.

        `weights` has shape (n_examples,), or (n_examples, 0) if all are equal. Raises ParameterError if the function
        does not return a single number.
        """
        more = {"sample_weight": weights} if weights.ndim == 1 else {}
        value = np.asarray(self.function(labels, outputs, **more))
        if value.ndim != 0:
            raise ParameterError(
                f"outcome '{self.name}' must return one number for each mask, received shape {value.shape}."
            )
        return float(value)
