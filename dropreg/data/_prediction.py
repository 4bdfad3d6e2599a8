"""A model's outputs for some rows, and their interpretation."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._tasks import Task

if TYPE_CHECKING:
    import tensorflow as tf

_SMALLEST_PROBABILITY = 1e-7


@dataclass(frozen=True)
class Prediction:
    """Outputs of a model for some rows, and their interpretation.

    Attributes
    ----------
    outputs : Tensor of float32, shape (rows, ..., n_outputs)
        The model's outputs. The axes between are positions, such as pixels or tokens, each with a prediction of its
        own; a row's outcome is the mean over them.
    task : {"classes", "binary", "multilabel", "regression"}
        "classes" is one class of several.
    from_logits : bool
        Whether the outputs of a classifier are logits, not probabilities.
    counted : Tensor of bool or float32, shape (rows, ...), or None
        Positions that the mean is taken over, without those that the model's own mask hides, such as padded steps; or
        their weights. None for all.
    """

    outputs: "tf.Tensor"
    task: Task
    from_logits: bool
    counted: "tf.Tensor | None" = None

    def log_probabilities(self) -> "tf.Tensor":
        """Return log-probabilities (rows, ..., classes), in nats."""
        import tensorflow as tf

        if self.from_logits:
            return tf.nn.log_softmax(self.outputs)
        return tf.math.log(tf.clip_by_value(self.outputs, _SMALLEST_PROBABILITY, 1.0))

    def logits(self) -> "tf.Tensor":
        """Return the log-odds of each label (rows, ..., labels), for binary and multi-label tasks."""
        import tensorflow as tf

        if self.from_logits:
            return self.outputs
        p = tf.clip_by_value(self.outputs, _SMALLEST_PROBABILITY, 1.0 - _SMALLEST_PROBABILITY)
        return tf.math.log(p) - tf.math.log1p(-p)


def in_float32(outputs: "tf.Tensor") -> "tf.Tensor":
    """Return outputs in float32; gradients beyond the range of float16, such as 1 / p of a small p, are clipped."""
    import tensorflow as tf

    if outputs.dtype != tf.float16:
        return tf.cast(outputs, tf.float32)

    @tf.custom_gradient
    def widened(narrow: "tf.Tensor") -> Any:
        def back(gradient: "tf.Tensor") -> "tf.Tensor":
            return tf.cast(tf.clip_by_value(gradient, tf.float16.min, tf.float16.max), tf.float16)

        return tf.cast(narrow, tf.float32), back

    return widened(outputs)
