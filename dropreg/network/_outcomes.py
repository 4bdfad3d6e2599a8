"""What is measured for every row."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..data import Prediction, Task
from ..errors import DataError, ParameterError

if TYPE_CHECKING:
    import numpy as np
    import tensorflow as tf

_BANDWIDTH = 0.2


class Outcome(ABC):
    """A number for each row.

    Attributes
    ----------
    name : str
        Column in the record.
    greater_is_better : bool
        Direction of the outcome; impacts are positive when losing the element hurts, whichever it is.
    needs_labels : bool
        False where the outcome compares with the whole model only.
    needs_classes : bool
        Whether the outcome makes no sense for a regression.
    differentiable : bool
        Whether `surrogate` has a gradient.
    averages : bool
        Whether a row's outcome is the mean of those of its positions, where outputs have any.
    """

    name: str
    greater_is_better: bool
    needs_labels: bool = True
    needs_classes: bool = False
    differentiable: bool = True
    averages: bool = False

    @abstractmethod
    def measure(self, prediction: Prediction, labels: "tf.Tensor", whole: Prediction) -> "tf.Tensor":
        """Measure rows.

        Parameters
        ----------
        prediction : Prediction
            Of the masked network.
        labels : Tensor, shape (rows, ...) int64 for classes, (rows, ..., n_outputs) float32 otherwise
        whole : Prediction
            Of the whole network, for the same examples.

        Returns
        -------
        Tensor of float32, shape (rows,)
        """

    def surrogate(self, prediction: Prediction, labels: "tf.Tensor", whole: Prediction) -> "tf.Tensor":
        """What is differentiated in its place; by default the outcome itself.

        Parameters
        ----------
        prediction, labels, whole
            As in `measure`.

        Returns
        -------
        Tensor of float32, shape (rows,)
        """
        return self.measure(prediction, labels, whole)


class Accuracy(Outcome):
    """Fraction of right decisions of a row: 0 or 1, for several labels or positions the mean over them.

    A step in the margin has no useful gradient, so its surrogate is the logistic function of the
    margin over a bandwidth of 0.2 nats: the derivative of the expected accuracy is that of the margin
    where the margin is zero, and this is its kernel estimate.
    """

    name = "accuracy"
    greater_is_better = True
    needs_classes = True
    averages = True

    def measure(self, prediction: Prediction, labels: "tf.Tensor", whole: Prediction) -> "tf.Tensor":
        return _mean(self._right(prediction, labels), prediction)

    def surrogate(self, prediction: Prediction, labels: "tf.Tensor", whole: Prediction) -> "tf.Tensor":
        return _mean(self._nearly_right(prediction, labels), prediction)

    def _right(self, prediction: Prediction, labels: "tf.Tensor") -> "tf.Tensor":
        """Whether decisions are right, 0 or 1, in the shape of `labels`."""
        import tensorflow as tf

        if prediction.task == "classes":
            return tf.cast(tf.equal(tf.argmax(prediction.outputs, axis=-1), labels), tf.float32)
        return tf.cast(tf.equal(prediction.logits() > 0, labels > 0.5), tf.float32)

    def _nearly_right(self, prediction: Prediction, labels: "tf.Tensor") -> "tf.Tensor":
        """What is differentiated in place of `_right`, in (0, 1), of the same shape."""
        import tensorflow as tf

        return tf.sigmoid(_margins(prediction, labels) / _BANDWIDTH)


class RetainedAccuracy(Accuracy):
    """Accuracy that is left: fraction of decisions of a row that are right and were right in the whole model.

    Never above the accuracy of the whole model. What that decides wrong counts nothing, whatever becomes of it: a
    selection that is searched for among many sets some of it right by chance, which does not carry over to other
    examples.
    """

    name = "retained"

    def measure(self, prediction: Prediction, labels: "tf.Tensor", whole: Prediction) -> "tf.Tensor":
        return _mean(self._right(prediction, labels) * self._right(whole, labels), prediction)

    def surrogate(self, prediction: Prediction, labels: "tf.Tensor", whole: Prediction) -> "tf.Tensor":
        return _mean(self._nearly_right(prediction, labels) * self._right(whole, labels), prediction)


class Loss(Outcome):
    """Cross-entropy in nats, or the squared error of a regression; the mean over several labels or positions."""

    name = "loss"
    greater_is_better = False
    averages = True

    def measure(self, prediction: Prediction, labels: "tf.Tensor", whole: Prediction) -> "tf.Tensor":
        import tensorflow as tf

        if prediction.task == "classes":
            return _mean(-_of_labels(prediction.log_probabilities(), labels), prediction)
        if prediction.task == "regression":
            return _mean(tf.square(prediction.outputs - labels), prediction)
        return _mean(tf.nn.softplus(prediction.logits() * (1.0 - 2.0 * labels)), prediction)


class Margin(Outcome):
    """Log-probability of the right class minus the largest other one, in nats (logits agree)."""

    name = "margin"
    greater_is_better = True
    needs_classes = True
    averages = True

    def measure(self, prediction: Prediction, labels: "tf.Tensor", whole: Prediction) -> "tf.Tensor":
        return _mean(_margins(prediction, labels), prediction)


class Divergence(Outcome):
    """Kullback-Leibler divergence from the whole model's prediction, in nats; needs no labels.

    For several labels or positions the mean over them, for a regression the mean squared difference. Zero for
    the whole model, which nothing can improve on.
    """

    name = "divergence"
    greater_is_better = False
    needs_labels = False
    averages = True

    def measure(self, prediction: Prediction, labels: "tf.Tensor", whole: Prediction) -> "tf.Tensor":
        import tensorflow as tf

        if prediction.task == "classes":
            reference = whole.log_probabilities()
            change = tf.exp(reference) * (reference - prediction.log_probabilities())
            return _mean(tf.reduce_sum(change, axis=-1), prediction)
        if prediction.task == "regression":
            return _mean(tf.square(prediction.outputs - whole.outputs), prediction)
        reference, logits = whole.logits(), prediction.logits()
        p = tf.sigmoid(reference)
        here = p * tf.nn.softplus(-logits) + (1.0 - p) * tf.nn.softplus(logits)
        there = p * tf.nn.softplus(-reference) + (1.0 - p) * tf.nn.softplus(reference)
        return _mean(here - there, prediction)

    @staticmethod
    def scores(prediction: Prediction, signs: "tf.Tensor") -> "tf.Tensor":
        """A number for each row, whose squared derivatives are on average second derivatives.

        The mean over independent signs of the product of its derivatives by two parameters is the second derivative
        of the divergence by both, without the curvature of the outputs before the softmax or sigmoid (Gauss-Newton;
        for classes and labels the Fisher information of the prediction).

        Parameters
        ----------
        prediction : Prediction
        signs : Tensor of -1 and 1, shape (rows, ..., n_outputs)

        Returns
        -------
        Tensor of float32, shape (rows,)
        """
        import tensorflow as tf

        if prediction.task == "classes":
            log_p = prediction.log_probabilities()
            terms = signs * tf.stop_gradient(tf.exp(log_p / 2.0)) * log_p
            return _root_mean(tf.reduce_sum(terms, axis=-1), prediction)
        if prediction.task == "regression":
            return _root_mean(signs * prediction.outputs, prediction) * math.sqrt(2.0)
        logits = prediction.logits()
        p = tf.stop_gradient(tf.sigmoid(logits))
        return _root_mean(signs * tf.sqrt(p * (1.0 - p)) * logits, prediction)

    @staticmethod
    def curvature(task: Task, shape: tuple[int, ...]) -> float:
        """Bound of its second derivatives by the outputs of a row, before the softmax or sigmoid.

        Parameters
        ----------
        task : str
        shape : tuple of int
            Of the outputs of a row.

        Returns
        -------
        float
            1/2 for a softmax (Böhning 1992) over the number of positions; 1/4 for a sigmoid and 2 for a square over
            the number of outputs.
        """
        if task == "classes":
            return 0.5 / math.prod(shape[:-1])
        return (2.0 if task == "regression" else 0.25) / math.prod(shape)


def _mean(values: "tf.Tensor", prediction: Prediction) -> "tf.Tensor":
    """Mean of each row over the positions that count, shape (rows,)."""
    import tensorflow as tf

    rows, counted = _by_row(values, prediction)
    if counted is None:
        return tf.reduce_mean(rows, axis=1)
    return tf.reduce_sum(rows, axis=1) / tf.reduce_sum(counted, axis=1)


def _root_mean(values: "tf.Tensor", prediction: Prediction) -> "tf.Tensor":
    """Sum of each row over the root of how many count: its square is on average the mean of squares."""
    import tensorflow as tf

    rows, counted = _by_row(values, prediction)
    count = tf.cast(tf.shape(rows)[1], tf.float32) if counted is None else tf.reduce_sum(counted, axis=1)
    return tf.reduce_sum(rows, axis=1) / tf.sqrt(count)


def _by_row(values: "tf.Tensor", prediction: Prediction) -> "tuple[tf.Tensor, tf.Tensor | None]":
    """Values (rows, k), zero at positions that do not count, and which of them count, None for all."""
    import tensorflow as tf

    counted, shape = prediction.counted, [tf.shape(values)[0], -1]
    if counted is None:
        return tf.reshape(values, shape), None
    for _ in range(len(values.shape) - len(counted.shape)):
        counted = tf.expand_dims(counted, -1)
    counted = tf.broadcast_to(counted, tf.shape(values))
    return tf.reshape(tf.where(counted, values, 0.0), shape), tf.reshape(tf.cast(counted, tf.float32), shape)


def _of_labels(scores: "tf.Tensor", labels: "tf.Tensor") -> "tf.Tensor":
    """Scores (rows, ..., classes) of the classes that `labels` (rows, ...) name."""
    import tensorflow as tf

    return tf.gather(scores, labels, batch_dims=len(labels.shape))


def _margins(prediction: Prediction, labels: "tf.Tensor") -> "tf.Tensor":
    """Margin of every decision of a classifier, in the shape of `labels`."""
    import tensorflow as tf

    if prediction.task != "classes":
        return prediction.logits() * (2.0 * labels - 1.0)
    scores = prediction.log_probabilities()
    is_label = tf.one_hot(labels, tf.shape(scores)[-1], on_value=True, off_value=False)
    return _of_labels(scores, labels) - tf.reduce_max(tf.where(is_label, scores.dtype.min, scores), axis=-1)


_NAMED: tuple[type[Outcome], ...] = (Accuracy, RetainedAccuracy, Loss, Margin, Divergence)
_BY_NAME = {kind.name: kind for kind in _NAMED}


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


def resolve_all(outcomes: "Sequence[str | Outcome] | str | Outcome") -> tuple[Outcome, ...]:
    """Several outcomes, each once."""
    if isinstance(outcomes, str | Outcome):
        outcomes = [outcomes]
    resolved = tuple(resolve(outcome) for outcome in outcomes)
    names = [outcome.name for outcome in resolved]
    if not names or len(set(names)) != len(names):
        raise ParameterError(f"`outcomes` must be one or more different outcomes, received {names}.")
    return resolved


def check_outcomes(outcomes: "Sequence[Outcome]", labels: "np.ndarray | None", task: Task) -> None:
    """Raise DataError where an outcome needs labels and there are none, ParameterError where it needs classes."""
    for outcome in outcomes:
        if outcome.needs_labels and labels is None:
            raise DataError(f"outcome '{outcome.name}' must have labels, received y=None: use outcome 'divergence'.")
        if outcome.needs_classes and task == "regression":
            raise ParameterError(f"outcome '{outcome.name}' must have classes, received a regression task: use 'loss'.")
