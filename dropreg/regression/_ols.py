"""Ordinary least squares and marginal regression of outcomes on masks."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .._utils import Array, concatenate_names, one_blas_thread
from ..errors import RecordError, UnidentifiedError
from ._compression import CompressedDesign, RowBlock, Rows, check_finite, gram
from ._uncertainty import ErrorKind

CovarianceType = Literal["HC1", "HC3", "cluster", "nonrobust"]
_KINDS: dict[str, ErrorKind] = {
    "HC1": "data set",
    "HC3": "data set",
    "nonrobust": "data set",
    "HC0, marginal": "data set",
    "cluster": "population",
    "posterior": "posterior",
    "sampling of the gradient": "sampling",
}
"""What each kind of standard errors stands for."""
_FEW_ROWS, _FEW_CLUSTERS = 10, 100
"""Rows for each element, and clusters, below which a table says that intervals may be too narrow."""
_REMEDY = "or pass estimator='ridge', whose estimates are shrunk towards zero and have no intervals."


@dataclass(frozen=True)
class Fit:
    """Coefficients of the regression of one outcome.

    Attributes
    ----------
    coefficients : ndarray, shape (n_elements,)
        Change of the outcome when the element is dropped, in the outcome's unit.
    std_errors : ndarray, shape (n_elements,)
        NaN where the estimator has none.
    errors : str
        Kind of the standard errors.
    intercept : float
        Predicted change of the outcome with no element dropped.
    details : dict
        Further results of the estimator, such as its penalty.
    df : float
        Degrees of freedom of Student's t for intervals and tests; infinite for the normal.
    shrunk : ndarray, shape (n_elements,), or None
        Coefficients for predictions, with less noise and possibly a bias; None where `coefficients` serve for both.
    """

    coefficients: Array
    std_errors: Array
    errors: str
    intercept: float
    details: dict[str, Any]
    df: float = np.inf
    shrunk: Array | None = None

    @property
    def kind(self) -> ErrorKind:
        """What the standard errors stand for."""
        return _KINDS[self.errors]


@one_blas_thread
def ols(design: CompressedDesign, rows: Rows, outcome: int, covariance_type: CovarianceType) -> Fit:
    """Fit ordinary least squares by statsmodels to the pseudo-rows, with robust standard errors.

    HC1 and HC3 [1]_, by group of masks that depend on each other, are for inference about this data set: HC1 with the
    normal distribution, HC3, for few rows, with Student's t on the residual degrees of freedom. "cluster" (by example
    [2]_) is for the population that the examples came from, with one degree of freedom fewer than there are examples.
    "nonrobust" assumes rows of equal variance.
    The design must have full rank; `rows` are the rows that it was compressed from. The details of the result hold
    ``covariance``, shape (n_elements, n_elements).

    References
    ----------
    .. [1] MacKinnon, White (1985), J. Econometrics 29, HC1 and HC3.
    .. [2] Cameron, Miller (2015), J. Human Resources 50, section II.
    """
    import statsmodels.api as sm

    x, y = design.pseudo_rows(outcome)
    model = sm.OLS(y, x)
    model.df_resid = design.n_rows - design.n_elements - 1
    result = model.fit(method="qr")
    coefficients = np.asarray(result.params, dtype=np.float64)
    bread = np.asarray(result.normalized_cov_params, dtype=np.float64)
    intercept = design.intercept(outcome, coefficients)
    df, note = np.inf, ""
    n, p = design.n_rows // rows.group, design.n_elements
    if covariance_type == "nonrobust":
        covariance, df = bread * float(result.scale), float(model.df_resid)
    elif covariance_type == "cluster":
        meat, n_clusters = _meat_cluster(design, rows, outcome, coefficients, intercept)
        covariance, df = bread @ meat @ bread, float(n_clusters - 1)
        if n_clusters < _FEW_CLUSTERS:
            note = f"{n_clusters} examples, fewer than {_FEW_CLUSTERS}: intervals may be too narrow"
    else:
        leverage = bread if covariance_type == "HC3" else None
        covariance = bread @ _meat(design, rows, outcome, coefficients, intercept, leverage) @ bread
        if covariance_type == "HC3":
            df = float(max(n - p - 1, 1))
        elif n < _FEW_ROWS * p:
            note = f"fewer than {_FEW_ROWS} rows for each element: pass covariance='HC3' for intervals that are wider"
    std_errors = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    details = {"covariance": covariance} | ({"note": note} if note else {})
    return Fit(coefficients, std_errors, covariance_type, intercept, details, df)


def residuals(block: RowBlock, outcome: int, coefficients: Array, intercept: float) -> Array:
    """Return the residual of each observation."""
    return block.y[:, outcome] - intercept - block.x @ coefficients.astype(np.float32)


@one_blas_thread
def _meat(
    design: CompressedDesign, rows: Rows, outcome: int, coefficients: Array, intercept: float, bread: Array | None
) -> Array:
    """Sum s s' over groups, s being the sum of u x, x centred and u the residual.

    For HC1 with the factor n / (n - p - 1); with `bread` for HC3, each residual divided by 1 - h, its leverage h.
    """
    meat = np.zeros((design.n_elements,) * 2)
    center = design.x_mean.astype(np.float32)
    for block in rows.blocks():
        u_hat, x = residuals(block, outcome, coefficients, intercept), block.x - center
        if bread is not None:
            leverage = 1.0 / design.n_rows + ((x @ bread) * x).sum(axis=1)
            u_hat = u_hat / np.maximum(1.0 - leverage, np.finfo(np.float32).eps)
        meat += gram(rows.total(x * u_hat[:, None].astype(np.float32)))
    return meat if bread is not None else meat * design.n_rows / (design.n_rows - design.n_elements - 1)


@one_blas_thread
def _meat_cluster(
    design: CompressedDesign, rows: Rows, outcome: int, coefficients: Array, intercept: float
) -> tuple[Array, int]:
    """Sum s s' over examples, s being the sum of an example's u x, with the usual factor; number of examples."""
    scores, seen = np.zeros((0, design.n_elements)), np.zeros(0, np.int64)
    for block in rows.blocks():
        u_hat = residuals(block, outcome, coefficients, intercept)
        longest = int(block.clusters.max()) + 1
        if longest > len(scores):
            scores = np.vstack([scores, np.zeros((longest - len(scores), design.n_elements))])
        np.add.at(scores, block.clusters, (block.x - design.x_mean) * u_hat[:, None])
        seen = np.union1d(seen, block.clusters)
    n_clusters = len(seen)
    n, p = design.n_rows, design.n_elements
    return scores.T @ scores * (n_clusters / (n_clusters - 1) * (n - 1) / (n - p - 1)), n_clusters


@one_blas_thread
def marginal(rows: Rows, outcome: int, rates: Array) -> Fit:
    """Divide the covariance of the outcome with each indicator by the indicator's known variance, in O(P) memory.

    `rates` are the probabilities that each element is dropped. Unbiased where elements are dropped independently; the
    variance is larger than that of OLS by a factor of 1 / (1 - R2).
    """
    n_rows, y_sum = 0, 0.0
    for block in rows.blocks():
        y = block.y[:, outcome]
        check_finite(y)
        n_rows += len(y)
        y_sum += float(y.sum())
    if n_rows < 2:
        raise RecordError(f"a record must hold at least two masks to be regressed, received {n_rows}: draw more rows.")
    center = y_sum / n_rows
    total, squares = 0.0, 0.0
    x_y, x_y2, grouped = np.zeros((3, len(rates)))
    for block in rows.blocks():
        y = block.y[:, outcome] - center
        total, squares = total + float(y.sum()), squares + float((y**2).sum())
        x_y += y.astype(np.float32) @ block.x
        x_y2 += (y**2).astype(np.float32) @ block.x
        if rows.group > 1:
            grouped += (rows.total((block.x - rates) * y[:, None]) ** 2).sum(axis=0)
    variance = rates * (1 - rates)
    coefficients = (x_y - rates * total) / n_rows / variance
    # (x - q)**2 = q**2 + x (1 - 2 q) for x in {0, 1}
    single = rates**2 * squares + (1 - 2 * rates) * x_y2
    second = (single if rows.group == 1 else grouped) / n_rows / variance**2
    std_errors = np.sqrt(np.maximum(second - rows.group * coefficients**2, 0.0) / max(n_rows - rows.group, 1))
    return Fit(coefficients, std_errors, "HC0, marginal", float(center - rates @ coefficients), {})


def check_identified(design: CompressedDesign, names: list[str]) -> None:
    """Raise UnidentifiedError, with the reason, unless OLS is defined."""
    p = design.n_elements
    if design.n_rows < p + 2:
        raise UnidentifiedError(
            f"{design.n_rows:,} rows cannot identify {p:,} elements by OLS: draw at least {10 * p:,}, {_REMEDY}"
        )
    constant = [names[j] for j in np.flatnonzero((design.root**2).sum(axis=0) < 1e-9 * design.n_rows)]
    if constant:
        raise UnidentifiedError(
            f"every element must be dropped in some rows and kept in others for OLS, received {len(constant)} that "
            f"never change ({concatenate_names(constant)}): draw more rows, {_REMEDY}"
        )
    if not design.is_full_rank:
        raise UnidentifiedError(
            f"the masks of {design.n_rows:,} rows are collinear, so OLS cannot tell {p:,} elements apart: draw more "
            f"rows, {_REMEDY}"
        )
