"""Ridge and lasso of scikit-learn, fitted to the compressed design."""

from typing import Any, Literal

import numpy as np
from scipy import linalg, optimize

from .._utils import Array, one_blas_thread
from ..errors import ParameterError, UnidentifiedError
from ._compression import CompressedDesign, Rows, cross_products
from ._ols import Fit

Penalty = float | Literal["evidence", "cv"]
N_FOLDS = 5


@one_blas_thread
def ridge(design: CompressedDesign, rows: Rows, outcome: int, penalty: Penalty) -> Fit:
    """Fit ridge regression by scikit-learn to the pseudo-rows, of any rank.

    `penalty` is the factor of the sum of squared coefficients, "evidence" for the one with the largest marginal
    likelihood [1]_, or "cv" for five-fold cross-validation over `rows`. Standard errors are those of the posterior
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
    elif penalty == "cv":
        candidates = values.mean() * np.logspace(-4, 6, 41)
        chosen = _cross_validate(rows, outcome, candidates, _ridge_path)
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


def _ridge_path(design: CompressedDesign, outcome: int, penalties: Array) -> Array:
    values, vectors = spectrum(design)
    x, y = design.pseudo_rows(outcome)
    return np.stack([vectors @ ((vectors.T @ (x.T @ y)) / (values + penalty)) for penalty in penalties])


def _lasso_path(design: CompressedDesign, outcome: int, penalties: Any) -> Array:
    from sklearn.linear_model import lasso_path

    _, coefficients, _ = lasso_path(*_mean_scaled(design, outcome), alphas=penalties)
    return coefficients.T[::-1]  # the path starts at the largest penalty


def _mean_scaled(design: CompressedDesign, outcome: int) -> tuple[Array, Array]:
    """Scale the pseudo-rows so that their *mean* squared error equals that of all rows up to a constant."""
    x, y = design.pseudo_rows(outcome)
    scale = np.sqrt(len(y) / design.n_rows)
    return scale * x, scale * y


def _cross_validate(rows: Rows, outcome: int, penalties: Array, path: Any) -> float:
    """Return the penalty with the smallest squared error on held-out rows."""
    total = cross_products(rows)
    if total.n_rows < 2 * N_FOLDS:
        raise UnidentifiedError(
            f"`penalty='cv'` must have at least {2 * N_FOLDS} masks (or pairs) for {N_FOLDS}-fold cross-validation, "
            f"received {total.n_rows}: draw more rows, or pass a number as the penalty."
        )
    errors = np.zeros(len(penalties))
    for fold in range(N_FOLDS):
        sums = cross_products(rows.every(N_FOLDS, fold))
        design, held_out = total.without(sums).compress(), sums.compress()
        x, y = held_out.pseudo_rows(outcome)
        for k, coefficients in enumerate(path(design, outcome, penalties)):
            shift = held_out.intercept(outcome, coefficients) - design.intercept(outcome, coefficients)
            errors[k] += ((y - x @ coefficients) ** 2).sum() + held_out.n_rows * shift**2
    return float(penalties[np.argmin(errors)])


@one_blas_thread
def lasso(design: CompressedDesign, rows: Rows, outcome: int, penalty: Penalty) -> Fit:
    """Fit the lasso by scikit-learn: minimize squared error / (2 n) + penalty * sum of magnitudes over all rows.

    `penalty` is a number or "cv" for five-fold cross-validation over `rows`; ParameterError for "evidence".
    """
    from sklearn.linear_model import Lasso

    if penalty == "evidence":
        raise ParameterError("`penalty` must be a number or 'cv' for estimator='lasso', received 'evidence'.")
    x, y = _mean_scaled(design, outcome)
    if penalty == "cv":
        largest = np.abs(x.T @ y).max() / len(y)
        chosen = _cross_validate(rows, outcome, largest * np.logspace(-3, 0, 40), _lasso_path)
    else:
        chosen = float(penalty)
    coefficients = Lasso(alpha=chosen, fit_intercept=False, max_iter=10_000).fit(x, y).coef_
    unknown = np.full(design.n_elements, np.nan)
    return Fit(coefficients, unknown, "none", design.intercept(outcome, coefficients), {"penalty": chosen})
