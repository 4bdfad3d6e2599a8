"""Compare the outcomes of two models on the same examples."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf

from .._utils import Array
from ..data import Data, Examples, Prediction, Task, check_data
from ..graph import Graph, batch_size_of, call_model, map_batches, trace_graph
from ._logits import are_logits
from ._metrics import PerMask
from ._outcomes import Outcome
from ._resolve import OutcomeLike, check_logits, check_outcomes, resolve_all


def measure(
    before: keras.Model,
    after: keras.Model,
    data: Data,
    outcomes: Sequence[OutcomeLike] | OutcomeLike | None,
    task: Task | None,
) -> pd.DataFrame:
    """Return the outcomes of both models, one row per outcome; see `dropreg.Pruned.measure`."""
    graph = trace_graph(before)
    examples = check_data(graph, data, task)
    chosen = resolve_all(_default_outcomes(examples) if outcomes is None else outcomes)
    check_outcomes(chosen, examples)
    predictions = _predict(graph, after, examples)
    check_logits(chosen, predictions[0])
    rows = []
    for outcome in chosen:
        values = _values(predictions, examples, outcome)
        change = values[1] - values[0]
        error = change.std(ddof=1) / np.sqrt(len(change)) if len(change) > 1 else np.nan
        rows.append((outcome.name, *values.mean(axis=1), change.mean(), error))
    return pd.DataFrame(rows, columns=["outcome", "before", "after", "change", "std_error"])


def changes(before: keras.Model | Graph, after: keras.Model, examples: Examples, outcome: Outcome) -> Array:
    """Return the change of each example's outcome from one model to another, shape (n_examples,)."""
    values = _values(_predict(before, after, examples), examples, outcome)
    return values[1] - values[0]


def _default_outcomes(examples: Examples) -> tuple[str, ...]:
    if examples.labels is None:
        return ("divergence",)
    return ("loss",) if examples.task == "regression" else ("accuracy", "loss")


def _predict(before: keras.Model | Graph, after: keras.Model, examples: Examples) -> list[Prediction]:
    both = run_model(before, examples), run_model(after, examples)
    from_logits = are_logits(before, examples.output, examples.task, both[0])
    counted = examples.carried().counted
    return [examples.predicted(tf.constant(outputs), counted, from_logits=from_logits) for outputs in both]


def _values(predictions: Sequence[Prediction], examples: Examples, outcome: Outcome) -> Array:
    """Return the outcome before and after, shape (2, n_examples), or (2, 1) for an outcome of all examples together.

    Outcomes of examples are multiplied by their weights.
    """
    labels, _, weights = examples.carried()
    if isinstance(outcome, PerMask):
        return np.array([[outcome.measure_mask(labels, found.outputs.numpy(), weights)] for found in predictions])
    measured = [outcome.measure(found, tf.constant(labels), predictions[0]) for found in predictions]
    return np.array([examples.weighted(values, weights).numpy() for values in measured], dtype=np.float64)


def run_model(model: keras.Model | Graph, examples: Examples) -> npt.NDArray[np.float32]:
    """Return the measured output (n_examples, ..., n_outputs) of a model in inference mode; the model is unchanged."""
    graph = trace_graph(model)

    def forward(*inputs: Any) -> Any:
        with keras.StatelessScope(collect_losses=True):
            return tf.cast(call_model(graph, inputs, training=False, output=examples.output), tf.float32)

    outputs = map_batches(forward, examples.inputs, batch_size_of(graph))[0]
    return examples.check_outputs(outputs, graph.model.name)
