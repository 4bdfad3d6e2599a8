"""Ridge regression, fitted to the compressed design."""

from typing import Literal

import numpy as np
from scipy import linalg

from .._utils import Array, one_blas_thread
from ..errors import UnidentifiedError
from ._compression import CompressedDesign
from ._ols import Fit

Penalty = float | Literal["evidence"]
_RATIOS = np.logspace(-6, 12, 415)
"""Grid of signal-to-noise ratios, a tenth of an e-fold apart."""


@one_blas_thread
def ridge(design: CompressedDesign, outcome: int, penalty: Penalty) -> Fit:
    """Fit ridge regression to a compressed design of any rank.

    `penalty` is the factor of the sum of squared coefficients, or "evidence" to average over penalties by their
    marginal likelihood [1]_ (see `penalty_weights`). Coefficients and standard errors are mean and standard deviation
    of the posterior under normal errors of equal variance, which is integrated out with prior 1 / variance, and the
    normal prior with mean zero that a penalty implies. The standard errors include the uncertainty about the penalty:
    where the rows cannot tell impacts from none, a single best penalty would be infinite and its errors zero. The
    coverage of their intervals is not guaranteed.

    References
    ----------
    .. [1] MacKay (1992), Neural Computation 4, "Bayesian interpolation", section 4.
    """
    df = design.n_rows - 1
    if df < 3:
        raise UnidentifiedError(
            f"ridge must have at least four masks (or pairs) for its standard errors, received {design.n_rows}: draw "
            "more rows."
        )
    x, y = design.pseudo_rows(outcome)
    values, vectors = spectrum(design)
    rotated, total = vectors.T @ (x.T @ y), float(y @ y)
    if penalty == "evidence":
        penalties, weights = penalty_weights(values, rotated, total, design.n_rows)
    else:
        penalties, weights = np.array([float(penalty)]), np.ones(1)
    shrunk = values + penalties[:, np.newaxis]
    noise = _unexplained(shrunk, rotated, total) / (df - 2)
    means = (rotated / shrunk) @ vectors.T
    coefficients = weights @ means
    variance = (vectors**2) @ ((weights * noise) @ (1.0 / shrunk)) + weights @ (means - coefficients) ** 2
    details = {"penalty": float(np.exp(weights @ np.log(penalties)))}
    intercept = design.intercept(outcome, coefficients)
    return Fit(coefficients, np.sqrt(variance), "posterior", intercept, details)


def spectrum(design: CompressedDesign) -> tuple[Array, Array]:
    """Return the eigenvalues and eigenvectors of X'X."""
    values, vectors = linalg.eigh(design.root.T @ design.root)
    return np.maximum(values, 0.0), vectors


def penalty_weights(values: Array, rotated: Array, total: float, n_rows: int) -> tuple[Array, Array]:
    """Return a grid of penalties and the posterior probability of each.

    A penalty implies that masks explain a fraction r / (1 + r) of the variance of the outcome, with r = trace(X'X) /
    (n_rows * penalty) the signal-to-noise ratio. The prior of this fraction is uniform on (0, 1). `values` are the
    eigenvalues of X'X, `rotated` is X'y in the basis of its eigenvectors and `total` is y'y.
    """
    penalties = values.sum() / n_rows / _RATIOS
    shrunk = values + penalties[:, np.newaxis]
    log_prior = np.log(_RATIOS) - 2.0 * np.log1p(_RATIOS)
    log_determinant = np.log1p(values / penalties[:, np.newaxis]).sum(axis=1)
    log_evidence = -0.5 * ((n_rows - 1) * np.log(_unexplained(shrunk, rotated, total)) + log_determinant)
    log_weights = log_prior + log_evidence
    weights = np.exp(log_weights - log_weights.max())
    return penalties, weights / weights.sum()


def _unexplained(shrunk: Array, rotated: Array, total: float) -> Array:
    """Return y'y minus what is explained, for each row of `shrunk` (n_penalties, n_elements)."""
    return np.maximum(total - (rotated**2 / shrunk).sum(axis=1), np.finfo(float).tiny)
