"""Regression of outcomes on masks: arrays in, frozen results out.

Regressors are indicators of *dropped* elements, centred (differences of two indicators where masks
come in pairs). Rows stream into a compressed design of P + 1 pseudo-rows which has the same
least-squares problem, whatever the number of rows.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import linalg
from scipy.linalg import blas
from threadpoolctl import ThreadpoolController

from .errors import ParameterError, RecordError, UnidentifiedError, concatenate_names

if TYPE_CHECKING:
    from .record import Record

Array = npt.NDArray[np.float64]
CovarianceType = Literal["HC1", "cluster", "nonrobust"]
COVARIANCES = ("HC1", "cluster", "nonrobust")


@dataclass(frozen=True)
class Block:
    """Consecutive observations.

    Attributes
    ----------
    x : ndarray of float32, shape (n, n_elements)
        1 = dropped, 0 = kept; for pairs the difference of the two, -1, 0 or 1.
    y : ndarray of float64, shape (n, n_outcomes)
        Change of each outcome against the whole model; for pairs the difference of the two.
    clusters : ndarray of int64, shape (n,)
        Example of each observation.
    """

    x: npt.NDArray[np.float32]
    y: Array
    clusters: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Observations that can be streamed again and again.

    Attributes
    ----------
    blocks : callable
        Gives all blocks, in order, each time it is called.
    """

    blocks: Callable[[], Iterator[Block]]

    def every_second(self, first: int) -> "Rows":
        """Every second observation of each block, from number `first` (0 or 1) on."""

        def blocks() -> Iterator[Block]:
            for block in self.blocks():
                yield Block(block.x[first::2], block.y[first::2], block.clusters[first::2])

        return Rows(blocks)


def observations(record: "Record", *, paired: bool = False) -> Rows:
    """The observations of a record.

    Parameters
    ----------
    record : Record
    paired : bool
        Take the differences within pairs of masks.

    Raises
    ------
    ParameterError
        If `paired` is asked of a record whose masks are not in pairs.
    """
    if paired and record.settings.masks_per_group != 2:
        raise ParameterError(
            f"`paired` must go with masks in pairs, received a record of {record.settings.design['name']} masks: "
            "sample with design=Paired(rate), or pass paired=False."
        )

    def blocks() -> Iterator[Block]:
        for chunk in record.chunks():
            x, y, clusters = (~chunk.masks).astype(np.float32), chunk.effects, chunk.examples[:, 0]
            if paired:
                x, y, clusters = x[::2] - x[1::2], y[::2] - y[1::2], clusters[::2]
            yield Block(x, y, clusters)

    return Rows(blocks)


