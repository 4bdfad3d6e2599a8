"""What is measured for every row."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .errors import ParameterError

if TYPE_CHECKING:
    import tensorflow as tf

_SMALLEST_PROBABILITY = 1e-7


@dataclass(frozen=True)
class Outcome(ABC):
    """A number for each row, computed from the log-probabilities of the classes.

    Attributes
    ----------
    name : str
        Column in the record.
    greater_is_better : bool
        Direction of the outcome; impacts are positive when losing the element hurts, whichever it is.
    """

    name: ClassVar[str]
    greater_is_better: ClassVar[bool]

    @abstractmethod
    def measure(self, log_probabilities: "tf.Tensor", labels: "tf.Tensor") -> "tf.Tensor":
        """Shape (rows,) float32, from (rows, classes) float32 and (rows,) int64."""


@dataclass(frozen=True)
class Accuracy(Outcome):
    """1 where the label's class has the largest probability, else 0."""

    name: ClassVar[str] = "accuracy"
    greater_is_better: ClassVar[bool] = True

    def measure(self, log_probabilities: "tf.Tensor", labels: "tf.Tensor") -> "tf.Tensor":
        import tensorflow as tf

        return tf.cast(tf.equal(tf.argmax(log_probabilities, axis=1), labels), tf.float32)


@dataclass(frozen=True)
class Loss(Outcome):
    """Cross-entropy in nats: minus the log-probability of the label's class."""

    name: ClassVar[str] = "loss"
    greater_is_better: ClassVar[bool] = False

    def measure(self, log_probabilities: "tf.Tensor", labels: "tf.Tensor") -> "tf.Tensor":
        import tensorflow as tf

        return -tf.gather(log_probabilities, labels, batch_dims=1)


@dataclass(frozen=True)
class Margin(Outcome):
    """Log-probability of the label's class minus the largest other one, in nats (logits agree)."""

    name: ClassVar[str] = "margin"
    greater_is_better: ClassVar[bool] = True

    def measure(self, log_probabilities: "tf.Tensor", labels: "tf.Tensor") -> "tf.Tensor":
        import tensorflow as tf

        own = tf.gather(log_probabilities, labels, batch_dims=1)
        is_label = tf.one_hot(labels, tf.shape(log_probabilities)[1], on_value=True, off_value=False)
        others = tf.where(is_label, log_probabilities.dtype.min, log_probabilities)
        return own - tf.reduce_max(others, axis=1)


_BY_NAME: dict[str, type[Outcome]] = {kind.name: kind for kind in (Accuracy, Loss, Margin)}


def resolve(outcome: str | Outcome) -> Outcome:
    """The outcome with a name, or `outcome` itself.

    Raises
    ------
    ParameterError
        If no outcome has that name.
    """
    if isinstance(outcome, Outcome):
        return outcome
    if outcome not in _BY_NAME:
        raise ParameterError(f"`outcome` must be one of {', '.join(_BY_NAME)}, received {outcome!r}.")
    return _BY_NAME[outcome]()


def resolve_all(outcomes: Sequence[str | Outcome]) -> tuple[Outcome, ...]:
    """Several outcomes, each once."""
    if isinstance(outcomes, str | Outcome):
        outcomes = [outcomes]
    resolved = tuple(resolve(outcome) for outcome in outcomes)
    names = [outcome.name for outcome in resolved]
    if not names or len(set(names)) != len(names):
        raise ParameterError(f"`outcomes` must be one or more different outcomes, received {names}.")
    return resolved


def log_probabilities(outputs: "tf.Tensor", from_logits: bool) -> "tf.Tensor":
    """Log-probabilities (rows, classes) in float32 from a classifier's logits or probabilities."""
    import tensorflow as tf

    outputs = tf.cast(outputs, tf.float32)
    if from_logits:
        return tf.nn.log_softmax(outputs)
    return tf.math.log(tf.clip_by_value(outputs, _SMALLEST_PROBABILITY, 1.0))
