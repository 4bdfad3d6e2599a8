"""First and second derivatives of an outcome with respect to masks, for single examples.

Each row r has its own example and mask m_r, so the derivative of the sum of all outcomes with respect to m_r is that of
one example. At m = 1 the derivative for a unit with activation a is the sum of g a over its consumers, and for a weight
w it is g w (g: gradient with respect to the activation or the weight). In the same sense the second derivative is h a²
or h w². Removing element j changes an example's outcome by -g_j + h_jj / 2 up to third order.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._utils import Running, positive
from ..data import Prediction
from ..errors import ModelError, ParameterError
from ..network import Evaluator, PerExample

if TYPE_CHECKING:
    import tensorflow as tf

Derivatives = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None]
"""(g, h): first derivatives (rows, n_elements), and second ones or None."""
Differentiate = Callable[[npt.NDArray[np.int64]], Derivatives]
"""From numbers of examples (rows,) to their derivatives."""
FORWARD, BACKWARD = 1, 2
_PROBES, _MOST_OUTPUTS = 8, 64
_ROW_FLOATS = 2**23
"""Most numbers of a (rows, n_elements) array."""


class Curvature(ABC):
    """A method for the diagonal of the Hessian with respect to masks: `GaussNewton` or `Exact`."""

    @abstractmethod
    def cost(self, n_elements: int, n_outputs: int) -> int:
        """Return the cost of one example in row-equivalents, first derivatives included.

        Parameters
        ----------
        n_elements, n_outputs : int
            Numbers of elements, and of outputs over all positions.

        Returns
        -------
        int
        """

    @abstractmethod
    def prepare(self, evaluator: Evaluator) -> Differentiate:
        """Compile the function from numbers of examples (rows,) to derivatives (g, h), each (rows, n_elements)."""


@dataclass(frozen=True)
class Exact(Curvature):
    """The exact second derivatives, by two nested gradient tapes for each element.

    With row (example i, element j) on the line m = 1 - t e_j, the outcome has first derivative -g_ij and second
    derivative h_ijj at t = 0. Each pair of example and element costs nine row-equivalents: a forward pass, a backward
    pass and the backward pass of both. It is meant for small models and few examples, and as a reference.

    Examples
    --------
    >>> import dropreg as dr
    >>> dr.scorers.Exact().cost(n_elements=100, n_outputs=10)
    900
    """

    def cost(self, n_elements: int, n_outputs: int) -> int:
        return n_elements * (FORWARD + BACKWARD + BACKWARD * (FORWARD + BACKWARD))

    def prepare(self, evaluator: Evaluator) -> Differentiate:
        import tensorflow as tf

        n, columns = evaluator.n_elements, evaluator.question.candidates

        def line(bundle: Any, column: Any) -> Any:
            t = tf.zeros(tf.shape(column))
            with tf.GradientTape() as outer:
                outer.watch(t)
                with tf.GradientTape() as inner:
                    inner.watch(t)
                    value = evaluator.value(bundle, 1.0 - t[:, tf.newaxis] * tf.one_hot(column, n))
                slope: Any = inner.gradient(value, t)
            second = None if slope is None else outer.gradient(slope, t)
            return slope, (tf.fill(tf.shape(t), np.nan) if second is None else second)

        step = evaluator.function(evaluator.by_row(line), tf.TensorSpec([None], tf.int64))
        size = evaluator.batch_size if not evaluator.one_mask else max(_ROW_FLOATS // n, 1)

        def derivatives(examples: npt.NDArray[np.int64]) -> Derivatives:
            g, h = np.zeros((2, len(examples), n), np.float32)
            pairs = np.stack(np.meshgrid(np.arange(len(examples)), columns, indexing="ij"), -1).reshape(-1, 2)
            for block in evaluator.blocks(len(pairs), size):
                row, column = pairs[block].T
                slope, second = step(evaluator.bundle(examples[row]), tf.constant(column))
                g[row, column], h[row, column] = -slope.numpy(), second.numpy()
            return g, h

        return derivatives


@dataclass(frozen=True)
class GaussNewton(Curvature):
    """The diagonal of J'HJ: J the outputs' Jacobian, H the outcome's Hessian with respect to the outputs [1]_.

    For the cross-entropy this is the Fisher information under the model's own prediction. It equals the exact Hessian
    where the outputs (logits) are piecewise linear in each mask, as in networks of Dense, convolution, ReLU and max
    pooling layers; elsewhere the curvature of the outputs themselves is left out.

    Parameters
    ----------
    probes : int, optional
        Number of random directions for each example that estimate J'HJ, without bias where H is positive semidefinite.
        By default all outputs are used and nothing is random; but 8 directions where an example has more than 64
        outputs over all positions.

    References
    ----------
    .. [1] Schraudolph (2002), "Fast curvature matrix-vector products", section 3; Martens (2020), "New insights and
       perspectives on the natural gradient method", section 8.

    Examples
    --------
    >>> import dropreg as dr
    >>> dr.scorers.GaussNewton().cost(n_elements=100, n_outputs=10), dr.scorers.GaussNewton(2).cost(100, 10)
    (21, 7)
    """

    probes: int | None = None

    def __post_init__(self) -> None:
        if self.probes is not None:
            positive("probes", self.probes)

    def cost(self, n_elements: int, n_outputs: int) -> int:
        n_probes = self._n_probes(n_outputs)
        return FORWARD + BACKWARD * (1 + n_probes if n_probes else n_outputs)

    def _n_probes(self, n_outputs: int) -> int:
        """Return the number of random directions, 0 for all outputs."""
        return self.probes or (_PROBES if n_outputs > _MOST_OUTPUTS else 0)

    def prepare(self, evaluator: Evaluator) -> Differentiate:
        import tensorflow as tf

        outcome, row = evaluator.question.outcome, evaluator.original.shape[1:]
        if len(row) > 1 and not outcome.averages:
            raise ParameterError(
                f"`curvature` GaussNewton must have an outcome that is a mean over the positions of the output, "
                f"received '{outcome.name}' for an output of shape {row}: pass curvature=Exact(), or order=1."
            )
        n_probes = self._n_probes(math.prod(row))

        def body(bundle: Any, noise: Any) -> Any:
            masks = tf.ones([tf.shape(bundle.original)[0], evaluator.n_elements])
            scores = _scores(evaluator.predict(bundle, masks))
            slope, hessian = _curvature(evaluator, bundle, tf.stop_gradient(scores))
            seeds = _directions(slope, hessian, noise) if n_probes else _units(slope)
            rows = [tf.gradients(scores, masks, tf.stop_gradient(seed))[0] for seed in seeds]
            if n_probes:
                return rows[0], tf.add_n([tf.square(row) for row in rows[1:]]) / n_probes
            jacobian = tf.reshape(tf.stack(rows, axis=1), [-1, *row, evaluator.n_elements])
            over = list(range(1, len(row) + 1))
            h = tf.reduce_sum(jacobian * tf.matmul(hessian, jacobian), axis=over)
            return tf.reduce_sum(tf.expand_dims(slope, -1) * jacobian, axis=over), h

        step = evaluator.function(evaluator.by_row(body), tf.TensorSpec([None, n_probes, *row], tf.float32))
        seed = evaluator.question.seed

        def derivatives(examples: npt.NDArray[np.int64]) -> Derivatives:
            noise = np.random.default_rng([seed, int(examples[0])]).normal(size=(len(examples), n_probes, *row))
            g, h = step(evaluator.bundle(examples), tf.constant(noise, tf.float32))
            return g.numpy(), h.numpy()

        return derivatives


def _scores(prediction: Prediction) -> "tf.Tensor":
    """Return the outputs as logits (rows, ..., n_outputs), which only the outcome follows."""
    if prediction.task == "classes":
        return prediction.outputs if prediction.from_logits else prediction.log_probabilities()
    return prediction.outputs if prediction.task == "regression" else prediction.logits()


def _curvature(evaluator: Evaluator, bundle: Any, scores: "tf.Tensor") -> "tuple[tf.Tensor, tf.Tensor]":
    """Return first (rows, ..., n_outputs) and second (rows, ..., n_outputs, n_outputs) derivatives by the scores.

    An outcome that is a mean over positions has no second derivatives by scores of different positions.
    """
    import tensorflow as tf

    task, outcome = evaluator.question.examples.task, evaluator.question.outcome
    original = evaluator.original_prediction(bundle)

    def prediction(scores: tf.Tensor) -> Prediction:
        if evaluator.from_logits or task == "regression" or not isinstance(outcome, PerExample):
            return replace(original, outputs=scores, from_logits=True)
        given = tf.nn.softmax(scores) if task == "classes" else tf.sigmoid(scores)
        return replace(original, outputs=given, from_logits=False)

    with tf.GradientTape(persistent=True) as outer:
        outer.watch(scores)
        with tf.GradientTape() as inner:
            inner.watch(scores)
            value = evaluator.measure(prediction(scores), bundle)
        slope: Any = inner.gradient(value, scores)
        columns = tf.unstack(slope, axis=-1)
    rows: list[Any] = [outer.gradient(column, scores) for column in columns]
    missing = tf.fill(tf.shape(scores), np.nan)
    return slope, tf.stack([missing if row is None else row for row in rows], axis=-2)


def _units(slope: Any) -> list[Any]:
    """Return the unit vectors of the outputs, as factors of the scores."""
    import tensorflow as tf

    row = slope.shape[1:]
    units = np.eye(math.prod(row), dtype=np.float32).reshape(-1, *row)
    return [tf.broadcast_to(unit, tf.shape(slope)) for unit in units]


def _directions(slope: Any, hessian: Any, noise: Any) -> list[Any]:
    """Return the slope and random vectors of covariance H, as factors of the scores."""
    import tensorflow as tf

    values, vectors = tf.linalg.eigh(hessian)
    root = vectors * tf.expand_dims(tf.sqrt(tf.nn.relu(values)), -2)
    return [slope, *[tf.linalg.matvec(root, one) for one in tf.unstack(noise, axis=1)]]


@dataclass(frozen=True)
class FirstOrder(Curvature):
    """First derivatives only."""

    def cost(self, n_elements: int, n_outputs: int) -> int:
        return FORWARD + BACKWARD

    def prepare(self, evaluator: Evaluator) -> Differentiate:
        import tensorflow as tf

        def body(bundle: Any) -> Any:
            masks = tf.ones([tf.shape(bundle.original)[0], evaluator.n_elements])
            return tf.gradients(evaluator.value(bundle, masks), masks)[0]

        step = evaluator.function(evaluator.by_row(body))
        return lambda examples: (step(evaluator.bundle(examples)).numpy(), None)


class Expansion(NamedTuple):
    """Statistics of derivatives over examples, in the outcome's unit and direction."""

    first: Running  # of g
    second: Running  # of h; empty for first order
    change: Running  # of -g + h / 2, the predicted change when the element is removed
    method: str


