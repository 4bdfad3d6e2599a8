"""Blends of logits and curvatures at the end of a stage."""

import re
from collections.abc import Callable
from typing import Any

import keras
import models
import numpy as np
import pytest
from keras import layers
from scipy.stats import norm, rankdata

import dropreg as dr
from dropreg.baselines.question import ask, spent
from dropreg.before_after import changes
from dropreg.blending import Blend, Blender, chosen
from dropreg.copying import run_model
from dropreg.surgery import cut

GRID = ["mlp", "cnn_bn", "transformer_block"]
ASKED: dict[str, Any] = {"rounds": 3, "ablation": "merged", "blend": True}


def blender_of(model: Any, n: int = 64) -> tuple[Blender, Any, dr.Elements]:
    data, elements = models.data_for(model, n), dr.elements(model)
    question = ask(model, data, elements, outcome="divergence", task=None, kept=None, seed=0)
    outputs = run_model(model, question.examples)
    return Blender(question, outputs, lambda chosen, part: cut(model, chosen, part), 1), data, elements


def judging(monkeypatch: pytest.MonkeyPatch, worse: Callable[[float], float]) -> list[Blend]:
    """Have candidates judged by their weights, and list them."""
    seen: list[Blend] = []

    def judge(self: Blender, weight: float, scores: Any, alive: Any, fraction: float) -> Blend:
        kept = chosen(self.question.elements, scores, alive, fraction, self.floor)
        seen.append(Blend(weight, scores, kept, worse(weight)))
        return seen[-1]

    monkeypatch.setattr(Blender, "_judged", judge)
    return seen


def normal(values: Any) -> Any:
    return norm.ppf((rankdata(values) - 0.5) / len(values))


def crossed(model: Any, data: Any, selection: dr.Selection) -> float:
    """Mean divergence on examples that a network was not merged with."""
    x, y = data
    parts = [(x[first::2], y[first::2]) for first in (0, 1)]
    found = [changes(model, dr.prune(model, selection, a).model, b, dr.Divergence()) for a, b in (parts, parts[::-1])]
    return float(np.concatenate(found).mean())


@pytest.mark.parametrize("name", GRID)
def test_what_is_taken_is_at_least_as_good_merged(name: str) -> None:
    """Than the logits by themselves; each half of the examples measures the network that `prune` makes of the other."""
    model = models.ready(name)
    blender, data, elements = blender_of(model)
    curvature = dr.obd(model, data, elements, outcome="divergence").impact
    alive = np.ones(len(elements), bool)
    logits = np.random.default_rng(0).normal(size=len(elements))
    found = blender(logits, alive, 0.5)
    taken, alone = (
        crossed(model, data, selection)
        for selection in (dr.Selection(elements, found.kept), dr.select(elements, logits, fraction=0.5))
    )
    assert taken == pytest.approx(found.worse, rel=1e-4, abs=1e-7)
    assert taken <= alone + 1e-7
    expected = normal(logits) + found.weight * normal(curvature) if found.weight else logits
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.kept, dr.select(elements, found.scores, fraction=0.5).kept)


def test_weights_double_as_long_as_it_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    blender, _, elements = blender_of(models.ready("mlp"))
    alive, logits = np.ones(len(elements), bool), np.arange(float(len(elements)))
    for values, weights, best in (
        ([1, 2], [0, 0.5], 0),
        ([1, 1], [0, 0.5], 0),
        ([3, 2, 1, 1], [0, 0.5, 1, 2], 1),
        ([5, 4, 3, 2, 1], [0, 0.5, 1, 2, 4], 4),
    ):
        judged = iter(values)
        seen = judging(monkeypatch, lambda weight, judged=judged: next(judged))
        assert blender(logits, alive, 0.5).weight == best
        assert [blend.weight for blend in seen] == weights


def test_curvatures_help_logits_that_know_nothing() -> None:
    """Half of the units of a wide layer reach nothing, which curvatures know."""
    keras.utils.set_random_seed(0)
    model: Any = keras.Sequential([keras.Input((20,)), layers.Dense(24, activation="relu"), layers.Dense(3)])
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel * (np.arange(24) % 2)[:, np.newaxis], bias])
    blender, _, _ = blender_of(model, 200)
    found = blender(np.random.default_rng(0).normal(size=24), np.ones(24, bool), 0.5)
    assert found.weight >= 0.5
    assert found.kept[1::2].sum() > 9


def test_what_has_gone_stays_gone() -> None:
    blender, _, elements = blender_of(models.ready("mlp"))
    alive = np.arange(len(elements)) % 3 > 0
    logits = np.where(alive, np.random.default_rng(0).normal(size=len(elements)), np.nan)
    found = blender(logits, alive, 0.6)
    assert not (found.kept & ~alive).any()
    assert found.kept.sum() == len(elements) - round(0.6 * len(elements))
    np.testing.assert_array_equal(np.isnan(found.scores), ~alive)


def test_a_path_says_what_it_blended(monkeypatch: pytest.MonkeyPatch) -> None:
    """And goes on from there: selections are nested, rows are counted."""
    model = models.ready("mlp")
    data, elements = models.data_for(model, 64), dr.elements(model)
    without = dr.anneal_path(model, data, elements, fractions=(0.3, 0.6), **{**ASKED, "blend": False})
    assert without.history["blend"].isna().all()
    seen = judging(monkeypatch, lambda weight: abs(weight - 1))
    path = dr.anneal_path(model, data, elements, fractions=(0.3, 0.6), **ASKED)
    assert (path.history["blend"] == 1).all()
    lower, upper = path.selections
    assert (lower.kept | ~upper.kept).all()
    taken = [blend.kept for blend in seen if blend.weight == 1]
    for selection, kept in zip(path.selections, taken, strict=True):
        np.testing.assert_array_equal(selection.kept, kept)
    curvatures = spent(dr.obd(model, data, elements, outcome="divergence"))
    assert path.rows == without.rows + curvatures


def test_paths_are_the_same_for_the_same_arguments() -> None:
    model = models.ready("mlp")
    data, elements = models.data_for(model, 64), dr.elements(model)
    first, again = (dr.anneal_path(model, data, elements, fractions=(0.3, 0.6), **ASKED) for _ in range(2))
    np.testing.assert_array_equal(first.logits, again.logits)
    assert first.history.equals(again.history)
    assert first.history["blend"].notna().all()


def test_only_where_second_derivatives_are_at_hand() -> None:
    model = models.ready("mlp")
    data, elements = models.data_for(model, 64), dr.elements(model)
    received: tuple[tuple[dict[str, Any], str], ...] = (
        ({"ablation": "zero", "outcome": "divergence"}, "ablation='zero', gradients=True"),
        ({"ablation": "merged", "gradients": False}, "ablation='merged', gradients=False"),
        ({"ablation": "merged", "outcome": "loss"}, "outcome 'loss'"),
        ({"ablation": "merged", "schedule": dr.Annealing(second_order=False)}, "second_order=False"),
    )
    for options, text in received:
        expected = f"`blend` must go with .*received True with .*{re.escape(text)}.*leave it out"
        with pytest.raises(dr.ParameterError, match=expected):
            dr.anneal_path(model, data, elements, fractions=(0.5,), rounds=1, blend=True, **options)


def test_networks_that_cannot_be_cut_are_refused() -> None:
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="relu", lora_rank=2, name="adapted")(inputs)
    model = keras.Model(inputs, layers.Dense(3)(x))
    with pytest.raises(dr.ModelError, match="layer 'adapted'"):
        dr.anneal_path(model, models.data_for(model, 64), dr.elements(model), fractions=(0.5,), **ASKED)
