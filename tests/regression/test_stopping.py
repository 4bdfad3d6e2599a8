"""Laws of stop rules: what they look at, and that they say so."""

from pathlib import Path
from typing import Any

import flat
import pytest
from runs import small

import dropreg as dr
from dropreg.errors import ParameterError
from dropreg.regression import _regress


def test_stop_rules_end_the_run_and_are_reported() -> None:
    rule = dr.Precision("loss", 0.02)
    first, again = (
        flat.sample(*small(), rows=2_000_000, batch_size=64, outcomes="loss", stop=rule, progress=False)
        for _ in range(2)
    )
    assert first.stop is not None
    assert first.rows == again.rows < 2_000_000
    table = dr.regress(first, outcome="loss")
    assert f"stopped after {first.rows:,} rows because all standard errors by OLS are at most 0.02" in repr(table)
    assert "which does not look at the impacts" in repr(table)
    assert table.std_error.max() <= 0.02


def test_stop_rules_count_pairs() -> None:
    """The first looks come after fewer pairs than OLS needs, though not fewer masks."""
    design, rule = dr.designs.Paired(0.25), dr.Precision("loss", 0.05)
    record = flat.sample(
        *small(), rows=20_000, batch_size=1, design=design, outcomes="loss", stop=rule, fidelity=None, progress=False
    )
    assert record.stop is not None
    assert record.rows < 20_000


def test_a_run_whose_rule_is_not_met_is_complete() -> None:
    record = flat.sample(*small(), rows=3000, batch_size=64, stop=dr.Precision("loss", 1e-9), progress=False)
    assert record.rows == 3000
    assert record.stop is None


@pytest.mark.parametrize(("gradients", "method"), [(True, "gradients corrected by flips"), (False, "OLS")])
def test_the_rule_looks_at_the_errors_of_the_table_that_is_printed(gradients: bool, method: str) -> None:
    rule = dr.Precision("loss", 0.05)
    options: dict[str, Any] = {"batch_size": 64, "stop": rule, "fidelity": None, "gradients": gradients}
    table = flat.estimate(*small(), rows=200_000, outcome="loss", **options)
    assert table.method == method
    assert table.rows < 200_000
    assert table.std_error.max() <= 0.05
    assert f"because all standard errors by {method} are at most 0.05" in table.summary()


def test_the_rule_takes_another_estimator() -> None:
    rule = dr.Precision("loss", 0.2, estimator="ols", covariance="cluster")
    options: dict[str, Any] = {"batch_size": 64, "stop": rule, "fidelity": None, "gradients": True}
    record = flat.sample(*small(), rows=20_000, outcomes="loss", **options)
    assert record.stop is not None
    assert dr.regress(record, estimator="ols", covariance="cluster").std_error.max() <= 0.2
    assert "all standard errors by OLS are at most 0.2" in dr.regress(record).summary()


def test_few_rows_are_not_taken_for_precise() -> None:
    """The gradients of two rows may be equal."""
    options: dict[str, Any] = {"batch_size": 1, "stop": dr.Precision("loss", 10.0), "fidelity": None}
    record = flat.sample(*small(), rows=1_000, outcomes="loss", gradients=True, **options)
    assert record.stop is not None
    assert record.rows >= 30 / 0.3


def test_many_elements_have_a_rule_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_regress, "MOST_DENSE", 4)
    for gradients in (True, False):
        options: dict[str, Any] = {"batch_size": 64, "fidelity": None, "gradients": gradients}
        record = flat.sample(*small(), rows=200_000, outcomes="loss", stop=dr.Precision("loss", 0.05), **options)
        assert record.stop is not None
        assert dr.regress(record).std_error.max() <= 0.05


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (dr.Precision("loss", 0.1, estimator="ols"), "estimator='ols' must have at most 4 elements, received 9"),
        (dr.Precision("margin", 0.1), r"`outcome` must be one of the record's \(loss\), received 'margin': sample"),
        (dr.Precision("loss", 0.1, estimator="assisted"), "must have gradients of 'loss', received a run without"),
        (dr.Precision("loss", 0.1, estimator="corrected"), "must have gradients of 'loss', received a run without"),
        (dr.Precision("loss", 0.1, covariance="cluster"), "`covariance` must be 'HC1'.*received 'cluster'"),
        (dr.Precision("loss", 0.1, estimator="best"), "`estimator` must be one of .*received 'best'"),  # type: ignore
    ],
)
def test_rules_that_cannot_be_checked_are_refused_before_the_run(
    rule: dr.Precision, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_regress, "MOST_DENSE", 4)
    with pytest.raises(ParameterError, match=says):
        flat.sample(*small(), rows=1_000, outcomes="loss", stop=rule, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_rule_about_flips_is_refused_without_them() -> None:
    rule = dr.Precision("loss", 0.1, estimator="corrected")
    with pytest.raises(ParameterError, match="must have flips, received a run without: pass flips=4 to Sampling"):
        flat.sample(*small(), rows=1_000, outcomes="loss", gradients=True, flips=0, stop=rule)
