"""Measured rounds of annealing: random masks or given ones, and the impacts that follow from them."""

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..._utils import Array, BoolMasks, examples_of_rows
from ...data import Prediction
from ...errors import ModelError
from ...network import Divergence, Evaluator
from ._logits import differences, draw_masks, draw_signs, expanded, slopes, trapezoid

if TYPE_CHECKING:
    import tensorflow as tf

_REMEMBERED = 0.95
"""What a round leaves of the measured differences of the rounds before."""


class _Measured(NamedTuple):
    """Outcomes of masks, those of the whole model on the same examples, and sums of derivatives by the masks.

    `squares` are second derivatives by the masks, zero where they are not asked for. `last` holds derivatives of the
    mean divergence by the weights of the last layer, where it learns along.
    """

    outcomes: Array
    whole: Array
    sums: Array
    squares: Array
    last: list[Array]


class Round:
    """Draws the masks of a round and estimates impacts from them; a last layer that learns along takes a step.

    Parameters
    ----------
    evaluator : Evaluator
        Its network may have fewer elements than the masks; the others must be dropped by all of them.
    gradients : bool
    group, rows : int
        Rows of a mask and of a round.
    columns : ndarray of int64, shape (evaluator.n_elements,)
        Which elements the network has.
    n_elements : int
        Of the masks.
    second_order : bool
        Whether to estimate second derivatives where they are at hand.

    Attributes
    ----------
    curved : bool
        Whether impacts come from first and second derivatives (`expanded`): where the outcome is the divergence, whose
        second derivatives are squares, and masks are shared by rows.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        gradients: bool,
        group: int,
        rows: int,
        columns: npt.NDArray[np.int64],
        n_elements: int,
        *,
        second_order: bool,
    ) -> None:
        self.evaluator, self.gradients, self.group, self.rows = evaluator, gradients, group, rows
        self.columns, self.n_elements = columns, n_elements
        at_hand = gradients and evaluator.network.takes_groups and isinstance(evaluator.question.outcome, Divergence)
        self.curved = second_order and at_hand
        self._recurrent = evaluator.network.recurrent
        self._differences = np.zeros((len(self._recurrent), 2))
        self._row = evaluator.original.shape[1:]
        self._curvature = Divergence.curvature(evaluator.question.examples.task, self._row[-1:])  # of one position

    @cached_property
    def _step(self) -> Callable[..., Any]:
        """Compiled when the first round runs, which a target that is refused never reaches."""
        import tensorflow as tf

        specs = [tf.TensorSpec([None, *shape], tf.float32) for shape in ((self.evaluator.n_elements,), self._row)]
        body = self._expand if self.curved else self._differentiate if self.gradients else self._measure
        return self.evaluator.function(body, *specs[: 1 + self.curved])

    def __call__(
        self, number: int, alive: npt.NDArray[np.bool_], p: Array, *, interactions: float, explored: float
    ) -> tuple[Array, float]:
        """Impacts (n_elements,), those of dropped ones meaningless, and the mean outcome of round `number`.

        `interactions` and `explored` are as in `expanded`, and of use only where that is what estimates impacts.
        """
        evaluator, group = self.evaluator, self.group
        masks = np.zeros((self.rows // group, self.n_elements), dtype=bool)
        masks[:, alive] = draw_masks(evaluator.question.seed, number, len(masks), p[alive])
        examples = examples_of_rows(evaluator.question.seed, number * self.rows, self.rows, len(evaluator))
        outcomes, whole, sums, squares, last = self._run(masks, examples, number)
        if evaluator.network.last is not None:
            evaluator.network.last.step(last, self._curvature, self.rows)
        slope = np.zeros(self.n_elements)
        counts = masks.sum(axis=0), len(masks)
        if self.curved:
            squares = self._calibrated(sums, squares, *counts)
            slope[alive] = expanded(sums, squares, *counts, interactions=interactions, explored=explored)[alive]
        elif self.gradients:
            slope[alive] = trapezoid(sums, *counts)[alive]
        else:
            slope[alive] = slopes(masks[:, alive], outcomes - whole, p[alive])
        return self._impact(slope), float(outcomes.mean())

    def _calibrated(self, sums: Array, squares: Array, *counts: Any) -> Array:
        """Second derivatives, those of recurrent units times the share of them that this and former rounds measured."""
        scale = np.ones(self.n_elements)
        for number, units in enumerate(self._recurrent):
            self._differences[number] *= _REMEMBERED
            self._differences[number] += differences(sums, squares, *counts)[:, units].sum(axis=1)
            measured, expected = self._differences[number]
            scale[units] = np.clip(measured / expected, 0.0, 1.0) if expected > 0 else 1.0
        return scale * squares

    def at(self, kept: npt.NDArray[np.bool_], examples: npt.NDArray[np.int64]) -> Array:
        """Impacts (n_elements,) by the derivatives where exactly `kept` stay; each row has a mask of its own."""
        masks = np.repeat(kept[np.newaxis], len(examples), axis=0)
        sums = self._run(masks, examples).sums
        return self._impact(trapezoid(sums, masks.sum(axis=0), len(masks)))

    def means(self, masks: BoolMasks, examples: npt.NDArray[np.int64]) -> Array:
        """Mean outcome of each mask (n_masks, n_elements) on `examples`."""
        return self.evaluator.means(masks[:, self.columns], examples)

    def values(self, kept: npt.NDArray[np.bool_]) -> Array:
        """Outcome of every example (n_examples,) where exactly `kept` stay."""
        self.evaluator.rows += len(self.evaluator)
        return self.evaluator.values_of_one(kept[self.columns], np.arange(len(self.evaluator)))

    def _run(self, masks: BoolMasks, examples: npt.NDArray[np.int64], number: int = 0) -> _Measured:
        """Run masks on examples; second derivatives take random signs, those of round `number`."""
        import tensorflow as tf

        evaluator, group, parts = self.evaluator, self.group, []
        read: list[npt.NDArray[Any]] = [masks[:, self.columns]]
        if self.curved:
            read.append(draw_signs(evaluator.question.seed, number, (len(examples), *self._row)))
        for block in evaluator.blocks(len(masks), 1 if evaluator.one_mask else evaluator.batch_size // group):
            rows = slice(block[0] * group, (block[-1] + 1) * group)
            floats = [tf.constant(values[part], tf.float32) for values, part in zip(read, (block, rows), strict=False)]
            parts.append(self._step(evaluator.bundle(examples[rows]), *floats))
        evaluator.rows += len(masks) * group * (5 if self.curved else 3 if self.gradients else 1)
        outcomes, whole = (np.concatenate([part[k].numpy() for part in parts]).astype(np.float64) for k in (0, 1))
        sums = np.zeros((3, self.n_elements))
        if self.gradients:
            found = np.sum([part[2].numpy().astype(np.float64) for part in parts], axis=0)
            sums[: len(found), self.columns] = found
        shares = [len(part[0]) for part in parts]
        last = [
            np.average([value.numpy() for value in values], axis=0, weights=shares)
            for values in zip(*(part[3] for part in parts), strict=True)
        ]
        return _Measured(outcomes, whole, sums[:2], sums[2] / len(masks), last)

    def _impact(self, slope: Array) -> Array:
        impact = -self.evaluator.question.sign * slope
        if not np.isfinite(impact).all():
            raise ModelError(
                f"outcome '{self.evaluator.question.outcome.name}' and its derivatives must be finite, received NaN or "
                "infinity: check the model's weights and activations."
            )
        return impact

    def _differentiate(self, bundle: Any, masks: Any) -> Any:
        """Mean outcome of each mask, that of the whole model, and what `trapezoid` and the last layer take."""
        return self._expand(bundle, masks, None)

    def _expand(self, bundle: Any, masks: Any, signs: Any) -> Any:
        """As `_differentiate`; by random `signs` (rows, ..., n_outputs) also the sum over masks of second derivatives.

        Rows of a mask have signs of their own, so that the square of their summed derivatives is on average the sum of
        their squares.
        """
        import tensorflow as tf

        evaluator = self.evaluator
        prediction = evaluator.predict(bundle, masks)
        (g,) = tf.gradients(evaluator.surrogate(prediction, bundle), masks)
        g /= float(self.group)
        sums = [g * masks, g * (1.0 - masks)]
        if signs is not None:
            (by_scores,) = tf.gradients(Divergence.scores(prediction, signs), masks)
            sums.append(tf.square(by_scores) / float(self.group))
        summed = tf.stack([tf.reduce_sum(part, axis=0) for part in sums])
        return *self._outcomes(prediction, bundle), summed, self._by_last(prediction, bundle)

    def _measure(self, bundle: Any, masks: Any) -> Any:
        """As `_differentiate`, without derivatives by the masks."""
        import tensorflow as tf

        prediction = self.evaluator.predict(bundle, masks)
        return *self._outcomes(prediction, bundle), tf.zeros(()), self._by_last(prediction, bundle)

    def _by_last(self, prediction: Prediction, bundle: Any) -> "list[tf.Tensor]":
        """Derivatives by the last layer of the mean divergence, which it learns to lower, as merging does."""
        import tensorflow as tf

        last = self.evaluator.network.last
        if last is None:
            return []
        missed = Divergence().measure(prediction, bundle.labels, self.evaluator.original_prediction(bundle))
        return tf.gradients(tf.reduce_mean(missed), last.variables, unconnected_gradients="zero")

    def _outcomes(self, prediction: Prediction, bundle: Any) -> "tuple[tf.Tensor, tf.Tensor]":
        """Mean outcome of each mask, and that of the whole model on the same examples."""
        whole = self.evaluator.original_prediction(bundle)
        measured = self.evaluator.measure(prediction, bundle), self.evaluator.measure(whole, bundle)
        return self._by_mask(measured[0]), self._by_mask(measured[1])

    def _by_mask(self, values: "tf.Tensor") -> "tf.Tensor":
        import tensorflow as tf

        return tf.reduce_mean(tf.reshape(values, [-1, self.group]), axis=1)
