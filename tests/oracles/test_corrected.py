"""Gradients corrected by flips: unbiased, with intervals that hold, for any masks and executor."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import flat
import numpy as np
import pandas as pd
import pytest
from conftest import says
from runs import small
from test_enumeration import enumerated

import dropreg as dr
from dropreg.errors import RecordError
from dropreg.regression import _corrected, _ols, _regress
from dropreg.sampling import _runner
from dropreg.sampling._flip_cells import choose_cells

OUTCOMES = ("loss", "accuracy", "divergence", "retained")
QUIET: dict[str, Any] = {"fidelity": None, "batch_size": 1024}


def flipped(rows: int, outcomes: Any, **options: Any) -> dr.Record:
    return flat.sample(*small(), rows=rows, outcomes=outcomes, gradients=True, **({"flips": 3} | QUIET | options))


@pytest.mark.parametrize("rate", [0.2, 0.7])
def test_estimates_agree_with_enumeration(rate: float) -> None:
    case = small()
    record = flipped(20_000, ("loss", "accuracy", "margin"), design=dr.designs.Bernoulli(rate), seed=1)
    for outcome in ("loss", "accuracy", "margin"):
        table = dr.regress(record, outcome=outcome)
        assert table.method == "gradients corrected by flips"
        expected = enumerated(case, outcome, np.full(len(table), rate))
        z = (table.impact - expected) / table.std_error
        assert np.abs(z).max() < 3.5, outcome
        assert np.sqrt((z**2).mean()) > 0.3, outcome  # and standard errors are no larger than they must be


@pytest.fixture(scope="module")
def replications() -> dr.Record:
    """A run whose chunks are replications of 1,024 rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_runner, "_BATCHES_PER_CHUNK", 1)
        return flipped(1024 * 60, OUTCOMES, seed=3, batch_size=1024)


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_intervals_cover_over_replications(outcome: str, replications: dr.Record) -> None:
    """The truth is the mean of all replications."""
    tables = []
    for chunk in range(60):
        one = replications.head(60)
        one._chunks = [chunk]
        tables.append(dr.regress(one, outcome=outcome))
    impacts, errors = (np.array([getattr(t, name) for t in tables]) for name in ("impact", "std_error"))
    covered = np.abs(impacts - impacts.mean(axis=0)) < 1.96 * errors
    assert 0.925 < covered.mean() < 0.985
    assert covered.mean(axis=0).min() > 0.83


def test_they_are_far_more_precise_than_regression_at_the_same_cost() -> None:
    corrected = dr.regress(flipped(6_000, "loss"))
    plain = dr.regress(flat.sample(*small(), rows=36_000, outcomes="loss", fidelity=None), estimator="ols")
    assert (plain.std_error**2).mean() > 3 * (corrected.std_error**2).mean()


def test_a_linear_outcome_needs_no_correction() -> None:
    """The gradient is exact, so every row gives the effects of its example, and nothing else varies."""
    model, (x, y), _ = small()
    elements = dr.elements(model, include=["b"])
    total = dr.outcomes.PerExample(lambda y, p: p[:, 0], "first output", True, differentiable=True)
    record = flat.sample(model, (x, y), elements, rows=len(x) * 64, outcomes=total, gradients=True, flips=2, **QUIET)
    sums, table = record.flip_sums("first output"), dr.regress(record)
    assert sums.corrections.max() < 1e-6 * sums.squares.max()
    inner = np.asarray(keras_layer_output(model, "b", x))
    expected = (inner * model.get_layer("out").get_weights()[0][:, 0]).mean(axis=0)
    np.testing.assert_allclose(table.impact, expected, rtol=1e-4, atol=1e-5)
    exact = dr.regress(record, covariance="cluster").std_error
    between = (inner * model.get_layer("out").get_weights()[0][:, 0]).std(axis=0, ddof=1) / np.sqrt(len(x))
    np.testing.assert_allclose(exact, between, rtol=1e-3)
    assert (table.std_error < 0.7 * exact).all()  # about this data set there is nothing left to vary


def keras_layer_output(model: Any, name: str, x: np.ndarray) -> Any:
    import keras

    return keras.Model(model.inputs[0], model.get_layer(name).output)(x)


