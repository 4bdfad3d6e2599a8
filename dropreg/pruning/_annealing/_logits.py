"""Arithmetic of annealing: keep-probabilities from logits, random masks, and impacts from measurements."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import norm, rankdata

from ..._utils import Array, BoolMasks, random_words

LEAST_KEPT, MOST_KEPT = 0.01, 0.99
"""Bounds of the keep-probabilities; within them, every element is both kept and removed now and then."""
_MASK_STREAM, _SIGN_STREAM = 2, 3
_RIDGE = 0.01


def keep_probabilities(logits: Array, dropped: float) -> Array:
    """Return ``expit(logits - b)`` with the b that makes the mean 1 - `dropped`, clipped to [.01, .99].

    Parameters
    ----------
    logits : ndarray of float64, shape (n,)
        Higher = more likely kept.
    dropped : float
        Expected fraction of removed elements, in [0, 1).
    """
    low, high = float(logits.min()) - 40.0, float(logits.max()) + 40.0
    shift = brentq(lambda b: float(expit(b - logits).mean()) - dropped, low, high) if dropped > 0 else low
    return np.clip(expit(logits - shift), LEAST_KEPT, MOST_KEPT)


def draw_masks(seed: int, number: int, n_masks: int, p: Array) -> BoolMasks:
    """Return independent masks (n_masks, n), True = kept with probability `p` (n,), for round `number`."""
    words = random_words(seed, number, _MASK_STREAM, n_masks * len(p)).reshape(n_masks, len(p))
    return words < np.round(p * 2.0**32).astype(np.uint32)


def draw_signs(seed: int, number: int, shape: tuple[int, ...]) -> Array:
    """Return independent random signs, -1 or 1, for round `number`."""
    words = random_words(seed, number, _SIGN_STREAM, math.prod(shape)).reshape(shape)
    return np.where(words < 2**31, -1.0, 1.0)


def trapezoid(sums: Array, n_kept: npt.NDArray[Any], n_masks: int) -> Array:
    """Return the change of the expected outcome from removed to kept, from derivatives at both ends.

    It is the mean of the mean derivative where an element is kept and the one where it is removed; where only one of
    the two was observed, that one.

    Parameters
    ----------
    sums : ndarray of float64, shape (2, n_elements)
        Sums of d(outcome)/d(mask) over the masks that keep an element, and over those that remove it.
    n_kept : ndarray of int, shape (n_elements,)
        Number of masks that keep each element.
    n_masks : int
    """
    n_dropped = n_masks - n_kept
    kept, dropped = sums[0] / np.maximum(n_kept, 1), sums[1] / np.maximum(n_dropped, 1)
    return 0.5 * (np.where(n_kept > 0, kept, dropped) + np.where(n_dropped > 0, dropped, kept))


def expanded(
    sums: Array, squares: Array, n_kept: npt.NDArray[Any], n_masks: int, *, interactions: float, explored: float
) -> Array:
    """Return the change as `trapezoid` does, for an outcome that is quadratic in the masks, from second derivatives.

    With S_j the second derivative by mask j, the derivative where j is removed differs from that where it is kept by
    S_j, so every mask informs both ends. The mean derivative at masks that keep j is the mean over all masks plus
    (1 - p_j) S_j: the interactions of j with other removed elements. S_j / 2 is the effect of removing j alone.

    Parameters
    ----------
    sums, n_kept, n_masks
        As in `trapezoid`.
    squares : ndarray of float64, shape (n_elements,)
        S.
    interactions : float
        Factor of the interactions.
    explored : float
        Multiple of (1/2 - p) S that is added. With 1 the change is the mean derivative at the masks; with 0 it is
        that of the whole step from removed to kept.
    """
    p = n_kept / n_masks
    others = sums.sum(axis=0) / n_masks + (1.0 - p) * squares
    return interactions * others - (0.5 + explored * (0.5 - p)) * squares


def differences(sums: Array, squares: Array, n_kept: npt.NDArray[Any], n_masks: int) -> Array:
    """Return measured and expected differences of derivatives between removed and kept elements, (2, n_elements).

    The expected ones are `squares`. On a quadratic both agree on average. The mask of a recurrent unit acts at every
    step, its effect grows less than quadratically, and second derivatives overestimate the difference.

    Both are multiplied by the measurement's precision (with unit variance of single masks), which is 0 where one of
    the ends was not observed. Parameters are those of `expanded`.
    """
    n_dropped = n_masks - n_kept
    weight = n_kept * n_dropped / n_masks
    measured = sums[0] / np.maximum(n_kept, 1) - sums[1] / np.maximum(n_dropped, 1)
    return weight * np.stack([measured, squares])


def slopes(masks: BoolMasks, y: Array, p: Array) -> Array:
    """Return coefficients (n,) of a regression on masks, which estimate the derivatives of the expected outcome.

    With at least two masks for each element: least squares with a ridge of one hundredth of the variances. With
    fewer: cov(y, mask) over the known variance p (1 - p).

    Parameters
    ----------
    masks : ndarray of bool, shape (n_masks, n)
        Drawn independently with probabilities `p` (n,).
    y : ndarray of float64, shape (n_masks,)
        Outcome of each mask.
    p : ndarray of float64, shape (n,)
    """
    y = y - y.mean()
    if len(masks) < 2 * len(p):
        return (masks.T @ y - p * y.sum()) / len(masks) / (p * (1.0 - p))
    x = masks - p
    gram = x.T @ x
    gram[np.diag_indices_from(gram)] += _RIDGE * len(masks) * p * (1.0 - p)
    return np.asarray(np.linalg.solve(gram, x.T @ y), np.float64)


def bounded(impact: Array, most: float) -> Array:
    """Return centred impacts in root mean squares, clipped to [-most, most]; zeros where all are equal."""
    centred = impact - impact.mean()
    rms = float(np.sqrt(np.mean(np.square(centred))))
    return centred if rms == 0 else np.clip(centred / rms, -most, most)


def normal_scores(values: Array) -> Array:
    """Return the normal quantiles of the ranks of `values` (n,)."""
    return norm.ppf((rankdata(values) - 0.5) / len(values))
