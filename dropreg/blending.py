"""Blends of what annealing decides with the curvature of the whole network, judged by merging."""

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from .annealing import Array, normal_scores
from .baselines.question import Question, spent
from .baselines.taylor import obd
from .before_after import Outputs, changes_on
from .data import Data, as_data
from .elements import Elements
from .selection import Floor, Selection, select

if TYPE_CHECKING:
    from .surgery import Pruned

Build = Callable[[Selection, Data], "Pruned"]
"""Builds the smaller model with some examples, without recovery."""

_FIRST, _MOST = 0.5, 4.0
"""Weights of the curvature, each twice the one before."""


class Blend(NamedTuple):
    """A candidate of a stage.

    Attributes
    ----------
    weight : float
        Of the curvature.
    scores : ndarray of float64, shape (n_elements,)
        Higher = rather kept; NaN for elements that had gone before.
    kept : ndarray of bool, shape (n_elements,)
    worse : float
        By how much the merged networks' mean outcome is worse than the whole one's, on examples that they were not
        merged with.
    """

    weight: float
    scores: Array
    kept: npt.NDArray[np.bool_]
    worse: float


class Blender:
    """Adds curvatures to the logits that decide a stage, where merging finds that better.

    Logits are known from few masks and follow what the masked network makes of them; the second derivative of the
    outcome by each mask at the whole network (`dropreg.obd`) knows nothing of what else goes, but is a mean over all
    examples. Both become normal scores among what is left, and the curvatures' are added with a weight of 1/2. The
    selections with and without are really merged, with each half of the examples, and measured on the other; as long as
    that gets better, the weight is doubled. (Masks cannot judge: logits were made to look good on them. Nor can the
    examples that a network was merged with, which merging fits more closely for some selections than for others.)

    Parameters
    ----------
    question : Question
        Model, examples, elements and an outcome with a curvature.
    outputs : ndarray of float32, shape (n_examples, ...)
        Of the model on the examples.
    build : callable
        Merges the network with what a selection keeps.
    floor : int or mapping of str to int or float
        Elements that stay in every layer at least, as in `select`.

    Attributes
    ----------
    rows : int
        Row-equivalents spent.
    """

    def __init__(self, question: Question, outputs: Outputs, build: Build, floor: Floor) -> None:
        self.question, self.floor, self.rows = question, floor, 0
        self._build, self._data = build, as_data(question.model, question.examples)
        self._halves = [
            (as_data(question.model, half), half, outputs[first::2])
            for first in (0, 1)
            for half in [question.examples.part(slice(first, None, 2))]
        ]

    def __call__(self, scores: Array, alive: npt.NDArray[np.bool_], fraction: float) -> Blend:
        """The best that was found.

        Parameters
        ----------
        scores : ndarray of float64, shape (n_elements,)
            Logits that decide by themselves.
        alive : ndarray of bool, shape (n_elements,)
            What had not gone before.
        fraction : float
            Of all elements, to drop.

        Returns
        -------
        Blend
        """
        best, weight = self._judged(0.0, scores, alive, fraction), _FIRST
        own, prior = normal_scores(scores[alive]), normal_scores(self._curvatures[alive])
        while weight <= _MOST:
            blended = np.full(len(alive), np.nan)
            blended[alive] = own + weight * prior
            candidate = self._judged(weight, blended, alive, fraction)
            if not candidate.worse < best.worse:
                break
            best, weight = candidate, 2.0 * weight
        return best

    @cached_property
    def _curvatures(self) -> Array:
        asked = self.question
        table = obd(
            *(asked.model, self._data, asked.elements),
            outcome=asked.outcome,
            task=asked.examples.task,
            seed=asked.seed,
        )
        self.rows += spent(table)
        return table.impact

    def _judged(self, weight: float, scores: Array, alive: npt.NDArray[np.bool_], fraction: float) -> Blend:
        asked = self.question
        kept = chosen(asked.elements, scores, alive, fraction, self.floor)
        found = []
        for (data, *_), (_, examples, outputs) in (self._halves, self._halves[::-1]):
            smaller = self._build(Selection(asked.elements, kept), data)
            found.append(changes_on(asked.model, smaller.model, examples, asked.outcome, outputs))
        self.rows += len(asked.examples)
        return Blend(weight, scores, kept, asked.sign * float(np.concatenate(found).mean()))


def chosen(
    elements: Elements, scores: Array, alive: npt.NDArray[np.bool_], fraction: float, floor: Floor
) -> npt.NDArray[np.bool_]:
    """What stays (n_elements,) of those alive: what has gone stays gone."""
    lowest = scores[alive].min() - 1.0
    return select(elements, np.where(alive, scores, lowest), fraction=fraction, floor=floor).kept
