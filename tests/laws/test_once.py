"""A public verb traces the caller's model once and checks the caller's data once."""

from collections.abc import Callable
from typing import Any

import keras
import models
import numpy as np
import pytest

import dropreg as dr
from dropreg.data import _examples
from dropreg.graph import _trace

FEW = dr.Annealing(rounds=2)
VERBS: dict[str, Callable[[keras.Model, Any, dr.Elements], Any]] = {
    "sample": lambda m, data, e: dr.sample(m, data, e, rows=64),
    "estimate": lambda m, data, e: dr.estimate(m, data, e, rows=64),
    "anneal": lambda m, data, e: dr.anneal(m, data, e, fraction=0.5, annealing=FEW),
    "anneal for merging": lambda m, data, e: dr.anneal(m, data, e, fraction=0.5, ablation="merged", annealing=FEW),
    "anneal_path": lambda m, data, e: dr.anneal_path(m, data, e, fractions=(0.3, 0.6), annealing=FEW),
    "anneal to a budget": lambda m, data, e: dr.anneal(m, data, e, target=dr.Budget("params", 0.6), annealing=FEW),
    "prune": lambda m, data, e: dr.prune(m, data, fraction=0.5),
    "prune to a budget": lambda m, data, e: dr.prune(m, data, target=dr.Budget("params", 0.6)),
    "remove": lambda m, data, e: dr.remove(m, dr.Selection.random(e, 0.5), data=data, recovery="distill"),
    "taylor": lambda m, data, e: dr.scorers.taylor(m, data, e, order=2),
    "leave one out": dr.scorers.leave_one_out,
    "activation": dr.scorers.activation,
    "weight x activation": dr.scorers.weight_activation,
}


@pytest.mark.usefixtures("few_rounds")
@pytest.mark.parametrize("verb", VERBS)
def test_models_are_traced_and_data_are_checked_once(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.build("mlp")
    x, y = models.data_for(model, 40)
    elements = dr.elements(model)
    traced, checked = [], []
    trace, check = _trace._trace, _examples.checked_input

    def count_trace(given: keras.Model) -> Any:
        traced.append(given)
        return trace(given)

    def count_check(array: Any, *arguments: Any) -> Any:
        checked.append(array)
        return check(array, *arguments)

    monkeypatch.setattr(_trace, "_trace", count_trace)
    monkeypatch.setattr(_examples, "checked_input", count_check)
    VERBS[verb](model, (x, y), elements)
    assert sum(given is model for given in traced) == 1
    assert sum(isinstance(array, np.ndarray) and array is x for array in checked) == 1
