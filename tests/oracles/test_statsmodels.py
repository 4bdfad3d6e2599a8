"""Tables against statsmodels: adjusted p-values, coefficients, standard errors and intervals."""

from typing import Any

import flat
import numpy as np
import pytest
from runs import small

import dropreg as dr
from dropreg.regression._ols import CovarianceType


def test_adjusted_p_values_are_those_of_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    frame = flat.estimate(*small(), rows=3000, gradients=False, progress=False).frame
    np.testing.assert_allclose(frame["p_bh"], np.asarray(multipletests(frame["p_value"], method="fdr_bh")[1], float))
    np.testing.assert_allclose(frame["p_by"], np.asarray(multipletests(frame["p_value"], method="fdr_by")[1], float))
    assert (frame["p_by"] >= frame["p_bh"]).all()


@pytest.mark.parametrize("design", [dr.designs.Bernoulli(0.3), dr.designs.Paired(0.3)])
def test_to_statsmodels_gives_the_same_numbers(design: Any) -> None:
    """Also of pairs of masks, whose differences are regressed."""
    record = flat.sample(*small(), rows=5000, progress=False, design=design)
    kinds: list[CovarianceType] = ["HC1", "HC3", "cluster", "nonrobust"]
    for covariance in kinds:
        table = dr.regress(record, outcome="loss", estimator="ols", covariance=covariance)
        result = dr.regression.to_statsmodels(record, outcome="loss", covariance=covariance)
        np.testing.assert_allclose(table.impact, result.params.iloc[1:], rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(table.std_error, result.bse.iloc[1:], rtol=1e-6)
        np.testing.assert_allclose(table.frame["p_value"], result.pvalues.iloc[1:], rtol=1e-5, atol=1e-9)
        interval = table.frame[["ci_low", "ci_high"]].to_numpy()
        np.testing.assert_allclose(interval, result.conf_int().iloc[1:], rtol=1e-6, atol=1e-9)
    assert "a[0]" in str(dr.regression.to_statsmodels(record, outcome="loss").summary())
