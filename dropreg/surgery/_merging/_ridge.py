"""The numbers of merging: sums over rows, and the ridge regression of what was read on what is left."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax

from ..._utils import Array, one_blas_thread

EXACT = 1e-9
"""Largest unexplained fraction of a channel's variance at which another one is its copy (float32 rounding)."""
_ROUNDING = 1e-13
"""Variance, as a fraction of the mean square, that float32 activations which do not change can have."""


@dataclass(frozen=True)
class Sums:
    """Sums over rows of predictors x (k of them) and targets y (t of them).

    Attributes
    ----------
    n : float
        Rows.
    x, y : ndarray, shapes (k,) and (t,)
    xx, xy, yy : ndarray, shapes (k, k), (k, t) and (t, t)
    """

    n: float
    x: Array
    y: Array
    xx: Array
    xy: Array
    yy: Array

    def __add__(self, other: "Sums") -> "Sums":
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Sums(*(mine + theirs for mine, theirs in pairs))

    def moments(self, *, centre: bool) -> tuple[Array, Array, Array]:
        """Second moments of x with x, x with y and y with y, about the means or about zero."""
        means = [np.zeros_like(self.x), np.zeros_like(self.y)] if not centre else [self.x / self.n, self.y / self.n]
        products = [(self.xx, means[0], means[0]), (self.xy, means[0], means[1]), (self.yy, means[1], means[1])]
        first, second, third = (total / self.n - np.outer(a, b) for total, a, b in products)
        return first, second, third


@dataclass(frozen=True)
class Mixing:
    """What the predictors say about the targets.

    Attributes
    ----------
    coefficients : ndarray, shape (k, t)
        Zeros where nothing that was tried predicts better than nothing.
    ridge : float
        Chosen penalty in units of the mean second moment of the predictors; infinite for coefficients of zero.
    error : float
        Held-out squared error with the chosen penalty.
    error_without : float
        The same with coefficients of zero.
    """

    coefficients: Array
    ridge: float
    error: float
    error_without: float


@one_blas_thread
def solve(fit: Sums, held_out: Sums, metric: Array, ridges: tuple[float, ...], *, centre: bool) -> Mixing:
    """Ridge regression of y on x, the penalty chosen on held-out rows, then refitted on all.

    Parameters
    ----------
    fit, held_out : Sums
    metric : ndarray, shape (t, t)
        Positive semidefinite; the error of a row with residual e is e' metric e.
    ridges : tuple of float
        Penalties to try, in units of the mean diagonal of the second moments of x. No penalty at all is not
        among them; that of infinity always is.
    centre : bool
        Whether the means are taken up elsewhere (a bias).

    Returns
    -------
    Mixing
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
        with np.errstate(over="ignore", invalid="ignore"):  # of x that hardly moves, b can go out of range
            error = without + float(np.sum((b @ metric) * (xx_out @ b - 2.0 * xy_out)))
        if np.isfinite(error) and error < best_error:
            best_error, best = error, ridge
    if not np.isfinite(best):
        return Mixing(np.zeros_like(xy), best, without, without)
    xx, xy, _ = (fit + held_out).moments(centre=centre)
    penalized = xx + max(best * unit, least) * np.eye(len(xx))
    return Mixing(np.asarray(np.linalg.solve(penalized, xy), np.float64), best, best_error, without)


def copies(x: npt.NDArray[np.floating], kept: npt.NDArray[np.bool_]) -> Array:
    """Which removed channels are multiples of kept ones, up to a constant.

    Parameters
    ----------
    x : ndarray, shape (rows, channels)
        Activations of the whole network.
    kept : ndarray of bool, shape (channels,)

    Returns
    -------
    ndarray, shape (kept channels, channels)
        Column of a kept channel: one in its own place. Column of a removed one: the multiple of the kept channel
        that it copies, zeros if it copies none.
    """
    prior = np.eye(len(kept))[kept]
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    stay, gone = centred[:, kept], centred[:, ~kept]
    products, own, other = stay.T @ gone, (stay**2).sum(axis=0), (gone**2).sum(axis=0)
    scale = np.outer(own, other)
    unexplained = 1.0 - np.divide(products**2, scale, where=scale > 0, out=np.zeros_like(scale))
    nearest = unexplained.argmin(axis=0)
    at = np.arange(gone.shape[1])
    is_copy = unexplained[nearest, at] <= EXACT
    multiples = np.divide(products[nearest, at], own[nearest], where=is_copy, out=np.zeros(len(at)))
    removed = np.flatnonzero(~kept)
    prior[nearest[is_copy], removed[is_copy]] = multiples[is_copy]
    return prior


@one_blas_thread
def fit_predictions(
    x: Array, log_p: Array, held_out: npt.NDArray[np.bool_], start: tuple[Array, Array], penalties: tuple[float, ...]
) -> tuple[Array, Array]:
    """Fit a softmax layer to given probabilities p: the smallest mean divergence of its own from them.

    A convex problem; ridge towards `start` with the penalty that does best on held-out rows, `start` itself
    included.

    Parameters
    ----------
    x : ndarray, shape (rows, k)
    log_p : ndarray, shape (rows, classes)
    held_out : ndarray of bool, shape (rows,)
    start : (ndarray, ndarray), shapes (k, classes) and (classes,)
        Kernel and bias.
    penalties : tuple of float
        On squared changes of the kernel for standardized x, in nats.

    Returns
    -------
    (ndarray, ndarray)
        Kernel and bias.
    """
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-6
    z = (x - mean) / scale
    kernel, bias = start[0] * scale[:, np.newaxis], start[1] + mean @ start[0]
    best, error = None, _divergence(z[held_out], log_p[held_out], kernel, bias)
    for penalty in penalties:
        fitted = _minimize(z[~held_out], log_p[~held_out], kernel, bias, penalty)
        found = _divergence(z[held_out], log_p[held_out], *fitted)
        if found < error:
            best, error = penalty, found
    if best is None:
        return start
    kernel, bias = _minimize(z, log_p, kernel, bias, best)
    kernel = kernel / scale[:, np.newaxis]
    return kernel, bias - mean @ kernel


def _divergence(z: Array, log_p: Array, kernel: Array, bias: Array) -> float:
    return float(np.mean(np.sum(np.exp(log_p) * (log_p - log_softmax(z @ kernel + bias, axis=1)), axis=1)))


def _minimize(z: Array, log_p: Array, kernel: Array, bias: Array, penalty: float) -> tuple[Array, Array]:
    """Kernel and bias of the smallest mean divergence plus ``penalty / 2`` times the squared change of the kernel."""
    p = np.exp(log_p)

    def objective(parameters: Array) -> tuple[float, Array]:
        w, b = parameters[: kernel.size].reshape(kernel.shape), parameters[kernel.size :]
        log_q = log_softmax(z @ w + b, axis=1)
        residual = (np.exp(log_q) - p) / len(z)
        value = -np.sum(p * log_q) / len(z) + penalty / 2 * np.sum((w - kernel) ** 2)
        return float(value), np.concatenate([(z.T @ residual + penalty * (w - kernel)).ravel(), residual.sum(axis=0)])

    first = np.concatenate([kernel.ravel(), bias])
    found = minimize(objective, first, jac=True, method="L-BFGS-B", options={"maxiter": 200}).x
    return found[: kernel.size].reshape(kernel.shape), found[kernel.size :]
