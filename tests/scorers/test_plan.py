"""A plan says how many rows a standard error needs."""

import numpy as np
import pytest
from conftest import says
from runs import small

import dropreg as dr
from dropreg.errors import ParameterError


def test_as_many_rows_as_planned_reach_the_standard_error() -> None:
    model, data, elements = small()
    plan = dr.plan(model, data, elements, std_error=0.004, trial_rows=2_000)
    table = dr.estimate(model, data, elements, rows=plan.rows, seed=1, progress=False)
    assert 0.7 < np.quantile(table.std_error, 0.95) / plan.std_error < 1.4
    assert plan.seconds > 0
    assert f"{plan.rows:,} rows" in str(plan)
    assert "standard errors of at most 0.004 on loss" in str(plan)


def test_a_quarter_of_the_error_needs_sixteen_times_the_rows() -> None:
    model, data, elements = small()
    rows = [dr.plan(model, data, elements, std_error=error, trial_rows=500).rows for error in (0.04, 0.01)]
    assert rows[1] == pytest.approx(16 * rows[0], rel=0.05)


def test_a_plan_for_no_error_at_all_is_refused() -> None:
    model, data, elements = small()
    with pytest.raises(ParameterError, match=says("`std_error` must be positive", "received 0")):
        dr.plan(model, data, elements, std_error=0.0)
