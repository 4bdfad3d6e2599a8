"""Published scorers that only the scripts of experiments use."""

import importlib
import itertools
from math import factorial
from pathlib import Path
from typing import Any

import keras
import models
import numpy as np
import pytest
from scoring import Labelled, given, losses

import dropreg as dr
from dropreg.network._masked import MaskedNetwork

SCRIPTS = Path(__file__).parents[2] / "experiments"
pytestmark = pytest.mark.skipif(not SCRIPTS.is_dir(), reason="source distributions have no experiments")


@pytest.fixture(autouse=True)
def scripts_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)


def module(name: str) -> Any:
    return importlib.import_module(f"_lib.{name}")


def test_ablation_regression_comes_near_leave_one_out() -> None:
    """At keep .97 of few elements, few other elements are dropped."""
    coar = module("coar")
    model, data, elements, _ = given("mlp")
    table = coar.ablation_regression(model, data, elements, rows=30_000, keep=0.97, outcome="loss")
    measured = dr.scorers.leave_one_out(model, data, elements)
    assert np.corrcoef(table.impact, measured.impact)[0, 1] > 0.95
    published = coar.ablation_regression(model, data, elements, rows=30_000)
    assert published.outcome == "margin"
    assert np.corrcoef(published.impact, measured.impact)[0, 1] > 0.5  # the same direction for either outcome


def coalition_values(network: MaskedNetwork, data: Labelled) -> dict[tuple[bool, ...], float]:
    (x, y), masks = data, list(itertools.product([False, True], repeat=len(network.elements)))
    every = np.tile(x, (len(masks), 1)), np.tile(y, len(masks))
    values = losses(network, every, np.repeat(np.array(masks, np.float32), len(y), axis=0))
    return dict(zip(masks, np.mean(np.reshape(values, (len(masks), -1)), axis=1).tolist(), strict=True))


@pytest.mark.parametrize("segment", [4, 16])
def test_shapley_agrees_with_enumeration(
    segment: int, model: keras.Model, data: Labelled, elements: dr.Elements, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module("shapley"), "_SEGMENT", segment)
    few = (data[0][:5], data[1][:5])
    values, n = coalition_values(MaskedNetwork(model, elements), few), len(elements)
    expected = np.zeros(n)
    for mask in values:
        weight = factorial(n - 1 - sum(mask)) * factorial(sum(mask)) / factorial(n) if sum(mask) < n else 0.0
        for j in np.flatnonzero(~np.array(mask)):
            more = tuple(k == j or kept for k, kept in enumerate(mask))
            expected[j] += weight * (values[mask] - values[more])
    table = module("shapley").shapley(model, few, elements, rows=4_000, examples_per_mask=5, tolerance=0.0)
    assert (np.abs(table.impact - expected) <= 3.5 * np.nan_to_num(table.std_error) + 1e-5).all()
    np.testing.assert_allclose(table.impact.sum(), values[(False,) * n] - values[(True,) * n], rtol=1e-4)


def test_truncation_gives_the_remaining_elements_zero(
    model: keras.Model, data: Labelled, elements: dr.Elements, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module("shapley"), "_SEGMENT", 1)
    settings: dict[str, Any] = {"rows": 2 * 10 * 30, "examples_per_mask": 30}
    shapley = module("shapley").shapley
    whole = shapley(model, data, elements, tolerance=0.0, **settings)
    cut = shapley(model, data, elements, tolerance=0.999, **settings)
    assert whole.details["mean length"] == len(elements)
    assert cut.details["mean length"] < len(elements)
    assert cut.details["permutations"] >= whole.details["permutations"]


def test_trained_gates_close_elements_that_nothing_reads() -> None:
    gates = module("gates").gates
    model, data, elements, _ = given("mlp", 20, models.build)
    kernel, bias = model.get_layer("out").get_weights()
    kernel[[0, 3]] = 0.0
    model.get_layer("out").set_weights([kernel, bias])
    table = gates(model, data, elements, fraction=0.5, rows=18_000, batch_size=20, outcome="divergence")
    assert {"b[0]", "b[3]"} <= set(table.top(5, lowest=True)["element"])
    opened = 1 / (1 + np.exp(-table.impact))
    assert opened.mean() == pytest.approx(0.5, abs=1e-3)
    one_step = gates(model, data, elements, fraction=0.5, rows=60, batch_size=20, learning_rate=3.0)
    assert (1 / (1 + np.exp(-one_step.impact))).mean() == pytest.approx(0.5, abs=1e-3)
