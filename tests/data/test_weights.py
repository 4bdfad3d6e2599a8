"""Sample weights: integer weights are repeated examples, weights of 0 leave examples out, and Keras agrees."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flat
import keras
import models
import numpy as np
import pytest
import tensorflow as tf
from conftest import says
from keras import layers

import dropreg as dr
from dropreg.data import check_data, load_npz
from dropreg.errors import DataError, ParameterError
from dropreg.network import MergedNetwork, ask_one, measure
from dropreg.pruning._upper_limits import paired_limit

N = 40
QUIET: Any = 0


class Cases:
    """A model, examples with integer weights whose zeros have invalid values, and the same as repeated examples."""

    def __init__(self) -> None:
        self.model = models.ready("mlp")
        self.elements = dr.elements(self.model)
        x, y = models.data_for(self.model, N)
        self.w = np.random.default_rng(3).integers(0, 4, N)
        self.clean = x, y, self.w
        self.repeated = np.repeat(x, self.w, axis=0), np.repeat(y, self.w)
        bad_x, bad_y = x.copy(), y.copy()
        bad_x[self.w == 0], bad_y[self.w == 0] = np.nan, -1
        self.weighted = bad_x, bad_y, self.w


@pytest.fixture(scope="module")
def cases() -> Cases:
    return Cases()


def test_means_of_weighted_examples_are_those_of_repeated_ones(cases: Cases) -> None:
    outcomes = ["loss", "accuracy", "margin", "retained"]
    other = models.ready("mlp", 1)
    one, two = (measure(cases.model, other, data, outcomes, None) for data in (cases.weighted, cases.repeated))
    for column in ("before", "after", "change"):
        np.testing.assert_allclose(one[column], two[column], rtol=1e-5, atol=1e-7)
    record = flat.sample(cases.model, cases.weighted, cases.elements, rows=40, outcomes=outcomes)
    np.testing.assert_allclose(record.baseline[outcomes].mean(), one["before"], rtol=1e-5, atol=1e-7)


def test_the_network_has_the_weighted_loss_and_accuracy_of_keras(cases: Cases) -> None:
    x, y, w = cases.clean
    model = models.build("mlp")
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy()],
        jit_compile=models.NO_JIT,
    )
    record = flat.sample(cases.model, cases.clean, cases.elements, rows=40, outcomes=["loss", "accuracy"])
    expected: Any = model.evaluate(x, y, sample_weight=w / w.mean(), verbose=QUIET)
    np.testing.assert_allclose(record.baseline[["loss", "accuracy"]].mean(), expected, rtol=1e-5)


def test_zeros_leave_examples_out_bit_for_bit(cases: Cases) -> None:
    x, y, w = cases.weighted
    kept = w > 0
    for rest in (w[kept], np.ones(int(kept.sum()))):
        given = np.zeros(N)
        given[kept] = rest
        one, two = (
            flat.sample(cases.model, data, cases.elements, rows=200, outcomes=["loss", "accuracy"], gradients=True)
            for data in ((x, y, given), (x[kept], y[kept], rest))
        )
        assert one.to_frame().equals(two.to_frame())
        assert one.settings == two.settings
    equal = flat.sample(cases.model, (x[kept], y[kept]), cases.elements, rows=200, outcomes=["loss", "accuracy"])
    assert equal.to_frame().equals(two.to_frame())  # equal weights are none
    assert (
        equal.settings.data
        == two.settings.data
        != flat.sample(cases.model, cases.clean, cases.elements, rows=20).settings.data
    )


SCORERS: dict[str, Callable[..., dr.ImpactTable]] = {
    "leave one out": dr.scorers.leave_one_out,
    "greedy": dr.scorers.greedy,
    "taylor": dr.scorers.taylor,
    "squared": lambda *args: dr.scorers.taylor(*args, statistic="squared"),
    "probes": lambda *args: dr.scorers.taylor(*args, order=2, curvature=dr.scorers.Exact()),
    "obd": dr.scorers.obd,
    "activation": dr.scorers.activation,
    "mean": lambda *args: dr.scorers.activation(*args, moment="mean"),
    "zeros": lambda *args: dr.scorers.activation(*args, moment="zeros"),
    "weight times activation": dr.scorers.weight_activation,
}


@pytest.mark.parametrize("name", SCORERS)
def test_scores_of_weighted_examples_are_those_of_repeated_ones(cases: Cases, name: str) -> None:
    one, two, plain = (
        SCORERS[name](cases.model, data, cases.elements).impact
        for data in (cases.weighted, cases.repeated, cases.clean[:2])
    )
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
    assert name == "greedy" or np.abs(plain - two).max() > 1e-3


def test_few_examples_of_different_weights_are_named(cases: Cases) -> None:
    w = cases.w[cases.w > 0]
    n_equal = w.sum() ** 2 / (w**2).sum()
    note = dr.scorers.leave_one_out(cases.model, cases.weighted, cases.elements).details["note"]
    assert note.startswith(f"{len(w)} examples of different weights, worth {n_equal:.0f} of equal weight, fewer than")
    many = tuple(np.concatenate(4 * [part]) for part in cases.clean[:2])
    assert "note" not in dr.scorers.leave_one_out(cases.model, many, cases.elements).details


def test_spread_is_the_weighted_deviation(cases: Cases) -> None:
    one, two = (dr.scorers.spread(cases.model, data, cases.elements) for data in (cases.weighted, cases.repeated))
    n, repeated = int((cases.w > 0).sum()), int(cases.w.sum())
    np.testing.assert_allclose(
        one.impact * np.sqrt((n - 1) / n), two.impact * np.sqrt((repeated - 1) / repeated), rtol=1e-4
    )
    single, several = (
        dr.scorers.leave_one_out(cases.model, data, cases.elements).frame["change_sd"].to_numpy()
        for data in (cases.weighted, cases.repeated)
    )
    np.testing.assert_allclose(single * np.sqrt((n - 1) / n), several * np.sqrt((repeated - 1) / repeated), rtol=1e-4)


@pytest.mark.parametrize(("outcome", "gradients"), [("loss", False), ("loss", True), ("accuracy", True)])
def test_estimates_are_unbiased_and_their_errors_valid(cases: Cases, outcome: Any, gradients: bool) -> None:
    exact = dr.scorers.masked_game(cases.model, cases.repeated, cases.elements, outcome=outcome)
    masks = np.random.default_rng(0).random((3_000, len(cases.elements))) > 0.3
    design = np.c_[np.ones(len(masks)), ~masks]
    expected = -np.linalg.lstsq(design, exact(masks), rcond=None)[0][1:]
    run: dict[str, Any] = {"rows": 8_000, "outcome": outcome, "gradients": gradients, "fidelity": None}
    table = flat.estimate(cases.model, cases.weighted, cases.elements, **run)
    error = np.sqrt(table.std_error**2 + (0.02 * np.abs(expected).max()) ** 2)
    assert (np.abs(table.impact - expected) < 4 * error).all()


@pytest.mark.parametrize("predictions", [False, True])
def test_merging_with_weights_is_merging_with_repeated_examples(predictions: bool) -> None:
    inputs = keras.Input((6,))
    keras.utils.set_random_seed(0)
    hidden = layers.Dense(10, "relu", name="a")(inputs)
    model = keras.Model(inputs, layers.Dense(3, "softmax", name="b")(layers.BatchNormalization()(hidden)))
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(200, 6)).astype(np.float32), rng.integers(0, 4, 200)
    x_bad = np.where(w[:, np.newaxis] == 0, np.float32(np.nan), x)
    selection = dr.Selection.random(dr.elements(model, include="a"), 0.5)
    merge = dr.merging.LeastSquares(ridges=(1e-6,), predictions=predictions)
    found = [
        dr.remove(model, selection, data=data, merge=merge).model.get_weights()
        for data in ((x_bad, None, w), (np.repeat(x, w, axis=0), None), (x, None))
    ]
    tolerance = 0.02 if predictions else 2e-5  # the penalty of the last fit is chosen on other held-out rows
    for one, two in zip(found[0], found[1], strict=True):
        np.testing.assert_allclose(one, two, atol=tolerance)
    if not predictions:
        assert max(np.abs(one - three).max() for one, three in zip(found[0], found[2], strict=True)) > 1e-3


def test_merged_masks_have_weighted_moments(cases: Cases) -> None:
    networks = [
        MergedNetwork(cases.model, cases.elements, check_data(cases.model, data))
        for data in (cases.weighted, cases.repeated)
    ]
    for place, moments in networks[0].moments.items():
        np.testing.assert_allclose(moments.mean, networks[1].moments[place].mean, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(moments.correlation, networks[1].moments[place].correlation, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("distill", [0.0, 1.0])
def test_losses_of_recovery_are_weighted(cases: Cases, distill: float) -> None:
    smaller = models.ready("mlp", 1)
    teacher = cases.model if distill else None
    found = [
        dr.recover(
            smaller,
            data,
            teacher=teacher,
            validation=tuple(array.copy() for array in data),
            recovery=dr.Recovery(epochs=1, batch_size=1_000, distill=distill, optimizer="sgd", mixup=0.0),
        )
        for data in (cases.weighted, cases.repeated)
    ]
    for column in ("loss", "held_out"):
        np.testing.assert_allclose(found[0].history[column], found[1].history[column], rtol=1e-4)
    for one, two in zip(found[0].model.get_weights(), found[1].model.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5)


def test_pruning_takes_weights_to_the_end(cases: Cases) -> None:
    recovery = dr.Recovery(epochs=1, distill=1.0, mixup=0.5)
    selection = dr.anneal(
        cases.model, cases.weighted, cases.elements, fraction=0.5, ablation="merged", annealing=dr.Annealing(rounds=2)
    )
    small = dr.remove(cases.model, selection, data=cases.weighted, recovery=recovery, progress=False)
    assert np.isfinite(small.model.get_weights()[0]).all()
    table = small.measure(cases.weighted)
    np.testing.assert_allclose(table["after"], small.measure(cases.repeated)["after"], rtol=1e-4)
    compared, repeated = (
        dr.compare(cases.model, data, cases.elements, scorers={"magnitude": dr.scorers.magnitude}, fractions=(0.5,))
        for data in (cases.weighted, cases.repeated)
    )
    np.testing.assert_allclose(compared[["accuracy", "loss"]], repeated[["accuracy", "loss"]], rtol=1e-4)


def test_an_accuracy_limit_counts_in_units_of_the_largest_weight(cases: Cases) -> None:
    n, level = 1_000, 0.95
    assert paired_limit(np.zeros(n), level, 2.0) == pytest.approx(2.0 * paired_limit(np.zeros(n), level))
    losses = np.zeros(n)
    losses[:3] = 2.0
    assert paired_limit(losses, level, 2.0) == pytest.approx(2.0 * paired_limit(losses / 2.0, level))
    losses[:3] = 0.5
    assert paired_limit(losses, level, 2.0) > paired_limit(losses, level)
    x = models.data_for(cases.model, 120)[0]
    data, w = (x, np.asarray(cases.model(x)).argmax(axis=1)), np.repeat([1.0, 9.0], 60)
    same = dr.remove(cases.model, dr.Selection.dropping(cases.elements, []))
    assert dr.AccuracyLimit(0.05, (*data, w)).measure(same) == pytest.approx(1.8 * (1 - 0.05 ** (1 / 120)), rel=1e-4)
    text = says("must hold at least", "with weights of up to 1.8 times their mean, received 120")
    with pytest.raises(DataError, match=text):
        dr.prune(cases.model, models.data_for(cases.model, 50), target=dr.AccuracyLimit(0.03, (*data, w)))


def test_the_weights_of_an_accuracy_limit_keep_its_level() -> None:
    """Rare, heavy examples carry all of the loss: the limit must hold in at least 95 % of samples."""
    rng, covered = np.random.default_rng(0), []
    for _ in range(400):
        w = np.where(rng.random(400) < 0.02, 20.0, 1.0)
        lost = (w > 1) & (rng.random(400) < 0.2)
        factor = w / w.mean()
        truth = 0.02 * 20.0 * 0.2 / (0.02 * 20.0 + 0.98)
        covered.append(paired_limit(factor * lost, 0.95, float(factor.max())) >= truth)
    assert np.mean(covered) > 0.95


def tagger() -> tuple[keras.Model, np.ndarray, np.ndarray, np.ndarray]:
    keras.utils.set_random_seed(0)
    parts = [keras.Input((5, 4)), layers.Dense(6, "relu", name="h"), layers.Dense(3, name="out")]
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(30, 5, 4)).astype(np.float32), rng.integers(0, 3, (30, 5))
    w = rng.integers(0, 3, (30, 5)).astype(float)
    w[:4] = 0.0
    return keras.Sequential(parts), x, y, w


def test_weights_of_positions_are_those_of_keras() -> None:
    model, x, y, w = tagger()
    bad = np.where(w == 0, -100, y)
    record = flat.sample(model, (x, bad, w), dr.elements(model), rows=60, outcomes=["loss", "accuracy", "margin"])
    p = np.asarray(keras.ops.log_softmax(model(x), axis=-1))
    losses, right = -np.take_along_axis(p, y[..., np.newaxis], axis=-1)[..., 0], p.argmax(axis=-1) == y
    expected = [(w * values).sum() / w.sum() for values in (losses, right)]
    np.testing.assert_allclose(record.baseline[["loss", "accuracy"]].mean(), expected, rtol=1e-5)
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=models.NO_JIT)
    assert model.evaluate(x, y, sample_weight=w / w.mean(), verbose=QUIET) == pytest.approx(expected[0], rel=1e-5)
    assert len(record.baseline) == 26


def test_weights_of_positions_and_padding() -> None:
    inputs = keras.Input((4,), dtype="int32")
    keras.utils.set_random_seed(0)
    h = layers.Dense(6, "relu", name="h")(layers.Embedding(9, 5, mask_zero=True)(inputs))
    model = keras.Model(inputs, layers.Dense(3, name="out")(h))
    x = np.array([[1, 2, 3, 4], [5, 6, 0, 0], [7, 0, 0, 0]])
    y, w = np.array([[0, 1, 2, 0], [1, 1, 9, 9], [2, 9, 9, 9]]), np.array([[2, 1, 0, 1], [3, 1, 5, 5], [1, 7, 7, 7.0]])
    p = -np.asarray(keras.ops.log_softmax(model(x), axis=-1))
    losses = np.take_along_axis(p, np.minimum(y, 2)[..., np.newaxis], axis=-1)[..., 0]
    share = w * (x > 0) / (x > 0).sum(axis=1, keepdims=True)
    record = flat.sample(model, (x, y, w), dr.elements(model, include="h"), rows=12, outcomes="loss")
    assert record.baseline["loss"].mean() == pytest.approx((share * losses).sum() / share.sum(), rel=1e-5)
    with pytest.raises(DataError, match=says("above 0 at a step that the model does not mask", "examples 2")):
        flat.sample(model, (x, y, np.where(x == 7, 0, w)), dr.elements(model, include="h"), rows=12)
    one = check_data(model, (x, y, np.ones(3))).fingerprints()
    assert one != check_data(model, (x, y, w)).fingerprints()


@pytest.mark.parametrize("order", [1, 2])
def test_derivatives_with_weights_of_positions_follow_the_weighted_loss(order: Any) -> None:
    model, x, y, w = tagger()
    table = dr.scorers.taylor(model, (x, y, w), dr.elements(model), order=order)
    exact = dr.scorers.taylor(
        model, (x, y, w), dr.elements(model), order=order, curvature=None if order == 1 else dr.scorers.Exact()
    )
    np.testing.assert_allclose(table.impact, exact.impact, rtol=1e-3, atol=1e-6)
    change = dr.scorers.leave_one_out(model, (x, y, w), dr.elements(model)).impact
    assert np.corrcoef(change, table.impact)[0, 1] > 0.8


@pytest.mark.parametrize(("predictions", "recurrent"), [(False, False), (False, True), (True, True)])
def test_merging_with_weights_of_positions(predictions: bool, recurrent: bool) -> None:
    """It is merging with repeated positions where layers treat positions separately, and ignores those of weight 0."""
    keras.utils.set_random_seed(0)
    first = layers.GRU(8, return_sequences=True, name="a") if recurrent else layers.Dense(8, "relu", name="a")
    model = keras.Sequential([keras.Input((None, 4)), first, layers.Dense(3, "softmax", name="b")])
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(150, 5, 4)).astype(np.float32), rng.integers(0, 4, (150, 5))
    w[:, -1] = 0
    x_bad = np.concatenate([x[:, :-1], 50 * x[:, -1:]], axis=1) if recurrent else np.where(w[..., np.newaxis], x, 50)
    alike = (x, None, w) if recurrent else (np.repeat(x.reshape(-1, 1, 4), w.ravel(), axis=0), None)
    selection = dr.Selection.random(dr.elements(model, include="a"), 0.5)
    merge = dr.merging.LeastSquares(ridges=(1e-6,), predictions=predictions)
    found = [
        dr.remove(model, selection, data=data, merge=merge).model.get_weights()
        for data in ((x_bad, None, w), alike, (x, None, w.sum(axis=1)))
    ]
    for one, two in zip(found[0], found[1], strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4)
    assert max(np.abs(one - three).max() for one, three in zip(found[0], found[2], strict=True)) > 1e-3


def test_merged_masks_have_moments_weighted_by_position() -> None:
    model, x, y, w = tagger()
    bad = np.where(w[..., np.newaxis] == 0, np.float32(50), x)
    elements = dr.elements(model)
    found = [MergedNetwork(model, elements, check_data(model, data)).moments for data in ((x, y, w), (bad, y, w))]
    for place, moments in found[0].items():
        np.testing.assert_allclose(moments.mean, found[1][place].mean, rtol=1e-4, atol=1e-6)


def test_training_with_weights_of_positions_ignores_zeros() -> None:
    model, x, y, w = tagger()
    bad = np.where(w == 0, 77, y)
    runs = [
        dr.recover(model, (x, labels, w), recovery=dr.Recovery(epochs=1)).model.get_weights() for labels in (y, bad)
    ]
    for one, two in zip(*runs, strict=True):
        np.testing.assert_array_equal(one, two)
    mixed = dr.Recovery(epochs=1, distill=1.0, mixup=0.5)
    assert np.isfinite(dr.recover(model, (x, bad, w), teacher=model, recovery=mixed).loss_after)


def test_outcomes_of_ones_own_with_weights(cases: Cases) -> None:
    def top_1(labels: Any, outputs: Any) -> Any:
        return keras.ops.cast(tf.argmax(outputs, axis=-1) == labels, "float32")

    def mean(labels: Any, outputs: Any, sample_weight: Any = None) -> Any:
        return np.average(outputs.argmax(axis=-1) == labels, weights=sample_weight)

    own = dr.outcomes.PerExample(top_1, "top 1", greater_is_better=True)
    record = flat.sample(cases.model, cases.weighted, cases.elements, rows=40, outcomes=[own, "accuracy"])
    np.testing.assert_array_equal(record.baseline["top 1"], record.baseline["accuracy"])
    both = [dr.outcomes.PerMask(mean, "mean", greater_is_better=True), "accuracy"]
    table = measure(cases.model, models.ready("mlp", 1), cases.weighted, both, None).set_index("outcome")
    np.testing.assert_allclose(table.loc["mean", ["before", "after"]], table.loc["accuracy", ["before", "after"]])
    without = dr.outcomes.PerMask(lambda labels, outputs: 0.0, "nothing", greater_is_better=True)
    text = says("'nothing' must have a function with a parameter `sample_weight`", "leave out w")
    with pytest.raises(ParameterError, match=text):
        measure(cases.model, cases.model, cases.weighted, without, None)
    model, x, y, w = tagger()
    with pytest.raises(
        ParameterError, match=says("'top 1' must be a mean over positions", "one weight for each example")
    ):
        flat.sample(model, (x, y, w), dr.elements(model), rows=10, outcomes=own)


def test_batches_and_files_with_weights(cases: Cases, tmp_path: Path) -> None:
    x, y, w = cases.weighted
    expected = flat.sample(cases.model, cases.weighted, cases.elements, rows=40).to_frame()
    dataset = tf.data.Dataset.from_tensor_slices((x, y, w)).batch(7)
    assert flat.sample(cases.model, dataset, cases.elements, rows=40).to_frame().equals(expected)
    np.savez(tmp_path / "data.npz", x=x, y=y, w=w)
    loaded = load_npz(tmp_path / "data.npz", ["input"])
    assert flat.sample(cases.model, loaded, cases.elements, rows=40).to_frame().equals(expected)
    with pytest.raises(DataError, match=says("a batch with weights must have labels", "(x, None, w)")):
        dr.datasets.stream([(x, None, w)])


def test_weights_of_several_outputs_are_given_like_labels() -> None:
    inputs = keras.Input((4,))
    keras.utils.set_random_seed(0)
    h = layers.Dense(5, "relu", name="h")(inputs)
    model = keras.Model(inputs, {"a": layers.Dense(3, name="a")(h), "b": layers.Dense(3, name="b")(h)})
    x, y = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32), np.arange(20) % 3
    w = np.arange(20.0)
    elements = dr.elements(model, include="h")
    records = [
        flat.sample(model, (x, {"a": y}, given), elements, rows=20).to_frame() for given in (w, {"a": w, "b": w[::-1]})
    ]
    assert records[0].equals(records[1])
    with pytest.raises(DataError, match=says("`w` must have weights of output 'a'", "received those of b")):
        flat.sample(model, (x, {"a": y}, {"b": w}), elements, rows=20)


BAD = {
    "too few": (np.ones(N - 1), "`w` must have one weight for each of 40 examples, received 39 weights."),
    "negative": (np.r_[-1.0, np.ones(N - 1)], "`w` must be finite and at least 0, received -1 at example 0 (1 such"),
    "nan": (np.r_[1.0, np.nan, np.ones(N - 2)], "`w` must be finite and at least 0, received nan at example 1"),
    "infinite": (np.r_[np.inf, np.ones(N - 1)], "`w` must be finite and at least 0, received inf at example 0"),
    "zeros": (np.zeros(N), "`w` must have weights above 0, received zeros alone"),
    "text": (np.array(["a"] * N), "`w` must be weights, numbers of at least 0, received dtype <U1"),
    "a class dict": ({0: 1.0, 1: 2.0}, "`w` must have weights of output"),
    "columns": (np.ones((N, 3)), "`w` must have a weight for each example, shape (n,), received (40, 3)."),
    "a number": (2.0, "`w` must have a weight for each example, shape (n,), received ()."),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_weights_are_refused(cases: Cases, name: str) -> None:
    x, y, _ = cases.clean
    given, text = BAD[name]
    with pytest.raises(DataError, match=says(text)):
        flat.sample(cases.model, (x, y, given), cases.elements, rows=20)


def test_weights_of_classes() -> None:
    y = np.array([[0, 1], [1, 2]])
    np.testing.assert_array_equal(dr.datasets.class_weights(y, {1: 3.0, 2: 0}), np.array([[1, 3], [3, 0]]))
    np.testing.assert_allclose(dr.datasets.class_weights([0, 1, 1, 1], "balanced"), [2, 2 / 3, 2 / 3, 2 / 3])
    bad: list[tuple[Any, Any, Any, str]] = [
        (y, {1: -1.0}, ParameterError, "`weights` must be numbers of at least 0, received -1.0 for class 1"),
        (y, "even", ParameterError, "`weights` must be 'balanced' or a dict of classes to weights"),
        (np.eye(3), {1: 2.0}, DataError, "`y` must be integers, the classes, received dtype float64"),
    ]
    for labels, weights, error, text in bad:
        with pytest.raises(error, match=says(text)):
            dr.datasets.class_weights(labels, weights)


def test_a_part_of_the_examples_keeps_the_weights_of_all(cases: Cases) -> None:
    question = ask_one(cases.model, cases.weighted, cases.elements, outcome="loss", task=None, seed=0)
    everything, part = question.examples.weights, question.first(9).examples.weights
    assert everything is not None
    assert part is not None
    assert everything.mean() == pytest.approx(1.0)
    assert set(part.tolist()) <= set(everything.tolist())
    assert part.mean() != pytest.approx(1.0, abs=1e-3)
