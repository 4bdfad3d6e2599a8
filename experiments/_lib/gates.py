"""Gates trained by backpropagation, with the hard concrete distribution: a competitor that scripts measure."""

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import optimize
from scipy.special import expit

import dropreg as dr
from dropreg._utils import Array, check_between, check_positive, examples_of_rows
from dropreg.data import Data, Task
from dropreg.network import Evaluator, ask_one, non_differentiable
from dropreg.regression import impact_table
from dropreg.scorers._derivatives import check_finite
from dropreg.scorers._scorer import affordable

if TYPE_CHECKING:
    import keras

_ROW_COST = 3
_TEMPERATURE, _LOW, _HIGH = 2 / 3, -0.1, 1.1
"""Of the hard concrete distribution; gates are stretched to (low, high) and clipped to [0, 1]."""
_OFFSET = -_TEMPERATURE * float(np.log(-_LOW / _HIGH))
"""Log-odds that a gate is open, minus log alpha (equation 12 of Louizos et al.)."""


def gates(
    model: "keras.Model",
    data: Data,
    elements: dr.Elements,
    *,
    fraction: float = 0.5,
    learning_rate: float = 0.3,
    batch_size: int = 256,
    outcome: str | dr.outcomes.Outcome = "loss",
    rows: int = 600_000,
    task: Task | None = None,
    seed: int = 0,
) -> dr.ImpactTable:
    """Score each element by a gate that is trained while the model's weights are constant.

    Each row draws its own gates from hard concrete distributions [1]_, and Adam updates their log alpha along the
    gradient of the outcome. In place of a weighted penalty, a Lagrange multiplier holds the expected share of closed
    gates to a schedule: it grows linearly to `fraction` over the first half of the steps and is constant after.

    Parameters
    ----------
    model, data, elements, task
        As in `taylor`.
    fraction : float
        Share of the gates that are closed at the end, strictly between 0 and 1.
    learning_rate : float
        Of Adam, on log alpha.
    batch_size : int
        Rows of a step.
    outcome : str or Outcome
        Must be differentiable or have a differentiable surrogate, as "accuracy" has.
    rows : int
        Budget in row-equivalents. Each training row costs three.
    seed : int
        Chooses the noise and the order of the examples.

    Returns
    -------
    ImpactTable
        Log-odds of each gate being open, to be compared with each other only. No standard errors.

    Raises
    ------
    ParameterError, DataError, ModelError
        If the arguments do not fit together, `rows` pays for no step, or a layer has no gradient.

    References
    ----------
    .. [1] Louizos, Welling, Kingma (2018), "Learning sparse neural networks through L0 regularization", section 2.2.
    """
    check_between("fraction", fraction)
    check_positive("learning_rate", learning_rate)
    question = ask_one(model, data, elements, outcome=outcome, task=task, kept=None, seed=seed)
    if not question.outcome.differentiable:
        raise dr.errors.ParameterError(
            f"`outcome` must have a gradient or a surrogate with one, received '{question.outcome.name}': use 'loss'."
        )
    size = affordable(batch_size, 1, len(question.examples), "example")
    n_steps = affordable(rows, _ROW_COST * size, 2**62, f"step of {size} rows")
    evaluator = Evaluator(question)
    layer = non_differentiable(evaluator)
    if layer is not None:
        raise dr.errors.ModelError(
            f"every layer between the elements and the output must have a gradient to train gates, received layer "
            f"{layer} without: use a scorer of forward passes, such as greedy."
        )
    return impact_table(
        elements.to_frame(),
        _train(evaluator, fraction, n_steps, size, learning_rate) + _OFFSET,
        method="hard concrete gates",
        unit="log-odds of an open gate",
        outcome=question.outcome.name,
        rows=n_steps * size * _ROW_COST,
        seed=question.seed,
        details={"fraction": fraction, "steps": n_steps, "rows a step": size},
    )


def _train(evaluator: Evaluator, fraction: float, n_steps: int, size: int, learning_rate: float) -> Array:
    """Return log alpha of every element after `n_steps` steps."""
    import tensorflow as tf

    n, sign, rng = evaluator.n_elements, evaluator.question.sign, np.random.default_rng(evaluator.question.seed)

    def slope(bundle: Any, log_alpha: Any, noise: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(log_alpha)
            s = tf.sigmoid((tf.math.log(noise) - tf.math.log1p(-noise) + log_alpha) / _TEMPERATURE)  # equations 10, 11
            prediction = evaluator.predict(bundle, tf.clip_by_value(s * (_HIGH - _LOW) + _LOW, 0.0, 1.0))
            worse = sign * tf.reduce_mean(evaluator.surrogate(prediction, bundle))
        return worse, tape.gradient(worse, log_alpha)

    step = evaluator.function(slope, tf.TensorSpec([n], tf.float32), tf.TensorSpec([None, n], tf.float32))
    logits, mean, square = np.full(n, 2.0), np.zeros(n), np.zeros(n)
    for number in range(n_steps):
        logits = _center(logits, fraction * min(1.0, 2.0 * (number + 1) / n_steps))
        examples = examples_of_rows(evaluator.question.seed, number * size, size, len(evaluator))
        noise = rng.uniform(1e-6, 1.0 - 1e-6, (1 if evaluator.one_mask else size, n))
        found = step(evaluator.bundle(examples), tf.constant(logits, tf.float32), tf.constant(noise, tf.float32))
        worse, g = (value.numpy() for value in found)
        evaluator.finite(worse)
        check_finite(g, None, evaluator)
        probability = expit(logits + _OFFSET)
        of_probability = probability * (1.0 - probability)
        g = g - of_probability * (g.sum() / of_probability.sum())
        mean, square = 0.9 * mean + 0.1 * g, 0.99 * square + 0.01 * np.square(g, dtype=np.float64)
        corrected = mean / (1 - 0.9 ** (number + 1)), square / (1 - 0.99 ** (number + 1))
        logits = logits - learning_rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
    return _center(logits, fraction)


def _center(logits: Array, fraction: float) -> Array:
    """Shift log alpha (n_elements,) so that the mean probability of a closed gate is `fraction`."""

    def excess(shift: float) -> float:
        return float(expit(logits + shift + _OFFSET).mean()) - (1.0 - fraction)

    width = float(np.abs(logits).max()) + 50.0
    return logits + float(optimize.brentq(excess, -width, width))
