"""Laws of swaps, floors by layer, targets, and of `prune` without a selection."""

from itertools import product
from typing import Any

import flat
import keras
import models
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from keras import layers
from test_pruning import planted

import dropreg as dr
from dropreg.element._keep import is_allowed
from dropreg.errors import DataError, ParameterError, TargetError
from dropreg.pruning._annealing import _annealer as annealer
from dropreg.pruning._annealing import _local_search as swaps
from dropreg.pruning._annealing._annealer import Annealer, ask_annealing

QUICK: dict[str, Any] = {"rounds": 2, "rows_per_round": 256}


def annealed(model: keras.Model, data: Any, elements: dr.Elements, outcome: str | None = None) -> Annealer:
    """An annealer for deletion with forward passes that has run no round."""
    options = dr.Annealing(gradients=False, outcome=outcome)
    question = ask_annealing(model, data, elements, ablation="zero", options=options, task=None, seed=0)
    return Annealer(question, options, "zero", 1)


def selected(
    useless: tuple[int, ...], kept: list[int], labels: np.ndarray | None = None
) -> tuple[Annealer, np.ndarray]:
    """The selection after swaps with forward passes on a planted network, and the one before."""
    model, data = planted(useless)
    data = data if labels is None else (data[0], labels)
    elements = dr.elements(model)
    run = annealed(model, data, elements)
    return run, dr.Selection.keeping(elements, kept).kept


def test_swaps_find_the_best_selection() -> None:
    useless = (1, 4, 5, 9)
    run, kept = selected(useless, [1, 4, 5, 9, 0, 2, 3, 6])  # as many as there are useful ones
    better, pairs = run._swap(kept, np.ones(12, dtype=bool), np.zeros(12))
    assert better.sum() == kept.sum()
    assert tuple(np.flatnonzero(~better)) == useless
    mask = kept.copy()
    for out, back in pairs:
        assert mask[out]
        assert not mask[back]
        mask[out], mask[back] = False, True
    np.testing.assert_array_equal(mask, better)


@pytest.mark.parametrize("sweeps", [0, 1, 2])
def test_a_search_takes_no_more_rows_than_it_may(sweeps: int) -> None:
    run, kept = selected((1, 4, 5, 9), [1, 4, 5, 9, 0, 2, 3, 6])
    everything = np.ones(12, dtype=bool)
    most = sweeps * run._swap._rows_of_a_sweep(kept, everything)
    before = run._evaluator.rows
    better, _ = run._swap(kept, everything, np.zeros(12), most_rows=most)
    assert run._evaluator.rows - before <= most + 2 * len(run._evaluator)  # the two selections are compared at the end
    assert (better == kept).all() == (sweeps == 0)


def test_swaps_return_only_what_is_allowed() -> None:
    run, kept = selected((1, 4, 5, 9), [1, 4, 5, 9])
    allowed = kept.copy()
    allowed[[0, 2]] = True
    better, _ = run._swap(kept, allowed, np.zeros(12))
    assert better.sum() == 4
    assert not better[~allowed].any()
    assert better[[0, 2]].all()
    np.testing.assert_array_equal(run._swap(kept, kept, np.zeros(12))[0], kept)


def test_swaps_without_gradients_try_those_whose_scores_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swaps, "_CANDIDATES", 2)
    run, kept = selected((1, 4, 5, 9), [1, 4, 5, 9])
    scores = np.array([6.0, 4.0, 5.0, 0.0, 1.0, 3.0, 0.0, 0.0, 0.0, 2.0, 0.0, 0.0])
    removals, returns = run._swap._ranked(kept, np.ones(12, dtype=bool), scores)
    assert set(removals) == {4, 9}
    assert set(returns) == {0, 2}
    swaps.exchange(scores, [(4, 0)])
    assert (scores[4], scores[0]) == (6.0, 1.0)


