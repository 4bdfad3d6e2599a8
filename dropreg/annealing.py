"""The arithmetic of annealing: from logits to masks, from measurements to impacts, from impacts to a step."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import expit

from .designs import BoolMasks, random_words
from .errors import ParameterError

Array = npt.NDArray[np.float64]

LEAST_KEPT, MOST_KEPT = 0.01, 0.99
"""Bounds of the keep-probabilities, so that no element is ever without observations."""

_MASK_STREAM = 2
_RIDGE = 0.01


@dataclass(frozen=True)
class Annealing:
    """How logits move.

    Parameters
    ----------
    learning_rate : float
        Step of the logits for an estimate at one root mean square.
    ramp : float
        Fraction of a stage's rounds over which the dropped fraction rises to its target, in (0, 1].
    sharpness : float
        Logits are multiplied by a factor that rises from 1 to this over the rounds after the ramp, so that masks
        come closer to the selection; at least 1.
    averaging : float
        Fraction of a stage's rounds, the last ones, whose mean logits decide, in [0, 1]; 0 takes the last logits.
    most : float
        Estimates are clipped to this many root mean squares.

    Raises
    ------
    ParameterError
        If a parameter is out of range.
    """

    learning_rate: float = 0.3
    ramp: float = 0.5
    sharpness: float = 1.0
    averaging: float = 0.25
    most: float = 4.0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "most"):
            if not getattr(self, name) > 0:
                raise ParameterError(f"`{name}` must be positive, received {getattr(self, name)}.")
        if not 0 < self.ramp <= 1:
            raise ParameterError(f"`ramp` must lie in (0, 1], received {self.ramp}.")
        if not 0 <= self.averaging <= 1:
            raise ParameterError(f"`averaging` must lie in [0, 1], received {self.averaging}.")
        if not self.sharpness >= 1:
            raise ParameterError(f"`sharpness` must be at least 1, received {self.sharpness}.")

    def progress(self, number: int, rounds: int) -> float:
        """How far round `number` (from 0) of a stage has raised the dropped fraction, in (0, 1]."""
        return min(1.0, (number + 1) / (self.ramp * rounds))

    def factor(self, number: int, rounds: int) -> float:
        """What logits are multiplied by in round `number` (from 0)."""
        after = (1.0 - self.ramp) * rounds
        late = 0.0 if after <= 0 else max(0.0, (number + 1 - self.ramp * rounds) / after)
        return 1.0 + (self.sharpness - 1.0) * late

    def counts(self, number: int, rounds: int) -> bool:
        """Whether the logits of round `number` (from 0) are among those that are averaged."""
        return number == rounds - 1 or number >= rounds - round(self.averaging * rounds)


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
