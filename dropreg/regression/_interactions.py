"""Pairwise interactions: what two elements are worth together beyond what each is worth alone."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from .._utils import Array, check_between, one_blas_thread
from ._compression import Rows
from ._ols import Fit, residuals


@dataclass(frozen=True)
class Interactions:
    """The table of all pairs.

    Attributes
    ----------
    names : tuple of str
        Elements.
    values : ndarray, shape (n_elements, n_elements)
        How much worse the outcome gets when both elements are dropped than the sum of dropping each
        says. Positive: they stand in for each other (redundancy), so losing both hurts more.
        Negative: they only work together (synergy). Zeros on the diagonal.
    std_error : ndarray, shape (n_elements, n_elements)
        HC0; infinite on the diagonal.
    """

    names: tuple[str, ...]
    values: Array
    std_error: Array

    def pairs(self) -> pd.DataFrame:
        """All pairs as a table.

        Returns
        -------
        DataFrame
            One row a pair, the most redundant first: element, other, interaction (positive = redundant, in the
            outcome's unit), std_error, z, p_value (two-sided), p_bh (adjusted over all pairs).
        """
        i, j = np.triu_indices(len(self.names), k=1)
        values, errors = self.values[i, j], self.std_error[i, j]
        z = values / errors
        names = np.array(self.names, dtype=object)
        p_value = 2 * stats.norm.sf(np.abs(z))
        frame = pd.DataFrame(
            {
                "element": names[i],
                "other": names[j],
                "interaction": values,
                "std_error": errors,
                "z": z,
                "p_value": p_value,
                "p_bh": adjusted(p_value, "fdr_bh"),
            }
        )
        return frame.sort_values(["z", "interaction"], ascending=False, ignore_index=True)

    def redundant(self, level: float = 0.05) -> pd.DataFrame:
        """The pairs shown to be redundant at a false discovery rate of `level`, the clearest first.

        Parameters
        ----------
        level : float
            Strictly between 0 and 1; by Benjamini and Hochberg over all pairs.

        Returns
        -------
        DataFrame
            Rows of `pairs` with a positive interaction.

        Raises
        ------
        ParameterError
            If `level` is out of range.
        """
        check_between("level", level)
        frame = self.pairs()
        return frame[(frame["interaction"] > 0) & (frame["p_bh"] <= level)].reset_index(drop=True)


@one_blas_thread
def interactions(rows: Rows, outcome: int, fit: Fit, rates: Array, names: tuple[str, ...], sign: float) -> Interactions:
    """Estimate all pairwise interactions from the residuals of a linear fit.

    The estimate for a pair is ``sum(e x_i x_j) / (n v_i v_j)`` with x the centred indicators of
    dropped elements, v their known variances and e the residuals: the second derivative of the
    expected outcome with respect to the two keep-probabilities. Needs elements that are dropped
    independently.

    Parameters
    ----------
    rows : Rows
    outcome : int
    fit : Fit
        Linear fit whose residuals are taken.
    rates : ndarray, shape (n_elements,)
        Probability that each element is dropped.
    names : tuple of str
    sign : float
        -1 for an outcome of which more is better, else 1.
    """
    n_rows, p = 0, len(rates)
    first, second = np.zeros((p, p)), np.zeros((p, p))
    center = rates.astype(np.float32)
    for block in rows.blocks():
        e = residuals(block, outcome, fit.coefficients, fit.intercept).astype(np.float32)[:, None]
        x = block.x - center
        first += x.T @ (x * e)
        second += (x**2).T @ (x**2 * e**2)
        n_rows += len(x)
    scale = np.outer(rates * (1 - rates), rates * (1 - rates))
    values = first / n_rows / scale
    errors = np.sqrt(np.maximum(second / n_rows / scale**2 - values**2, 0.0) / n_rows)
    np.fill_diagonal(values, 0.0)
    np.fill_diagonal(errors, np.inf)
    return Interactions(names, sign * values, errors)


def adjusted(p_value: npt.NDArray[np.float64], method: str) -> npt.NDArray[np.float64]:
    """P-values adjusted by statsmodels (``fdr_bh`` or ``fdr_by``); NaN where there is none."""
    from statsmodels.stats.multitest import multipletests

    known = np.isfinite(p_value)
    result = np.full(len(p_value), np.nan)
    if known.any():
        result[known] = multipletests(p_value[known], method=method)[1]
    return result