@pytest.mark.parametrize(("errors", "least", "most"), [(3.0, 0, 2), (0.0, 8, 10)])
def test_swaps_that_are_better_by_chance_are_not_taken(
    errors: float, least: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No selection tells apart labels that have nothing to do with the inputs; the best of many seems to."""
    monkeypatch.setattr(swaps, "_ERRORS", errors)
    taken = 0
    for seed in range(10):
        run, kept = selected((), [1, 4, 5, 9], labels=np.random.default_rng(seed).integers(0, 3, 400))
        better, pairs = run._swap(kept, np.ones(12, dtype=bool), np.zeros(12))
        assert bool(pairs) == (better != kept).any()
        taken += bool(pairs)
    assert least <= taken <= most


def test_swapped_elements_swap_scores(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = planted((1, 4, 5, 9))
    asked: dict[str, Any] = {"fractions": (0.5,), "rounds": 1, "rows_per_round": 16, "gradients": False}
    monkeypatch.setattr(swaps.Swapper, "_rows_of_a_sweep", lambda *_: 0)
    after = flat.anneal_path(model, data, dr.elements(model), **asked)
    monkeypatch.setattr(swaps, "_SWEEPS", 0)
    before = flat.anneal_path(model, data, dr.elements(model), **asked)
    assert not np.array_equal(before.selections[0].kept, after.selections[0].kept)
    kept, scores = after.selections[0].kept, after.logits[0]
    assert scores[kept].min() >= scores[~kept].max()
    np.testing.assert_array_equal(np.sort(scores), np.sort(before.logits[0]))


@pytest.mark.parametrize("gradients", [True, False])
def test_swaps_never_lower_the_outcome(*, gradients: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.ready("mlp")
    data, elements = models.data_for(model, 60), dr.elements(model)

    def outcome() -> float:
        path = flat.anneal_path(
            *(model, data, elements), fractions=(0.5,), outcome="loss", gradients=gradients, **QUICK
        )
        run = annealed(model, data, elements, outcome="loss")
        return float(run._evaluator.means(path.selections[0].kept[np.newaxis], np.arange(60))[0])

    improved = outcome()
    monkeypatch.setattr(swaps, "_SWEEPS", 0)
    assert improved <= outcome()


def test_floors_by_layer() -> None:
    model = models.ready("mlp")
    elements = dr.elements(model)
    first, second = dict.fromkeys(elements.layers)
    sizes = elements.to_frame().groupby("layer")["element"].size()
    floor: Any = {first: "all"}
    selection = flat.anneal(model, models.data_for(model, 40), elements, fraction=0.3, floor=floor, **QUICK)
    kept = selection.by_layer().set_index("layer")["kept"]
    assert kept[first] == sizes[first]
    assert kept[second] < sizes[second]
    assert is_allowed(elements, selection.kept, floor)
    assert not is_allowed(elements, selection.kept, {second: "all"})
    half = dr.select(elements, np.zeros(len(elements)), fraction=0.5, floor={second: 0.6})
    assert half.by_layer().set_index("layer")["kept"][second] >= 0.6 * sizes[second]


@pytest.mark.parametrize(
    ("quantity", "at_most"), [*[("params", part / 20) for part in (7, 13)], ("macs", 0.5), ("bytes", 0.9)]
)
def test_budgets_are_kept_and_no_more_than_that(quantity: Any, at_most: float) -> None:
    keras.utils.set_random_seed(0)
    stack = [keras.Input((12,)), layers.Dense(24, activation="relu"), layers.Dense(16, activation="relu")]
    model = keras.Sequential([*stack, layers.Dense(3)])
    x = np.random.default_rng(0).normal(size=(100, 12)).astype(np.float32)
    data, elements = (x, np.argmax(model(x), axis=1)), dr.elements(model)
    budget = dr.Budget(quantity, at_most)
    selection = flat.anneal(model, data, elements, target=budget, **QUICK)
    small = dr.remove(model, selection)
    assert budget.measure(small) <= budget.at_most
    assert budget.measure(small) == pytest.approx(small.report.totals().loc[quantity, "ratio"])
    if quantity == "params":  # one unit more, of at most 29 parameters, would be too many
        assert budget.measure(small) > budget.at_most - 30 / model.count_params()


def test_both_directions_keep_equal_counts_under_a_target() -> None:
    keras.utils.set_random_seed(0)
    both = layers.Bidirectional(layers.SimpleRNN(6, name="rnn"))
    model = keras.Sequential([keras.Input((3, 5)), both, layers.Dense(8, activation="relu"), layers.Dense(3)])
    x = np.random.default_rng(0).normal(size=(100, 3, 5)).astype(np.float32)
    data, elements = (x, np.argmax(model(x), axis=1)), dr.elements(model)
    budget = dr.Budget("params", 0.84)
    selection = flat.anneal(model, data, elements, target=budget, **QUICK)
    kept = selection.by_layer().set_index("layer")["kept"]
    assert kept["forward_rnn"] == kept["backward_rnn"] < 6
    assert budget.measure(dr.remove(model, selection)) <= 0.84


def test_a_budget_of_latency_is_a_ratio_of_medians(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(small: Any, batch_sizes: Any, **options: Any) -> pd.DataFrame:
        assert batch_sizes == (4,)
        return pd.DataFrame({"model": ["original", "smaller"], "batch": 4, "median": [0.004, 0.003]})

    monkeypatch.setattr(dr.Pruned, "measure_latency", timed)
    model = models.ready("mlp")
    small = dr.remove(model, dr.Selection.random(dr.elements(model), 0.3))
    assert dr.Budget("latency", 0.5, batch_size=4).measure(small) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("name", "quantity"), [*product(["mlp", "cnn"], ["params", "macs", "bytes"]), ("bidirectional", "params")]
)
def test_budgets_out_of_reach_are_refused_at_once_with_the_smallest(
    name: str, quantity: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Annealer, "stage", lambda *_: pytest.fail("annealed"))
    model = models.ready(name)
    data, elements = models.data_for(model, 40), dr.elements(model)
    scores = np.arange(float(len(elements)))
    with pytest.raises(TargetError, match=rf"at most 0.1% of the {quantity}, but .*% is the least, at") as raised:
        flat.anneal(model, data, elements, target=dr.Budget(quantity, 0.001), start=scores, **QUICK)
    best = raised.value.best
    assert (best.by_layer()["kept"] == 1).all()
    for layer in dict.fromkeys(elements.layers):
        columns = elements.columns_of(layer)
        assert best.kept[columns].tolist() == [False] * (len(columns) - 1) + [True]


@pytest.mark.parametrize("name", ["mlp", "residual"])
def test_annealing_for_merging_begins_with_spread_scores(name: str) -> None:
    """With steps of size zero the dropped elements are those of lowest spread, whatever its scale."""
    model = models.ready(name)
    data, elements = models.data_for(model, 80), dr.elements(model)
    still = {"schedule": dr.pruning.Schedule(learning_rate=1e-12), "rounds": 1, "ablation": "merged"}
    budget = dr.Budget("params", 0.8)
    found = flat.anneal(model, data, elements, target=budget, **still)
    expected = dr.select(elements, dr.scorers.spread(model, data, elements), fraction=found.fraction)
    np.testing.assert_array_equal(found.kept, expected.kept)
    without = (flat.anneal(model, (data[0], None), elements, target=budget, seed=seed, **still) for seed in range(3))
    assert any((selection.kept != found.kept).any() for selection in without)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_prune_selects_without_a_selection(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annealer, "_ROWS", 128)  # fewer rounds
    model = models.ready(name)
    data = models.data_for(model, 80)
    small = dr.prune(model, data=data, fraction=0.4)
    assert small.selection.fraction == pytest.approx(0.4, abs=0.5 / len(small.selection.kept))
    again = dr.remove(model, small.selection, data=data, recovery="distill")
    for mine, other in zip(small.model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert small.merge == "least_squares"


def test_prune_respects_floors() -> None:
    model = models.ready("mlp")
    small = dr.prune(model, data=models.data_for(model, 80), fraction=0.3, floor={"b": "all"})
    assert small.selection.by_layer().set_index("layer")["kept"].to_dict() == {"a": 2, "b": 4}


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_a_smaller_model_is_measured_beside_the_original(name: str) -> None:
    model = models.ready(name)
    x, y = models.data_for(model, 60)
    small = dr.remove(model, dr.Selection.random(dr.elements(model), 0.4), data=(x, y))
    f1 = dr.outcomes.PerMask(lambda labels, outputs: float((labels == outputs.argmax(axis=1)).sum()), "right", True)
    frame = small.measure((x, y), ["accuracy", "loss", "divergence", "retained", f1])
    found = dict(zip(frame["outcome"], frame[["before", "after", "change", "std_error"]].to_numpy(float), strict=True))
    logits = [np.asarray(m(x), np.float64) for m in (model, small.model)]
    log_p = [z - np.log(np.exp(z).sum(axis=1, keepdims=True)) for z in logits]
    right = np.array([z.argmax(axis=1) == y for z in logits])
    expected = {
        "accuracy": right.astype(float),
        "loss": np.array([-p[np.arange(60), y] for p in log_p]),
        "divergence": np.array([np.zeros(60), (np.exp(log_p[0]) * (log_p[0] - log_p[1])).sum(axis=1)]),
        "retained": np.array([right[0], right[0] & right[1]]).astype(float),
    }
    for outcome, (before, after) in expected.items():
        error = (after - before).std(ddof=1) / np.sqrt(60)
        values = (before.mean(), after.mean(), (after - before).mean(), error)
        np.testing.assert_allclose(found[outcome], values, rtol=1e-4, atol=1e-6)
    assert found["right"][:2].tolist() == right.sum(axis=1).tolist()
    assert np.isnan(found["right"][3])
    assert small.measure((x, y))["outcome"].tolist() == ["accuracy", "loss"]
    assert small.measure((x, None))["outcome"].tolist() == ["divergence"]
    assert small.measure((x, y), "loss", task="classes").shape == (1, 5)
    with pytest.raises(DataError, match="outcome 'accuracy' must have labels, received y=None"):
        small.measure((x, None), "accuracy")
    with pytest.raises(ParameterError, match="`outcome` must be one of accuracy"):
        small.measure((x, y), "speed")


@pytest.mark.usefixtures("few_rounds")
def test_many_models_are_measured_without_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    model, data = planted((0,))
    tf.get_logger().addHandler(caplog.handler)
    try:
        rest = data[0][200:], data[1][200:]
        small = dr.prune(model, data=rest, target=dr.AccuracyLimit(0.9, (data[0][:200], data[1][:200])))
        for part in range(6):
            dr.recover(small.model, data, validation=models.data_for(model, 10 + part), recovery=dr.Recovery(epochs=1))
    finally:
        tf.get_logger().removeHandler(caplog.handler)
    assert small.model.count_params() < model.count_params()
    assert not caplog.records
