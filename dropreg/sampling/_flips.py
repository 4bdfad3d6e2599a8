"""Correct what gradients predict by rows in which one element is flipped.

For a row, ``effect`` is its outcome with an element minus its outcome without, the other masks as drawn. A gradient
predicts the effects of all elements. In a few cells (row, element), chosen with known probabilities, the row is run
again with the element flipped, so that the effect is measured. The prediction plus the measured error divided by the
probability has the expectation of the effect, whatever the prediction.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._utils import BoolMasks
from ..data import Prediction
from ..network import Bundle, Evaluator, Outcome
from ._flip_cells import Cells, groups_of_examples
from ._flip_sums import FlipSums, flips_key

if TYPE_CHECKING:
    import tensorflow as tf

_TYPICAL = 0.1
"""Weight of an element's mean squared gradient beside that of the cell itself."""
_MARGIN_TYPICAL, _MARGIN_POWER, _MARGIN_FLOOR = 0.3, 0.75, 0.02


class Terms(NamedTuple):
    """What the gradient of one outcome says of a batch: tensors.

    `predicted` are effects (rows, n_elements), `total` and `squares` sums over the rows of each slice of them and of
    their squares (n_slices, n_elements), `groups` sums over the rows of each group (n_groups, n_elements).
    """

    predicted: Any
    total: Any
    squares: Any
    groups: Any


class Derivative(NamedTuple):
    """The gradient of an outcome's surrogate, predicted effects, and scores of cells, each (rows, n_elements)."""

    gradient: Any
    predicted: Any
    score: Any


def differentiate(
    evaluator: Evaluator, outcome: Outcome, prediction: Prediction, bundle: Bundle, kept: "tf.Tensor"
) -> Derivative | None:
    """Return the derivative of an outcome by the masks `kept`; None if there is no gradient.

    `kept` has shape (rows, n_elements), or (1, n_elements) where one mask serves all rows. A step function of
    a margin t with gradient g is predicted to change where t and the margin that the gradient predicts without (or
    with) the element have different signs.
    """
    import tensorflow as tf

    decision = None if evaluator.one_mask else evaluator.decision(outcome, prediction, bundle)
    if decision is None:
        surrogate = evaluator.surrogate(prediction, bundle, outcome)
        gradient = tf.gradients(surrogate, kept)[0]
        if gradient is None:
            return None
        return Derivative(gradient, _finite(gradient), _smooth_score(_finite(gradient)))
    margin, weight = decision
    gradient = tf.gradients(margin, kept)[0]
    if gradient is None:
        return None
    slope = tf.gradients(outcome.surrogate_of(margin, weight), margin)[0]
    g, t, c = _finite(gradient), margin[:, tf.newaxis], weight[:, tf.newaxis]
    signs = 2.0 * kept - 1.0  # removing a kept element and adding a dropped one
    flipped = t - signs * g
    step = tf.cast(t > 0, tf.float32) - tf.cast(flipped > 0, tf.float32)
    nearest = tf.minimum(tf.abs(t), tf.abs(flipped))
    typical = tf.sqrt(tf.reduce_mean(tf.square(g), axis=0, keepdims=True))
    scale = tf.abs(g) + _MARGIN_TYPICAL * typical
    distance = tf.math.divide_no_nan(nearest, scale)
    score = tf.pow(1.0 + tf.square(distance), -_MARGIN_POWER) + _MARGIN_FLOOR
    score = tf.where(scale > 0, score, _MARGIN_FLOOR) * c
    return Derivative(slope[:, tf.newaxis] * gradient, c * signs * step, score)


def _finite(gradient: "tf.Tensor") -> "tf.Tensor":
    import tensorflow as tf

    return tf.where(tf.math.is_finite(gradient), gradient, 0.0)


def _smooth_score(gradient: "tf.Tensor") -> "tf.Tensor":
    """Return the root of the size of the gradient in a cell, of which part is the element's typical size."""
    import tensorflow as tf

    squares = tf.square(gradient)
    return tf.sqrt(tf.sqrt(squares + _TYPICAL * tf.reduce_mean(squares, axis=0, keepdims=True)))


def shares(scores: "Sequence[tf.Tensor]") -> "tf.Tensor":
    """Return the share of the flips that each cell should receive, (rows, n_elements), the mean over outcomes."""
    import tensorflow as tf

    parts = [tf.math.divide_no_nan(score, tf.reduce_sum(score)) for score in scores]
    return tf.add_n(parts) / float(len(parts))


def summed(derivative: Derivative, groups: "tf.Tensor", slice_of_group: npt.NDArray[np.int64]) -> Terms:
    """Return the predictions of a batch and their sums, for the group of each row, (rows,) int64.

    `slice_of_group` has shape (n_groups,), 0 where one mask serves several examples, so that there are no groups.
    """
    import tensorflow as tf

    predicted, n_groups = derivative.predicted, len(slice_of_group)
    n_slices = int(slice_of_group.max()) + 1 if n_groups else 1
    by_group = tf.zeros([0, predicted.shape[1]])
    if n_groups:
        by_group = tf.math.unsorted_segment_sum(predicted, groups, n_groups)

    def by_slice(values: "tf.Tensor") -> "tf.Tensor":
        if n_slices == 1:
            return tf.reduce_sum(values, axis=0, keepdims=True)
        return tf.math.unsorted_segment_sum(values, tf.gather(slice_of_group, groups), n_slices)

    return Terms(predicted, by_slice(predicted), by_slice(tf.square(predicted)), by_group)


