"""Stream the observations of a record into P + 1 pseudo-rows that define the same least-squares problem.

Regressors are indicators of *dropped* elements, centred. For pairs of masks they are differences of two indicators.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import linalg
from scipy.linalg import blas

from .._utils import Array, one_blas_thread
from ..errors import ParameterError, RecordError

if TYPE_CHECKING:
    from ..sampling import Record


@dataclass(frozen=True)
class RowBlock:
    """Consecutive observations.

    Attributes
    ----------
    x : ndarray of float32, shape (n, n_elements)
        1 = dropped, 0 = kept; for pairs the difference of the two, -1, 0 or 1.
    y : ndarray of float64, shape (n, n_outcomes)
        Change of each outcome against the original model; for pairs the difference of the two.
    clusters : ndarray of int64, shape (n,)
        Index of each observation's example.
    """

    x: npt.NDArray[np.float32]
    y: Array
    clusters: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Observations that can be streamed repeatedly: every call of `blocks` yields all of them, in order.

    Each `group` consecutive ones, of the same block, depend on each other.
    """

    blocks: Callable[[], Iterator[RowBlock]]
    group: int = 1

    def total(self, scores: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the sums of scores (n, n_elements) over groups, which are independent of each other."""
        return scores if self.group == 1 else scores.reshape(-1, self.group, scores.shape[1]).sum(axis=1)


def observations(record: "Record", *, paired: bool = False) -> Rows:
    """Return the observations of a record, or with `paired` their differences within pairs of masks."""
    if paired and record.settings.masks_per_group != 2:
        raise ParameterError(
            f"`paired=True` must have masks in pairs, received a record of {record.settings.design['name']} masks: "
            "sample with design=Paired(rate), or pass paired=False."
        )

    def blocks() -> Iterator[RowBlock]:
        for chunk in record.chunks():
            x, y, clusters = (~chunk.masks).astype(np.float32), chunk.effects, chunk.examples[:, 0]
            if paired:
                x, y, clusters = x[::2] - x[1::2], y[::2] - y[1::2], clusters[::2]
            yield RowBlock(x, y, clusters)

    return Rows(blocks, 1 if paired else record.settings.masks_per_group)


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
        The part of y'y that no coefficients can explain.
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
        """Return (X, y) of shapes (P + 1, P) and (P + 1,) for any linear estimator."""
        x = np.vstack([self.root, np.zeros((1, self.n_elements))])
        return x, np.append(self.z[:, outcome], np.sqrt(self.rho2[outcome]))

    def deviation(self, outcome: int) -> float:
        """Return the standard deviation of the outcome over all rows."""
        return float(np.sqrt(((self.z[:, outcome] ** 2).sum() + self.rho2[outcome]) / self.n_rows))

    def intercept(self, outcome: int, coefficients: Array) -> float:
        """Return the predicted change of the outcome with no element dropped."""
        return float(self.y_mean[outcome] - self.x_mean @ coefficients)


class CrossProducts(NamedTuple):
    """Sums over observations: X'X (P, P), X'y (P, K), the squares of y (K,), x (P,) and y (K,)."""

    n_rows: int
    xx: Array
    xy: Array
    yy: Array
    x: Array
    y: Array

    def compress(self) -> CompressedDesign:
        """Compute the compressed design, exact up to rounding in float64."""
        x_mean, y_mean = self.x / self.n_rows, self.y / self.n_rows
        cross = self.xx - self.n_rows * np.outer(x_mean, x_mean)
        root, z, is_full_rank = _square_root(cross, self.xy - np.outer(self.x, y_mean), self.n_rows)
        rho2 = np.maximum(self.yy - self.n_rows * y_mean**2 - (z**2).sum(axis=0), 0.0)
        return CompressedDesign(self.n_rows, x_mean, y_mean, root, z, rho2, is_full_rank)


@one_blas_thread
def cross_products(rows: Rows) -> CrossProducts:
    """Sum the cross products of all observations; RecordError if there are none or an outcome is not finite."""
    total: CrossProducts | None = None
    for block in rows.blocks():
        x, y = block.x, block.y
        check_finite(y)
        # products of -1, 0 and 1 are counts: exact in float32 up to 2**24 rows a block
        xx, xy = gram(x).astype(np.float64), x.T.astype(np.float64) @ y
        sums = CrossProducts(len(x), xx, xy, (y**2).sum(axis=0), x.sum(axis=0, dtype=np.float64), y.sum(axis=0))
        total = sums if total is None else CrossProducts._make(a + b for a, b in zip(total, sums, strict=True))
    if total is None or total.n_rows == 0:
        raise RecordError("a record must hold at least one row to be regressed, received none: sample rows into it.")
    return total


def check_finite(y: Array) -> None:
    """Raise RecordError if an outcome is NaN or infinite."""
    if not np.isfinite(y).all():
        raise RecordError(f"outcomes must be finite, received NaN or infinity in {(~np.isfinite(y)).sum()} rows.")


def compress(rows: Rows) -> CompressedDesign:
    """Stream observations into a compressed design."""
    return cross_products(rows).compress()


def gram(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return X'X by a symmetric rank-k update, which costs half a matrix product."""
    upper = blas.ssyrk(1.0, np.ascontiguousarray(x).T)
    return upper + np.triu(upper, 1).T


def _square_root(cross: Array, products: Array, n_rows: int) -> tuple[Array, Array, bool]:
    """Return R and z with R'R = cross and R'z = products, and whether the design has full rank (R is triangular)."""
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
