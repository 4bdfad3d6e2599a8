"""Rounds of annealing: run random or given masks, and estimate impacts from the outcomes."""

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..._utils import ROUNDING, Array, BoolMasks, examples_of_rows
from ...data import Prediction
from ...errors import ModelError
from ...network import Divergence, Evaluator
from ._logits import differences, draw_masks, draw_signs, expanded, slopes, trapezoid

if TYPE_CHECKING:
    import tensorflow as tf

_REMEMBERED = 0.95
"""Factor of the differences that earlier rounds measured, in each round."""


class _Measured(NamedTuple):
    """Mean outcome of each mask and of the original model on its examples, and derivatives.

    `sums` are those of `trapezoid`, `squares` second derivatives by the masks (zero unless estimated), `last` the
    derivatives of the mean divergence by the weights of the last layer, where it is refitted jointly.
    """

    outcomes: Array
    original: Array
    sums: Array
    squares: Array
    last: list[Array]


class Round:
    """Draw masks, run them and estimate impacts; a last layer that is refitted jointly takes a step.

    Parameters
    ----------
    evaluator : Evaluator
        Its network may have fewer elements than the masks; all masks must remove the others.
    gradients : bool
        Estimate impacts from gradients by the masks.
    group, rows : int
        Examples of each mask, and of a round.
    columns : ndarray of int64, shape (evaluator.n_elements,)
        The elements that the network has.
    n_elements : int
        Number of elements of the masks.
    second_order : bool
        Estimate second derivatives where possible.

    Attributes
    ----------
    curved : bool
        Whether impacts come from first and second derivatives (`expanded`): with gradients, the divergence as outcome
        and masks that several examples share.
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
        self.columns, self.n_elements, self.changed = columns, n_elements, False
        possible = gradients and evaluator.network.takes_groups and isinstance(evaluator.question.outcome, Divergence)
        self.curved = second_order and possible
        self._recurrent = evaluator.network.recurrent
        self._differences = np.zeros((len(self._recurrent), 2))
        self._row = evaluator.original.shape[1:]
        self._curvature = Divergence.curvature(evaluator.question.examples.task, self._row[-1:])  # of one position

    @cached_property
    def _step(self) -> Callable[..., Any]:
        """The compiled step, made by the first round, because a rejected target never needs it."""
        import tensorflow as tf

        specs = [tf.TensorSpec([None, *shape], tf.float32) for shape in ((self.evaluator.n_elements,), self._row)]
        body = self._expand if self.curved else self._differentiate if self.gradients else self._measure
        return self.evaluator.function(body, *specs[: 1 + self.curved])

    def __call__(
        self, number: int, alive: npt.NDArray[np.bool_], p: Array, *, interactions: float, explored: float
    ) -> tuple[Array, float]:
        """Run the random masks of round `number`; return impacts (n_elements,) and the mean outcome.

        Impacts of elements that are not `alive` are meaningless. `interactions` and `explored` are those of `expanded`
        and have no effect where it is not used.
        """
        evaluator, group = self.evaluator, self.group
        masks = np.zeros((self.rows // group, self.n_elements), dtype=bool)
        masks[:, alive] = draw_masks(evaluator.question.seed, number, len(masks), p[alive])
        examples = examples_of_rows(evaluator.question.seed, number * self.rows, self.rows, len(evaluator))
        outcomes, original, sums, squares, last = self._run(masks, examples, number)
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
            slope[alive] = slopes(masks[:, alive], outcomes - original, p[alive])
        return self._impact(slope), float(outcomes.mean())

    def _calibrated(self, sums: Array, squares: Array, *counts: Any) -> Array:
        """Return second derivatives; those of recurrent units are scaled by the measured share of `differences`."""
        scale = np.ones(self.n_elements)
        for number, units in enumerate(self._recurrent):
            self._differences[number] *= _REMEMBERED
            self._differences[number] += differences(sums, squares, *counts)[:, units].sum(axis=1)
            measured, expected = self._differences[number]
            scale[units] = np.clip(measured / expected, 0.0, 1.0) if expected > 0 else 1.0
        return scale * squares

    def at(self, kept: npt.NDArray[np.bool_], examples: npt.NDArray[np.int64]) -> Array:
        """Return impacts (n_elements,) by the derivatives at the mask `kept`, each example with its own copy."""
        masks = np.repeat(kept[np.newaxis], len(examples), axis=0)
        sums = self._run(masks, examples).sums
        return self._impact(trapezoid(sums, masks.sum(axis=0), len(masks)))

    def means(self, masks: BoolMasks, examples: npt.NDArray[np.int64]) -> Array:
        """Return the mean outcome on `examples` of each mask (n_masks, n_elements)."""
        return self.evaluator.means(masks[:, self.columns], examples)

    def values(self, kept: npt.NDArray[np.bool_]) -> Array:
        """Return the outcome of every example (n_examples,) under the mask `kept`."""
        self.evaluator.rows += len(self.evaluator)
        return self.evaluator.values_of_one(kept[self.columns], np.arange(len(self.evaluator)))

    def _run(self, masks: BoolMasks, examples: npt.NDArray[np.int64], number: int = 0) -> _Measured:
        """Run masks on examples; second derivatives use the random signs of round `number`."""
        import tensorflow as tf

        evaluator, group, parts = self.evaluator, self.group, []
        fed: list[npt.NDArray[Any]] = [masks[:, self.columns]]
        if self.curved:
            fed.append(draw_signs(evaluator.question.seed, number, (len(examples), *self._row)))
        for block in evaluator.blocks(len(masks), 1 if evaluator.one_mask else evaluator.batch_size // group):
            rows = slice(block[0] * group, (block[-1] + 1) * group)
            floats = [tf.constant(values[part], tf.float32) for values, part in zip(fed, (block, rows), strict=False)]
            parts.append(self._step(evaluator.bundle(examples[rows]), *floats))
        evaluator.rows += len(masks) * group * (5 if self.curved else 3 if self.gradients else 1)
        outcomes, original = (np.concatenate([part[k].numpy() for part in parts]).astype(np.float64) for k in (0, 1))
        sums = np.zeros((3, self.n_elements))
        if self.gradients:
            found = np.sum([part[2].numpy().astype(np.float64) for part in parts], axis=0)
            sums[: len(found), self.columns] = found
        size = float(np.sqrt((original**2).mean()))
        self.changed |= bool((np.abs(outcomes - original) > ROUNDING * size).any() or sums.any())
        shares = [len(part[0]) for part in parts]
        last = [
            np.average([value.numpy() for value in values], axis=0, weights=shares)
            for values in zip(*(part[3] for part in parts), strict=True)
        ]
        return _Measured(outcomes, original, sums[:2], sums[2] / len(masks), last)

    def _impact(self, slope: Array) -> Array:
        impact = -self.evaluator.question.sign * slope
        if not np.isfinite(impact).all():
            raise ModelError(
                f"outcome '{self.evaluator.question.outcome.name}' and its derivatives must be finite, received NaN or "
                "infinity: check the model's weights and activations."
            )
        return impact

    def _differentiate(self, bundle: Any, masks: Any) -> Any:
        """Return mean outcomes of masks and of the original model, sums for `trapezoid`, and `_by_last`."""
        return self._expand(bundle, masks, None)

    def _expand(self, bundle: Any, masks: Any, signs: Any) -> Any:
        """As `_differentiate`; with random `signs` (rows, ..., n_outputs) also sums over masks of second derivatives.

        Every row has signs of its own, so the expected square of a mask's summed derivatives is the sum of squares.
        """
        import tensorflow as tf

        evaluator = self.evaluator
        prediction = evaluator.predict(bundle, masks)
        (g,) = tf.gradients(evaluator.surrogate(prediction, bundle), masks)
        g /= float(self.group)
        sums = [g * masks, g * (1.0 - masks)]
        if signs is not None:
            scores = evaluator.question.examples.weighted(Divergence.scores(prediction, signs), bundle.weights**0.5)
            (by_scores,) = tf.gradients(scores, masks)
            sums.append(tf.square(by_scores) / float(self.group))
        summed = tf.stack([tf.reduce_sum(part, axis=0) for part in sums])
        return *self._outcomes(prediction, bundle), summed, self._by_last(prediction, bundle)

    def _measure(self, bundle: Any, masks: Any) -> Any:
        """As `_differentiate`, without derivatives by the masks."""
        import tensorflow as tf

        prediction = self.evaluator.predict(bundle, masks)
        return *self._outcomes(prediction, bundle), tf.zeros(()), self._by_last(prediction, bundle)

    def _by_last(self, prediction: Prediction, bundle: Any) -> "list[tf.Tensor]":
        """Return gradients of the mean divergence by the weights of the last layer, if it is refitted jointly."""
        import tensorflow as tf

        last = self.evaluator.network.last
        if last is None:
            return []
        missed = self.evaluator.measure_one(Divergence(), prediction, bundle)
        return tf.gradients(tf.reduce_mean(missed), last.variables, unconnected_gradients="zero")

    def _outcomes(self, prediction: Prediction, bundle: Any) -> "tuple[tf.Tensor, ...]":
        """Return the mean outcome of each mask, and of the original model on the same examples."""
        original = self.evaluator.original_prediction(bundle)
        return tuple(self._by_mask(self.evaluator.measure(each, bundle)) for each in (prediction, original))

    def _by_mask(self, values: "tf.Tensor") -> "tf.Tensor":
        import tensorflow as tf

        return tf.reduce_mean(tf.reshape(values, [-1, self.group]), axis=1)
