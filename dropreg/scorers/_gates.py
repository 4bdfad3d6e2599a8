"""Gates trained by backpropagation (hard concrete)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import optimize
from scipy.special import expit

from .._utils import Array, examples_of_rows
from ..data import Data, Task
from ..element import Elements
from ..errors import ModelError, ParameterError
from ..network import DEFAULT_ROWS, Evaluator, Outcome, ask_one, non_differentiable
from ..regression import ImpactTable, impact_table
from ._derivatives import check_finite
from ._scorer import affordable

if TYPE_CHECKING:
    import keras

_ROW_COST = 3


@dataclass(frozen=True)
class HardConcrete:
    """A distribution on [0, 1] with atoms at both ends and a useful derivative [1]_.

    Parameters
    ----------
    temperature : float
        Positive; the smaller, the closer gates are to 0 and 1.
    low, high : float
        Interval that the concrete variable is stretched to before it is clipped to [0, 1].

    References
    ----------
    .. [1] Louizos, Welling, Kingma (2018), "Learning sparse neural networks through L0 regularization",
       section 2.2.
    """

    temperature: float = 2 / 3
    low: float = -0.1
    high: float = 1.1

    @property
    def offset(self) -> float:
        """Log-odds of a gate being open are log alpha plus this (equation 12)."""
        return -self.temperature * float(np.log(-self.low / self.high))

    def sample(self, log_alpha: Any, noise: Any) -> Any:
        """Draw gates (equations 10 and 11).

        Parameters
        ----------
        log_alpha : Tensor of float32, shape (n_elements,)
        noise : Tensor of float32, shape (rows, n_elements)
            Uniform, strictly between 0 and 1.

        Returns
        -------
        Tensor of float32, shape (rows, n_elements)
            In [0, 1], 1 = open.
        """
        import tensorflow as tf

        s = tf.sigmoid((tf.math.log(noise) - tf.math.log1p(-noise) + log_alpha) / self.temperature)
        return tf.clip_by_value(s * (self.high - self.low) + self.low, 0.0, 1.0)

    def slope(self, logits: Array) -> Array:
        """Derivative of each gate's probability of being open with respect to its log alpha.

        Parameters
        ----------
        logits : ndarray of float64, shape (n_elements,)
            Log alpha.

        Returns
        -------
        ndarray of float64, shape (n_elements,)
        """
        probability = expit(logits + self.offset)
        return probability * (1.0 - probability)

    def center(self, logits: Array, fraction: float) -> Array:
        """Shift log alpha so that on average a fraction of the gates is shut.

        Parameters
        ----------
        logits : ndarray of float64, shape (n_elements,)
            Log alpha.
        fraction : float
            Strictly between 0 and 1.

        Returns
        -------
        ndarray of float64, shape (n_elements,)
        """

        def excess(shift: float) -> float:
            return float(expit(logits + shift + self.offset).mean()) - (1.0 - fraction)

        width = float(np.abs(logits).max()) + 50.0
        return logits + float(optimize.brentq(excess, -width, width))


def gates(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    fraction: float = 0.5,
    learning_rate: float = 0.3,
    batch_size: int = 256,
    gate: HardConcrete | None = None,
    outcome: str | Outcome = "loss",
    rows: int | None = None,
    task: Task | None = None,
    seed: int = 0,
) -> ImpactTable:
    """Train a gate for every element while the network's weights stay as they are.

    Each row draws gates of its own from hard concrete distributions, and Adam takes steps on their
    parameters log alpha along the gradient of the outcome. The penalty on the expected number of open
    gates has no weight to be tuned: it is the multiplier that holds the expected fraction of shut gates
    to a schedule, linear up to `fraction` over the first half and constant after.

    Parameters
    ----------
    model, data, elements, task
        As in `taylor`.
    fraction : float
        Of elements to be shut in the end, strictly between 0 and 1.
    learning_rate : float
        Of Adam, on log alpha.
    batch_size : int
        Rows of a step.
    gate : HardConcrete, optional
    outcome : str or Outcome
        Differentiated through its surrogate, so that "accuracy" will do.
    rows : int, optional
        Budget in row-equivalents, three for each training row; 600,000 by default.
    seed : int
        Chooses noise and the order of examples.

    Returns
    -------
    ImpactTable
        Impacts are log-odds of a gate being open; what counts is their order.

    Raises
    ------
    ParameterError, DataError
        If the arguments do not fit together, or `rows` pays for no step.
    ModelError
        If a layer has no gradient.
    """
    if not 0 < fraction < 1:
        raise ParameterError(f"`fraction` must lie strictly between 0 and 1, received {fraction}.")
    if not learning_rate > 0:
        raise ParameterError(f"`learning_rate` must be positive, received {learning_rate}.")
    question = ask_one(model, data, elements, outcome=outcome, task=task, kept=None, seed=seed)
    if not question.outcome.differentiable:
        raise ParameterError(
            f"`outcome` must have a gradient or a surrogate with one, received '{question.outcome.name}': use 'loss'."
        )
    size = affordable(batch_size, 1, len(question.examples), "example")
    n_steps = affordable(DEFAULT_ROWS if rows is None else rows, _ROW_COST * size, 2**62, f"step of {size} rows")
    evaluator = Evaluator(question)
    layer = non_differentiable(evaluator)
    if layer is not None:
        raise ModelError(
            f"every layer between the elements and the output must have a gradient to train gates, received layer "
            f"{layer} without: use a scorer of forward passes, such as greedy."
        )
    logits = _train(evaluator, gate or HardConcrete(), fraction, n_steps, size, learning_rate)
    return impact_table(
        elements.to_frame(),
        logits + (gate or HardConcrete()).offset,
        method="hard concrete gates",
        outcome=question.outcome.name,
        rows=evaluator.rows,
        seed=question.seed,
        details={"fraction": fraction, "steps": n_steps, "rows a step": size},
    )


def _train(
    evaluator: Evaluator, gate: HardConcrete, fraction: float, n_steps: int, size: int, learning_rate: float
) -> npt.NDArray[np.float64]:
    """Log alpha of every element after `n_steps` steps."""
    import tensorflow as tf

    n, sign, rng = evaluator.n_elements, evaluator.question.sign, np.random.default_rng(evaluator.question.seed)

    def slope(bundle: Any, log_alpha: Any, noise: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(log_alpha)
            prediction = evaluator.predict(bundle, gate.sample(log_alpha, noise))
            worse = sign * tf.reduce_mean(evaluator.surrogate(prediction, bundle))
        return worse, tape.gradient(worse, log_alpha)

    step = evaluator.function(slope, tf.TensorSpec([n], tf.float32), tf.TensorSpec([None, n], tf.float32))
    logits, mean, square = np.full(n, 2.0), np.zeros(n), np.zeros(n)
    for number in range(n_steps):
        shut = fraction * min(1.0, 2.0 * (number + 1) / n_steps)
        logits = gate.center(logits, shut)
        examples = examples_of_rows(evaluator.question.seed, number * size, size, len(evaluator))
        noise = rng.uniform(1e-6, 1.0 - 1e-6, (1 if evaluator.one_mask else size, n))
        found = step(evaluator.bundle(examples), tf.constant(logits, tf.float32), tf.constant(noise, tf.float32))
        worse, g = (value.numpy() for value in found)
        evaluator.finite(worse)
        check_finite(g, None, evaluator)
        g = g - gate.slope(logits) * (g.sum() / gate.slope(logits).sum())
        mean, square = 0.9 * mean + 0.1 * g, 0.99 * square + 0.01 * np.square(g, dtype=np.float64)
        corrected = mean / (1 - 0.9 ** (number + 1)), square / (1 - 0.99 ** (number + 1))
        logits = logits - learning_rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
    evaluator.rows += n_steps * size * _ROW_COST
    return gate.center(logits, fraction)
