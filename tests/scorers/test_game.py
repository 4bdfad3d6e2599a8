"""The masked model as a cooperative game."""

import keras
import numpy as np
from conftest import Labelled

import dropreg as dr
from dropreg.network import Evaluator, ask


def test_values_of_coalitions(model: keras.Model, data: Labelled, elements: dr.Elements) -> None:
    game = dr.scorers.masked_game(model, data, elements, outcome="accuracy")
    masks = np.random.default_rng(0).random((4, 9)) < 0.5
    values = game(masks)
    evaluator = Evaluator(ask(model, data, elements, outcome="accuracy", task=None, kept=None, seed=0))
    np.testing.assert_allclose(values, evaluator.means(masks, np.arange(30)))  # larger is better, as it is
    np.testing.assert_array_equal(game.masks[0], masks)
    np.testing.assert_array_equal(game.values[0], values)
    assert game.rows == 4 * 30


def test_marginal_values_are_those_of_leave_one_out(model: keras.Model, data: Labelled, elements: dr.Elements) -> None:
    game = dr.scorers.masked_game(model, data, elements)
    values = game(np.vstack([np.ones(9, bool), ~np.eye(9, dtype=bool)]))
    expected = dr.scorers.leave_one_out(model, data, elements).impact
    np.testing.assert_allclose(values[0] - values[1:], expected, rtol=1e-4, atol=1e-6)
