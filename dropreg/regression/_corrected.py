"""Effects that gradients predict and flips correct: unbiased, with standard errors that hold."""

from dataclasses import replace
from typing import TYPE_CHECKING

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


def corrected(sums: "FlipSums", rows_of_examples: npt.NDArray[np.int64], *, by_example: bool) -> Fit:
    """Estimate effects by the mean over rows of what gradients predict, corrected by flips.

    The estimator is a difference estimator [1]_: the mean over rows of ``T + I / p (D - T)``, with T the effect that
    the gradient predicts, D the measured effect, I whether it was measured and p the probability of that. It is
    unbiased for any T, because masks are independent.

    Parameters
    ----------
    sums : FlipSums
    rows_of_examples : ndarray of int64, shape (n_examples,)
        Rows of each example; the masks, each as a single row, where a mask serves several examples.
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
    n_rows = int(rows_of_examples.sum())
    mean = sums.total / n_rows
    around = np.maximum(sums.squares - n_rows * mean**2, 0.0)
    if by_example:
        n_groups = sums.groups.shape[1]
        variance, df = _between_groups(sums, mean) / n_rows**2, float(n_groups - 1)
    else:
        between = _between_examples(sums, mean, around, rows_of_examples)
        rest = int((rows_of_examples == rows_of_examples.max()).sum())  # of the last round through the examples
        left = rest * (1.0 - rest / len(rows_of_examples))
        variance = (around / max(n_rows - 1, 1) - between) / n_rows + between * left / n_rows**2
        df = np.inf
    return Fit(-mean, np.sqrt(variance), "cluster" if by_example else "HC1", 0.0, {}, df)


def _between_groups(sums: "FlipSums", mean: Array) -> Array:
    """Return the sum over groups of squared deviations from the mean, unbiased, shape (n_elements,)."""
    n_groups = sums.groups.shape[1]
    deviations = sums.groups - mean[:, np.newaxis] * sums.rows_of_groups
    return (deviations**2).sum(axis=1) * n_groups / (n_groups - 1)


def _between_examples(sums: "FlipSums", mean: Array, around: Array, rows_of_examples: npt.NDArray[np.int64]) -> Array:
    """Return the variance between examples of the mean over their rows, a cautious estimate, shape (n_elements,).

    Sums over groups of examples have a larger variance than sums over as many independent rows: by this variance times
    the number of pairs of rows with the same example. The estimate is one standard error below what they say, or
    exactly that where every example is a group of its own.
    """
    n_rows, n_groups, n_examples = int(rows_of_examples.sum()), sums.groups.shape[1], len(rows_of_examples)
    pairs = float((rows_of_examples.astype(np.float64) ** 2).sum()) - n_rows
    if n_groups < 2 or pairs <= 0:
        return np.zeros(len(mean))
    groups = _between_groups(sums, mean) * (n_examples - 1) / n_examples  # the examples are all that there are
    caution = np.sqrt(2 / (n_groups - 1)) if n_groups < n_examples else 0.0
    return np.clip(((1.0 - caution) * groups - around) / pairs, 0.0, around / n_rows)


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
