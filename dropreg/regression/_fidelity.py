"""How well impacts predict what unseen masks do."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

if TYPE_CHECKING:
    from ..sampling import FidelityMasks


def score(
    unseen: "FidelityMasks", outcome: int, coefficients: npt.NDArray[np.float64], intercept: float
) -> pd.DataFrame:
    """Compare predicted with measured mean changes of an outcome, rate by rate.

    Parameters
    ----------
    unseen : FidelityMasks
    outcome : int
        Column of the outcome.
    coefficients : ndarray, shape (n_elements,)
        Predicted change of the outcome when an element is dropped.
    intercept : float
        Predicted change with nothing dropped.

    Returns
    -------
    DataFrame
        One row a rate: rate, masks, examples, ``correlation`` (Pearson, predicted and measured),
        ``ceiling`` (what a perfect prediction would reach, given the noise of the measured means),
        ``r2`` (1 - squared error / variance of the measured means, negative where the prediction is
        worse than their mean) and ``r2_ceiling``.
    """
    rows = []
    all_predicted = unseen.predict(coefficients, intercept)
    for rate in np.unique(unseen.rates):
        at = unseen.rates == rate
        measured, noise = unseen.effects[at, outcome], float(unseen.variances[at, outcome].mean())
        predicted = all_predicted[at]
        variance = float(measured.var(ddof=1))
        reliability = max(1.0 - noise / variance, 0.0) if variance > 0 else np.nan
        varied = variance > 0 and predicted.std() > 0
        rows.append(
            {
                "rate": rate,
                "masks": int(at.sum()),
                "examples": unseen.examples,
                "correlation": float(np.corrcoef(predicted, measured)[0, 1]) if varied else np.nan,
                "ceiling": float(np.sqrt(reliability)),
                "r2": 1.0 - float(((measured - predicted) ** 2).mean()) / variance if variance > 0 else np.nan,
                "r2_ceiling": reliability,
            }
        )
    return pd.DataFrame(rows)
