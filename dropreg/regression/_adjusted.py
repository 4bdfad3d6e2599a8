"""OLS with the other rows of the same example as a covariate."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from .._utils import Array
from ._compression import CompressedDesign, RowBlock, Rows, compress
from ._ols import CovarianceType, Fit, ols, residuals


def adjusted(design: CompressedDesign, rows: Rows, outcome: int, covariance_type: CovarianceType) -> Fit:
    """Fit OLS after subtracting from each outcome what the other rows of its example predict.

    The covariate of a row is the mean residual of the other rows of the same example in a first fit, times a
    coefficient by least squares [1]_. It does not depend on the row's own mask, so coefficients remain unbiased, and
    examples that lose more than others whatever is removed no longer add noise. An example with one row is not
    adjusted. The details of the result hold the coefficient.

    References
    ----------
    .. [1] Lin (2013), Annals of Applied Statistics 7, "Agnostic notes on regression adjustments to experimental data".
    """
    first = ols(design, rows, outcome, "nonrobust")
    n_examples = max(int(block.clusters.max()) for block in rows.blocks()) + 1
    totals, counts = np.zeros(n_examples), np.zeros(n_examples)
    for block in rows.blocks():
        np.add.at(totals, block.clusters, _residuals(block, outcome, first))
        counts += np.bincount(block.clusters, minlength=n_examples)

    def others(block: RowBlock) -> Array:
        """Return the mean residual of the other rows of each row's example."""
        rest = totals[block.clusters] - _residuals(block, outcome, first)
        return rest / np.maximum(counts[block.clusters] - 1.0, 1.0)

    product, square = 0.0, 0.0
    for block in rows.blocks():
        covariate = others(block)
        product += float(covariate @ _residuals(block, outcome, first))
        square += float(covariate @ covariate)
    slope = product / square if square > 0 else 0.0

    def blocks() -> Iterator[RowBlock]:
        for block in rows.blocks():
            y = block.y.copy()
            y[:, outcome] -= slope * others(block)
            yield replace(block, y=y)

    again = Rows(blocks, rows.group)
    fit = ols(compress(again), again, outcome, covariance_type)
    return replace(fit, details=fit.details | {"slope on other rows of the example": slope})


def _residuals(block: RowBlock, outcome: int, fit: Fit) -> Array:
    return residuals(block, outcome, fit.coefficients, fit.intercept)
