"""Pairwise interactions: the impact of two elements together beyond the sum of their single impacts."""

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from .._utils import Array, one_blas_thread
from ._compression import Rows
from ._ols import Fit, residuals
from ._uncertainty import adjust_p_values


@dataclass(frozen=True)
class Interactions:
    """Interactions of all pairs of elements.

    Attributes
    ----------
    names : tuple of str
        Elements.
    values : ndarray of float64, shape (n_elements, n_elements)
        Impact of dropping both elements minus the sum of their single impacts, in the outcome's unit. Positive:
        each compensates for the loss of the other (redundancy). Negative: each is of use only with the other
        (synergy). Zeros on the diagonal.
    std_error : ndarray of float64, shape (n_elements, n_elements)
        HC0 standard errors, by group of masks that depend on each other; infinite on the diagonal.

    Examples
    --------
    >>> import numpy as np
    >>> from dropreg.regression import Interactions
    >>> both = np.array([[0.0, 0.5], [0.5, 0.0]])
    >>> Interactions(("a[0]", "a[1]"), both, np.array([[np.inf, 0.1], [0.1, np.inf]])).pairs()["interaction"].tolist()
    [0.5]
    """

    names: tuple[str, ...]
    values: Array
    std_error: Array

    def pairs(self) -> pd.DataFrame:
        """Return all pairs as a table.

        Returns
        -------
        DataFrame
            One row for each pair, the largest ``z`` first: element, other, interaction (positive = redundant, in the
            outcome's unit), std_error, z, p_value (two-sided), p_bh (adjusted for all pairs), no_change. A standard
            error of zero is no certainty: z is then 0 and the p-value 1, and ``no_change`` marks pairs that no row
            gave an interaction.
        """
        i, j = np.triu_indices(len(self.names), k=1)
        values, errors = self.values[i, j], self.std_error[i, j]
        z, names = np.divide(values, errors, out=np.zeros_like(values), where=errors > 0), np.array(self.names, object)
        p_value = 2 * stats.norm.sf(np.abs(z))  # 1 where there is no error
        frame = pd.DataFrame(
            {
                "element": names[i],
                "other": names[j],
                "interaction": values,
                "std_error": errors,
                "z": z,
                "p_value": p_value,
                "p_bh": adjust_p_values(p_value, "fdr_bh"),
                "no_change": (errors == 0) & (values == 0),
            }
        )
        return frame.sort_values(["z", "interaction"], ascending=False, ignore_index=True)


@one_blas_thread
def interactions(rows: Rows, outcome: int, fit: Fit, rates: Array, names: tuple[str, ...], sign: float) -> Interactions:
    """Estimate all pairwise interactions from the residuals of a linear fit; elements must be dropped independently.

    The estimate for a pair is ``sum(e x_i x_j) / (n v_i v_j)`` with x the centred indicators of dropped elements,
    v = q (1 - q) their variances at the drop rates q (`rates`) and e the residuals. It is the second derivative of the
    expected outcome with respect to the two keep-probabilities. `sign` is -1 if more of the outcome is better, else 1.
    """
    n_rows, p = 0, len(rates)
    first, second = np.zeros((p, p)), np.zeros((p, p))
    center = rates.astype(np.float32)
    for block in rows.blocks():
        e = residuals(block, outcome, fit.coefficients, fit.intercept).astype(np.float32)[:, None]
        x = block.x - center
        first += x.T @ (x * e)
        second += (x**2).T @ (x**2 * e**2)
        for one, other in combinations(range(rows.group), 2):  # (s + t)**2 = s**2 + t**2 + 2 s t
            both, product = (part[one :: rows.group] * part[other :: rows.group] for part in (x, e))
            second += 2.0 * (both.T @ (both * product))
        n_rows += len(x)
    scale = np.outer(rates * (1 - rates), rates * (1 - rates))
    values = first / n_rows / scale
    errors = np.sqrt(np.maximum(second / n_rows / scale**2 - rows.group * values**2, 0.0) / n_rows)
    for square in (values, errors):  # products in float32 are symmetric up to rounding
        square[:] = np.triu(square, 1) + np.triu(square, 1).T
    np.fill_diagonal(values, 0.0)
    np.fill_diagonal(errors, np.inf)
    return Interactions(names, sign * values + 0.0, errors)  # -0.0 becomes 0.0
