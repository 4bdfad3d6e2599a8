"""One-sided upper confidence limits of mean losses of paired examples."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy import optimize, special, stats

_MOST_EXACT = 1_000
"""Expected number of losses above which the score test is as good as exact."""
_NUISANCE = 1e-3
"""Error probability of the confidence interval of the share of gains."""
_POINTS = 25
_MOST_TIMES = 2.0**20
_MOST_DRAWS, _LEAST_RESAMPLES, _MOST_RESAMPLES = 20_000_000, 200, 2_000
_BLOCK = 200_000
"""Draws at a time."""


def paired_limit(losses: npt.NDArray[np.float64], level: float, unit: float | None = None) -> float:
    """Return the upper confidence limit of the mean of losses (n,) in [-1, 1]; see `AccuracyLimit`.

    Losses other than -1, 0 and 1, such as means over positions, are replaced by as many of equal size as have the same
    mean and mean square. Weighted losses, in [-unit, unit], are replaced by as many of size `unit` as have the same
    mean: their mean square, and so the limit, is larger.
    """
    lost, gained, size = _counts(losses, unit)
    return size * _score_limit(lost, gained, len(losses), level)


def _counts(losses: npt.NDArray[np.float64], unit: float | None) -> tuple[float, float, float]:
    """Return how many examples are lost and gained, in units of a size, and the size."""
    total = float(np.abs(losses).sum())
    size = unit or (float((losses**2).sum()) / total if total > 0 else 1.0)
    lost, gained = (float(part.sum()) / size for part in (losses[losses > 0], -losses[losses < 0]))
    return lost, gained, size


def _score_limit(lost: float, gained: float, n: float, level: float) -> float:
    """Return the upper limit of the difference of two paired proportions, of which these counts differ."""
    if gained == 0:
        return float(stats.beta.ppf(level, lost + 1, n - lost)) if lost < n else 1.0
    mean, z = (lost - gained) / n, float(stats.norm.ppf(level))

    def excess(difference: float) -> float:
        """Return by how much a difference exceeds the largest one that the data do not reject."""
        return difference - mean - z * float(_score_deviation(lost, gained, n, difference))

    return float(optimize.brentq(excess, mean, 1.0)) if excess(1.0) > 0 else 1.0


def _score_deviation(lost: "npt.ArrayLike", gained: "npt.ArrayLike", n: float, difference: float) -> "npt.NDArray":
    """Return the standard deviation of the mean loss at a difference, with the most likely share of gains."""
    lost, gained = np.asarray(lost, np.float64), np.asarray(gained, np.float64)
    b = lost + gained - (2 * n - lost + gained) * difference
    root = np.sqrt(np.maximum(b**2 + 8 * n * gained * difference * (1 - difference), 0.0))
    p_gained = (b + root) / (4 * n)  # maximum likelihood, given the difference
    return np.sqrt(np.maximum(2 * p_gained + difference - difference**2, 0.0) / n)


def exceeds(losses: npt.NDArray[np.float64], most: float, error: float) -> bool:
    """Return whether a mean loss of `most` is not rejected by an exact test at this error probability.

    The probability of a score as low as the observed one, at the worst share of gains within a confidence interval,
    plus the error probability of this interval. False, without a test, for losses other than -1, 0 and 1, where none
    is gained, so that the limit is exact, and where so many are expected that the score test alone is as good.
    """
    n = len(losses)
    lost, gained = int((losses > 0).sum()), int((losses < 0).sum())
    if n * most > _MOST_EXACT or gained == 0 or not np.isin(losses, (-1.0, 0.0, 1.0)).all():
        return False
    return _exceeds(lost, gained, n, most, error)


@lru_cache(maxsize=1024)
def _exceeds(lost: int, gained: int, n: int, most: float, error: float) -> bool:
    nuisance = min(_NUISANCE, error / 10)
    low = float(stats.beta.ppf(nuisance / 2, gained, n - gained + 1))
    high = float(stats.beta.ppf(1 - nuisance / 2, gained + 1, n - gained))
    points = np.linspace(low, min(high, (1 - most) / 2), _POINTS)
    return max(_chance(lost, gained, n, most, float(p)) for p in points) + nuisance > error


def _chance(lost: int, gained: int, n: int, most: float, p_gained: float) -> float:
    """Return the probability of a score as low as observed if losses exceed gains by `most` of all examples."""
    p_lost = p_gained + most
    ranges = [np.arange(*_likely(n, p)) for p in (p_lost, p_gained)]
    b, c = np.meshgrid(*ranges, indexing="ij")
    rest = n - b - c
    possible = rest >= 0
    b, c, rest = b[possible], c[possible], rest[possible]
    log_chance = special.gammaln(n + 1) - special.gammaln(b + 1) - special.gammaln(c + 1) - special.gammaln(rest + 1)
    log_chance += special.xlogy(b, p_lost) + special.xlogy(c, p_gained) + special.xlogy(rest, 1 - p_lost - p_gained)

    def score(x: npt.ArrayLike, y: npt.ArrayLike) -> npt.NDArray[np.float64]:
        deviation = _score_deviation(x, y, n, most)
        return ((np.asarray(x) - np.asarray(y)) / n - most) / np.maximum(deviation, 1e-300)

    observed = float(score(lost, gained))
    return float(np.exp(log_chance[score(b, c) <= observed + 1e-9]).sum())


def _likely(n: int, p: float) -> tuple[int, int]:
    """Return the first of the likely counts and one more than the last."""
    spread = 7.0 * np.sqrt(n * p * (1 - p)) + 12.0
    return max(int(n * p - spread), 0), min(int(n * p + spread), n) + 1


def mean_limit(losses: npt.NDArray[np.float64], level: float) -> float:
    """Return the upper confidence limit of the mean of any losses (n,), the same for the same losses.

    The larger of Student's t, corrected for skewness (Johnson), and the bootstrap of t, which takes few large losses
    seriously; infinite where these are so few that resamples without any are likely.
    """
    n, mean, deviation = len(losses), float(losses.mean()), float(losses.std(ddof=1))
    if deviation == 0:
        return mean
    skewness = max(float((((losses - mean) / deviation) ** 3).mean()), 0.0)  # a limit is never lowered by it
    t = float(stats.t.ppf(level, n - 1))
    corrected = t + skewness * (1 + 2 * t**2) / (6 * np.sqrt(n))
    return mean + deviation / np.sqrt(n) * max(corrected, _bootstrap_t(losses, level))


def _bootstrap_t(losses: npt.NDArray[np.float64], level: float) -> float:
    """Return the quantile of minus t over resamples of the losses."""
    n, rng, scores = len(losses), np.random.default_rng(len(losses)), []
    count = int(np.clip(_MOST_DRAWS // n, _LEAST_RESAMPLES, _MOST_RESAMPLES))
    centred = losses - losses.mean()
    block = max(_BLOCK // n, 1)
    for start in range(0, count, block):
        sample = centred[rng.integers(0, n, (min(block, count - start), n), dtype=np.int32)]
        mean, square = sample.mean(axis=1), np.einsum("ij,ij->i", sample, sample)
        variance = (square - n * mean**2) / (n - 1)
        scores.append(np.where(variance > 0, mean / np.sqrt(np.maximum(variance, 1e-300) / n), -np.inf))
    return -float(np.quantile(np.concatenate(scores), 1.0 - level, method="lower"))


def enough_for_proportions(
    losses: npt.NDArray[np.float64], most: float, level: float, unit: float | None
) -> int | None:
    """Return how many examples with the same shares of losses and gains would show the limit; None if none would."""
    lost, gained, size = _counts(losses, unit)
    n = len(losses)
    return _enough(lambda k: size * _score_limit(k * lost, k * gained, k * n, level) <= most, n)


def enough_for_mean(losses: npt.NDArray[np.float64], most: float, level: float) -> int | None:
    """Return how many examples of the same mean and standard deviation would show the limit; None if none would."""
    n, mean = len(losses), float(losses.mean())
    width = mean_limit(losses, level) - mean
    return _enough(lambda k: mean + width / np.sqrt(k) <= most, n)


def _enough(holds: Callable[[float], bool], n: int) -> int | None:
    low, high = 1.0, 2.0
    while not holds(high):
        low, high = high, 2 * high
        if high > _MOST_TIMES:
            return None
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return int(np.ceil(high * n))