def expand(evaluator: Evaluator, curvature: Curvature) -> Expansion:
    """Return statistics of the derivatives at the question's state over all examples; ModelError if there are none."""
    n = evaluator.n_elements
    first, second, change = (Running(n) for _ in range(3))
    derivatives = curvature.prepare(evaluator)
    for block in evaluator.blocks(len(evaluator), min(evaluator.batch_size, max(_ROW_FLOATS // n, 1))):
        try:
            g, h = derivatives(block)
        except LookupError as error:
            raise ModelError(
                f"every operation must have a second derivative for {curvature}, received one without ({error}): pass "
                "order=1, or curvature=GaussNewton()."
            ) from error
        check_finite(g, h, evaluator)
        weights = evaluator.weights_of(block)
        first.add(g, weights)
        change.add(-g if h is None else -g + 0.5 * h, weights)
        if h is not None:
            second.add(h, weights)
    if second.n and np.abs(second.mean).max() <= 1e-6 * first.mean_absolute.max() and _is_linear(evaluator):
        raise ModelError(_no_second(evaluator, "zeros"))
    evaluator.rows += len(evaluator) * curvature.cost(
        len(evaluator.question.candidates), math.prod(evaluator.original.shape[1:])
    )
    return Expansion(first, second, change, str(curvature))


def _is_linear(evaluator: Evaluator) -> bool:
    """Return whether the outcome is piecewise linear in the outputs, tested at random outputs."""
    import tensorflow as tf

    bundle = evaluator.bundle(np.arange(min(len(evaluator), 64)))
    scores = np.random.default_rng(0).normal(size=bundle.original.shape)
    hessian = _curvature(evaluator, bundle, tf.constant(scores, tf.float32))[1].numpy()
    return bool(np.abs(np.nan_to_num(hessian)).max() < 1e-5)


def check_finite(g: npt.NDArray[Any], h: npt.NDArray[Any] | None, evaluator: Evaluator) -> None:
    """Raise ModelError unless the first and (if given) second derivatives are finite."""
    if h is not None and np.isnan(h).any() and np.isfinite(g).all():
        raise ModelError(_no_second(evaluator, "none"))
    if not np.isfinite(g).all() or (h is not None and not np.isfinite(h).all()):
        raise ModelError(
            f"derivatives of outcome '{evaluator.question.outcome.name}' must be finite, received NaN or infinity: "
            "check the model's weights and activations, or use a scorer of forward passes."
        )


def _no_second(evaluator: Evaluator, received: str) -> str:
    return (
        f"outcome '{evaluator.question.outcome.name}' must have second derivatives with respect to the masks, received "
        f"{received} (it is piecewise linear in what model '{evaluator.question.model.name}' computes): pass "
        "order=1, or outcome='loss'."
    )
