"""A table names its unit, and has errors, tests and intervals only where there are some."""

from pathlib import Path
from typing import Any

import flat
import keras
import numpy as np
import pandas as pd
import pytest
from keras import layers
from runs import small

import dropreg as dr
from dropreg.regression import Uncertainty, impact_table

TESTS = ["z", "p_value", "p_bh", "p_by", "ci_low", "ci_high"]
ERRORS = ["std_error", "no_change"]


@pytest.fixture(scope="module")
def record() -> dr.Record:
    return flat.sample(*small(), rows=2000, outcomes="loss", gradients=True, fidelity=None)


def table_of(impact: Any, std_error: Any, uncertainty: Uncertainty) -> dr.ImpactTable:
    n = len(impact)
    elements = {
        "element": [f"a[{j}]" for j in range(n)],
        "layer": "a",
        "kind": "neuron",
        "index": range(n),
        "params": 1,
    }
    values = np.array(impact, float), np.array(std_error, float)
    return impact_table(
        pd.DataFrame(elements), *values, method="OLS", outcome="loss", rows=10, seed=0, uncertainty=uncertainty
    )


@pytest.mark.parametrize(
    ("estimator", "covariance", "kind", "text"),
    [
        ("ols", "HC1", "data set", "95% intervals for this data set"),
        ("ols", "HC3", "data set", "95% intervals for this data set"),
        ("ols", "nonrobust", "data set", "95% intervals for this data set"),
        ("ols", "cluster", "population", "95% intervals for new examples"),
        ("marginal", "HC1", "data set", "95% intervals for this data set"),
        ("ridge", "HC1", "posterior", "posterior standard errors, which need not cover"),
        ("assisted", "HC1", "posterior", "posterior standard errors, which need not cover"),
        ("gradient", "HC1", "sampling", "standard errors of sampling only, without the method's bias"),
    ],
)
def test_only_estimators_whose_intervals_cover_have_tests(
    record: dr.Record, estimator: Any, covariance: Any, kind: str, text: str
) -> None:
    table = dr.regress(record, estimator=estimator, covariance=covariance)
    assert table.uncertainty.kind == kind
    assert str(table.uncertainty) == text
    assert f"2,000 rows, seed 0, {text}\n" in table.summary()
    covers = kind in ("data set", "population")
    assert [name in table.frame for name in (*ERRORS, *TESTS)] == [True] * 2 + [covers] * 6
    for shown in (table.summary().splitlines()[-1 - len(table)], repr(table)):
        assert ("ci_low" in shown) == covers
    assert ("p_value" in table.summary()) == ("clear" in table.by_layer()) == covers
    assert np.isfinite(table.std_error).all()


@pytest.mark.parametrize(
    ("score", "unit"),
    [
        (lambda *of: dr.scorers.greedy(*of, step=0.5, rows=200), "share of the elements that were removed earlier"),
        (dr.scorers.magnitude, "norm of the weights"),
        (dr.scorers.random, "random number"),
        (dr.scorers.activation, "root mean square of the activation"),
        (lambda *of: dr.scorers.activation(*of, moment="zeros"), "share of activations that are not zero"),
        (dr.scorers.weight_activation, "norm of what an element adds to the layers that consume it"),
        (dr.scorers.spread, "SD over examples of the predicted change of loss"),
        (lambda *of: dr.scorers.taylor(*of, statistic="squared"), "squared mean of the predicted change of loss"),
    ],
)
def test_scores_name_their_unit_and_have_no_errors(score: Any, unit: str) -> None:
    table = score(*small())
    assert table.unit == unit
    assert (table.frame["unit"] == unit).all()
    assert not [name for name in (*ERRORS, *TESTS) if name in table.frame]
    assert np.isnan(table.std_error).all()
    text = table.summary()
    assert text.startswith(f"Score ({unit}) of 9 elements (larger = more important)\n")
    assert "no standard errors" in text
    assert "mpact on" not in text
    assert "interval" not in text
    assert "nan" not in text.lower()


def test_an_annealed_order_names_its_unit() -> None:
    path = flat.anneal_path(*small(), fractions=(0.3,), rounds=2)
    assert path.to_impact().unit == "rank divided by the number of elements"


@pytest.mark.parametrize("scorer", [dr.scorers.taylor, dr.scorers.obd])
def test_impacts_are_in_the_unit_of_the_outcome(scorer: Any) -> None:
    table = scorer(*small())
    assert table.unit == table.outcome == "loss"
    assert table.summary().startswith("Impact on loss of 9 elements (positive = replacing it hurts)\n")
    assert table.uncertainty.kind == "sampling"


def test_a_file_has_the_columns_of_the_table(record: dr.Record, tmp_path: Path) -> None:
    for estimator in ("ols", "assisted"):
        table = dr.regress(record, estimator=estimator)
        table.to_csv(tmp_path / "impact.csv")
        read = pd.read_csv(tmp_path / "impact.csv")
        assert list(read) == list(table.frame)
        assert ("p_value" in read) == (estimator == "ols")
        assert (read["unit"] == "loss").all()


def test_no_change_is_no_certainty() -> None:
    """Equal changes in all rows: zero, or not."""
    table = table_of([-0.0, 0.5, 0.2], [0.0, 0.0, 0.1], Uncertainty("data set"))
    frame = table.frame
    assert not np.signbit(frame["impact"]).any()
    assert frame["no_change"].tolist() == [True, False, False]
    np.testing.assert_array_equal(frame["std_error"], [np.nan, np.nan, 0.1])
    np.testing.assert_allclose(frame["p_value"], [1.0, np.nan, 0.0455], atol=1e-4)
    assert frame[["ci_low", "ci_high"]].isna().all(axis=1).tolist() == [True, True, False]
    assert table.negligible(10.0)["element"].tolist() == ["a[2]"]
    assert "no_change" in table.summary()
    assert "no_change" in repr(table)
    assert "-0 " not in table.summary()
    assert "no_change" not in repr(table_of([0.2], [0.1], Uncertainty("data set")))


@pytest.mark.parametrize("outcome", ["accuracy", "loss"])
@pytest.mark.parametrize("method", ["leave one out", "gradients corrected by flips"])
def test_elements_that_change_nothing_are_marked(method: str, outcome: str) -> None:
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(7, "relu", name="a"), layers.Dense(3, name="out")])
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])
    kernel, bias = model.get_layer("out").get_weights()
    kernel[2] = 0.0
    model.get_layer("out").set_weights([kernel, bias])
    x = rng.normal(size=(60, 6)).astype(np.float32)
    given: Any = model, (x, np.argmax(model(x), axis=1)), dr.elements(model)
    by_flips = method.startswith("gradients")
    table = (
        flat.estimate(*given, outcome=outcome, gradients=True, rows=3_000, fidelity=None)
        if by_flips
        else dr.scorers.leave_one_out(*given, outcome=outcome)
    )
    assert table.method == method
    dead: Any = table.frame.set_index("element").loc["a[2]"]
    assert dead["no_change"]
    assert dead["impact"] == 0
    assert not np.signbit(dead["impact"])
    assert dead["p_value"] == 1.0
    assert np.isnan([dead["std_error"], dead["ci_low"], dead["ci_high"]]).all()
    assert "a[2]" not in table.negligible(100.0)["element"].tolist()
    assert table.frame["no_change"].sum() < len(table) / 2
    assert table.uncertainty == (Uncertainty("data set") if by_flips else Uncertainty("population", df=59))
