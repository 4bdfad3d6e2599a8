"""Functions compiled to graphs."""

from collections.abc import Callable, Sequence
from typing import Any


def compiled(function: Callable[..., Any], specs: Sequence[Any] | None = None) -> Any:
    """`function` as a graph for arguments like `specs`, traced as it stands.

    As in Keras' own `fit` and `predict`, Python's `if` and loops are not translated for tensors, neither here nor in
    metrics that it calls: reading and translating their source would add to the time of every first call.
    """
    import tensorflow as tf

    return tf.function(function, input_signature=specs, autograph=False)
