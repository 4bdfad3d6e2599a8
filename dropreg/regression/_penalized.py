"""Penalized regression: ridge, lasso, linear estimators of scikit-learn.

All work on the compressed design; see `dropreg.regression`.
"""

from typing import Any, Literal

import numpy as np
from scipy import linalg, optimize

from .._utils import Array, one_blas_thread
from ..errors import ParameterError, UnidentifiedError
from ._compression import CompressedDesign, Rows, moments
from ._ols import Fit

Penalty = float | Literal["evidence", "cv"]
N_FOLDS = 5


@one_blas_thread
def ridge(design: CompressedDesign, rows: Rows, outcome: int, penalty: Penalty) -> Fit:
    """Ridge regression by scikit-learn on the pseudo-rows.

    Standard errors are those of the posterior under normal errors of equal variance and a normal
    prior with mean zero, whose variance the penalty stands for; how often intervals cover is not
    promised.

    Parameters
    ----------
    design : CompressedDesign
        Of any rank.
    rows : Rows
        The same rows again, for cross-validation.
    outcome : int
        Column of the outcome.
    penalty : float, "evidence" or "cv"
        On the sum of squared coefficients; "evidence" for the one with the largest marginal
        likelihood [1]_, "cv" for five-fold cross-validation over rows.

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
    """Eigenvalues and eigenvectors of X'X."""
    values, vectors = linalg.eigh(design.root.T @ design.root)
    return np.maximum(values, 0.0), vectors


def best_penalty(values: Array, rotated: Array, total: float, n_rows: int) -> float:
    """The ridge penalty that maximizes the marginal likelihood.

    Parameters
    ----------
    values : ndarray, shape (p,)
        Eigenvalues of X'X.
    rotated : ndarray, shape (p,)
        X'y in the basis of the eigenvectors.
    total : float
        y'y.
    n_rows : int
        Degrees of freedom of y.
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


def _lasso_path(design: CompressedDesign, outcome: int, penalties: Array) -> Array:
    from sklearn.linear_model import lasso_path

    x, y = _mean_scaled(design, outcome)
    alphas: Any = np.sort(penalties)[::-1]
    _, coefficients, _ = lasso_path(x, y, alphas=alphas)
    return coefficients.T[np.argsort(np.argsort(-penalties))]


def _mean_scaled(design: CompressedDesign, outcome: int) -> tuple[Array, Array]:
    """Pseudo-rows whose *mean* squared error differs from that of all rows by a constant."""
    x, y = design.pseudo_rows(outcome)
    scale = np.sqrt(len(y) / design.n_rows)
    return scale * x, scale * y


def _cross_validate(rows: Rows, outcome: int, penalties: Array, path: Any) -> float:
    """The penalty with the smallest squared error on rows left out, from the moments of each fold."""
    total = moments(rows)
    if total.n_rows < 2 * N_FOLDS:
        raise UnidentifiedError(
            f"`penalty='cv'` must have at least {2 * N_FOLDS} masks (or pairs) for {N_FOLDS}-fold cross-validation, "
            f"received {total.n_rows}: draw more rows, or pass a number as the penalty."
        )
    errors = np.zeros(len(penalties))
    for fold in range(N_FOLDS):
        held_out = moments(rows.every(N_FOLDS, fold))
        design = (total - held_out).compress()
        left = held_out.compress()
        x, y = left.pseudo_rows(outcome)
        for k, coefficients in enumerate(path(design, outcome, penalties)):
            shift = left.intercept(outcome, coefficients) - design.intercept(outcome, coefficients)
            errors[k] += ((y - x @ coefficients) ** 2).sum() + left.n_rows * shift**2
    return float(penalties[np.argmin(errors)])


@one_blas_thread
def lasso(design: CompressedDesign, rows: Rows, outcome: int, penalty: Penalty) -> Fit:
    """Lasso by scikit-learn, with its objective over all rows: squared error / (2 n) + penalty * sum of magnitudes.

    Parameters
    ----------
    penalty : float or "cv"
        "cv" for five-fold cross-validation over rows.

    Raises
    ------
    ParameterError
        If `penalty` is "evidence".
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
    return _without_errors(design, outcome, coefficients, {"penalty": chosen})


_SUMS = ("LinearRegression", "Ridge", "Lars", "OrthogonalMatchingPursuit")
_MEANS = ("Lasso", "ElasticNet", "LassoLars")


def from_estimator(design: CompressedDesign, outcome: int, estimator: Any) -> Fit:
    """Fit a copy of a linear estimator of scikit-learn to the pseudo-rows, without an intercept.

    That is exact for those that know the rows by a squared error alone and choose no penalty from them. Where the
    objective is a *mean* squared error (Lasso, ElasticNet, LassoLars) pseudo-rows are scaled so that the penalty means
    what it does on all rows.

    Raises
    ------
    ParameterError
        If `estimator` is another one.
    """
    from sklearn import linear_model
    from sklearn.base import clone

    name = type(estimator).__name__
    if name.endswith(("CV", "IC")):
        raise ParameterError(
            f"`estimator` must not choose its penalty on the {design.n_elements + 1} compressed rows, received {name}: "
            "pass estimator='ridge' or 'lasso' with penalty='cv', which leaves out rows of the run."
        )
    known = {kind: getattr(linear_model, kind) for kind in (*_SUMS, *_MEANS)}
    if type(estimator) not in known.values():
        raise ParameterError(
            f"`estimator` must be a name or one of scikit-learn's {', '.join(known)}, whose objectives are a squared "
            f"error and a fixed penalty, received {name}."
        )
    x, y = _mean_scaled(design, outcome) if name in _MEANS else design.pseudo_rows(outcome)
    copy: Any = clone(estimator)
    fitted = copy.set_params(fit_intercept=False).fit(x, y)
    return _without_errors(design, outcome, np.asarray(fitted.coef_, dtype=np.float64).reshape(-1), {})


def _without_errors(design: CompressedDesign, outcome: int, coefficients: Array, details: dict[str, Any]) -> Fit:
    unknown = np.full(design.n_elements, np.nan)
    return Fit(coefficients, unknown, "none", design.intercept(outcome, coefficients), details)
