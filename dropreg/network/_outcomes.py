"""Outcomes: the numbers that are measured for every row."""

import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from .._utils import Versioned
from ..data import Prediction, Task

if TYPE_CHECKING:
    import tensorflow as tf

_BANDWIDTH = 0.2


class Outcome(Versioned, ABC):
    """A number for each row, the base class of all outcomes.

    Attributes
    ----------
    name : str
        Column in the record.
    greater_is_better : bool
        Direction of the outcome. Impacts are positive if dropping the element hurts, for either direction.
    needs_labels : bool
        Whether the outcome needs labels, not only the original model's prediction.
    needs_classes : bool
        Whether the outcome is undefined for a regression.
    differentiable : bool
        Whether `surrogate` has a gradient.
    averages : bool
        Whether the outcome of a row is the mean over its positions, where outputs have positions; needed for weights
        of positions.
    version : str or None
        For outcomes of your own: identifies their values in the place of their code and data, see `PerExample`.

    Examples
    --------
    >>> import dropreg as dr
    >>> outcome = dr.outcomes.Loss()
    >>> isinstance(outcome, dr.outcomes.Outcome), outcome.name, outcome.greater_is_better
    (True, 'loss', False)
    """

    name: str
    greater_is_better: bool
    needs_labels: bool = True
    needs_classes: bool = False
    differentiable: bool = True
    averages: bool = False

    @property
    def takes_weights(self) -> bool:
        """Whether the outcome can be measured on examples with weights."""
        return True

    @property
    def expects_logits(self) -> bool | None:
        """Whether outputs must be logits, True, or probabilities, False; None if they may be either."""
        return None

    @abstractmethod
    def measure(self, prediction: Prediction, labels: "tf.Tensor", original: Prediction) -> "tf.Tensor":
        """Return the outcome of each row.

        Parameters
        ----------
        prediction : Prediction
            Of the masked network.
        labels : Tensor, shape (rows, ...) int64 for classes, (rows, ..., n_outputs) float32 otherwise
        original : Prediction
            Of the original model, for the same examples.

        Returns
        -------
        Tensor of float32, shape (rows,)
        """

    def surrogate(self, prediction: Prediction, labels: "tf.Tensor", original: Prediction) -> "tf.Tensor":
        """Return what is differentiated in place of the outcome, by default the outcome itself.

        Parameters
        ----------
        prediction, labels, original
            As in `measure`.

        Returns
        -------
        Tensor of float32, shape (rows,)
        """
        return self.measure(prediction, labels, original)

    def decision(
        self, prediction: Prediction, labels: "tf.Tensor", original: Prediction
    ) -> "tuple[tf.Tensor, tf.Tensor] | None":
        """Return margin t and weight c, both (rows,), where the outcome of each row is c if t > 0 and else 0.

        None, the default, where the outcome is no such step function.
        """
        return None

    def surrogate_of(self, margin: "tf.Tensor", weight: "tf.Tensor") -> "tf.Tensor":
        """Return `surrogate` from what `decision` returns, shape (rows,)."""
        raise NotImplementedError


class Accuracy(Outcome):
    """1 for a correct decision and 0 for a wrong one; the mean over several labels or positions.

    A step function of the margin has no useful gradient. The surrogate is the logistic function of the margin over a
    bandwidth of 0.2 nats: a kernel estimate of the derivative of the expected accuracy.

    Examples
    --------
    >>> import dropreg as dr
    >>> model, data = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
    >>> record = dr.sample(model, data, dr.elements(model), rows=200, outcomes=dr.outcomes.Accuracy())
    >>> record.baseline.columns.tolist()
    ['accuracy']
    """

    name = "accuracy"
    greater_is_better = True
    needs_classes = True
    averages = True

    def measure(self, prediction: Prediction, labels: "tf.Tensor", original: Prediction) -> "tf.Tensor":
        return mean_of_row(_correct(prediction, labels), prediction)

    def surrogate(self, prediction: Prediction, labels: "tf.Tensor", original: Prediction) -> "tf.Tensor":
        return mean_of_row(_nearly_correct(prediction, labels), prediction)

    def decision(
        self, prediction: Prediction, labels: "tf.Tensor", original: Prediction
    ) -> "tuple[tf.Tensor, tf.Tensor] | None":
        import tensorflow as tf

        if prediction.counted is not None or any(size != 1 for size in labels.shape[1:]):
            return None
        margin = tf.reshape(_margins(prediction, labels), [-1])
        return margin, self._weight(original, labels)

    def _weight(self, original: Prediction, labels: "tf.Tensor") -> "tf.Tensor":
        import tensorflow as tf

        return tf.ones([tf.shape(labels)[0]])

    def surrogate_of(self, margin: "tf.Tensor", weight: "tf.Tensor") -> "tf.Tensor":
        import tensorflow as tf

        return weight * tf.sigmoid(margin / _BANDWIDTH)


