"""The masked network as a game, and an estimator that selects coalitions (a stand-in for those of shapiq)."""

import sys
from typing import Any

import keras
import numpy as np
import pytest
from conftest import Labelled, says

import dropreg as dr
from dropreg.errors import ParameterError
from dropreg.network._evaluator import Evaluator
from dropreg.network._question import ask


class Sampled:
    """Stands in for an approximator: asks for single elements and for all but one."""

    def __init__(self, n: int, random_state: int) -> None:
        self.n = n

    def approximate(self, budget: int, game: Any) -> dict[tuple[int, ...], float]:
        masks = ~np.eye(self.n, dtype=bool)
        whole = float(game(np.ones(self.n, bool))[0])
        values = game(masks)
        assert budget >= len(masks)
        return {(j,): whole - float(values[j]) for j in range(self.n)}


def test_estimators_play_the_masked_game(model: keras.Model, data: Labelled, elements: dr.Elements) -> None:
    table = dr.scorers.shapiq_scores(model, data, elements, rows=400, estimator=Sampled, examples=30)
    np.testing.assert_allclose(
        table.impact, dr.scorers.leave_one_out(model, data, elements).impact, rtol=1e-4, atol=1e-6
    )
    assert table.rows == 300
    game = dr.scorers.masked_game(model, data, elements, outcome="accuracy")
    masks = np.random.default_rng(0).random((4, 9)) < 0.5
    values = game(masks)
    evaluator = Evaluator(ask(model, data, elements, outcome="accuracy", task=None, kept=None, seed=0))
    np.testing.assert_allclose(values, evaluator.means(masks, np.arange(30)))  # larger is better, as it is
    np.testing.assert_array_equal(game.masks[0], masks)


def test_the_missing_extra_is_named(
    model: keras.Model, data: Labelled, elements: dr.Elements, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "shapiq.approximator", None)
    with pytest.raises(ParameterError, match=says("must have the package shapiq", "pip install 'dropreg[shapiq]'")):
        dr.scorers.shapiq_scores(model, data, elements, rows=1_000)
