"""Laws of annealing: reproducible, nested, exact in number, right where the answer is known."""

from typing import Any

import flat
import keras
import models
import numpy as np
import pytest
import tensorflow as tf
from conftest import Labelled
from keras import layers
from tqdm.auto import tqdm

import dropreg as dr
from dropreg.errors import DataError, ModelError, ParameterError
from dropreg.network._evaluator import Evaluator
from dropreg.pruning._annealing import _anneal as choosing
from dropreg.pruning._annealing import _local_search as swaps
from dropreg.pruning._annealing._annealer import Annealer
from dropreg.pruning._annealing._logits import bounded, draw_masks, keep_probabilities, slopes, trapezoid

FEW: dict[str, Any] = {"rounds": 4, "rows_per_round": 128}
MODES: list[dict[str, Any]] = [{}, {"gradients": False}, {"ablation": "merged", "examples_per_mask": 16}]


class Rounded(keras.layers.Layer):
    """Has no gradient."""

    def call(self, inputs: Any) -> Any:
        return tf.round(8.0 * inputs) / 8.0


dr.layers.register(Rounded, rule=dr.layers.Carry())


def planted(useless: tuple[int, ...], *, rounded: bool = False) -> tuple[keras.Model, Labelled]:
    """Twelve neurons that vote for one class each, but for those that nothing reads."""
    stack = [keras.Input((12,)), layers.Dense(12, activation="relu", name="hidden"), layers.Dense(3, name="out")]
    model = keras.Sequential([*stack, Rounded(name="rounded")] if rounded else stack)
    votes = 3.0 * np.eye(3)[np.arange(12) % 3]
    votes[list(useless)] = 0.0
    model.set_weights([np.eye(12), np.zeros(12), votes, np.zeros(3)])
    x = np.random.default_rng(3).normal(size=(400, 12)).astype(np.float32)
    return model, (x, np.argmax(model(x), axis=1))


@pytest.mark.parametrize("mode", MODES)
def test_same_seed_same_path(model: keras.Model, data: Labelled, elements: dr.Elements, mode: dict[str, Any]) -> None:
    def run(seed: int) -> dr.SelectionPath:
        return flat.anneal_path(model, data, elements, fractions=(0.3, 0.6), seed=seed, **FEW, **mode)

    first, again, other = run(1), run(1), run(2)
    np.testing.assert_array_equal(first.logits, again.logits)
    assert first.history.equals(again.history)
    assert not np.array_equal(first.logits, other.logits, equal_nan=True)


@pytest.mark.parametrize(
    ("name", "mode"),
    [*(("mlp", mode) for mode in MODES), ("cnn", MODES[2]), *(("residual", mode) for mode in MODES), ("grouped", {})],
)
def test_paths_are_nested_and_exact(name: str, mode: dict[str, Any]) -> None:
    model = models.ready(name)
    elements = dr.elements(model)
    weights = [weight.copy() for weight in model.get_weights()]
    fractions = (0.2, 0.45)
    outcome = {"outcome": "divergence"} if name == "residual" else {}  # few rows make none of its decisions wrong
    path = flat.anneal_path(model, models.data_for(model, 40), elements, fractions=fractions, **FEW, **outcome, **mode)
    for fraction, selection in zip(fractions, path.selections, strict=True):
        assert (~selection.kept).sum() == round(fraction * len(elements))
        assert path.at(fraction) is selection
        assert (selection.by_layer()["kept"] >= 1).all()
    assert not (path.selections[1].kept & ~path.selections[0].kept).any()
    order = path.to_impact().impact
    for selection in path.selections:
        assert order[selection.kept].min() > order[~selection.kept].max()
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("kind", ["weights", "neurons", ("neurons", "branches")])
def test_every_kind_is_annealed(kind: Any) -> None:
    model = models.ready("residual")
    elements = dr.elements(model, kind)
    more: dict[str, Any] = (
        {"rows_per_round": 64, "examples_per_mask": 16} if kind == "weights" else {"rows_per_round": 64}
    )
    selection = flat.anneal(model, models.data_for(model, 40), elements, fraction=0.5, rounds=3, **more)
    assert (~selection.kept).sum() == round(0.5 * len(elements)) > 0