class RetainedAccuracy(Accuracy):
    """1 for a decision that is correct and was correct in the original model, otherwise 0; else as `Accuracy`.

    It never exceeds the original model's accuracy. Examples that the original model decides wrongly do not count: a
    selection found by a search over many sets decides some of them correctly by chance, which does not generalize.

    Examples
    --------
    >>> import dropreg as dr
    >>> dr.outcomes.RetainedAccuracy().name
    'retained'
    """

    name = "retained"

    def measure(self, prediction: Prediction, labels: "tf.Tensor", original: Prediction) -> "tf.Tensor":
        return mean_of_row(_correct(prediction, labels) * _correct(original, labels), prediction)

    def surrogate(self, prediction: Prediction, labels: "tf.Tensor", original: Prediction) -> "tf.Tensor":
        return mean_of_row(_nearly_correct(prediction, labels) * _correct(original, labels), prediction)

    def _weight(self, original: Prediction, labels: "tf.Tensor") -> "tf.Tensor":
        import tensorflow as tf

        return tf.reshape(_correct(original, labels), [-1])


class Loss(Outcome):
    """Cross-entropy in nats, or the squared error of a regression; the mean over several labels or positions.

    Examples
    --------
    >>> import dropreg as dr
    >>> model, data = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
    >>> record = dr.sample(model, data, dr.elements(model), rows=200, outcomes=[dr.outcomes.Loss(), "accuracy"])
    >>> record.settings.outcomes
    ('loss', 'accuracy')
    """

    name = "loss"
    greater_is_better = False
    averages = True

    def measure(self, prediction: Prediction, labels: "tf.Tensor", original: Prediction) -> "tf.Tensor":
        import tensorflow as tf

        if prediction.task == "classes":
            return mean_of_row(-_of_labels(prediction.log_probabilities(), labels), prediction)
        if prediction.task == "regression":
            return mean_of_row(tf.square(prediction.outputs - labels), prediction)
        return mean_of_row(tf.nn.softplus(prediction.logits() * (1.0 - 2.0 * labels)), prediction)


class Margin(Outcome):
    """Log-probability of the true class minus the largest one of another class, in nats.

    For labels the log-odds of the true value; the mean over several labels or positions.

    Examples
    --------
    >>> import dropreg as dr
    >>> dr.outcomes.Margin().greater_is_better
    True
    """

    name = "margin"
    greater_is_better = True
    needs_classes = True
    averages = True

    def measure(self, prediction: Prediction, labels: "tf.Tensor", original: Prediction) -> "tf.Tensor":
        return mean_of_row(_margins(prediction, labels), prediction)