@dataclass(frozen=True)
class CompressedDesign:
    """P + 1 pseudo-rows [R z; 0 rho] with the least-squares problem of all rows.

    Attributes
    ----------
    n_rows : int
    x_mean : ndarray, shape (n_elements,)
        Mean of the regressors: the fraction of rows in which each element is dropped.
    y_mean : ndarray, shape (n_outcomes,)
    root : ndarray, shape (n_elements, n_elements)
        R with R'R = X'X, X being the centred regressors.
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

    def intercept(self, outcome: int, coefficients: Array) -> float:
        """Predicted change with nothing dropped."""
        return float(self.y_mean[outcome] - self.x_mean @ coefficients)

    def r2(self, outcome: int, coefficients: Array) -> float:
        """Fraction of the variance over rows that the coefficients explain."""
        x, y = self.pseudo_rows(outcome)
        total = float(y @ y)
        return 1.0 - float(((y - x @ coefficients) ** 2).sum()) / total if total > 0 else 0.0


@dataclass(frozen=True)
class Fit:
    """Coefficients of one outcome.

    Attributes
    ----------
    coefficients : ndarray, shape (n_elements,)
        Change of the outcome when the element is dropped, in the outcome's unit.
    std_errors : ndarray, shape (n_elements,)
        NaN where the estimator has none.
    errors : str
        What the standard errors mean.
    intercept : float
        Predicted change with nothing dropped.
    details : dict
        What else the estimator found, such as its penalty.
    df : float
        Degrees of freedom of Student's t for intervals and tests; infinite for the normal.
    """

    coefficients: Array
    std_errors: Array
    errors: str
    intercept: float
    details: dict[str, Any]
    df: float = np.inf


@dataclass(frozen=True)
class Moments:
    """Sums over observations, from which a `CompressedDesign` follows.

    Attributes
    ----------
    n_rows : int
    xx : ndarray, shape (n_elements, n_elements)
    xy : ndarray, shape (n_elements, n_outcomes)
    yy : ndarray, shape (n_outcomes,)
    x, y : ndarray, shape (n_elements,) and (n_outcomes,)
    """

    n_rows: int
    xx: Array
    xy: Array
    yy: Array
    x: Array
    y: Array

    def __sub__(self, other: "Moments") -> "Moments":
        names = ("n_rows", "xx", "xy", "yy", "x", "y")
        return Moments(*(getattr(self, name) - getattr(other, name) for name in names))

    def compress(self) -> CompressedDesign:
        """The compressed design, exact up to rounding in float64."""
        x_mean, y_mean = self.x / self.n_rows, self.y / self.n_rows
        cross = self.xx - self.n_rows * np.outer(x_mean, x_mean)
        root, z, is_full_rank = _square_root(cross, self.xy - np.outer(self.x, y_mean), self.n_rows)
        rho2 = np.maximum(self.yy - self.n_rows * y_mean**2 - (z**2).sum(axis=0), 0.0)
        return CompressedDesign(self.n_rows, x_mean, y_mean, root, z, rho2, is_full_rank)


one_blas_thread = ThreadpoolController().wrap(limits=1, user_api="blas")
"""Decorator: BLAS runs on one thread, because on blocks of rows several wait for each other more than they work."""


@one_blas_thread
def moments(rows: Rows, *, fold: int | None = None, n_folds: int = 1) -> Moments:
    """Stream observations into their moments.

    Parameters
    ----------
    rows : Rows
    fold, n_folds : int
        Take only the observations number fold, fold + n_folds and so on.

    Raises
    ------
    RecordError
        If there are no observations, or an outcome is not finite.
    """
    total: list[Any] = []
    seen = 0
    for block in rows.blocks():
        taken = slice(None if fold is None else (fold - seen) % n_folds, None, n_folds)
        x, y, seen = block.x[taken], block.y[taken], seen + len(block.x)
        if not np.isfinite(y).all():
            raise RecordError(f"outcomes must be finite, received NaN or infinity in {(~np.isfinite(y)).sum()} rows.")
        # products of -1, 0 and 1 are counts: exact in float32 up to 2**24 rows a block
        sums = [len(x), gram(x), x.T.astype(np.float64) @ y, (y**2).sum(axis=0), x.sum(axis=0, dtype=np.float64)]
        sums.append(y.sum(axis=0))
        total = [a + b for a, b in zip(total, sums, strict=True)] if total else [np.float64(1) * s for s in sums]
    if not total or total[0] == 0:
        raise RecordError("a record must hold at least one row to be regressed, received none.")
    return Moments(int(total[0]), *total[1:])


def compress(rows: Rows) -> CompressedDesign:
    """Stream observations into a compressed design; see `moments`."""
    return moments(rows).compress()


def gram(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """X'X by a symmetric rank-k update, which costs half a matrix product."""
    upper = blas.ssyrk(1.0, np.ascontiguousarray(x).T)
    return upper + np.triu(upper, 1).T


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


