"""Gradient-assisted regression, which shrinks towards recorded gradients, and estimates from the gradients alone.

Fitted to the compressed design, or to the marginal regression where there are too many elements for that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .._utils import Array, one_blas_thread
from ..errors import UnidentifiedError
from ._compression import CompressedDesign
from ._ols import Fit
from ._penalized import spectrum

if TYPE_CHECKING:
    from ..sampling import GradientSums

_RATIO_SCALE = 0.03
"""Scale of the half-normal prior on the deviation of impacts from the gradient's estimates, relative to their size."""
_OWN_RATIO_SCALE = 0.1
"""The same for marginal regression, where deviations are proportional to each element's own gradient."""
_WIDE_RATIO_SCALE = 0.3
"""Scale of the half-Cauchy prior that replaces both for standard errors."""
_LEAST_WEIGHT = 1e-17
"""Smaller weights do not change an average in float64."""
_SCALE_VARIANCE = 0.25
"""Prior variance of the scale of the gradient; its prior mean is 1, the scale of an exact gradient."""


def gradient_change(sums: "GradientSums") -> tuple[Array, Array]:
    """Predict the change of the outcome when each element is dropped, and the standard errors of the predictions.

    The trapezoid rule between the rows that keep the element and those that drop it, ``-(E[g | kept] + E[g | dropped])
    / 2``, with g the derivative of the outcome's differentiable surrogate with respect to the element's mask value
    (1 = kept). The standard errors, both of shape (n_elements,), do not include the rule's own (third-order) bias.
    """
    n_kept, n_dropped = np.maximum(sums.n_kept, 1.0), np.maximum(sums.n_dropped, 1.0)
    kept, dropped = sums.kept / n_kept, sums.dropped / n_dropped
    kept_variance = np.maximum(sums.kept_squares / n_kept - kept**2, 0.0) / np.maximum(n_kept - 1, 1.0)
    dropped_variance = np.maximum(sums.dropped_squares / n_dropped - dropped**2, 0.0) / np.maximum(n_dropped - 1, 1.0)
    return -0.5 * (kept + dropped), 0.5 * np.sqrt(kept_variance + dropped_variance)


@one_blas_thread
def assisted(design: CompressedDesign, outcome: int, sums: "GradientSums") -> Fit:
    """Fit a regression that shrinks towards the gradients at the sampled masks.

    The model is y = X (s b0 + d) + noise, with b0 the changes predicted by gradients, a scale s near 1 and deviations
    d ~ N(0, t2). The posterior is averaged over a grid of r = t / rms(b0), with a narrow half-normal prior, weighted by
    marginal likelihood: with few rows the estimate is close to the gradient's, with many the data dominate. Standard
    errors are the root of the expected squared error of these estimates under a wider prior on r, half-Cauchy [1]_,
    because few rows cannot tell how far off the gradient is, and with d ~ N(0, t2 + v), where v is the mean sampling
    variance of b0. The estimates do not use v: sampling errors differ between elements, and a common variance would
    add the regression's noise where the gradient is certain. The coverage of the intervals is not guaranteed (measured:
    ``experiments/results/coverage``); where it matters, use OLS.

    References
    ----------
    .. [1] Gelman (2006), Bayesian Analysis 1, "Prior distributions for variance parameters".
    """
    b0, b0_error = gradient_change(sums)
    size = float((b0**2).mean())
    if size == 0:
        raise UnidentifiedError(
            "gradient-assisted regression must have gradients other than zero, received only zeros: the outcome may "
            "not depend on the elements at all; pass Sampling(gradients=False), or estimator='ols' to regress."
        )
    ratios = np.logspace(-3, 1, 81)
    posterior = _Posterior(design, outcome, b0)
    parts = [posterior.at(variance) for variance in ratios**2 * size]
    weights = _posterior_weights(ratios, np.array([part.log_evidence for part in parts]), _RATIO_SCALE)
    coefficients = weights @ np.array([part.mean for part in parts])
    noisy = [posterior.at(variance) for variance in ratios**2 * size + float((b0_error**2).mean())]
    wide = _posterior_weights(ratios, np.array([part.log_evidence for part in noisy]))
    std_errors = np.sqrt(wide @ np.array([part.variance + (part.mean - coefficients) ** 2 for part in noisy]))
    details = {
        "scale of the gradient": float(weights @ [part.scale for part in parts]),
        "deviation from it": float(weights @ ratios),
    }
    return Fit(coefficients, std_errors, "posterior", design.intercept(outcome, coefficients), details)


def _posterior_weights(ratios: Array, log_evidence: Array, scale: float | None = None) -> Array:
    """Return the posterior of ratios on a logarithmic grid; half-normal prior, or half-Cauchy without a scale."""
    wide = scale is None
    log_prior = -np.log1p((ratios / _WIDE_RATIO_SCALE) ** 2) if wide else -0.5 * (ratios / scale) ** 2
    log_weights = np.log(ratios) + log_prior + log_evidence
    weights = np.exp(log_weights - log_weights.max())
    return weights / weights.sum()


@dataclass(frozen=True)
class _Part:
    """Posterior for one prior variance: mean and variance (n_elements,), scale, log marginal likelihood."""

    mean: Array
    variance: Array
    scale: float
    log_evidence: float