def test_heads_are_annealed() -> None:
    inputs = keras.Input((5, 8))
    x = layers.MultiHeadAttention(num_heads=4, key_dim=2, name="attention")(inputs, inputs)
    model = keras.Model(inputs, layers.Dense(3, name="out")(layers.GlobalAveragePooling1D()(x)))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 5, 8)).astype(np.float32), rng.integers(0, 3, 40)
    selection = flat.anneal(model, (x, y), dr.elements(model, "heads"), fraction=0.5, **FEW)
    assert selection.kept.sum() == 2


def test_weights_take_many_small_rounds() -> None:
    """Of weights of one magnitude those that nothing reads go first."""
    useless = (1, 4, 5, 9)
    model, (x, _) = planted(useless)
    signs = np.sign(np.random.default_rng(0).normal(size=(12, 12)))
    model.get_layer("hidden").set_weights([signs, np.zeros(12)])
    data = x, np.argmax(model(x), axis=1)
    elements = dr.elements(model, "weights", include=["hidden"])
    idle = np.isin(np.arange(len(elements)) % 12, useless)  # columns of the kernel
    path = flat.anneal_path(model, data, elements, fractions=(4 / 12,))
    assert len(path.history) == 200
    assert path.outcome == "divergence"
    assert path.rows == 200 * 2 * 256 * 3
    assert (~path.selections[0].kept)[idle].mean() > 0.95


@pytest.mark.parametrize(
    "mode", [{}, {"outcome": "loss"}, {"outcome": "accuracy"}, {"gradients": False}, {"ablation": "merged"}]
)
def test_elements_that_nothing_reads_are_dropped_first(mode: dict[str, Any]) -> None:
    useless = (1, 4, 5, 9)
    model, data = planted(useless)
    more: dict[str, Any] = {"examples_per_mask": 16} if "ablation" in mode else {}
    selection = flat.anneal(
        model, data, dr.elements(model), fraction=4 / 12, rounds=30, rows_per_round=1024, **mode, **more
    )
    assert tuple(selection.dropped) == useless


