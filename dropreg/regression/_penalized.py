"""Ridge regression of scikit-learn, fitted to the compressed design."""

from typing import Literal

import numpy as np
from scipy import linalg, optimize

from .._utils import Array, one_blas_thread
from ._compression import CompressedDesign
from ._ols import Fit

Penalty = float | Literal["evidence"]


@one_blas_thread
def ridge(design: CompressedDesign, outcome: int, penalty: Penalty) -> Fit:
    """Fit ridge regression by scikit-learn to the pseudo-rows, of any rank.

    `penalty` is the factor of the sum of squared coefficients, or "evidence" for the one with the largest marginal
    likelihood [1]_. Standard errors are those of the posterior
    under normal errors of equal variance and the normal prior with mean zero that the penalty implies; the coverage of
    their intervals is not guaranteed.

    References
    ----------
    .. [1] MacKay (1992), Neural Computation 4, "Bayesian interpolation", section 4.
    """
    from sklearn.linear_model import Ridge

    x, y = design.pseudo_rows(outcome)
    values, vectors = spectrum(design)
    if penalty == "evidence":
        chosen = best_penalty(values, vectors.T @ (x.T @ y), float(y @ y), design.n_rows - 1)
    else:
        chosen = float(penalty)
    coefficients = Ridge(alpha=chosen, fit_intercept=False, solver="svd").fit(x, y).coef_
    variance = (y @ y - coefficients @ (x.T @ y)) / (design.n_rows - 1)
    std_errors = np.sqrt(np.maximum((vectors**2) @ (1.0 / (values + chosen)) * variance, 0.0))
    intercept = design.intercept(outcome, coefficients)
    return Fit(coefficients, std_errors, "posterior", intercept, {"penalty": chosen})


def spectrum(design: CompressedDesign) -> tuple[Array, Array]:
    """Return the eigenvalues and eigenvectors of X'X."""
    values, vectors = linalg.eigh(design.root.T @ design.root)
    return np.maximum(values, 0.0), vectors


def best_penalty(values: Array, rotated: Array, total: float, n_rows: int) -> float:
    """Return the ridge penalty that maximizes the marginal likelihood.

    `values` are the eigenvalues of X'X, `rotated` is X'y in the basis of its eigenvectors, `total` is y'y and `n_rows`
    the degrees of freedom of y.
    """

    def negative_log_evidence(log_penalty: float) -> float:
        shrunk = values + np.exp(log_penalty)
        unexplained = max(total - (rotated**2 / shrunk).sum(), np.finfo(float).tiny)
        return 0.5 * (n_rows * np.log(unexplained) - len(values) * log_penalty + np.log(shrunk).sum())

    scale = np.log(max(values.mean(), 1e-12))
    bounds = (scale - 15.0, scale + 25.0)
    return float(np.exp(optimize.minimize_scalar(negative_log_evidence, bounds=bounds, method="bounded").x))