class Divergence(Outcome):
    """Kullback-Leibler divergence from the original model's prediction, in nats; needs no labels.

    The mean over several labels or positions; the mean squared difference for a regression. Zero, the best value, for
    the original model.

    Examples
    --------
    >>> import dropreg as dr
    >>> model, (x, _) = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
    >>> record = dr.sample(model, (x, None), dr.elements(model), rows=200, outcomes=dr.outcomes.Divergence())
    >>> bool(record.to_frame()["divergence"].mean() > 0)
    True
    """

    name = "divergence"
    greater_is_better = False
    needs_labels = False
    averages = True

    def measure(self, prediction: Prediction, labels: "tf.Tensor", original: Prediction) -> "tf.Tensor":
        import tensorflow as tf

        if prediction.task == "classes":
            reference = original.log_probabilities()
            change = tf.exp(reference) * (reference - prediction.log_probabilities())
            return mean_of_row(tf.reduce_sum(change, axis=-1), prediction)
        if prediction.task == "regression":
            return mean_of_row(tf.square(prediction.outputs - original.outputs), prediction)
        reference, logits = original.logits(), prediction.logits()
        p = tf.sigmoid(reference)
        here = p * tf.nn.softplus(-logits) + (1.0 - p) * tf.nn.softplus(logits)
        there = p * tf.nn.softplus(-reference) + (1.0 - p) * tf.nn.softplus(reference)
        return mean_of_row(here - there, prediction)

    @staticmethod
    def scores(prediction: Prediction, signs: "tf.Tensor") -> "tf.Tensor":
        """Return a number for each row, shape (rows,), for random `signs` (rows, ..., n_outputs) of -1 and 1.

        The mean over signs of the product of its derivatives by two parameters is the second derivative of the
        divergence by both, without the curvature of the outputs before the softmax or sigmoid (Gauss-Newton; for
        classes and labels the Fisher information of the prediction).
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
        """Return an upper bound of a row's second derivatives by its outputs before the softmax or sigmoid.

        `shape` is that of the outputs of a row. The bound is 1/2 for a softmax (Böhning 1992) divided by the number of
        positions; 1/4 for a sigmoid and 2 for a square divided by the number of outputs.
        """
        if task == "classes":
            return 0.5 / math.prod(shape[:-1])
        return (2.0 if task == "regression" else 0.25) / math.prod(shape)


def _correct(prediction: Prediction, labels: "tf.Tensor") -> "tf.Tensor":
    """Return whether decisions are correct, 0 or 1, in the shape of `labels`; outputs that are not finite are wrong."""
    import tensorflow as tf

    finite = tf.math.is_finite(prediction.outputs)
    if prediction.task == "classes":
        decided, finite = tf.equal(tf.argmax(prediction.outputs, axis=-1), labels), tf.reduce_all(finite, axis=-1)
    else:
        decided = tf.equal(prediction.logits() > 0, labels > 0.5)
    return tf.cast(tf.logical_and(decided, finite), tf.float32)


def _nearly_correct(prediction: Prediction, labels: "tf.Tensor") -> "tf.Tensor":
    """Return the surrogate of `_correct`, in (0, 1), of the same shape."""
    import tensorflow as tf

    return tf.sigmoid(_margins(prediction, labels) / _BANDWIDTH)


def mean_of_row(values: "tf.Tensor", prediction: Prediction) -> "tf.Tensor":
    """Return the (weighted) mean of each row over the positions that count, shape (rows,)."""
    import tensorflow as tf

    rows, counted = _by_row(values, prediction)
    if counted is None:
        return tf.reduce_mean(rows, axis=1)
    return tf.reduce_sum(rows, axis=1) / tf.reduce_sum(counted, axis=1)


def _root_mean(values: "tf.Tensor", prediction: Prediction) -> "tf.Tensor":
    """Return each row's sum divided by the root of the number of its positions that count, shape (rows,).

    Where positions have weights, values are multiplied by their roots, and the sum of weights is the number.
    """
    import tensorflow as tf

    rows, counted = _by_row(values, prediction, power=0.5)
    count = tf.cast(tf.shape(rows)[1], tf.float32) if counted is None else tf.reduce_sum(counted, axis=1)
    return tf.reduce_sum(rows, axis=1) / tf.sqrt(count)


def _by_row(values: "tf.Tensor", prediction: Prediction, power: float = 1.0) -> "tuple[tf.Tensor, tf.Tensor | None]":
    """Return values (rows, k) times a power of the weights of their positions, and these weights, None if all are 1.

    The weights are 1 and 0 where `Prediction.counted` says which positions count.
    """
    import tensorflow as tf

    counted, shape = prediction.counted, [tf.shape(values)[0], -1]
    if counted is None:
        return tf.reshape(values, shape), None
    for _ in range(len(values.shape) - len(counted.shape)):
        counted = tf.expand_dims(counted, -1)
    counted = tf.broadcast_to(counted, tf.shape(values))
    weights = tf.cast(counted, tf.float32)
    found = tf.where(weights > 0, values, 0.0)
    found = found if counted.dtype == tf.bool else found * weights**power
    return tf.reshape(found, shape), tf.reshape(weights, shape)


def _of_labels(scores: "tf.Tensor", labels: "tf.Tensor") -> "tf.Tensor":
    """Return the scores (rows, ..., classes) of the classes in `labels` (rows, ...)."""
    import tensorflow as tf

    return tf.gather(scores, labels, batch_dims=len(labels.shape))


def _margins(prediction: Prediction, labels: "tf.Tensor") -> "tf.Tensor":
    """Return the margin of every decision of a classifier, in the shape of `labels`."""
    import tensorflow as tf

    if prediction.task != "classes":
        return prediction.logits() * (2.0 * labels - 1.0)
    scores = prediction.log_probabilities()
    is_label = tf.one_hot(labels, tf.shape(scores)[-1], on_value=True, off_value=False)
    return _of_labels(scores, labels) - tf.reduce_max(tf.where(is_label, scores.dtype.min, scores), axis=-1)