@pytest.mark.parametrize(
    ("name", "kinds", "outcome"),
    [
        ("mlp", "neurons", "loss"),
        ("residual", "neurons", "divergence"),
        ("recurrent", "neurons", "divergence"),
        ("transformer_block", ["heads", "neurons"], "divergence"),
    ],
)
def test_later_stages_do_the_same_on_a_smaller_network(
    name: str, kinds: Any, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models.ready(name)
    data, elements = models.data_for(model, 200), dr.elements(model, kinds)
    asked = {"fractions": (0.3, 0.6), "rounds": 4, "rows_per_round": 256, "outcome": outcome}
    sizes = []
    used = Annealer._use

    def use(self: Annealer, evaluator: Evaluator) -> None:
        sizes.append(evaluator.n_elements)
        used(self, evaluator)

    monkeypatch.setattr(Annealer, "_use", use)
    monkeypatch.setattr(swaps, "_SWEEPS", int(name == "mlp"))
    path = flat.anneal_path(model, data, elements, **asked)
    assert len(sizes) == 2
    assert sizes[1] < sizes[0] == len(elements)
    monkeypatch.setattr(Annealer, "_narrow", lambda self: None)
    whole = flat.anneal_path(model, data, elements, **asked)
    assert len(sizes) == 3
    assert np.allclose(path.history["outcome"], whole.history["outcome"], rtol=1e-3, atol=1e-5)
    for one, other in zip(path.selections, whole.selections, strict=True):
        np.testing.assert_array_equal(one.kept, other.kept)


def test_small_rounds_cost_what_few_large_ones_do(
    model: keras.Model, data: Labelled, elements: dr.Elements, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the second stage on two runs are made, and measured on all examples once."""
    monkeypatch.setattr(swaps, "_SWEEPS", 0)
    small, large = (
        flat.anneal_path(model, data, elements, fractions=(0.3, 0.5), rows_per_round=rows) for rows in (None, 1024)
    )
    assert (len(small.history), len(large.history)) == (3 * 400, 3 * 100)
    assert small.rows == large.rows == 3 * 3 * 102_400 + 2 * len(data[0])


@pytest.mark.parametrize(
    ("mode", "runs"), [({}, 2), ({"gradients": False}, 2), ({"ablation": "merged", "examples_per_mask": 16}, 1)]
)
def test_the_better_of_two_runs_is_returned(mode: dict[str, Any], runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second stage on one run continues and one restarts from equal keep-probabilities."""
    model = models.ready("mlp")
    (x, y), elements = models.data_for(model, 200), dr.elements(model)
    tried: list[list[np.ndarray]] = []
    best = Annealer._best

    def record(self: Annealer, runs: Any) -> int:
        tried.append([run.kept for run in runs])
        return best(self, runs)

    monkeypatch.setattr(Annealer, "_best", record)
    monkeypatch.setattr(swaps, "_SWEEPS", 0)
    asked: dict[str, Any] = {"rounds": 5, "rows_per_round": 256, **mode}
    path = flat.anneal_path(model, (x, y), elements, fractions=(0.2, 0.4, 0.6, 0.8), outcome="loss", **asked)
    assert [len(masks) for masks in tried] == [1, runs, runs, runs]
    merging = (x, None) if "ablation" in mode else None
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    history = path.history
    for stage, (masks, selection) in enumerate(zip(tried, path.selections, strict=True)):
        losses = [
            np.asarray(loss(y, dr.remove(model, dr.Selection(elements, kept), data=merging).model(x))) for kept in masks
        ]
        rows = history[history["stage"] == stage]
        assert rows["run"].to_list() == [run for run in range(len(masks)) for _ in range(5)]
        (taken,) = set(rows[rows["taken"]]["run"])
        np.testing.assert_array_equal(masks[taken], selection.kept)
        assert losses[taken] == min(losses)  # both runs may select the same
    first = history[(history["round"] == 0) & (history["stage"] > 0)]
    assert len(first) == 3 * runs
    assert first[first["run"] == 1]["decided"].isin([0, 1]).all()
    assert not first[first["run"] == 0]["decided"].isin([0, 1]).all()  # some have moved


@pytest.mark.parametrize("mode", [{}, {"gradients": False}])
def test_wrongly_classified_examples_do_not_count(
    mode: dict[str, Any], model: keras.Model, data: Labelled, elements: dr.Elements
) -> None:
    """By default; by the accuracy, another wrong label may turn out right in the smaller network."""
    x, y = data
    decided = np.argmax(model(x), axis=1)
    others = (decided + 1 + (y == (decided + 1) % models.N_CLASSES)) % models.N_CLASSES
    relabelled = np.where(decided == y, y, others)
    assert 0 < (relabelled != y).mean() < 1
    assert not (relabelled == decided)[decided != y].any()

    def run(labels: np.ndarray, **more: Any) -> dr.SelectionPath:
        return flat.anneal_path(model, (x, labels), elements, fractions=(0.3, 0.6), **FEW, **mode, **more)

    first, second = run(y), run(relabelled)
    assert first.outcome == "retained"
    np.testing.assert_array_equal(first.logits, second.logits)
    accurate = run(y, outcome="accuracy"), run(relabelled, outcome="accuracy")
    assert not np.array_equal(accurate[0].logits, accurate[1].logits, equal_nan=True)


def test_nothing_right_is_refused(model: keras.Model, data: Labelled, elements: dr.Elements) -> None:
    wrong = (np.argmax(model(data[0]), axis=1) + 1) % models.N_CLASSES
    with pytest.raises(DataError, match=rf"classifies correctly, received none among {len(wrong)}: check that labels"):
        flat.anneal(model, (data[0], wrong), elements, fraction=0.5, **FEW)
    assert flat.anneal(model, (data[0], wrong), elements, fraction=0.5, outcome="accuracy", **FEW).kept.any()


@pytest.mark.parametrize(("mode", "runs"), [({}, 5), ({"ablation": "merged", "examples_per_mask": 16}, 3)])
def test_the_progress_bar_ends_at_its_total(
    mode: dict[str, Any],
    runs: int,
    model: keras.Model,
    data: Labelled,
    elements: dr.Elements,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bars = []

    class Bar(tqdm):
        def close(self) -> None:
            bars.append((self.n, self.total))
            super().close()

    monkeypatch.setattr(choosing, "tqdm", Bar)
    asked: dict[str, Any] = {"fractions": (0.2, 0.4, 0.5), "rounds": 4, "rows_per_round": 64}
    flat.anneal_path(model, data, elements, progress=True, **asked, **mode)
    assert set(bars) == {(4 * runs, 4 * runs)}


def test_forward_passes_alone_need_no_gradient() -> None:
    useless = (0, 7, 11)
    model, data = planted(useless, rounded=True)
    elements = dr.elements(model)
    chosen = flat.anneal(
        model, data, elements, fraction=0.25, rounds=20, rows_per_round=2048, gradients=False, outcome="accuracy"
    )
    assert tuple(chosen.dropped) == useless
    with pytest.raises(ModelError, match=r"must have a gradient, received layer 'rounded'.*pass gradients=False"):
        flat.anneal(model, data, elements, fraction=0.25, **FEW)


def test_merging_drops_one_of_two_copies() -> None:
    """Deletion needs both copies, merging replaces either; no other unit has impact zero."""
    model, (x, y) = planted(())
    kernel, bias = model.get_layer("hidden").get_weights()
    kernel[:, 3], bias[3] = kernel[:, 8], bias[8]
    model.get_layer("hidden").set_weights([kernel, bias])
    chosen = flat.anneal(
        *(model, (x, y), dr.elements(model)),
        fraction=1 / 12,
        rounds=40,
        rows_per_round=2048,
        ablation="merged",
        examples_per_mask=16,
    )
    assert chosen.dropped[0] in (3, 8)


def test_keep_probabilities_have_the_mean_asked_for() -> None:
    logits = np.random.default_rng(0).normal(size=300)
    for dropped in (0.05, 0.5, 0.9):
        p = keep_probabilities(logits, dropped)
        assert abs(p.mean() - (1 - dropped)) < 1e-3
        assert (np.diff(p[np.argsort(logits)]) >= 0).all()
    assert keep_probabilities(100 * logits, 0.5).min() == pytest.approx(0.01)


def test_masks_have_their_probabilities() -> None:
    p = np.array([0.01, 0.3, 0.99])
    masks = draw_masks(0, 5, 20_000, p)
    np.testing.assert_allclose(masks.mean(axis=0), p, atol=4 * 0.5 / np.sqrt(20_000))
    assert not np.array_equal(masks, draw_masks(0, 6, 20_000, p))


def test_estimates_of_a_quadratic_set_function() -> None:
    """F(m) = a'm + m'Bm / 2 with zero diagonal: both estimates converge to dF/dp = a + Bp."""
    rng = np.random.default_rng(0)
    n, n_masks = 5, 40_000
    a, b = rng.normal(size=n), rng.normal(size=(n, n))
    b = b + b.T
    np.fill_diagonal(b, 0.0)
    p = rng.uniform(0.2, 0.8, n)
    masks = draw_masks(1, 0, n_masks, p)
    y = masks @ a + 0.5 * np.einsum("ij,jk,ik->i", masks, b, masks)
    exact = a + b @ p
    np.testing.assert_allclose(slopes(masks, y, p) * 1.01, exact, atol=0.05)
    np.testing.assert_allclose(slopes(masks[:9], y[:9], p).shape, (n,))
    g = a + masks @ b
    sums = np.array([(g * masks).sum(axis=0), (g * ~masks).sum(axis=0)])
    np.testing.assert_allclose(trapezoid(sums, masks.sum(axis=0), n_masks), exact, atol=0.05)


def test_trapezoid_with_one_side_observed() -> None:
    assert trapezoid(np.array([[6.0], [0.0]]), np.array([3]), 3) == pytest.approx([2.0])


def test_bounded_steps() -> None:
    step = bounded(np.array([0.0] * 99 + [100.0]), 4.0)
    assert step.max() == 4.0
    assert bounded(np.ones(5), 4.0).tolist() == [0.0] * 5


def run(model: keras.Model, data: Any, elements: dr.Elements, **more: Any) -> dr.SelectionPath:
    return flat.anneal_path(model, data, elements, **{"fractions": (0.5,), **FEW, **more})


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"fractions": (1.2,)}, r"`fractions` must lie strictly between 0 and 1, received 1.2"),
        ({"fractions": (0.5, 0.3)}, r"`fractions` must ascend, received \(0.5, 0.3\)"),
        ({"fractions": ()}, r"`fractions` must hold at least one"),
        ({"fractions": (0.9,)}, r"`fraction` 0.9 leaves 1 of 9.*at least 2 \(1 for each layer\)"),
        ({"floor": 3, "fractions": (0.5,)}, r"leaves [45] of 9 elements.*at least 6.*at most 0.333"),
        ({"rounds": 0}, r"`rounds` must be an integer of at least 1, received 0"),
        ({"rows_per_round": 1}, r"`rows_per_round` must be a multiple of 1.*received 1: pass 2"),
        ({"ablation": "merged", "rows_per_round": 100}, r"must be a multiple of 64.*received 100: pass 128"),
        ({"ablation": "mean"}, r"`ablation` must be one of zero, merged, received 'mean'"),
        ({"examples_per_mask": 4}, r"`examples_per_mask` must be 1 where every row"),
        ({"start": np.zeros(3)}, r"`start` must be finite numbers of shape \(9,\)"),
        ({"outcome": "losss"}, r"`outcome` must be one of"),
        ({"floor": {"nowhere": 2}}, r"`floor` must name layers of the elements \(.*\), received nowhere"),
        ({"floor": {"first": 1.5}}, r"`floor` of layer 'first' must be a number of.*a share of.*received 1\.5\."),
        ({"seed": -1}, r"`seed` must be an integer"),
    ],
)
def test_bad_arguments(
    model: keras.Model, data: Labelled, elements: dr.Elements, more: dict[str, Any], text: str
) -> None:
    with pytest.raises(ParameterError, match=text):
        run(model, data, elements, **more)


