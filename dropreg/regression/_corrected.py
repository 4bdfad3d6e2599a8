"""Effects that gradients predict and flips correct: unbiased, with standard errors that hold."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from .._utils import ROUNDING, Array
from ._ols import Fit

if TYPE_CHECKING:
    from ..sampling import FlipSums

_MOST_WRONG = 8.0
"""Corrections per prediction, in squares over all elements, above which an element needs a correction of its own."""
_SAME = 1e-9
"""Rounding of sums of equal numbers, relative to them."""


class Stratum(NamedTuple):
    """Sums over the rows of a slice of the examples, or of all, and the rows of each of these examples.

    Where a mask serves several examples, `rows_of_examples` has an entry of 1 for each mask.
    """

    sums: "FlipSums"
    rows_of_examples: npt.NDArray[np.int64]


def corrected(strata: Sequence[Stratum], *, by_example: bool) -> Fit:
    """Estimate effects by the mean over rows of what gradients predict, corrected by flips.

    The estimator is a difference estimator [1]_: the mean over rows of ``T + I / p (D - T)``, with T the effect that
    the gradient predicts, D the measured effect, I whether it was measured and p the probability of that. It is
    unbiased for any T, because masks are independent.

    Parameters
    ----------
    strata : sequence of Stratum
        One for each slice of the examples, or one of all. The estimates of slices are independent.
    by_example : bool
        Whether standard errors are about new examples, of groups of examples, or about this data set. In the latter
        the differences between examples do not count, as far as all examples have the same number of rows.

    Returns
    -------
    Fit
        With an intercept of zero.

    References
    ----------
    .. [1] Särndal, Swensson, Wretman (1992), "Model Assisted Survey Sampling", section 6.3.
    """
    n_rows = np.array([rows.sum() for _, rows in strata], np.float64)
    n_examples = np.array([len(rows) for _, rows in strata], np.float64)
    means = np.stack([sums.total / n for (sums, _), n in zip(strata, n_rows, strict=True)])
    share = (n_rows / n_rows.sum())[:, np.newaxis]
    mean = (share * means).sum(axis=0)
    variances = [_variance(*one, m, by_example=by_example) for one, m in zip(strata, means, strict=True)]
    variance, df = (share**2 * variances).sum(axis=0), np.inf
    if by_example:  # new examples may fall into other slices
        share = (n_examples / n_examples.sum())[:, np.newaxis]
        variance += (share * (means - mean) ** 2).sum(axis=0) / n_examples.sum()
        df = float(sum(sums.groups.shape[1] - 1 for sums, _ in strata))
    return Fit(-mean, np.sqrt(variance), "cluster" if by_example else "HC1", 0.0, {}, df)


def _variance(sums: "FlipSums", rows_of_examples: npt.NDArray[np.int64], mean: Array, *, by_example: bool) -> Array:
    """Return the variance of the mean over the rows of a stratum, shape (n_elements,)."""
    n_rows = int(rows_of_examples.sum())
    if by_example:
        return _between_groups(sums, mean) / n_rows**2
    around = np.maximum(sums.squares - n_rows * mean**2, 0.0)
    between = _between_examples(sums, mean, around, rows_of_examples)
    rest = int((rows_of_examples == rows_of_examples.max()).sum())  # of the last round through the examples
    left = rest * (1.0 - rest / len(rows_of_examples))
    return (around / max(n_rows - 1, 1) - between) / n_rows + between * left / n_rows**2


def _between_groups(sums: "FlipSums", mean: Array) -> Array:
    """Return the sum over groups of squared deviations from the mean, unbiased, shape (n_elements,)."""
    n_groups = sums.groups.shape[1]
    return (_deviations(sums, mean) ** 2).sum(axis=1) * n_groups / (n_groups - 1)


def _between_examples(sums: "FlipSums", mean: Array, around: Array, rows_of_examples: npt.NDArray[np.int64]) -> Array:
    """Return the variance between examples of the mean over their rows, a cautious estimate, shape (n_elements,).

    Sums over groups of examples have a larger variance than sums over as many independent rows: by this variance times
    the number of pairs of rows with the same example. The estimate is one standard error below what they say, or
    exactly that where every example is a group of its own. Corrections vary between rows of the same example, so their
    squares are no part of it.
    """
    n_rows, n_groups, n_examples = int(rows_of_examples.sum()), sums.groups.shape[1], len(rows_of_examples)
    pairs = float((rows_of_examples.astype(np.float64) ** 2).sum()) - n_rows
    if n_groups < 2 or pairs <= 0:
        return np.zeros(len(mean))
    squares = _deviations(sums, mean) ** 2
    groups = squares.sum(axis=1) * n_groups / (n_groups - 1)
    groups *= (n_examples - 1) / n_examples  # the examples are all that there are
    caution = 0.0
    if n_groups < n_examples:  # the relative standard error of a sum of squares
        fourth = n_groups * (squares**2).sum(axis=1)
        second = squares.sum(axis=1) ** 2
        kurtosis = np.divide(fourth, second, out=np.ones(len(mean)), where=second > 0)
        caution = np.sqrt(np.maximum(kurtosis - 1.0, 0.0) / n_groups)
    most = np.maximum(around - sums.corrections, 0.0) / n_rows
    return np.clip(((1.0 - caution) * groups - around) / pairs, 0.0, most)


def _deviations(sums: "FlipSums", mean: Array) -> Array:
    """Return the sums of groups minus what the mean says, shape (n_elements, n_groups)."""
    return sums.groups - mean[:, np.newaxis] * sums.rows_of_groups


def shrunk(fit: Fit, gradient: Array) -> Array:
    """Return the coefficients shrunk towards those that gradients alone predict, for predictions, (n_elements,).

    Gradients predict with less noise, but with a bias if the outcome is a step function. The coefficients are taken as
    ``scale * gradient + deviation + error``, with the scale by weighted least squares, deviations of equal variance by
    the method of moments [1]_ and the known standard errors; each deviation is shrunk accordingly.

    References
    ----------
    .. [1] Hedges, Vevea (1998), Psychological Methods 3, "Fixed- and random-effects models in meta-analysis".
    """
    known = np.isfinite(fit.std_errors) & (fit.std_errors > 0)
    if not known.any() or not gradient[known].any():
        return fit.coefficients
    weights = np.where(known, 1.0 / np.where(known, fit.std_errors, 1.0) ** 2, 0.0)
    scale = float((weights * gradient) @ fit.coefficients / ((weights * gradient) @ gradient))
    deviations = fit.coefficients - scale * gradient
    variance = max(float((deviations**2 - fit.std_errors**2)[known].mean()), 0.0)
    kept = np.where(known, variance / (variance + np.where(known, fit.std_errors, 1.0) ** 2), 1.0)
    return fit.coefficients - (1.0 - kept) * deviations


def unchanged(sums: "FlipSums", n_rows: int, size: float) -> npt.NDArray[np.bool_]:
    """Return the elements without any effect in `n_rows` rows, bool, shape (n_elements,).

    No gradient predicted an effect, and no flip made a difference of more than rounding of outcomes of this size.
    """
    is_measured_alone = np.abs(sums.squares - sums.corrections) <= _SAME * sums.squares
    return is_measured_alone & (np.sqrt(sums.corrections / n_rows) <= ROUNDING * size)


def unmeasured(sums: "FlipSums") -> npt.NDArray[np.bool_]:
    """Return which elements have no standard error, bool, shape (n_elements,).

    These are elements without a correction where the predictions are so poor that corrections make up almost all of
    the variance, as at high rates.
    """
    predicted = np.maximum(sums.squares - sums.corrections, 0.0).sum()
    poor = sums.corrections.sum() > _MOST_WRONG * predicted
    return poor & (sums.events == 0)


def combined(fit: Fit, other: Fit, elements: npt.NDArray[np.bool_]) -> Fit:
    """Return `fit` with the coefficients and standard errors of `other` for `elements`, bool, (n_elements,)."""
    return replace(
        fit,
        coefficients=np.where(elements, other.coefficients, fit.coefficients),
        std_errors=np.where(elements, other.std_errors, fit.std_errors),
        df=min(fit.df, other.df),
    )


def without_change(fit: Fit, elements: npt.NDArray[np.bool_]) -> Fit:
    """Return `fit` with coefficients and standard errors of zero for `elements`, bool, (n_elements,)."""
    coefficients, errors = (np.where(elements, 0.0, values) for values in (fit.coefficients, fit.std_errors))
    return replace(fit, coefficients=coefficients, std_errors=errors)