class _Posterior:
    """The model y = X (s b0 + d) + noise in the basis of the eigenvectors of X'X, noise variance profiled out."""

    def __init__(self, design: CompressedDesign, outcome: int, b0: Array) -> None:
        x, y = design.pseudo_rows(outcome)
        self.values, self.vectors = spectrum(design)
        self.n, self.total = design.n_rows - 1, float(y @ y)
        self.y = self.vectors.T @ (x.T @ y)
        self.b = self.vectors.T @ b0
        self.xb = self.values * self.b
        rounding = np.finfo(float).eps * float(self.b @ self.xb)  # for outcomes that never change
        least = max(rounding, np.finfo(float).tiny)
        self.noise = max(self.total, least) / self.n

    def at(self, prior_variance: float) -> _Part:
        """Return the posterior for deviations d of this variance."""
        penalty = self.noise / prior_variance
        shrunk = self.values + penalty
        weight = self.noise / _SCALE_VARIANCE  # of s ~ N(1, _SCALE_VARIANCE), in units of squared error
        q_bb = penalty * float((self.b * self.xb / shrunk).sum()) + weight
        q_by = penalty * float((self.b * self.y / shrunk).sum()) + weight
        q_yy = self.total - float((self.y**2 / shrunk).sum()) + weight
        scale = q_by / q_bb
        unexplained = max(q_yy - q_by**2 / q_bb, np.finfo(float).tiny)
        noise = unexplained / self.n
        log_evidence = -0.5 * (self.n * np.log(unexplained) + np.log(shrunk / penalty).sum() + np.log(q_bb))
        mean = self.vectors @ (scale * self.b + (self.y - scale * self.xb) / shrunk)
        by_scale = self.vectors @ (self.b - self.xb / shrunk)  # derivative of the mean with respect to s
        variance = (self.vectors**2) @ (noise / shrunk) + by_scale**2 * noise / q_bb
        return _Part(mean, variance, scale, float(log_evidence))


def assisted_marginal(regressed: Fit, rates: Array, sums: "GradientSums") -> Fit:
    """Shrink a marginal regression towards the gradient, one element at a time, in O(P) memory.

    For element j the marginal estimate is N(s b0_j + d_j, v_j), and d_j ~ N(0, r2 b0_j^2 + c_j^2 / 12 + e_j). c_j is
    the difference between the mean gradients of the rows that keep j and of those that drop it (a gradient monotonic
    in the mask value has its mean between the two), e_j is the sampling variance of b0_j, and r <= 1 has the priors of
    `assisted`, the half-normal one with scale .1. The effects of single weights lie far below the noise of any
    affordable regression, so these errors are mostly those of the gradient. `rates` are the probabilities that each
    element is dropped. Coverage is not guaranteed (measured: ``experiments/results/weights``).
    """
    b0, b0_error = gradient_change(sums)
    difference = sums.kept / np.maximum(sums.n_kept, 1.0) - sums.dropped / np.maximum(sums.n_dropped, 1.0)
    own = difference**2 / 12 + b0_error**2
    measured, noise = regressed.coefficients, np.maximum(regressed.std_errors**2, np.finfo(float).tiny)
    ratios = np.logspace(-3, 0, 41)

    def at(ratio: float) -> _Part:
        return _one_by_one(measured, noise, b0, ratio**2 * b0**2 + own)

    # all 41 posteriors at once would need too much memory, so keep two numbers of each
    found = [(part.log_evidence, part.scale) for part in map(at, ratios)]
    log_evidence, scales = np.array(found).T
    weights = _posterior_weights(ratios, log_evidence, _OWN_RATIO_SCALE)
    wide = _posterior_weights(ratios, log_evidence)
    coefficients, squared_errors = np.zeros(len(b0)), np.zeros(len(b0))
    for ratio, weight in _relevant(ratios, weights):
        coefficients += weight * at(ratio).mean
    for ratio, weight in _relevant(ratios, wide):
        part = at(ratio)
        squared_errors += weight * (part.variance + (part.mean - coefficients) ** 2)
    details = {
        "scale of the gradient": float(weights @ scales),
        "deviation from it": float(weights @ ratios),
        "standard error of the regression alone": float(np.median(regressed.std_errors)),
    }
    intercept = regressed.intercept + float(rates @ (measured - coefficients))
    return Fit(coefficients, np.sqrt(squared_errors), "posterior", intercept, details)


def _relevant(ratios: Array, weights: Array) -> list[tuple[float, float]]:
    """Return the ratios whose weight is above rounding, with their weights."""
    return [(float(r), float(w)) for r, w in zip(ratios, weights, strict=True) if w > _LEAST_WEIGHT]


def _one_by_one(measured: Array, noise: Array, b0: Array, prior_variance: Array) -> _Part:
    """Return the posterior of independent elements, with the common scale of `b0` profiled out."""
    total = noise + prior_variance
    scale = float(
        ((b0 * measured / total).sum() + 1.0 / _SCALE_VARIANCE) / ((b0**2 / total).sum() + 1.0 / _SCALE_VARIANCE)
    )
    off = measured - scale * b0
    log_evidence = -0.5 * float((np.log(total) + off**2 / total).sum() + (scale - 1.0) ** 2 / _SCALE_VARIANCE)
    shrink = prior_variance / total
    return _Part(scale * b0 + shrink * off, prior_variance * (1.0 - shrink), scale, log_evidence)


def gradient_only(sums: "GradientSums", intercept: Callable[[Array], float]) -> Fit:
    """Estimate from the gradients alone; `intercept` gives the predicted change with no element dropped."""
    change, std_error = gradient_change(sums)
    return Fit(change, std_error, "sampling of the gradient", intercept(change), {})
