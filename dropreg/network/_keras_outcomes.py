"""Losses and metrics of Keras as outcomes."""

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data import Prediction
from ..errors import ParameterError
from ._metrics import PerExample, PerMask
from ._outcomes import Outcome, mean_of_row

if TYPE_CHECKING:
    import tensorflow as tf

_THRESHOLDS = ("thresholds", "threshold")
"""Keys of a metric's configuration: it compares outputs with a threshold between 0 and 1."""


@dataclass(frozen=True)
class _Calculation:
    """What Keras computes: a function of labels and outputs, the class it is from, and its configuration."""

    function: Callable[..., Any]
    name: str
    config: str

    @property
    def sparse(self) -> bool:
        """Whether labels are numbers of classes, not one-hot."""
        return "sparse" in self.name.lower()

    @property
    def expects_logits(self) -> bool | None:
        """Whether outputs must be logits, True, or probabilities, False; None if they may be either."""
        config = json.loads(self.config)
        if config.get("from_logits") is None and any(key in config for key in _THRESHOLDS):
            return False
        return config.get("from_logits")


@dataclass(frozen=True)
class KerasOutcome(PerExample):
    """A loss or a mean metric of Keras: the mean over the positions of each row."""

    averages: bool = field(default=True, init=False)

    @property
    def expects_logits(self) -> bool | None:
        calculation: Any = self.function
        return calculation.expects_logits

    def measure(self, prediction: Prediction, labels: "tf.Tensor", original: Prediction) -> "tf.Tensor":
        import tensorflow as tf

        calculation: Any = self.function
        outputs = prediction.outputs
        if prediction.task == "classes" and not calculation.sparse:
            labels = tf.one_hot(labels, outputs.shape[-1])
        values = calculation.function(labels, outputs)
        values = tf.cast(tf.convert_to_tensor(values), tf.float32)
        if values.shape.rank != outputs.shape.rank - 1:
            raise ParameterError(
                f"outcome '{self.name}' ({calculation.name}) must give one number for each example or position, "
                f"received shape {tuple(values.shape)} for outputs of shape {tuple(outputs.shape)}: wrap a function as "
                "dropreg.outcomes.PerExample."
            )
        return mean_of_row(values, prediction)


@dataclass(frozen=True)
class KerasMaskOutcome(PerMask):
    """A metric of Keras that is no mean over examples, such as AUC: measured by a new metric on each mask."""

    @property
    def expects_logits(self) -> bool | None:
        calculation: Any = self.function
        return calculation.expects_logits


@dataclass(frozen=True)
class _Stateful(_Calculation):
    """A metric with a state; `function` makes a new one."""

    def __call__(self, labels: np.ndarray, outputs: np.ndarray, sample_weight: np.ndarray | None = None) -> Any:
        metric = self.function()
        if labels.ndim < outputs.ndim and not self.sparse:
            labels = np.eye(outputs.shape[-1])[labels]
        metric.update_state(labels, outputs, sample_weight=sample_weight)
        return np.asarray(metric.result())


def from_keras(given: Any) -> Outcome | None:
    """Return the outcome that measures a loss, a loss function or a metric of Keras; None if `given` is none of them.

    Raises ParameterError where the meaning is not clear: objects that Keras does not define, metrics that do not say
    whether more is better.
    """
    import keras

    calculation: Any
    if isinstance(given, keras.losses.Loss):
        _check_known(given)
        calculation = _Calculation(given.call, type(given).__name__, _configuration(given))
        return KerasOutcome(calculation, given.name, greater_is_better=False, differentiable=True)
    name = getattr(given, "__name__", "")
    if inspect.isfunction(given) and getattr(keras.losses, name, None) is given:
        config = {"from_logits": False} if "from_logits" in inspect.signature(given).parameters else {}
        calculation = _Calculation(given, name, json.dumps(config))
        return KerasOutcome(calculation, name, greater_is_better=False, differentiable=True)
    return _of_metric(given) if isinstance(given, keras.metrics.Metric) else None


def _of_metric(metric: Any) -> Outcome:
    """Return the outcome of a metric object."""
    from ..graph import metric_direction, metric_function

    _check_known(metric)
    name, kind, direction = metric.name, type(metric).__name__, metric_direction(metric)
    function = metric_function(metric)
    if direction is None or kind == "Accuracy":
        wrapper = "PerMask" if function is None else "PerExample"
        raise ParameterError(
            f"`outcome` must say of a model's outputs what is better, received keras.metrics.{kind}, which does "
            f"not: wrap a function as dropreg.outcomes.{wrapper}(function, {name!r}, greater_is_better=True), or pass "
            "a name such as 'accuracy'."
        )
    if function is None:
        build, config = type(metric).from_config, metric.get_config()
        stateful = _Stateful(lambda: build(config), kind, _configuration(metric))
        return KerasMaskOutcome(stateful, name, greater_is_better=direction)
    import keras

    smooth = getattr(keras.losses, getattr(function.func, "__name__", ""), None) is function.func
    calculation: Any = _Calculation(function, kind, _configuration(metric))
    return KerasOutcome(calculation, name, direction, differentiable=smooth)


def _check_known(given: Any) -> None:
    """Raise ParameterError for objects of classes that Keras does not define, whose labels may be of any form."""
    if type(given).__module__.partition(".")[0] != "keras":
        raise ParameterError(
            f"`outcome` must be a loss or metric that Keras defines, received {type(given).__name__}, a class of your "
            "own: wrap a function as dropreg.outcomes.PerExample(function, name, greater_is_better), or PerMask if it "
            "needs several examples."
        )


def _configuration(given: Any) -> str:
    """Return the configuration as text that is equal in every process."""
    return json.dumps({**given.get_config(), "name": None}, sort_keys=True, default=str)
