"""Scorers that only the scripts of experiments use."""

import importlib
from pathlib import Path

import numpy as np
import pytest
from scoring import given

import dropreg as dr

SCRIPTS = Path(__file__).parents[2] / "experiments"


@pytest.mark.skipif(not SCRIPTS.is_dir(), reason="source distributions have no experiments")
def test_ablation_regression_comes_near_leave_one_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """At keep .97 of few elements, few other elements are dropped."""
    monkeypatch.syspath_prepend(SCRIPTS)
    coar = importlib.import_module("_lib.coar")
    model, data, elements, _ = given("mlp")
    table = coar.ablation_regression(model, data, elements, rows=30_000, keep=0.97, outcome="loss")
    measured = dr.scorers.leave_one_out(model, data, elements)
    assert np.corrcoef(table.impact, measured.impact)[0, 1] > 0.95
    published = coar.ablation_regression(model, data, elements, rows=30_000)
    assert published.outcome == "margin"
    assert np.corrcoef(published.impact, measured.impact)[0, 1] > 0.5  # the same direction for either outcome
