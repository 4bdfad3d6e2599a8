"""OLS adjusted by example: as unbiased as OLS, more precise, with intervals that hold."""

import flat
import numpy as np
import pytest
from conftest import says
from runs import small
from test_enumeration import enumerated

import dropreg as dr
from dropreg.errors import ParameterError
from dropreg.sampling import _runner


@pytest.fixture(scope="module")
def replications() -> dr.Record:
    """A run whose chunks are replications of 400 rows on 20 examples."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_runner, "_BATCHES_PER_CHUNK", 1)
        return flat.sample(*small(), rows=400 * 300, outcomes=("loss", "accuracy"), batch_size=400, fidelity=None)


@pytest.mark.parametrize("outcome", ["loss", "accuracy"])
def test_unbiased_covering_and_more_precise_than_ols(outcome: str, replications: dr.Record) -> None:
    truth = enumerated(small(), outcome, np.full(9, 0.3))
    found = {}
    for estimator in ("ols", "adjusted"):
        tables = []
        for chunk in range(300):
            one = replications.head(300)
            one._chunks = [chunk]
            tables.append(dr.regress(one, outcome=outcome, estimator=estimator))  # type: ignore[arg-type]
        impacts, errors = (np.array([getattr(t, name) for t in tables]) for name in ("impact", "std_error"))
        bias = (impacts.mean(axis=0) - truth) / (impacts.std(axis=0) / np.sqrt(300))
        assert np.abs(bias).max() < 3.5
        covered = np.abs(impacts - truth) < 1.96 * errors
        assert 0.93 < covered.mean() < 0.97
        found[estimator] = float(((impacts - truth) ** 2).mean())
    assert found["adjusted"] < 0.85 * found["ols"]


def test_examples_with_one_row_each_are_not_adjusted() -> None:
    model, (x, y), elements = small()
    many = np.repeat(x, 20, axis=0) + np.random.default_rng(0).normal(0, 0.1, (400, x.shape[1])).astype(x.dtype)
    record = flat.sample(model, (many, np.repeat(y, 20)), elements, rows=400, outcomes="loss", fidelity=None)
    adjusted, ols = (dr.regress(record, estimator=name) for name in ("adjusted", "ols"))
    np.testing.assert_array_equal(adjusted.impact, ols.impact)
    assert adjusted.details["slope on other rows of the example"] == 0


def test_masks_that_depend_on_each_other_are_refused() -> None:
    record = flat.sample(*small(), rows=400, design=dr.designs.Paired(0.3), outcomes="loss", fidelity=None)
    with pytest.raises(ParameterError, match=says("estimator='adjusted'", "masks in groups of 2", "'ols'")):
        dr.regress(record, estimator="adjusted")
