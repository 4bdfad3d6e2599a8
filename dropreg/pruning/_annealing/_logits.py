"""The arithmetic of annealing: from logits to masks, from measurements to impacts, from impacts to a step."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import norm, rankdata

from ..._utils import Array, BoolMasks, random_words

LEAST_KEPT, MOST_KEPT = 0.01, 0.99
"""Bounds of the keep-probabilities, so that no element is ever without observations."""
_MASK_STREAM, _SIGN_STREAM = 2, 3
_RIDGE = 0.01


def keep_probabilities(logits: Array, dropped: float) -> Array:
    """Probabilities that drop a given fraction on average.

    Parameters
    ----------
    logits : ndarray of float64, shape (n,)
        Higher = kept rather.
    dropped : float
        In [0, 1).

    Returns
    -------
    ndarray of float64, shape (n,)
        ``expit(logits - b)`` with the b that makes the mean 1 - `dropped`, then clipped to [.01, .99].
    """
    low, high = float(logits.min()) - 40.0, float(logits.max()) + 40.0
    shift = brentq(lambda b: float(expit(b - logits).mean()) - dropped, low, high) if dropped > 0 else low
    return np.clip(expit(logits - shift), LEAST_KEPT, MOST_KEPT)


def draw_masks(seed: int, number: int, n_masks: int, p: Array) -> BoolMasks:
    """Independent masks of a round.

    Parameters
    ----------
    seed, number : int
        The masks depend on these, the shape and `p` alone.
    n_masks : int
    p : ndarray of float64, shape (n,)
        Probability that each element is kept.

    Returns
    -------
    ndarray of bool, shape (n_masks, n)
        True = kept.
    """
    words = random_words(seed, number, _MASK_STREAM, n_masks * len(p)).reshape(n_masks, len(p))
    return words < np.round(p * 2.0**32).astype(np.uint32)


def draw_signs(seed: int, number: int, shape: tuple[int, ...]) -> Array:
    """Independent signs of a round, -1 or 1, of a shape; as `draw_masks`."""
    words = random_words(seed, number, _SIGN_STREAM, math.prod(shape)).reshape(shape)
    return np.where(words < 2**31, -1.0, 1.0)


def trapezoid(sums: Array, n_kept: npt.NDArray[Any], n_masks: int) -> Array:
    """The change of the expected outcome from dropped to kept, from derivatives at both ends.

    Parameters
    ----------
    sums : ndarray of float64, shape (2, n_elements)
        Sums of d(outcome)/d(mask) over the masks that keep an element, and over those that drop it.
    n_kept : ndarray of int, shape (n_elements,)
        Masks that keep it.
    n_masks : int

    Returns
    -------
    ndarray of float64, shape (n_elements,)
        (Mean where kept + mean where dropped) / 2; where one of the two was not observed, the other alone.
    """
    n_dropped = n_masks - n_kept
    kept, dropped = sums[0] / np.maximum(n_kept, 1), sums[1] / np.maximum(n_dropped, 1)
    return 0.5 * (np.where(n_kept > 0, kept, dropped) + np.where(n_dropped > 0, dropped, kept))


def expanded(
    sums: Array, squares: Array, n_kept: npt.NDArray[Any], n_masks: int, *, interactions: float, explored: float
) -> Array:
    """As `trapezoid`, of an outcome that rises with the square of what is dropped, with the second derivatives known.

    With S_j the second derivative by mask j, derivatives where j is dropped differ from those where it is kept by S_j,
    so that all masks tell of either end, however rarely j is dropped: the mean derivative at masks that keep j is the
    mean of all plus (1 - p_j) S_j, the interactions of j with what else is dropped, and half of S_j is what j costs by
    itself.

    Parameters
    ----------
    sums, n_kept, n_masks
        As in `trapezoid`.
    squares : ndarray of float64, shape (n_elements,)
        S.
    interactions : float
        What the interactions are multiplied by.
    explored : float
        Times (1/2 - p) S is added to what an element is worth: 1 judges it where it is, as the mean derivative does,
        kept elements by their interactions alone; 0 judges all of them by the whole step.

    Returns
    -------
    ndarray of float64, shape (n_elements,)
    """
    p = n_kept / n_masks
    others = sums.sum(axis=0) / n_masks + (1.0 - p) * squares
    return interactions * others - (0.5 + explored * (0.5 - p)) * squares


def differences(sums: Array, squares: Array, n_kept: npt.NDArray[Any], n_masks: int) -> Array:
    """By how much derivatives differ between masks that keep an element and that drop it, and by how much they should.

    A mask of a recurrent unit acts at every step, so that its effect soon ceases to grow with the square of what the
    derivatives say, and second derivatives promise far more than the derivatives at both ends show.

    Parameters
    ----------
    sums, squares, n_kept, n_masks
        As in `expanded`.

    Returns
    -------
    ndarray of float64, shape (2, n_elements)
        Measured, and `squares`; both times the weight of the measurement, the inverse of its variance if that of single
        masks is 1, which is 0 where one of the ends was not observed. On a square they agree on average.
    """
    n_dropped = n_masks - n_kept
    weight = n_kept * n_dropped / n_masks
    measured = sums[0] / np.maximum(n_kept, 1) - sums[1] / np.maximum(n_dropped, 1)
    return weight * np.stack([measured, squares])


def slopes(masks: BoolMasks, y: Array, p: Array) -> Array:
    """Coefficients of the masks, which estimate the derivatives of the expected outcome.

    Parameters
    ----------
    masks : ndarray of bool, shape (n_masks, n)
        Drawn independently.
    y : ndarray of float64, shape (n_masks,)
        Outcome of each mask.
    p : ndarray of float64, shape (n,)
        Probability that each element is kept.

    Returns
    -------
    ndarray of float64, shape (n,)
        Least squares with a ridge of one hundredth of the variances where there are at least two masks for each
        element; else cov(y, mask) over the known variance p (1 - p).
    """
    y = y - y.mean()
    if len(masks) < 2 * len(p):
        return (masks.T @ y - p * y.sum()) / len(masks) / (p * (1.0 - p))
    x = masks - p
    gram = x.T @ x
    gram[np.diag_indices_from(gram)] += _RIDGE * len(masks) * p * (1.0 - p)
    return np.asarray(np.linalg.solve(gram, x.T @ y), np.float64)


def bounded(impact: Array, most: float) -> Array:
    """Impacts minus their mean, in root mean squares, clipped to plus or minus `most`; all zero where they agree."""
    centred = impact - impact.mean()
    rms = float(np.sqrt(np.mean(np.square(centred))))
    return centred if rms == 0 else np.clip(centred / rms, -most, most)


def normal_scores(values: Array) -> Array:
    """What a normal distribution has at the ranks of the values (n,)."""
    return norm.ppf((rankdata(values) - 0.5) / len(values))