@one_blas_thread
def ols(design: CompressedDesign, rows: Rows, outcome: int, covariance_type: CovarianceType) -> Fit:
    """Ordinary least squares by statsmodels on the pseudo-rows, with robust standard errors.

    Parameters
    ----------
    design : CompressedDesign
        Of full rank.
    rows : Rows
        The same rows again, for the meat of the sandwich.
    outcome : int
        Column of the outcome.
    covariance_type : {"HC1", "cluster", "nonrobust"}
        HC1: inference about this data set. cluster: by example, about the population that examples
        came from, with one degree of freedom less than there are examples. nonrobust: rows of equal variance.

    Returns
    -------
    Fit
        Its details hold ``covariance``, shape (n_elements, n_elements).

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
    intercept = design.intercept(outcome, coefficients)
    df = np.inf
    if covariance_type == "nonrobust":
        covariance, df = bread * float(result.scale), float(model.df_resid)
    elif covariance_type == "HC1":
        covariance = bread @ _meat_hc1(design, rows, outcome, coefficients, intercept) @ bread
    else:
        meat, n_clusters = _meat_cluster(design, rows, outcome, coefficients, intercept)
        covariance, df = bread @ meat @ bread, float(n_clusters - 1)
    std_errors = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    return Fit(coefficients, std_errors, covariance_type, intercept, {"covariance": covariance}, df)


def residuals(block: Block, outcome: int, coefficients: Array, intercept: float) -> Array:
    """What the coefficients leave unexplained of each observation."""
    return block.y[:, outcome] - intercept - block.x @ coefficients.astype(np.float32)


@one_blas_thread
def _meat_hc1(design: CompressedDesign, rows: Rows, outcome: int, coefficients: Array, intercept: float) -> Array:
    """Sum over rows of squared residual times x x', x centred, with the factor n / (n - p - 1)."""
    meat = np.zeros((design.n_elements,) * 2)
    center = design.x_mean.astype(np.float32)
    for block in rows.blocks():
        u_hat = np.abs(residuals(block, outcome, coefficients, intercept))
        meat += gram((block.x - center) * u_hat[:, None].astype(np.float32))
    return meat * design.n_rows / (design.n_rows - design.n_elements - 1)


@one_blas_thread
def _meat_cluster(
    design: CompressedDesign, rows: Rows, outcome: int, coefficients: Array, intercept: float
) -> tuple[Array, int]:
    """Sum over examples of the outer product of their summed scores, with the usual factor; number of examples."""
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
    """Covariance of the outcome with each indicator over its known variance, at O(P) memory.

    Unbiased where elements are dropped independently; loses a factor 1 / (1 - R2) in variance
    against OLS.

    Parameters
    ----------
    rows : Rows
    outcome : int
    rates : ndarray, shape (n_elements,)
        Probability that each element is dropped.
    """
    n_rows, y_sum = 0, 0.0
    for block in rows.blocks():
        y = block.y[:, outcome]
        if not np.isfinite(y).all():
            raise RecordError(f"outcomes must be finite, received NaN or infinity in {(~np.isfinite(y)).sum()} rows.")
        n_rows += len(y)
        y_sum += float(y.sum())
    if n_rows < 2:
        raise RecordError(f"a record must hold at least two masks to be regressed, received {n_rows}.")
    center = y_sum / n_rows
    total, squares = 0.0, 0.0
    x_y, x_y2 = np.zeros(len(rates)), np.zeros(len(rates))
    for block in rows.blocks():
        y = block.y[:, outcome] - center
        total, squares = total + float(y.sum()), squares + float((y**2).sum())
        x_y += y.astype(np.float32) @ block.x
        x_y2 += (y**2).astype(np.float32) @ block.x
    variance = rates * (1 - rates)
    coefficients = (x_y - rates * total) / n_rows / variance
    # (x - q)**2 = q**2 + x (1 - 2 q) for x in {0, 1}
    second = (rates**2 * squares + (1 - 2 * rates) * x_y2) / n_rows / variance**2
    std_errors = np.sqrt(np.maximum(second - coefficients**2, 0.0) / (n_rows - 1))
    return Fit(coefficients, std_errors, "HC0, marginal", float(center - rates @ coefficients), {})


def check_identified(design: CompressedDesign, names: list[str]) -> None:
    """Raise UnidentifiedError, naming the reason, unless OLS is defined."""
    p = design.n_elements
    if design.n_rows < p + 2:
        raise UnidentifiedError(
            f"{design.n_rows:,} rows cannot identify {p:,} elements by OLS: draw at least {10 * p:,}, "
            "or pass estimator='ridge'."
        )
    constant = [names[j] for j in np.flatnonzero((design.root**2).sum(axis=0) < 1e-9 * design.n_rows)]
    if constant:
        raise UnidentifiedError(
            f"every element must be dropped in some rows and kept in others for OLS, received {len(constant)} that "
            f"never change ({concatenate_names(constant)}): draw more rows, or pass estimator='ridge'."
        )
    if not design.is_full_rank:
        raise UnidentifiedError(
            f"the masks of {design.n_rows:,} rows are collinear, so OLS cannot tell {p:,} elements apart: draw more "
            "rows (masks that all drop equally many elements stay collinear), or pass estimator='ridge'."
        )
