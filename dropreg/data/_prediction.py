"""What a network's outputs mean."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._tasks import Task

if TYPE_CHECKING:
    import tensorflow as tf

_SMALLEST_PROBABILITY = 1e-7


@dataclass(frozen=True)
class Prediction:
    """Outputs of the network for some rows, and what they mean.

    Attributes
    ----------
    outputs : Tensor of float32, shape (rows, ..., n_outputs)
        As the network gives them. Axes between are positions, such as pixels or tokens, each with a decision of its
        own; a row counts with the mean over them.
    task : str
        "classes" (one class of several), "binary", "multilabel" or "regression".
    from_logits : bool
        Whether the outputs of a classifier are logits (else probabilities).
    counted : Tensor of bool, shape (rows, ...), or None
        Positions that the mean is over: not those that the model's own mask hides, such as padded steps. None for all.
    """

    outputs: "tf.Tensor"
    task: Task
    from_logits: bool
    counted: "tf.Tensor | None" = None

    def log_probabilities(self) -> "tf.Tensor":
        """Log-probabilities (rows, ..., classes), in nats."""
        import tensorflow as tf

        if self.from_logits:
            return tf.nn.log_softmax(self.outputs)
        return tf.math.log(tf.clip_by_value(self.outputs, _SMALLEST_PROBABILITY, 1.0))

    def logits(self) -> "tf.Tensor":
        """Log-odds of each label (rows, ..., labels), for binary and multi-label tasks."""
        import tensorflow as tf

        if self.from_logits:
            return self.outputs
        p = tf.clip_by_value(self.outputs, _SMALLEST_PROBABILITY, 1.0 - _SMALLEST_PROBABILITY)
        return tf.math.log(p) - tf.math.log1p(-p)


def in_float32(outputs: "tf.Tensor") -> "tf.Tensor":
    """Outputs in float32; what float16 cannot hold of their gradients, such as 1 / p of a small p, is cut off."""
    import tensorflow as tf

    if outputs.dtype != tf.float16:
        return tf.cast(outputs, tf.float32)

    @tf.custom_gradient
    def widened(narrow: "tf.Tensor") -> Any:
        def back(gradient: "tf.Tensor") -> "tf.Tensor":
            return tf.cast(tf.clip_by_value(gradient, tf.float16.min, tf.float16.max), tf.float16)

        return tf.cast(narrow, tf.float32), back

    return widened(outputs)
