"""Local search: exchange a few kept elements for as many removed ones, as long as the outcome improves."""

from itertools import takewhile

import numpy as np
import numpy.typing as npt

from ..._utils import Array, examples_of_rows
from ...element import Elements, Floor, is_allowed
from ._round import Round

Mask = npt.NDArray[np.bool_]
EXAMPLES = 1000
"""Examples on which single changes are measured."""
_SWEEPS = 10
_CANDIDATES = 48
_SIZES = (1, 2, 4, 8, 16, 32)
_FAILURES = 2
_ERRORS = 3.0
_STREAM = 1 << 40


class Swapper:
    """Local search among selections of one size, in at most ten sweeps.

    1. A sweep measures single removals and single returns at the present selection, on 1,000 examples. The candidates
       are chosen by the derivatives there, or without gradients by the scores of the selection.
    2. The 1, 2, 4 ... cheapest removals are exchanged for as many of the best returns. Each of these selections is
       measured on all examples, and the best is taken if it is better than the present one.
    3. Two sweeps in a row without a gain end the search.
    4. The exchanges are undone unless their total gain is at least three times its standard error: the best of many
       selections that differ by chance alone looks better by two or three.

    A sweep that could exceed the given number of rows is not begun: a long search does not follow few rounds.

    Parameters
    ----------
    round_ : Round
        Measures masks and their derivatives.
    elements : Elements
    floor : int, float, "all" or mapping of str to one of them
        Fewest elements that every layer keeps, as in `select`.
    """

    def __init__(self, round_: Round, elements: Elements, floor: Floor) -> None:
        self.round, self.evaluator = round_, round_.evaluator
        self.elements, self.floor = elements, floor
        self._sweep = 0

    def __call__(
        self, kept: Mask, allowed: Mask, scores: Array, most_rows: float = np.inf
    ) -> tuple[Mask, list[tuple[int, int]]]:
        """Return the improved selection, and the exchanged elements as pairs (removed, returned), in order.

        Parameters
        ----------
        kept, allowed : ndarray of bool, shape (n_elements,)
            The selection, and the elements that may be in it.
        scores : ndarray of float64, shape (n_elements,)
            Scores of the allowed elements, higher = more likely kept.
        most_rows : float
            Largest number of row-equivalents of all sweeps.
        """
        pairs: list[tuple[int, int]] = []
        start, failures, scores = kept, 0, scores.copy()
        last = self.evaluator.rows + most_rows - self._rows_of_a_sweep(kept, allowed)
        for _ in range(_SWEEPS):
            if self.evaluator.rows > last:
                break
            found = self._best_exchange(kept, allowed, scores)
            failures = 0 if found else failures + 1
            if failures == _FAILURES:
                break
            kept = _exchanged(kept, found)
            exchange(scores, found)
            pairs += found
        if pairs and not _beyond_chance(self._values(kept) - self._values(start)):
            return start, []
        return kept, pairs

    def _rows_of_a_sweep(self, kept: Mask, allowed: Mask) -> int:
        """Return the largest number of row-equivalents of a sweep."""
        n = len(self.evaluator)
        n_flipped = min(_CANDIDATES, int(kept.sum())) + min(_CANDIDATES, int((allowed & ~kept).sum()))
        return (3 + n_flipped) * min(EXAMPLES, n) + (1 + len(_SIZES)) * n

    def _best_exchange(self, kept: Mask, allowed: Mask, scores: Array) -> list[tuple[int, int]]:
        """Return the best exchange as pairs; empty if none improves the outcome."""
        removals, returns = self._ranked(kept, allowed, scores)
        pairs = list(zip(removals.tolist(), returns.tolist(), strict=False))
        choices = [pairs[:size] for size in takewhile(lambda size: size <= len(pairs), _SIZES)]
        masks = [_exchanged(kept, choice) for choice in choices]
        fitting = [k for k, mask in enumerate(masks) if is_allowed(self.elements, mask, self.floor)]
        if not fitting:
            return []
        gains = self._goodness(np.array([kept, *(masks[k] for k in fitting)]), np.arange(len(self.evaluator)))
        best = int(gains.argmax())
        return choices[fitting[best - 1]] if best else []

    def _ranked(self, kept: Mask, allowed: Mask, scores: Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return the elements whose removal costs least, and those whose return gains most, the best first."""
        n = len(self.evaluator)
        examples = examples_of_rows(self.evaluator.question.seed, _STREAM + self._sweep * EXAMPLES, min(EXAMPLES, n), n)
        self._sweep += 1
        inside, outside = np.flatnonzero(kept), np.flatnonzero(allowed & ~kept)
        impact = self.round.at(kept, examples) if self.round.gradients else scores
        inside = inside[np.argsort(impact[inside], kind="stable")][:_CANDIDATES]
        outside = outside[np.argsort(-impact[outside], kind="stable")][:_CANDIDATES]
        flipped = np.concatenate([inside, outside])
        masks = np.repeat(kept[np.newaxis], len(flipped), axis=0)
        masks[np.arange(len(flipped)), flipped] ^= True
        gains = self._goodness(masks, examples)
        removal, back = gains[: len(inside)], gains[len(inside) :]
        return inside[np.argsort(-removal, kind="stable")], outside[np.argsort(-back, kind="stable")]

    def _goodness(self, masks: npt.NDArray[np.bool_], examples: npt.NDArray[np.int64]) -> Array:
        """Return the mean outcome of each mask, larger = better."""
        return -self.evaluator.question.sign * self.round.means(masks, examples)

    def _values(self, kept: Mask) -> Array:
        """Return the outcome of each example under one mask, larger = better."""
        return -self.evaluator.question.sign * self.round.values(kept)


def _beyond_chance(gains: Array) -> bool:
    """Return whether the mean over examples exceeds three times its standard error."""
    return bool(gains.mean() > _ERRORS * gains.std() / np.sqrt(len(gains)))


def exchange(values: Array, pairs: list[tuple[int, int]]) -> None:
    """Swap the values of the two elements of each pair, in place."""
    for pair in pairs:
        values[[*pair]] = values[[*pair[::-1]]]


def _exchanged(kept: Mask, pairs: list[tuple[int, int]]) -> Mask:
    mask = kept.copy()
    for out, back in pairs:
        mask[out], mask[back] = False, True
    return mask