def test_outcomes_that_do_not_fit(model: keras.Model, data: Labelled, elements: dr.Elements) -> None:
    with pytest.raises(DataError, match=r"outcome 'loss' must have labels, received y=None"):
        run(model, (data[0], None), elements, outcome="loss")
    custom = dr.outcomes.PerExample(lambda labels, outputs: outputs[:, 0], "first", True)
    with pytest.raises(ParameterError, match=r"`outcome` must have a gradient.*pass gradients=False"):
        run(model, data, elements, outcome=custom)
    run(model, data, elements, outcome=custom, gradients=False)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"learning_rate": 0}, r"`learning_rate` must be positive, received 0"),
        ({"sharpness": 0.5}, r"`sharpness` must be at least 1, received 0.5"),
        ({"interactions": 1.5}, r"`interactions` must lie in \[0, 1\], received 1.5"),
        ({"exploration": -0.1}, r"`exploration` must be at least 0, received -0.1"),
        ({"carried": 0.0}, r"`carried` must be positive, received 0.0"),
    ],
)
def test_bad_schedules(more: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        dr.pruning.Schedule(**more)


def test_a_fraction_the_path_does_not_have(model: keras.Model, data: Labelled, elements: dr.Elements) -> None:
    path = run(model, data, elements)
    assert "SelectionPath: annealed with gradients" in repr(path)
    with pytest.raises(ParameterError, match=r"`fraction` must be one of the path's, 0.444, received 0.8"):
        path.at(0.8)