class Flips:
    """Measures effects in chosen cells and corrects what gradients predict.

    Parameters
    ----------
    evaluator : Evaluator
    outcomes : sequence of Outcome
        Row outcomes with gradients.
    per_row : int
        Mean number of flips in each row.
    """

    def __init__(self, evaluator: Evaluator, outcomes: Sequence[Outcome], per_row: int) -> None:
        import tensorflow as tf

        question = evaluator.question
        self.evaluator, self.outcomes, self.per_row = evaluator, tuple(outcomes), per_row
        self._columns = [question.row_outcomes.index(outcome) for outcome in outcomes]
        slices = question.examples.slices
        self.groups = groups_of_examples(question.seed, len(evaluator), None if slices is None else slices.codes)
        self.slice_of_group = self.groups.slice_of_group[: 0 if evaluator.one_mask else None]
        self._parts: list[int | None] = [None] if slices is None else [*range(len(slices.names))]
        spec = tf.TensorSpec([None, evaluator.n_elements], tf.bool)
        self._run = evaluator.function(self._measure, spec)

    def _measure(self, bundle: Bundle, masks: "tf.Tensor") -> "tf.Tensor":
        import tensorflow as tf

        evaluator = self.evaluator
        outputs = evaluator.outputs(bundle.gathered, tf.cast(masks, tf.float32))
        prediction = evaluator.prediction(outputs, bundle.counted)
        return evaluator.measure_all(prediction, bundle)

    def corrected(
        self,
        terms: Sequence[Terms],
        cells: Cells,
        measured: npt.NDArray[np.float32],
        masks: BoolMasks,
        examples: npt.NDArray[np.int64],
    ) -> dict[str, FlipSums]:
        """Run the flips of a batch and return its sums for each outcome, and each slice, by their `flips_key`.

        `measured` are the batch's outcomes (rows, n_row_outcomes), `masks` (rows, n_elements) and `examples` (rows,)
        as in the batch; where one mask serves the batch there is one row of both, over all `examples`.
        """
        one_mask = self.evaluator.one_mask
        flipped = self._flipped(cells, masks, examples)
        before = measured.mean(axis=0, keepdims=True) if one_mask else measured
        signs = np.where(masks[cells.rows, cells.elements], 1.0, -1.0)
        sums: dict[str, FlipSums] = {}
        for outcome, column, term in zip(self.outcomes, self._columns, terms, strict=True):
            effects = signs * (before[cells.rows, column].astype(np.float64) - flipped[:, column])
            parts = zip(self._parts, self._sums(term, cells, effects, examples), strict=True)
            sums |= {flips_key(outcome.name, part): one for part, one in parts}
        return sums

    def _flipped(self, cells: Cells, masks: BoolMasks, examples: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """Return the outcomes of the flipped rows, shape (n_cells, n_row_outcomes)."""
        import tensorflow as tf

        size = 1 if self.evaluator.one_mask else self.evaluator.batch_size
        parts = [np.zeros((0, len(self.evaluator.question.row_outcomes)))]
        for start in range(0, len(cells.rows), size):
            rows, elements = cells.rows[start : start + size], cells.elements[start : start + size]
            changed = masks[rows]
            changed[np.arange(len(rows)), elements] ^= True
            chosen = examples if self.evaluator.one_mask else examples[rows]
            values = self._run(self.evaluator.bundle(chosen), tf.constant(changed)).numpy().astype(np.float64)
            parts.append(values.mean(axis=0, keepdims=True) if self.evaluator.one_mask else values)
        return np.concatenate(parts)

    def _sums(
        self, term: Terms, cells: Cells, effects: npt.NDArray[np.float64], examples: npt.NDArray[np.int64]
    ) -> list[FlipSums]:
        """Return the sums of each slice."""
        predicted = term.predicted.numpy()[cells.rows, cells.elements].astype(np.float64)
        errors = effects - predicted
        corrections = errors / cells.probabilities
        shape = len(self._parts), self.evaluator.n_elements
        groups = np.ascontiguousarray(term.groups.numpy().T.astype(np.float64))
        places = cells.elements
        if len(self.slice_of_group):
            chosen = self.groups.of_examples[examples[cells.rows]]
            np.add.at(groups, (cells.elements, chosen), corrections)
            places = self.slice_of_group[chosen] * shape[1] + cells.elements

        def by_element(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
            return np.bincount(places, values, minlength=shape[0] * shape[1]).astype(np.float64).reshape(shape)

        sums = (
            term.total.numpy() + by_element(corrections),
            term.squares.numpy() + by_element(corrections * (2.0 * predicted + corrections)),
            by_element(corrections**2),
            by_element(errors != 0),
        )
        parts = np.split(groups, self.groups.bounds[1:-1], axis=1)
        return [FlipSums(a, b, c, d, groups=part) for a, b, c, d, part in zip(*sums, parts, strict=True)]
