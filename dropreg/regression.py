"""Regression of outcomes on masks: arrays and records in, frozen results out.

Regressors are indicators of *dropped* elements, centred. Rows stream into a compressed design of
P + 1 pseudo-rows which has the same least-squares problem, whatever the number of rows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from scipy import linalg, optimize
from scipy.linalg import blas

from .errors import ParameterError, RecordError

Array = npt.NDArray[np.float64]
CovarianceType = Literal["HC1", "cluster", "nonrobust"]
COVARIANCES = ("HC1", "cluster", "nonrobust")


class RowChunk(Protocol):
    """What the regression needs of a chunk; see `dropreg.record.Chunk`."""

    @property
    def masks(self) -> npt.NDArray[np.bool_]: ...
    @property
    def examples(self) -> npt.NDArray[np.int64]: ...
    @property
    def effects(self) -> Array: ...


Rows = Callable[[], Iterator[RowChunk]]
"""Gives all rows, chunk by chunk, each time it is called."""


@dataclass(frozen=True)
class CompressedDesign:
    """P + 1 pseudo-rows [R z; 0 rho] with the least-squares problem of all rows.

    Attributes
    ----------
    n_rows : int
    x_mean : ndarray, shape (n_elements,)
        Fraction of rows in which each element is dropped.
    y_mean : ndarray, shape (n_outcomes,)
    root : ndarray, shape (n_elements, n_elements)
        R with R'R = X'X, X being the centred indicators of dropped elements.
    z : ndarray, shape (n_elements, n_outcomes)
        With R'z = X'y.
    rho2 : ndarray, shape (n_outcomes,)
        What of y'y no coefficients can explain.
    is_full_rank : bool
        Whether OLS is defined.
    """

    n_rows: int
    x_mean: Array
    y_mean: Array
    root: Array
    z: Array
    rho2: Array
    is_full_rank: bool

    @property
    def n_elements(self) -> int:
        return len(self.x_mean)

    def pseudo_rows(self, outcome: int) -> tuple[Array, Array]:
        """(X, y) of shapes (P + 1, P) and (P + 1,) for any estimator of linear models."""
        x = np.vstack([self.root, np.zeros((1, self.n_elements))])
        return x, np.append(self.z[:, outcome], np.sqrt(self.rho2[outcome]))


@dataclass(frozen=True)
class Fit:
    """Coefficients of one outcome.

    Attributes
    ----------
    coefficients : ndarray, shape (n_elements,)
        Change of the outcome when the element is dropped, in the outcome's unit.
    intercept : float
        Predicted change with nothing dropped.
    std_errors : ndarray, shape (n_elements,)
    covariance : ndarray, shape (n_elements, n_elements)
    covariance_type : str
    r2 : float
        Explained fraction of the variance over rows.
    penalty : float
        Ridge penalty on the squared coefficients, 0 for OLS.
    """

    coefficients: Array
    intercept: float
    std_errors: Array
    covariance: Array
    covariance_type: str
    r2: float
    penalty: float


def compress(rows: Rows) -> CompressedDesign:
    """Stream rows into a compressed design, exact up to rounding in float64.

    Parameters
    ----------
    rows : callable
        Gives the chunks.

    Raises
    ------
    RecordError
        If there are no rows, or an outcome is not finite.
    """
    n_rows, counts, sums, squares = 0, np.zeros((0, 0)), np.zeros((0, 0)), np.zeros(0)
    totals, dropped = np.zeros(0), np.zeros(0)
    for chunk in rows():
        x, y = _dropped(chunk.masks), chunk.effects
        if not np.isfinite(y).all():
            raise RecordError(f"outcomes must be finite, received NaN or infinity in {(~np.isfinite(y)).sum()} rows.")
        if n_rows == 0:
            counts, sums = np.zeros((x.shape[1],) * 2), np.zeros((x.shape[1], y.shape[1]))
            squares, totals, dropped = np.zeros(y.shape[1]), np.zeros(y.shape[1]), np.zeros(x.shape[1])
        n_rows += len(x)
        counts += gram(x)  # counts of 0/1 products: exact in float32 up to 2**24 rows a chunk
        sums += x.astype(np.float64).T @ y
        squares += (y**2).sum(axis=0)
        totals += y.sum(axis=0)
        dropped += x.sum(axis=0, dtype=np.float64)
    if n_rows == 0:
        raise RecordError("a record must hold at least one row to be regressed, received none.")
    x_mean, y_mean = dropped / n_rows, totals / n_rows
    cross = counts - n_rows * np.outer(x_mean, x_mean)
    products = sums - np.outer(dropped, y_mean)
    root, z, is_full_rank = _square_root(cross, products, n_rows)
    rho2 = np.maximum(squares - n_rows * y_mean**2 - (z**2).sum(axis=0), 0.0)
    return CompressedDesign(n_rows, x_mean, y_mean, root, z, rho2, is_full_rank)


def gram(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """X'x by a symmetric rank-k update, which costs half a matrix product."""
    upper = blas.ssyrk(1.0, x.T)
    return upper + np.triu(upper, 1).T


