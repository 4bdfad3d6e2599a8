"""Second derivatives with respect to masks, which annealing for merging estimates."""

import itertools
from typing import Any

import flat
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from keras import layers
from models import classifier, examples

import dropreg as dr
from dropreg.data._prediction import Prediction
from dropreg.network._evaluator import Evaluator
from dropreg.network._merged import MergedNetwork
from dropreg.network._question import ask
from dropreg.pruning._annealing._annealer import Annealer
from dropreg.pruning._annealing._logits import differences, draw_signs, expanded
from dropreg.pruning._annealing._round import Round


def quadratic(n: int, n_masks: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Second derivatives of an outcome that is half a square of the dropped elements, masks, and derivatives."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, n))
    q = a @ a.T
    masks = rng.random((n_masks, n)) < rng.uniform(0.1, 0.9, n)
    return q, masks, -(1.0 - masks) @ q


@given(n=st.integers(1, 8), n_masks=st.integers(1, 20), seed=st.integers(0, 2**31))
def test_second_derivatives_use_every_mask_for_both_states(n: int, n_masks: int, seed: int) -> None:
    """On a square the mean step from dropped to kept is exact at any masks, however rarely an element is dropped."""
    q, masks, g = quadratic(n, n_masks, seed)
    sums = np.stack([(g * masks).sum(axis=0), (g * ~masks).sum(axis=0)])
    found = expanded(sums, np.diag(q), masks.sum(axis=0), n_masks, interactions=1.0, explored=0.0)
    for j in range(n):
        kept, dropped = (np.where(np.arange(n) == j, value, masks) for value in (1.0, 0.0))
        step = [0.5 * np.einsum("ij,jk,ik->i", 1 - m, q, 1 - m) for m in (kept, dropped)]
        assert found[j] == pytest.approx(np.mean(step[0] - step[1]), rel=1e-9, abs=1e-9)


def test_exploration_and_interactions_of_second_derivatives() -> None:
    q, masks, g = quadratic(6, 40, 3)
    sums, n_kept = np.stack([(g * masks).sum(axis=0), (g * ~masks).sum(axis=0)]), masks.sum(axis=0)
    own = np.diag(q)
    alone = expanded(sums, own, n_kept, 40, interactions=0.0, explored=0.0)
    np.testing.assert_allclose(alone, -own / 2)
    at_once = expanded(sums, own, n_kept, 40, interactions=1.0, explored=1.0)
    np.testing.assert_allclose(at_once, g.mean(axis=0))


def test_measured_differences_are_the_second_derivatives_of_a_square() -> None:
    """Over many masks, where they drop elements independently; and half of them if these are twice as large."""
    q = quadratic(5, 1, 1)[0]
    masks = np.random.default_rng(0).random((40_000, 5)) < 0.6
    g = -(1.0 - masks) @ q
    sums, n_kept = np.stack([(g * masks).sum(axis=0), (g * ~masks).sum(axis=0)]), masks.sum(axis=0)
    for factor in (1.0, 2.0):
        measured, expected = differences(sums, factor * np.diag(q), n_kept, len(masks))
        np.testing.assert_allclose(factor * measured / expected, 1.0, atol=0.1)
    never = differences(sums, np.diag(q), np.full(5, len(masks)), len(masks))
    assert (never == 0).all()


def test_second_derivatives_of_recurrent_units_are_what_was_measured() -> None:
    """Of cells by themselves, never more than they are; those of other layers as they are."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6, 3)), layers.GRU(8, name="cells"), layers.Dense(8), layers.Dense(3)])
    x, elements = np.random.default_rng(0).normal(size=(64, 6, 3)).astype(np.float32), dr.elements(model)
    question = ask(model, (x, None), elements, outcome="divergence", task=None, kept=None, seed=0)
    network = MergedNetwork(model, elements, question.examples)
    taken = Round(Evaluator(question, network=network), True, 16, 64, np.arange(16), 16, second_order=True)
    squares, n_kept = np.linspace(1.0, 2.0, 16), np.full(16, 3)
    for measured, scale in [(0.5, 0.5), (0.5, 0.5), (3.0, 1.0)]:
        sums = np.stack([3 * measured * squares, np.zeros(16)])
        found = taken._calibrated(sums, squares, n_kept, 4)
        np.testing.assert_allclose(found[8:], squares[8:])
        np.testing.assert_allclose(found[:8], scale * squares[:8])


def test_exploration_ends_with_the_stage() -> None:
    schedule = dr.pruning.Schedule(exploration=0.8)
    assert [schedule.explored(number, 5) for number in range(5)] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0])
    assert schedule.explored(0, 1) == 0.8


@given(seed=st.integers(0, 2**31), number=st.integers(0, 1000))
def test_signs_are_fair_and_repeatable(seed: int, number: int) -> None:
    signs = draw_signs(seed, number, (500, 2, 5))
    assert set(np.unique(signs)) == {-1.0, 1.0}
    assert abs(signs.mean()) < 0.1
    np.testing.assert_array_equal(signs, draw_signs(seed, number, (500, 2, 5)))
    assert (signs != draw_signs(seed, number + 1, (500, 2, 5))).any()


@pytest.mark.parametrize("task", ["classes", "binary", "multilabel", "regression"])
def test_scores_of_the_divergence_square_to_its_second_derivatives(task: Any) -> None:
    """At the original model's own prediction, where Gauss-Newton leaves nothing out."""
    n_outputs = {"classes": 4, "binary": 1}.get(task, 3)
    outputs = tf.constant(np.random.default_rng(5).normal(size=(2, n_outputs)), tf.float32)
    whole = Prediction(tf.constant(outputs.numpy()), task, True)
    labels = tf.zeros(2, tf.int64)
    with tf.GradientTape() as outer:
        outer.watch(outputs)
        with tf.GradientTape() as inner:
            inner.watch(outputs)
            value = dr.outcomes.Divergence().measure(Prediction(outputs, task, True), labels, whole)
        first = inner.gradient(value, outputs)
    second: Any = outer.batch_jacobian(first, outputs)
    squares = []
    for signs in itertools.product([-1.0, 1.0], repeat=n_outputs):
        with tf.GradientTape() as tape:
            tape.watch(outputs)
            scores = dr.outcomes.Divergence.scores(Prediction(outputs, task, True), tf.constant([signs, signs]))
        g: Any = tape.gradient(scores, outputs)
        squares.append(tf.einsum("ri,rj->rij", g, g).numpy())
    np.testing.assert_allclose(np.mean(squares, axis=0), second, atol=1e-6)


def test_rounds_estimate_the_second_derivatives_of_drop_and_merge() -> None:
    """Against derivatives of the outputs, one by one, between the second derivatives of the softmax."""
    model = classifier()
    data, elements = examples(model, 64), dr.elements(model, include=["a"])
    question = ask(model, data, elements, outcome="divergence", task=None, kept=None, seed=0)
    network = MergedNetwork(model, elements, question.examples)
    n = len(elements)
    taken = Round(Evaluator(question, network=network), True, 64, 64, np.arange(n), n, second_order=True)
    kept = np.arange(n) % 3 > 0
    found = np.mean([taken._run(kept[np.newaxis], np.arange(64), number).squares for number in range(1000)], axis=0)
    masks = tf.constant(kept[np.newaxis], tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(masks)
        outputs = network([data[0]], masks)
    by_mask: Any = tape.jacobian(outputs, masks, experimental_use_pfor=False)
    p = tf.nn.softmax(outputs).numpy()
    within = np.einsum("rk,kl->rkl", p, np.eye(4)) - np.einsum("rk,rl->rkl", p, p)
    exact = np.einsum("rkj,rkl,rlj->j", by_mask[:, :, 0], within, by_mask[:, :, 0]) / 64
    np.testing.assert_allclose(found, exact, rtol=0.2)
    assert np.corrcoef(found, exact)[0, 1] > 0.99


@pytest.mark.parametrize(
    ("more", "curved"),
    [
        ({"ablation": "merged"}, True),
        ({"ablation": "merged", "gradients": False}, False),
        ({"ablation": "merged", "outcome": "loss"}, False),
        ({"ablation": "zero", "outcome": "divergence"}, False),
    ],
)
def test_when_second_derivatives_are_available(more: dict[str, Any], curved: bool) -> None:
    model = classifier()
    data, elements = examples(model), dr.elements(model)
    asked: dict[str, Any] = {"fractions": (0.3, 0.6), "rounds": 6, "rows_per_round": 512, **more}
    first, second = (
        flat.anneal_path(model, data, elements, schedule=dr.pruning.Schedule(second_order=chosen), **asked)
        for chosen in (False, True)
    )
    assert np.array_equal(first.logits, second.logits, equal_nan=True) != curved
    assert second.rows == first.rows * 5 / 3 if curved else second.rows == first.rows


@pytest.mark.parametrize("activation", [None, "sigmoid"])
@pytest.mark.parametrize("task", ["binary", "multilabel", "regression"])
def test_other_tasks_anneal_with_second_derivatives(task: Any, activation: str | None) -> None:
    keras.utils.set_random_seed(1)
    hidden = layers.Dense(9, activation="relu", name="a")
    out = layers.Dense(1 if task == "binary" else 3, activation=activation, name="out")
    model = keras.Sequential([keras.Input((4,)), hidden, out])
    kernel, bias = hidden.get_weights()
    kernel[:, :3], bias[:3] = 0.0, 0.0  # idle
    hidden.set_weights([kernel, bias])
    x = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    elements = dr.elements(model)
    path = flat.anneal_path(model, (x, None), elements, fractions=(1 / 3,), rounds=30, ablation="merged", task=task)
    assert path.selections[0].dropped.tolist() == [0, 1, 2]


@pytest.mark.parametrize("second_order", [True, False])
def test_logits_are_damped_between_stages(second_order: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same order, where exploration is to undo them; the first stage starts as it was asked to."""
    model = classifier()
    data, elements = examples(model), dr.elements(model)
    started: list[tuple[np.ndarray, np.ndarray]] = []
    ended: list[np.ndarray] = []
    run = Annealer._run

    def recorded(self: Annealer, fraction: float, rounds: int, alive: Any, logits: Any, bar: Any) -> Any:
        started.append((logits[alive].copy(), alive))
        made = run(self, fraction, rounds, alive, logits, bar)
        ended.append(made.logits.copy())
        return made

    monkeypatch.setattr(Annealer, "_run", recorded)
    schedule = dr.pruning.Schedule(carried=2.0, second_order=second_order)
    start = np.arange(len(elements)) * 5.0
    asked: dict[str, Any] = {"fractions": (0.3, 0.5), "rounds": 10, "ablation": "merged", "start": start}
    flat.anneal_path(model, data, elements, schedule=schedule, **asked)
    assert started[0][0].std() == pytest.approx(1.0)
    logits, alive = started[1]
    before = ended[0][alive]
    expected = 2.0 * (before - before.mean()) / before.std() if second_order else before
    np.testing.assert_allclose(logits, expected)
