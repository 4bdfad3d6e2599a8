"""OLS by statsmodels on all rows of a record at once."""

from typing import Any

import numpy as np

from .._utils import one_blas_thread
from ..errors import ParameterError
from ..sampling import Record
from ._compression import observations
from ._ols import CovarianceType
from ._regress import check_arguments, is_paired

_MOST_STATSMODELS_BYTES = 2**31


@one_blas_thread
def to_statsmodels(record: Record, *, outcome: str | None = None, covariance: CovarianceType = "HC1") -> Any:
    """Fit OLS by statsmodels to all rows at once, for its ``summary()`` and its tests.

    Regressors are indicators of *dropped* elements, named after them, and a constant. Coefficients are changes of the
    outcome, so where more of the outcome is better they have the opposite sign of impacts. Of pairs of masks the
    differences are regressed, as in `regress`.

    Parameters
    ----------
    record : Record
        Its matrix of rows x elements must fit in 2 GiB.
    outcome : str, optional
        One of the record's outcomes; by default its first.
    covariance : {"HC1", "HC3", "cluster", "nonrobust"}
        Standard errors, as in `regress`.

    Returns
    -------
    statsmodels.regression.linear_model.RegressionResults

    Raises
    ------
    ParameterError
        If the record is too large or lacks the outcome.

    Examples
    --------
    >>> import dropreg as dr
    >>> model, data = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
    >>> elements = dr.elements(model, include=["dense_2"])
    >>> record = dr.sample(model, data, elements, rows=1000, outcomes="loss", progress=False)
    >>> result = dr.regression.to_statsmodels(record)
    >>> result.params.index[:3].tolist()
    ['const', 'dense_2[0]', 'dense_2[1]']
    """
    import pandas as pd
    import statsmodels.api as sm

    outcome = record.settings.outcomes[0] if outcome is None else outcome
    check_arguments(record.settings, outcome, "ols", covariance, None)
    paired = is_paired(record.settings)
    n_bytes = (
        8 * record.rows // (2 if paired else 1) // record.settings.examples_per_mask * (record.settings.n_elements + 1)
    )
    if n_bytes > _MOST_STATSMODELS_BYTES:
        raise ParameterError(
            f"a record must fit in {_MOST_STATSMODELS_BYTES / 2**30:.0f} GiB for statsmodels, received one of "
            f"{n_bytes / 2**30:.1f} GiB: use dropreg.regress, which streams and gives the same numbers."
        )
    blocks = list(observations(record, paired=paired).blocks())
    x = np.concatenate([block.x for block in blocks]).astype(np.float64)
    y = np.concatenate([block.y for block in blocks])[:, record.settings.outcomes.index(outcome)]
    frame = sm.add_constant(pd.DataFrame(x, columns=record.elements["element"].tolist()), has_constant="add")
    groups = {"groups": np.concatenate([block.clusters for block in blocks])} if covariance == "cluster" else None
    model = sm.OLS(pd.Series(y, name=outcome), frame)
    return model.fit(cov_type=covariance, cov_kwds=groups, use_t=None if covariance == "HC1" else True)