def _dropped(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    return (~masks).astype(np.float32)


def _square_root(cross: Array, products: Array, n_rows: int) -> tuple[Array, Array, bool]:
    """R and z with R'R = cross and R'z = products; triangular where the design has full rank."""
    tolerance = 1e-9 * n_rows
    if n_rows > len(cross):
        try:
            root = linalg.cholesky(cross, lower=False)
            if (np.diag(root) ** 2 > tolerance).all():
                return root, linalg.solve_triangular(root, products, trans=1), True
        except linalg.LinAlgError:
            pass
    values, vectors = linalg.eigh(cross)
    kept = values > tolerance
    scale = np.where(kept, np.sqrt(np.maximum(values, 0.0)), 0.0)
    z = np.divide(vectors.T @ products, scale[:, None], out=np.zeros_like(products), where=kept[:, None])
    return scale[:, None] * vectors.T, z, False


def ols(design: CompressedDesign, rows: Rows, outcome: int, covariance_type: CovarianceType) -> Fit:
    """Ordinary least squares by statsmodels on the pseudo-rows, with robust standard errors.

    Parameters
    ----------
    design : CompressedDesign
        Of full rank.
    rows : callable
        The same rows again, for the meat of the sandwich.
    outcome : int
        Column of the outcome.
    covariance_type : {"HC1", "cluster", "nonrobust"}
        HC1: inference about this data set. cluster: by example, about the population that examples
        came from. nonrobust: rows of equal variance.

    References
    ----------
    .. [1] MacKinnon, White (1985), J. Econometrics 29, HC1.
    .. [2] Cameron, Miller (2015), J. Human Resources 50, section II, for clusters.
    """
    import statsmodels.api as sm

    x, y = design.pseudo_rows(outcome)
    model = sm.OLS(y, x)
    model.df_resid = design.n_rows - design.n_elements - 1
    result = model.fit(method="qr")
    coefficients = np.asarray(result.params, dtype=np.float64)
    bread = np.asarray(result.normalized_cov_params, dtype=np.float64)
    intercept = float(design.y_mean[outcome] - design.x_mean @ coefficients)
    if covariance_type == "nonrobust":
        covariance = bread * float(result.scale)
    else:
        meat = _MEATS[covariance_type](design, rows, outcome, coefficients, intercept)
        covariance = bread @ meat @ bread
    return _fit(design, outcome, coefficients, intercept, covariance, covariance_type, 0.0)


def ridge(design: CompressedDesign, outcome: int, penalty: float | None) -> Fit:
    """Ridge regression by scikit-learn on the pseudo-rows.

    Standard errors are those of the posterior under normal errors of equal variance and a normal
    prior with mean zero, whose variance the penalty stands for.

    Parameters
    ----------
    design : CompressedDesign
        Of any rank.
    outcome : int
        Column of the outcome.
    penalty : float or None
        On the sum of squared coefficients; None for the one with the largest marginal likelihood.

    References
    ----------
    .. [1] MacKay (1992), Neural Computation 4, "Bayesian interpolation", section 4.
    """
    from sklearn.linear_model import Ridge

    x, y = design.pseudo_rows(outcome)
    values, vectors = linalg.eigh(design.root.T @ design.root)
    values = np.maximum(values, 0.0)
    if penalty is None:
        penalty = best_penalty(values, vectors.T @ (x.T @ y), float(y @ y), design.n_rows - 1)
    coefficients = Ridge(alpha=penalty, fit_intercept=False, solver="svd").fit(x, y).coef_
    variance = (y @ y - coefficients @ (x.T @ y)) / (design.n_rows - 1)
    covariance = (vectors / (values + penalty)) @ vectors.T * variance
    intercept = float(design.y_mean[outcome] - design.x_mean @ coefficients)
    return _fit(design, outcome, coefficients, intercept, covariance, "posterior", penalty)


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
        explained = (rotated**2 / shrunk).sum()
        return 0.5 * (
            n_rows * np.log(max(total - explained, np.finfo(float).tiny))
            - len(values) * log_penalty
            + np.log(shrunk).sum()
        )

    scale = np.log(max(values.mean(), 1e-12))
    bounds = (scale - 15.0, scale + 25.0)
    return float(np.exp(optimize.minimize_scalar(negative_log_evidence, bounds=bounds, method="bounded").x))


def _fit(
    design: CompressedDesign,
    outcome: int,
    coefficients: Array,
    intercept: float,
    covariance: Array,
    covariance_type: str,
    penalty: float,
) -> Fit:
    x, y = design.pseudo_rows(outcome)
    total = float(y @ y)
    r2 = 1.0 - float(((y - x @ coefficients) ** 2).sum()) / total if total > 0 else 0.0
    std_errors = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    return Fit(coefficients, intercept, std_errors, covariance, covariance_type, r2, penalty)


def _residuals(
    chunk: RowChunk, x: npt.NDArray[np.float32], outcome: int, coefficients: Array, intercept: float
) -> Array:
    return chunk.effects[:, outcome] - intercept - x @ coefficients


def _meat_hc1(design: CompressedDesign, rows: Rows, outcome: int, coefficients: Array, intercept: float) -> Array:
    """Sum over rows of squared residual times x x', x centred, with the factor n / (n - p - 1)."""
    meat = np.zeros((design.n_elements,) * 2)
    center = design.x_mean.astype(np.float32)
    for chunk in rows():
        x = _dropped(chunk.masks)
        residuals = _residuals(chunk, x, outcome, coefficients, intercept)
        x -= center
        x *= np.abs(residuals)[:, None].astype(np.float32)
        meat += gram(x)
    return meat * design.n_rows / (design.n_rows - design.n_elements - 1)


def _meat_cluster(design: CompressedDesign, rows: Rows, outcome: int, coefficients: Array, intercept: float) -> Array:
    """Sum over examples of the outer product of their summed scores, with the usual small-sample factor."""
    scores = np.zeros((0, design.n_elements))
    for chunk in rows():
        x = _dropped(chunk.masks)
        residuals = _residuals(chunk, x, outcome, coefficients, intercept)
        longest = int(chunk.examples.max()) + 1
        if longest > len(scores):
            scores = np.vstack([scores, np.zeros((longest - len(scores), design.n_elements))])
        np.add.at(scores, chunk.examples, (x - design.x_mean) * residuals[:, None])
    n_clusters = int(scores.any(axis=1).sum())
    n, p = design.n_rows, design.n_elements
    return scores.T @ scores * (n_clusters / (n_clusters - 1) * (n - 1) / (n - p - 1))


_MEATS = {"HC1": _meat_hc1, "cluster": _meat_cluster}


def check_identified(design: CompressedDesign, names: list[str]) -> None:
    """Raise ParameterError, naming the reason, unless OLS is defined."""
    p = design.n_elements
    if design.n_rows < p + 2:
        raise ParameterError(
            f"{design.n_rows:,} rows cannot identify {p:,} elements by OLS: draw at least {10 * p:,}, "
            "or pass estimator='ridge'."
        )
    constant = [names[j] for j in np.flatnonzero((design.x_mean == 0) | (design.x_mean == 1))]
    if constant:
        from .elements import concatenate_names

        raise ParameterError(
            f"every element must be dropped in some rows and kept in others for OLS, received {len(constant)} that "
            f"never change ({concatenate_names(constant)}): draw more rows, or pass estimator='ridge'."
        )
    if not design.is_full_rank:
        raise ParameterError(
            f"the masks of {design.n_rows:,} rows are collinear, so OLS cannot tell {p:,} elements apart: draw more "
            "rows, or pass estimator='ridge'."
        )
