"""The numerical part of merging: sums over rows, ridge regression, and the fit of a softmax layer."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax

from ..._utils import Array, one_blas_thread

EXACT = 1e-9
"""Largest unexplained fraction of a channel's variance at which it counts as a copy of another (float32 rounding)."""
_ROUNDING = 1e-13
"""Largest variance of constant float32 activations, as a fraction of their mean square."""


@dataclass(frozen=True)
class Sums:
    """Sums over rows of predictors x (k of them) and targets y (t of them)."""

    n: float  # rows
    x: Array  # (k,)
    y: Array  # (t,)
    xx: Array  # (k, k)
    xy: Array  # (k, t)
    yy: Array  # (t, t)

    def __add__(self, other: "Sums") -> "Sums":
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Sums(*(mine + theirs for mine, theirs in pairs))

    def moments(self, *, centre: bool) -> tuple[Array, Array, Array]:
        """Return the second moments of x with x, x with y and y with y, about the means or about zero."""
        x, y = (total / self.n if centre else np.zeros_like(total) for total in (self.x, self.y))
        xx, xy, yy = (total / self.n for total in (self.xx, self.xy, self.yy))
        return xx - np.outer(x, x), xy - np.outer(x, y), yy - np.outer(y, y)


@dataclass(frozen=True)
class RidgeFit:
    """The result of a ridge regression."""

    coefficients: Array  # (k, t); zeros if no tried penalty predicts better than zeros
    ridge: float  # chosen penalty, in units of the mean second moment of x; infinite for coefficients of zero
    error: float  # held-out squared error with the chosen penalty
    error_without: float  # and with coefficients of zero


@one_blas_thread
def solve(fit: Sums, held_out: Sums, metric: Array, ridges: tuple[float, ...], *, centre: bool) -> RidgeFit:
    """Regress y on x, with the penalty that does best on held-out rows, refitted on all rows.

    The error of a row with residual e is e' metric e, with a positive semidefinite metric (t, t). The penalties to try
    besides infinity are in units of the mean diagonal of the second moments of x. With `centre`, a bias corrects means.
    """
    xx, xy, _ = fit.moments(centre=centre)
    eigenvalues, vectors = np.linalg.eigh(xx)
    rotated = vectors.T @ xy
    unit = max(float(np.trace(xx)) / max(len(xx), 1), np.finfo(np.float64).tiny)
    least = _ROUNDING * float(np.trace(fit.xx)) / max(len(xx), 1) / fit.n
    xx_out, xy_out, yy_out = held_out.moments(centre=centre)
    without = float(np.sum(metric * yy_out))
    best_error, best = without, np.inf
    for ridge in ridges:
        b = vectors @ (rotated / (np.maximum(eigenvalues, 0.0) + ridge * unit)[:, np.newaxis])
        with np.errstate(over="ignore", invalid="ignore"):  # nearly constant x can make b overflow
            error = without + float(np.sum((b @ metric) * (xx_out @ b - 2.0 * xy_out)))
        if np.isfinite(error) and error < best_error:
            best_error, best = error, ridge
    if not np.isfinite(best):
        return RidgeFit(np.zeros_like(xy), best, without, without)
    xx, xy, _ = (fit + held_out).moments(centre=centre)
    penalized = xx + max(best * unit, least) * np.eye(len(xx))
    return RidgeFit(np.asarray(np.linalg.solve(penalized, xy), np.float64), best, best_error, without)


def copies(x: npt.NDArray[np.floating], kept: npt.NDArray[np.bool_]) -> Array:
    """Find the removed channels that are multiples of kept ones, up to a constant, in activations (rows, channels).

    Returns a matrix (kept channels, channels): the column of a kept channel is 1 in its own row, that of a removed one
    holds a factor in the row of the kept channel that it copies, or zeros.
    """
    prior = np.eye(len(kept))[kept]
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    ours, theirs = centred[:, kept], centred[:, ~kept]
    products, own, other = ours.T @ theirs, (ours**2).sum(axis=0), (theirs**2).sum(axis=0)
    scale = np.outer(own, other)
    unexplained = 1.0 - np.divide(products**2, scale, where=scale > 0, out=np.zeros_like(scale))
    nearest = unexplained.argmin(axis=0)
    at = np.arange(theirs.shape[1])
    is_copy = unexplained[nearest, at] <= EXACT
    factors = np.divide(products[nearest, at], own[nearest], where=is_copy, out=np.zeros(len(at)))
    removed = np.flatnonzero(~kept)
    prior[nearest[is_copy], removed[is_copy]] = factors[is_copy]
    return prior


@one_blas_thread
def fit_predictions(
    x: Array,
    log_p: Array,
    held_out: npt.NDArray[np.bool_],
    start: tuple[Array, Array],
    penalties: tuple[float, ...],
    weights: Array | None = None,
) -> tuple[Array, Array]:
    """Fit a softmax layer to given probabilities p by their mean Kullback-Leibler divergence, which is convex.

    Inputs are x (rows, k), log p (rows, classes), whether rows are held out, the kernel (k, classes) and bias
    (classes,) to start from, and the weights of rows (rows,). Returns a kernel and a bias. The penalty, in nats, on
    squared changes of the kernel for standardized x is the one that does best on held-out rows, infinity included.
    """
    w = np.ones(len(x)) if weights is None else weights
    mean = np.average(x, axis=0, weights=w)
    scale = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=w)) + 1e-6
    z = (x - mean) / scale
    kernel, bias = start[0] * scale[:, np.newaxis], start[1] + mean @ start[0]
    fit, out = ((z[part], log_p[part], _to_mean_one(w[part])) for part in (~held_out, held_out))
    best, error = None, _divergence(*out, kernel, bias)
    for penalty in penalties:
        found = _divergence(*out, *_minimize(*fit, kernel, bias, penalty))
        if found < error:
            best, error = penalty, found
    if best is None:
        return start
    kernel, bias = _minimize(z, log_p, _to_mean_one(w), kernel, bias, best)
    kernel = kernel / scale[:, np.newaxis]
    return kernel, bias - mean @ kernel


def _to_mean_one(weights: Array) -> Array:
    return weights[:, np.newaxis] / weights.mean()


def _divergence(z: Array, log_p: Array, weights: Array, kernel: Array, bias: Array) -> float:
    log_q = log_softmax(z @ kernel + bias, axis=1)
    return float(np.mean(np.sum(weights * np.exp(log_p) * (log_p - log_q), axis=1)))


def _minimize(
    z: Array, log_p: Array, weights: Array, kernel: Array, bias: Array, penalty: float
) -> tuple[Array, Array]:
    """Minimise the mean divergence plus ``penalty / 2`` times the squared change of the kernel.

    `weights` of rows have shape (rows, 1) and mean 1.
    """
    p = np.exp(log_p)

    def objective(parameters: Array) -> tuple[float, Array]:
        w, b = parameters[: kernel.size].reshape(kernel.shape), parameters[kernel.size :]
        log_q = log_softmax(z @ w + b, axis=1)
        residual = weights * (np.exp(log_q) - p) / len(z)
        value = -np.sum(weights * p * log_q) / len(z) + penalty / 2 * np.sum((w - kernel) ** 2)
        return float(value), np.concatenate([(z.T @ residual + penalty * (w - kernel)).ravel(), residual.sum(axis=0)])

    first = np.concatenate([kernel.ravel(), bias])
    found = minimize(objective, first, jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
    return found[: kernel.size].reshape(kernel.shape), found[kernel.size :]
