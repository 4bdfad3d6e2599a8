"""Law: a number that is not finite is never counted as an answer, over scorers, outcomes and limits."""

from dataclasses import replace
from typing import Any

import flat
import keras
import numpy as np
import pytest
from conftest import says
from keras import layers

import dropreg as dr
from dropreg.errors import DropregError, ModelError

FRAGILE = 1
"""Unit without which outputs are infinite."""
OWN = dr.outcomes.PerExample(lambda labels, outputs: outputs[:, 0], "own", True, differentiable=True)
OF_MASK = dr.outcomes.PerMask(lambda labels, outputs: float(outputs[:, 0].mean()), "of_mask", True)
OUTCOMES: dict[str, Any] = {name: name for name in ("accuracy", "loss", "margin", "divergence", "retained")}
OUTCOMES |= {"own": OWN, "of_mask": OF_MASK}


def fragile() -> tuple[keras.Model, dr.Elements, tuple[np.ndarray, np.ndarray]]:
    """A classifier whose first two units cancel; every example has class 0, and is predicted right."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((2,))
    hidden = layers.Dense(4, name="h")(inputs)
    model = keras.Model(inputs, layers.Dense(3, activation="exponential", name="out")(hidden))
    kernel = np.zeros((4, 3))
    kernel[:2, 0] = 1.0, -1.0
    kernel[2:] = 0.1 * np.arange(6).reshape(2, 3)
    model.get_layer("h").set_weights([np.eye(2, 4, 2), np.array([300.0, 300.0, 0.3, 0.2])])
    model.get_layer("out").set_weights([kernel, np.array([2.0, 0.0, 0.0])])
    x = np.random.default_rng(0).uniform(-1.0, 1.0, (40, 2)).astype(np.float32)
    assert (np.asarray(model(x)).argmax(axis=-1) == 0).all()
    return model, dr.elements(model), (x, np.zeros(40, np.int64))


def regressed(estimator: Any) -> Any:
    def scorer(model: Any, data: Any, elements: Any, *, outcome: Any) -> dr.ImpactTable:
        options: dict[str, Any] = {"rows": 800, "outcomes": outcome, "gradients": estimator == "assisted"}
        if outcome is OF_MASK:
            options["design"] = dr.designs.Bernoulli(0.3, examples_per_mask=20)
        return dr.regress(flat.sample(model, data, elements, fidelity=None, **options), estimator=estimator)

    return scorer


MEASURING: dict[str, Any] = {
    **{name: regressed(name) for name in ("ols", "assisted")},
    "leave one out": dr.scorers.leave_one_out,
    "greedy": dr.scorers.greedy,
}
"""Scorers that run the model without the fragile unit."""
EXPANDING: dict[str, Any] = {"Taylor": dr.scorers.taylor, "spread": dr.scorers.spread}


@pytest.mark.parametrize("outcome", OUTCOMES)
@pytest.mark.parametrize("scorer", MEASURING)
def test_what_is_not_finite_without_a_unit_is_wrong_or_refused(scorer: str, outcome: str) -> None:
    model, elements, data = fragile()
    if outcome in ("accuracy", "retained") and scorer != "assisted":
        table = MEASURING[scorer](model, data, elements, outcome=OUTCOMES[outcome])
        assert np.isfinite(table.impact).all()
        assert table.impact[FRAGILE] > 0.3, "its outputs are wrong"
        return
    with pytest.raises(DropregError, match=r"must be (finite|differentiable)|must (be|give) one|of one mask"):
        MEASURING[scorer](model, data, elements, outcome=OUTCOMES[outcome])


@pytest.mark.parametrize("outcome", sorted(set(OUTCOMES) - {"accuracy", "retained", "of_mask"}))
@pytest.mark.parametrize("scorer", EXPANDING)
def test_derivatives_are_finite_or_refused(scorer: str, outcome: str) -> None:
    model, elements, data = fragile()
    try:
        table = EXPANDING[scorer](model, data, elements, outcome=OUTCOMES[outcome])
    except DropregError as error:
        if "must be finite" not in str(error):
            raise
        return
    assert np.isfinite(table.impact).all()


@pytest.mark.parametrize("moment", ["mean", "rms", "zeros"])
def test_activations_that_overflow_are_refused(moment: Any) -> None:
    model, elements, data = fragile()
    kernel, bias = model.get_layer("h").get_weights()
    model.get_layer("h").set_weights([kernel, np.array([1e25, 1e25, *bias[2:]])])  # the squares are infinite
    if moment != "rms":
        assert np.isfinite(dr.scorers.activation(model, data, elements, moment=moment).impact).all()
        return
    with pytest.raises(
        ModelError, match=says("scores (activation, rms) must be finite", "2 of 4 elements", "activations")
    ):
        dr.scorers.activation(model, data, elements, moment=moment)


def worst_first(model: Any, data: Any, elements: dr.Elements, *, seed: int) -> dr.ImpactTable:
    """A scorer for which the fragile unit has the lowest impact."""
    table = dr.scorers.random(model, data, elements, seed=seed)
    impact = np.where(np.arange(len(elements)) == FRAGILE, -1.0, table.impact)
    return replace(table, frame=table.frame.assign(impact=impact))


def without(model: keras.Model, elements: dr.Elements) -> dr.Pruned:
    return dr.remove(model, dr.Selection.dropping(elements, [FRAGILE]))


LIMITS: dict[str, Any] = {
    "accuracy limit": lambda model, elements, data: dr.AccuracyLimit(0.1, data).measure(without(model, elements)),
    "recovery": lambda model, elements, data: dr.recover(without(model, elements).model, data),
    "comparison": lambda model, elements, data: dr.compare(
        model, data, elements, scorers={"worst": worst_first}, fractions=(0.25,), progress=False
    ),
    "annealing": lambda model, elements, data: dr.anneal(model, data, elements, fraction=0.25),
}


@pytest.mark.parametrize("case", LIMITS)
def test_a_model_without_finite_outputs_meets_no_limit(case: str) -> None:
    with pytest.raises(DropregError, match="finite"):
        LIMITS[case](*fragile())
