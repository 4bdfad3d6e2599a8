"""How well estimated impacts predict the outcomes of unseen masks."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from .._utils import Array

if TYPE_CHECKING:
    from ..sampling import FidelityMasks


def fidelity_table(unseen: "FidelityMasks", outcome: int, coefficients: Array, intercept: float) -> pd.DataFrame:
    """Compare the predicted with the measured mean changes of an outcome, one row for each drop rate.

    Columns: rate, masks, examples, ``correlation`` (Pearson, predicted and measured), ``ceiling`` (the correlation of a
    perfect prediction, given the noise of the measured means), ``r2`` (1 - squared error / variance of the measured
    means, negative where their mean predicts better) and ``r2_ceiling``.
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