def test_the_same_sums_on_threads_and_after_resuming(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    whole = flipped(3_000, ("loss", "accuracy"), batch_size=64)
    with ThreadPoolExecutor(2) as pool:
        threads = flipped(3_000, ("loss", "accuracy"), batch_size=64, executor=pool)
    flipped(1_024, ("loss", "accuracy"), batch_size=64, out=tmp_path)
    resumed = flipped(3_000, ("loss", "accuracy"), batch_size=64, out=tmp_path)
    loaded = dr.Record.load(tmp_path)
    for outcome in ("loss", "accuracy"):
        tables = [dr.regress(record, outcome=outcome).frame for record in (whole, threads, resumed, loaded)]
        for other in tables[1:]:
            pd.testing.assert_frame_equal(tables[0], other, check_exact=True)


def test_elements_without_corrections_are_left_to_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table says how many; errors about this data set, of marginal regression, are none about new examples."""
    record, second = flipped(1_000, "loss"), np.arange(9) == 1
    name = small()[2].names[1]
    monkeypatch.setattr(_regress, "unmeasured", lambda sums: second)
    table, plain = dr.regress(record), dr.regress(record, estimator="ols")
    assert table.details["elements with errors by OLS"] == 1
    assert table.std_error[1] == plain.std_error[1]
    assert (table.std_error[~second] < plain.std_error[~second]).all()
    monkeypatch.setattr(_regress, "MOST_DENSE", 4)
    frame: Any = dr.regress(record, covariance="cluster").frame.set_index("element")
    assert np.isnan(frame.loc[name, ["std_error", "ci_low", "ci_high"]].astype(float)).all()
    assert np.isfinite(frame["std_error"].drop(name)).all()


def test_weights_share_a_mask_among_examples() -> None:
    model, data, _ = small()
    elements = dr.elements(model, "weights", include=["out"])
    design = dr.designs.Bernoulli(0.3, examples_per_mask=20)
    options: dict[str, Any] = {"design": design, "fidelity": None, "outcomes": "loss", "rows": 4_000}
    corrected = dr.regress(flat.sample(model, data, elements, gradients=True, flips=3, **options))
    plain = dr.regress(flat.sample(model, data, elements, seed=1, **(options | {"rows": 24_000})), estimator="ols")
    z = (corrected.impact - plain.impact) / np.hypot(corrected.std_error, plain.std_error)
    assert np.abs(z).max() < 4
    assert (corrected.std_error < 0.1 * np.abs(plain.impact).max()).all()


@pytest.mark.parametrize("count", [1, 40, 200])
def test_cells_are_chosen_with_the_probabilities_that_are_said(count: int) -> None:
    rng = np.random.default_rng(0)
    shares = rng.gamma(0.3, size=(20, 7)).astype(np.float32)
    shares /= shares.sum()
    chosen, said = np.zeros((20, 7)), np.zeros((20, 7))
    runs = 1_000
    for chunk in range(runs):
        cells = choose_cells(shares, count, seed=0, chunk=chunk, batch=0)
        assert len(cells.rows) <= count
        assert len({*zip(cells.rows.tolist(), cells.elements.tolist(), strict=True)}) == len(cells.rows)
        chosen[cells.rows, cells.elements] += 1
        said[cells.rows, cells.elements] = cells.probabilities
    error = np.sqrt(said * (1 - said) / runs)
    seen = said > 0
    assert np.abs(chosen / runs - said)[seen].max() < (5 * error[seen]).max() + 1e-3
    assert (np.abs(chosen / runs - said)[seen] <= 5 * error[seen] + 2e-3).all()


def test_equal_rows_choose_different_elements() -> None:
    cells = choose_cells(np.full((100, 10), 1e-3, np.float32), 100, seed=0, chunk=0, batch=0)
    assert np.bincount(cells.elements, minlength=10).max() < 25


def test_a_record_without_flips_says_so() -> None:
    with pytest.raises(RecordError, match=says("must hold flips for 'loss'", "received none", "flips=4")):
        dr.regress(flipped(256, "loss", flips=0), estimator="corrected")


def test_flips_are_counted() -> None:
    record = flipped(512, ("loss", "accuracy"), flips=2)
    assert record.settings.row_cost == 1 + 2 * 2 + 2


def test_predictions_are_shrunk_towards_gradients_where_these_agree() -> None:
    rng = np.random.default_rng(0)
    gradient, errors = rng.normal(size=200), np.full(200, 0.5)
    fit = _ols.Fit(0.8 * gradient + errors * rng.normal(size=200), errors, "HC1", 0.0, {})
    close = _corrected.shrunk(fit, gradient)
    assert np.abs(close - 0.8 * gradient).mean() < 0.3 * np.abs(fit.coefficients - 0.8 * gradient).mean()
    elsewhere = replace(fit, coefficients=10 * rng.normal(size=200))
    assert np.abs(_corrected.shrunk(elsewhere, gradient) - elsewhere.coefficients).max() < 0.1
    certain = replace(fit, std_errors=np.where(np.arange(200) < 2, np.nan, errors))
    np.testing.assert_array_equal(_corrected.shrunk(certain, gradient)[:2], fit.coefficients[:2])
    np.testing.assert_array_equal(_corrected.shrunk(fit, np.zeros(200)), fit.coefficients)


def test_predictions_for_accuracy_are_no_worse_than_those_of_assisted_regression() -> None:
    record = flipped(1_024, "accuracy", fidelity=dr.designs.Fidelity(masks=60, examples=100), seed=2)
    corrected, assisted = (dr.regress(record, estimator=name) for name in ("corrected", "assisted"))
    assert corrected.fidelity is not None
    assert assisted.fidelity is not None
    assert corrected.fidelity["correlation"].mean() > assisted.fidelity["correlation"].mean() - 0.03
    assert corrected.frame.columns.get_loc("shrunk") == corrected.frame.columns.get_loc("impact") + 1  # type: ignore[operator]
