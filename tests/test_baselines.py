"""Laws of the baseline scorers: derivatives, measured changes, budgets, and what is refused."""

import itertools
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import factorial
from typing import Any

import keras
import models
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import dropreg as dr
from dropreg.baselines.ablation_regression import early_stopped
from dropreg.baselines.derivatives import Running
from dropreg.masking import MaskedNetwork

GRID = sorted(models.BUILDERS)
OF_UNITS = sorted(set(GRID) - {"recurrent", "bidirectional", "encoder_decoder"})
"""Models whose elements are neurons and filters, read by layers whose kernels are known by channel."""
Labelled = tuple[Any, np.ndarray]
N = 6


@dataclass(frozen=True)
class OneMask(dr.Elements):
    """Units of which one mask serves a whole batch, as for weights."""

    @property
    def one_mask_a_batch(self) -> bool:
        return True


def one_mask(elements: dr.Elements) -> OneMask:
    return OneMask(**{name: getattr(elements, name) for name in dr.Elements.__dataclass_fields__})


def losses(network: MaskedNetwork, data: Labelled, mask: Any) -> tf.Tensor:
    """Cross-entropy of every example under one mask (n_elements,), written anew."""
    x, y = data
    inputs = x if isinstance(x, list) else [x]
    outputs = network(inputs, tf.broadcast_to(mask, [len(y), len(network.elements)]))
    if network.graph.calls[-1].name == "out" and np.allclose(np.sum(outputs, axis=1), 1.0, atol=1e-4):
        outputs = tf.math.log(outputs)
    return tf.nn.sparse_softmax_cross_entropy_with_logits(y, outputs)


def given(name: str, n: int = N) -> tuple[keras.Model, Labelled, dr.Elements, MaskedNetwork]:
    model = models.build(name)
    elements = dr.elements(model)
    return model, models.data_for(model, n), elements, MaskedNetwork(model, elements)


def without(n_elements: int, *dropped: int) -> np.ndarray:
    mask = np.ones(n_elements, np.float32)
    mask[list(dropped)] = 0.0
    return mask


# --- derivatives (law 7) ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*OF_UNITS, "recurrent"])
def test_first_order_agrees_with_finite_differences(name: str) -> None:
    model, data, elements, network = given(name)
    table = dr.taylor(model, data, elements)
    step = 2e-3
    expected = [
        float(tf.reduce_mean(losses(network, data, 1 + step * row) - losses(network, data, 1 - step * row)))
        / (2 * step)
        for row in np.eye(len(elements), dtype=np.float32)
    ]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(table.frame["gradient_mean"], expected, rtol=0.02, atol=2e-3 * scale + 2e-4)
    np.testing.assert_allclose(table.impact, -table.frame["gradient_mean"])


@pytest.mark.parametrize("name", OF_UNITS)
def test_exact_curvature_is_the_diagonal_of_the_full_hessian(name: str) -> None:
    model, data, elements, network = given(name, 3)
    mask = tf.ones(len(elements))
    with tf.GradientTape(persistent=True) as outer:
        outer.watch(mask)
        with tf.GradientTape() as inner:
            inner.watch(mask)
            loss = tf.reduce_mean(losses(network, data, mask))
        slope: Any = inner.gradient(loss, mask)
    hessian: Any = outer.jacobian(slope, mask, experimental_use_pfor=False)
    table = dr.taylor(model, data, elements, order=2, curvature=dr.Exact())
    diagonal = np.diag(hessian)
    np.testing.assert_allclose(table.frame["gradient_mean"], slope, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(table.frame["curvature_mean"], diagonal, rtol=1e-3, atol=1e-4 * np.abs(diagonal).max())
    np.testing.assert_allclose(table.impact, -slope + diagonal / 2, rtol=1e-3, atol=1e-4 * np.abs(diagonal).max())


@pytest.mark.parametrize(
    ("task", "n_outputs", "activation"),
    [
        *(("classes", 3, None), ("classes", 3, "softmax"), ("binary", 1, None)),
        *(("binary", 1, "sigmoid"), ("multilabel", 3, "sigmoid"), ("regression", 2, None)),
    ],
)
@pytest.mark.parametrize("outcome", ["loss", "divergence"])
def test_gauss_newton_is_exact_where_logits_are_piecewise_linear(
    task: Any, n_outputs: int, activation: str | None, outcome: str
) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), layers.Dense(5, activation="relu"), layers.Dense(4, "relu")])
    model.add(layers.Dense(n_outputs, activation))
    rng = np.random.default_rng(0)
    x, shape = rng.normal(size=(8, 4)).astype(np.float32), (8,) if task == "classes" else (8, n_outputs)
    y = rng.normal(size=shape) if task == "regression" else rng.integers(0, 3 if task == "classes" else 2, shape)
    elements = dr.elements(model)
    tables = [
        dr.taylor(model, (x, y), elements, order=2, curvature=curvature, outcome=outcome, task=task)
        for curvature in (dr.Exact(), dr.GaussNewton())
    ]
    for column in ("gradient_mean", "curvature_mean", "curvature_sd", "change_sd"):
        np.testing.assert_allclose(tables[1].frame[column], tables[0].frame[column], rtol=2e-3, atol=1e-5)
    assert tables[0].frame["curvature_mean"].max() > 1e-3


@pytest.mark.parametrize("curvature", [dr.Hutchinson(4), dr.GaussNewton(4)])
def test_random_probes_are_unbiased(curvature: Any) -> None:
    """Many copies of the same examples draw many probes."""
    model, (x, y), elements, _ = given("mlp", 3)
    reference = dr.GaussNewton() if isinstance(curvature, dr.GaussNewton) else dr.Exact()
    expected = dr.obd(model, (x, y), elements, curvature=reference).impact
    found = dr.obd(model, (np.repeat(x, 1000, axis=0), np.repeat(y, 1000)), elements, curvature=curvature)
    assert (np.abs(found.impact - expected) <= 4.5 * found.std_error + 1e-5).all()
    assert found.std_error.max() < 0.1 * np.abs(expected).max()


@pytest.mark.parametrize(
    "settings",
    [
        *({}, {"statistic": "sd"}, {"statistic": "mean_absolute"}),
        *({"order": 2, "curvature": dr.Exact()}, {"order": 2, "statistic": "variance"}),
        {"order": 2, "curvature": dr.Hutchinson(2)},
    ],
)
@pytest.mark.parametrize("name", ["mlp", "cnn", "residual"])
def test_one_mask_a_batch_gives_the_same_derivatives(name: str, settings: dict[str, Any]) -> None:
    model, data, elements, _ = given(name)
    rows, batch = (dr.taylor(model, data, e, **settings) for e in (elements, one_mask(elements)))
    np.testing.assert_allclose(batch.impact, rows.impact, rtol=1e-3, atol=1e-5)
    assert batch.rows == rows.rows


def test_statistics_are_those_of_single_examples() -> None:
    """Each example by itself, put together by hand."""
    model, (x, y), elements, _ = given("mlp", 7)
    single = [dr.taylor(model, (x[i : i + 1], y[i : i + 1]), elements, order=2) for i in range(7)]
    changes = np.array([table.frame["change_mean"] for table in single])
    expected = {
        "mean": changes.mean(axis=0),
        "absolute": np.abs(changes.mean(axis=0)),
        "squared": changes.mean(axis=0) ** 2,
        "mean_absolute": np.abs(changes).mean(axis=0),
        "mean_square": (changes**2).mean(axis=0),
        "sd": changes.std(axis=0, ddof=1),
        "variance": changes.var(axis=0, ddof=1),
    }
    for statistic, values in expected.items():
        table = dr.taylor(model, (x, y), elements, order=2, statistic=statistic)  # type: ignore[arg-type]
        np.testing.assert_allclose(table.impact, values, rtol=1e-3, atol=1e-6)
        if statistic == "mean":
            np.testing.assert_allclose(table.std_error, changes.std(axis=0, ddof=1) / 7**0.5, rtol=1e-3)
    np.testing.assert_allclose(dr.spread(model, (x, y), elements, order=2).impact, expected["sd"], rtol=1e-3)


def test_moments_gathered_in_batches_are_those_of_all() -> None:
    rows, running = np.random.default_rng(0).normal(3.0, size=(50, 4)), Running(4)
    for start, end in ((0, 1), (1, 30), (30, 50)):
        running.add(rows[start:end])
    np.testing.assert_allclose(running.mean, rows.mean(axis=0))
    np.testing.assert_allclose(running.variance, rows.var(axis=0, ddof=1))
    np.testing.assert_allclose(running.mean_square, (rows**2).mean(axis=0))
    np.testing.assert_allclose(running.mean_absolute, np.abs(rows).mean(axis=0))


def test_second_order_is_exact_for_a_quadratic_outcome() -> None:
    """A squared error of a linear network is a parabola in each mask, so Taylor is leave one out."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(5), layers.Dense(2)])
    rng = np.random.default_rng(1)
    data, elements = (rng.normal(size=(20, 3)), rng.normal(size=(20, 2))), dr.elements(model)
    taylor, measured = dr.taylor(model, data, elements, order=2), dr.leave_one_out(model, data, elements)
    np.testing.assert_allclose(taylor.impact, measured.impact, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(taylor.std_error, measured.std_error, rtol=1e-3)
    np.testing.assert_allclose(taylor.frame["change_sd"], measured.frame["change_sd"], rtol=1e-3)


def test_outcomes_of_which_more_is_better_change_sign(model: keras.Model, data: Labelled, elements: Any) -> None:
    table = dr.taylor(model, data, elements, outcome="margin")
    np.testing.assert_allclose(table.impact, table.frame["gradient_mean"])
    measured = dr.leave_one_out(model, data, elements, outcome="accuracy")
    np.testing.assert_allclose(measured.impact, -measured.frame["change_mean"])
    assert measured.impact.mean() > 0  # a trained-looking network loses accuracy


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("mlp", "weights"), ("cnn", "weights"), ("transformer_block", "weights")),
        *(("transformer_block", "heads"), ("residual", "branches")),
    ],
)
def test_derivatives_of_other_kinds_agree_with_finite_differences(name: str, kind: Any) -> None:
    model = models.build(name)
    elements, data = dr.elements(model, kind), models.data_for(model, 4)
    network, step = MaskedNetwork(model, elements), 2e-3
    chosen = np.random.default_rng(0).choice(len(elements), min(len(elements), 12), replace=False)
    table = dr.taylor(model, data, elements)
    slopes = []
    for j in chosen:
        move = step * np.eye(len(elements), dtype=np.float32)[j]
        up, down = (single_mask_losses(network, data, 1 + sign * move) for sign in (1, -1))
        slopes.append(float(np.mean(up - down)) / (2 * step))
    scale = np.abs(table.frame["gradient_mean"]).max()
    np.testing.assert_allclose(table.frame["gradient_mean"][chosen], slopes, rtol=0.02, atol=2e-3 * scale + 2e-4)


def single_mask_losses(network: MaskedNetwork, data: Labelled, mask: np.ndarray) -> np.ndarray:
    x, y = data
    outputs = network(x if isinstance(x, list) else [x], tf.constant(mask[np.newaxis]))
    return tf.nn.sparse_softmax_cross_entropy_with_logits(y, outputs).numpy()


def test_the_derivative_of_a_weight_is_its_gradient_times_itself() -> None:
    model, (x, y), *_ = given("mlp")
    elements = dr.elements(model, "weights")
    kernels = [layer.kernel for layer in model.layers]
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x)))
    slopes: Any = tape.gradient(loss, [kernel.value for kernel in kernels])
    expected = np.concatenate([np.ravel(g * w.numpy()) for g, w in zip(slopes, kernels, strict=True)])
    np.testing.assert_allclose(dr.taylor(model, (x, y), elements).impact, -expected, rtol=1e-3, atol=1e-5)
    exact, newton = (dr.obd(model, (x, y), elements, curvature=c).impact for c in (dr.Exact(), dr.GaussNewton()))
    last = np.array(elements.layers) == "out"  # logits are linear in these
    np.testing.assert_allclose(newton[last], exact[last], rtol=1e-3, atol=1e-6)


# --- measured -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GRID)
def test_leave_one_out_is_what_it_says(name: str) -> None:
    model, data, elements, network = given(name)
    n = len(elements)
    whole = losses(network, data, without(n))
    expected = np.array([losses(network, data, without(n, j)) - whole for j in range(n)])
    kinds = (elements, one_mask(elements)) if name in ("mlp", "cnn", "residual") else (elements,)
    for found in (dr.leave_one_out(model, data, chosen) for chosen in kinds):
        np.testing.assert_allclose(found.impact, expected.mean(axis=1), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(found.std_error, expected.std(axis=1, ddof=1) / N**0.5, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("scorer", [dr.taylor, dr.leave_one_out])
def test_what_is_dropped_already_stays_dropped(scorer: Any) -> None:
    model, data, elements, network = given("mlp")
    n, gone = len(elements), [0, 6]
    kept = without(n, *gone) > 0
    table = scorer(model, data, elements, kept=kept)
    whole, step = losses(network, data, without(n, *gone)), 1e-2
    for j in range(n):
        if not kept[j]:
            assert table.impact[j] == 0.0
            continue
        size = 1.0 if scorer is dr.leave_one_out else step
        mask = without(n, *gone) - size * np.eye(n, dtype=np.float32)[j]
        expected = float(tf.reduce_mean(losses(network, data, mask) - whole)) / size
        np.testing.assert_allclose(table.impact[j], expected, rtol=0.05, atol=2e-2 if size == step else 1e-5)


@pytest.mark.parametrize("step", [0.01, 0.3])
def test_greedy_drops_the_best_of_what_is_left(step: float) -> None:
    model, data, elements, network = given("mlp", 4)
    n = len(elements)
    a_round = max(round(step * n), 1)
    gone: list[int] = []
    while len(gone) < n:
        left = [j for j in range(n) if j not in gone]
        whole = losses(network, data, without(n, *gone))
        change = {j: float(tf.reduce_mean(losses(network, data, without(n, *gone, j)) - whole)) for j in left}
        gone += sorted(left, key=change.__getitem__)[:a_round]
    table = dr.greedy(model, data, elements, step=step)
    assert np.argsort(table.impact).tolist() == gone
    np.testing.assert_allclose(np.sort(table.impact), np.arange(n) / n)


def coalition_values(network: MaskedNetwork, data: Labelled) -> dict[tuple[bool, ...], float]:
    n = len(network.elements)
    masks = list(itertools.product([False, True], repeat=n))
    return {m: float(tf.reduce_mean(losses(network, data, np.array(m, np.float32)))) for m in masks}


@pytest.mark.parametrize("segment", [4, 16])
def test_shapley_agrees_with_enumeration(
    segment: int, model: keras.Model, data: Labelled, elements: dr.Elements, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["dropreg.baselines.shapley"], "_SEGMENT", segment)
    few = (data[0][:5], data[1][:5])
    values, n = coalition_values(MaskedNetwork(model, elements), few), len(elements)
    expected = np.zeros(n)
    for mask in values:
        weight = factorial(n - 1 - sum(mask)) * factorial(sum(mask)) / factorial(n) if sum(mask) < n else 0.0
        for j in np.flatnonzero(~np.array(mask)):
            more = tuple(k == j or kept for k, kept in enumerate(mask))
            expected[j] += weight * (values[mask] - values[more])
    table = dr.shapley(model, few, elements, rows=4_000, examples_per_mask=5, tolerance=0.0)
    assert (np.abs(table.impact - expected) <= 3.5 * table.std_error + 1e-5).all()
    np.testing.assert_allclose(table.impact.sum(), values[(False,) * n] - values[(True,) * n], rtol=1e-4)


def test_truncation_credits_the_rest_with_nothing(
    model: keras.Model, data: Labelled, elements: dr.Elements, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["dropreg.baselines.shapley"], "_SEGMENT", 1)
    settings: dict[str, Any] = {"rows": 2 * 10 * 30, "examples_per_mask": 30}
    whole = dr.shapley(model, data, elements, tolerance=0.0, **settings)
    cut = dr.shapley(model, data, elements, tolerance=0.999, **settings)
    assert whole.details["mean length"] == len(elements)
    assert cut.details["mean length"] < len(elements)
    assert cut.details["permutations"] >= whole.details["permutations"]


def test_early_stopped_descent_finds_a_linear_function() -> None:
    rng = np.random.default_rng(0)
    x, beta = (rng.random((300, 20)) < 0.1).astype(float), rng.normal(size=20)
    held_out = rng.random(300) < 0.1
    np.testing.assert_allclose(early_stopped(x, 3.0 + x @ beta, held_out), beta, atol=1e-6)
    noisy = early_stopped(x[:15], x[:15] @ beta + rng.normal(size=15), held_out[:15])  # fewer masks than elements
    assert 0 < np.linalg.norm(noisy) < 3 * np.linalg.norm(beta)


def test_ablation_regression_comes_near_leave_one_out() -> None:
    """At keep .95 of few elements, hardly anything else is missing."""
    model, data, elements, _ = given("mlp")
    table = dr.ablation_regression(model, data, elements, rows=30_000, keep=0.97, outcome="loss")
    measured = dr.leave_one_out(model, data, elements)
    assert np.corrcoef(table.impact, measured.impact)[0, 1] > 0.95
    published = dr.ablation_regression(model, data, elements, rows=30_000)
    assert published.outcome == "margin"
    assert np.corrcoef(published.impact, measured.impact)[0, 1] > 0.5  # the same direction for either outcome


# --- what nobody reads (law 5), magnitudes, activations --------------------------------------------------------


SCORERS: dict[str, Callable[..., dr.ImpactTable]] = {
    "taylor": dr.taylor,
    "taylor 2": lambda *a, **k: dr.taylor(*a, order=2, **k),
    "squared": lambda *a, **k: dr.taylor(*a, statistic="squared", **k),
    "obd": dr.obd,
    "spread": dr.spread,
    "leave one out": dr.leave_one_out,
    "shapley": lambda *a, **k: dr.shapley(*a, tolerance=0.0, rows=2_000, **k),
    "outgoing": lambda *a, **k: dr.magnitude(*a, norm="outgoing", **k),
    "weight x activation": dr.weight_activation,
}


@pytest.mark.parametrize("scorer", SCORERS.values(), ids=SCORERS)
def test_an_element_that_nothing_reads_has_impact_zero(scorer: Any) -> None:
    model, data, elements, _ = given("mlp", 20)
    kernel, bias = model.get_layer("out").get_weights()
    kernel[2] = 0.0
    model.get_layer("out").set_weights([kernel, bias])
    impact = scorer(model, data, elements, seed=0).impact
    assert abs(impact[elements.names.index("b[2]")]) < 1e-6
    assert np.abs(np.delete(impact, elements.names.index("b[2]"))).min() > 1e-6


def test_trained_gates_shut_what_nobody_reads() -> None:
    model, data, elements, _ = given("mlp", 20)
    kernel, bias = model.get_layer("out").get_weights()
    kernel[[0, 3]] = 0.0
    model.get_layer("out").set_weights([kernel, bias])
    table = dr.gates(model, data, elements, fraction=0.5, rows=18_000, batch_size=20, outcome="divergence")
    assert {"b[0]", "b[3]"} <= set(table.top(5, lowest=True)["element"])
    opened = 1 / (1 + np.exp(-table.impact))
    assert opened.mean() == pytest.approx(0.5, abs=1e-3)
    one_step = dr.gates(model, data, elements, fraction=0.5, rows=60, batch_size=20, learning_rate=3.0)
    assert (1 / (1 + np.exp(-one_step.impact))).mean() == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("norm", ["incoming", "outgoing", "both"])
@pytest.mark.parametrize("name", OF_UNITS)
def test_magnitude_is_the_norm_of_the_weights_that_go(name: str, norm: Any) -> None:
    """Weights on a path to or from a unit, found by which outputs of its layer and readers they move."""
    model, _, elements, network = given(name)
    expected = np.zeros(len(elements))
    by_name = {call.name: call.layer for call in network.graph.calls}
    if norm != "outgoing":
        for j, tied in enumerate(elements.members):
            expected[j] += sum(_kernel(by_name[layer])[..., index].__pow__(2).sum() for layer, index in tied)
    if norm != "incoming":
        for layer, columns in {network.graph.calls[g.call].name: g.columns for g in elements.gates}.items():
            for channel in np.flatnonzero(columns >= 0):
                expected[columns[channel]] += _read_by(by_name[layer], int(channel))
    table = dr.magnitude(model, None, elements, norm=norm)
    np.testing.assert_allclose(table.impact**2, expected, rtol=1e-5)
    assert table.rows == 0


def _kernel(layer: Any) -> np.ndarray:
    """Weights with units last."""
    if isinstance(layer, layers.SeparableConv2D):
        return np.asarray(layer.pointwise_kernel)
    kernel = np.asarray(layer.kernel)
    return np.swapaxes(kernel, -1, -2) if "Transpose" in type(layer).__name__ else kernel


def _read_by(layer: Any, channel: int) -> float:
    """Sum of squares of the weights on one input channel."""
    if isinstance(layer, layers.SeparableConv2D):
        depthwise, depth = np.asarray(layer.depthwise_kernel), layer.depth_multiplier
        pointwise = np.asarray(layer.pointwise_kernel)
        return sum(
            float((depthwise[..., channel, k] ** 2).sum() * (pointwise[..., channel * depth + k, :] ** 2).sum())
            for k in range(depth)
        )
    groups, kernel = getattr(layer, "groups", 1), _kernel(layer)
    width, units = kernel.shape[-2], kernel.shape[-1] // groups
    group = channel // width
    return float((kernel[..., channel % width, group * units : (group + 1) * units] ** 2).sum())


def test_magnitudes_of_weights() -> None:
    for name in ("mlp", "cnn_1d"):
        model, data, *_ = given(name, 30)
        elements = dr.elements(model, "weights")
        by_name = {layer.name: layer for layer in model.layers}
        kernels = [np.asarray(by_name[layer].kernel) for layer in dict.fromkeys(elements.layers)]
        expected = np.concatenate([np.abs(kernel).ravel() for kernel in kernels])
        np.testing.assert_allclose(dr.magnitude(model, None, elements).impact, expected, rtol=1e-6)
        if name == "mlp":
            hidden = [np.asarray(data[0])]
            for layer in model.layers[:-1]:
                hidden.append(np.asarray(layer(hidden[-1])))
            sizes = [np.sqrt((h**2).mean(axis=0)) for h in hidden]
            product = np.concatenate(
                [np.ravel(np.abs(k) * size[:, None]) for k, size in zip(kernels, sizes, strict=True)]
            )
            np.testing.assert_allclose(dr.weight_activation(model, data, elements).impact, product, rtol=1e-4)
    rows = dr.elements(model, "weights", groups="rows")
    assert dr.magnitude(model, None, rows).impact.shape == (len(rows),)


def test_activations_are_those_that_are_read() -> None:
    model, (x, _), elements, _ = given("mlp", 40)
    hidden = np.asarray(model.get_layer("a")(x))
    others = np.asarray(model.get_layer("b")(hidden))
    values = np.concatenate([hidden, others], axis=1)
    for moment, expected in {
        "mean": np.abs(values.mean(axis=0)),
        "rms": np.sqrt((values**2).mean(axis=0)),
        "zeros": (values != 0).mean(axis=0),
    }.items():
        table = dr.activation(model, (x, None), elements, moment=moment)  # type: ignore[arg-type]
        np.testing.assert_allclose(table.impact, expected, rtol=1e-5)
    outgoing = dr.magnitude(model, None, elements, norm="outgoing").impact
    product = dr.weight_activation(model, (x, None), elements).impact
    np.testing.assert_allclose(product, outgoing * np.sqrt((values**2).mean(axis=0)), rtol=1e-5)


def test_random_scores_follow_the_seed(model: keras.Model, data: Labelled, elements: dr.Elements) -> None:
    first, again, other = (dr.random(model, data, elements, seed=seed).impact for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


# --- budgets (law 8) ------------------------------------------------------------------------------------------


@dataclass
class Counter:
    """Counts the rows that an outcome is measured on."""

    rows: int = 0

    def outcome(self) -> dr.PerExample:
        def measured(labels: Any, outputs: Any) -> Any:
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs)
            return tf.ensure_shape(tf.numpy_function(self.count, [loss], tf.float32), [None])

        return dr.PerExample(measured, "counted loss", greater_is_better=False)

    def count(self, values: np.ndarray) -> np.ndarray:
        self.rows += len(values)
        return values


@pytest.mark.parametrize(
    ("scorer", "settings", "whole_passes"),
    [
        (dr.leave_one_out, {"rows": 100}, 1),
        (dr.greedy, {"rows": 500, "step": 0.2}, 1),
        (dr.shapley, {"rows": 700}, 0),
        (dr.ablation_regression, {"rows": 950, "examples": 20}, 0),
    ],
)
@pytest.mark.parametrize("as_one_mask", [False, True])
def test_rows_reported_are_rows_measured(
    scorer: Any,
    settings: dict,
    whole_passes: int,
    as_one_mask: bool,
    model: keras.Model,
    data: Labelled,
    elements: dr.Elements,
) -> None:
    counter = Counter()
    asked = one_mask(elements) if as_one_mask else elements
    table = scorer(model, data, asked, outcome=counter.outcome(), **settings)
    n = table.details.get("examples", 0)
    assert counter.rows == table.rows + whole_passes * n
    assert 0.5 * settings["rows"] < table.rows <= settings["rows"]


@pytest.mark.parametrize(
    ("scorer", "settings", "cost"),
    [
        (dr.taylor, {}, 3),
        (dr.spread, {}, 3),
        (dr.taylor, {"order": 2}, 1 + 2 * 3),
        (dr.obd, {"curvature": dr.GaussNewton(2)}, 1 + 2 + 4),
        (dr.obd, {"curvature": dr.Hutchinson(3)}, 3 + 3 * 6),
        (dr.obd, {"curvature": dr.Exact()}, 9 * 9),
        (dr.leave_one_out, {}, 9),
        (dr.activation, {}, 1),
        (dr.weight_activation, {}, 1),
        (dr.gates, {"batch_size": 1}, 3),
    ],
)
def test_a_budget_is_spent_on_whole_examples(
    scorer: Any, settings: dict, cost: int, model: keras.Model, data: Labelled, elements: dr.Elements
) -> None:
    for budget in (cost, 5 * cost + cost // 2):
        assert scorer(model, data, elements, rows=budget, **settings).rows == budget // cost * cost
    with pytest.raises(dr.ParameterError, match=rf"`rows` must pay for .*received .*pass rows={cost}"):
        scorer(model, data, elements, rows=cost - 1, **settings) if cost > 1 else _refuse(cost)


def _refuse(cost: int) -> None:
    raise dr.ParameterError(f"`rows` must pay for one, received 0: pass rows={cost}")


def test_same_seed_same_table_and_the_model_stays(make_model: Any, data: Labelled, elements: dr.Elements) -> None:
    model = make_model()
    before = [np.array(weight) for weight in model.get_weights()]
    for scorer in (dr.taylor, dr.obd, dr.leave_one_out, dr.greedy, dr.shapley, dr.gates):
        first, again = (scorer(model, data, elements, rows=2_000, seed=5).frame for _ in range(2))
        assert first.equals(again)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


# --- refused --------------------------------------------------------------------------------------------------


def says(*parts: str) -> str:
    return r".*".join(re.escape(part) for part in parts)


class RoundLayer(layers.Layer):
    def call(self, inputs: Any) -> Any:
        return tf.round(inputs)


@pytest.mark.parametrize("scorer", [dr.taylor, dr.obd, dr.spread, dr.gates])
def test_a_layer_without_gradient_is_named(scorer: Any) -> None:
    keras.utils.set_random_seed(0)
    dr.layers.register(RoundLayer, rule=dr.layers.Carry())
    inputs = keras.Input((3,))
    x = layers.Dense(4, name="a")(inputs)
    through = RoundLayer(name="rounds")(layers.Dense(4, name="b")(x))  # a gradient is left on the other way
    model = keras.Model(inputs, layers.Dense(3, name="out")(layers.Concatenate()([x, through])))
    data = (np.ones((5, 3), np.float32), np.array([0, 1, 2, 0, 1]))
    other = "greedy" if scorer is dr.gates else "leave_one_out"
    with pytest.raises(dr.ModelError, match=says("gradient", "'rounds' (RoundLayer)", other)):
        scorer(model, data, dr.elements(model))


def test_step_functions_have_no_expansion(model: keras.Model, data: Labelled, elements: dr.Elements) -> None:
    with pytest.raises(dr.ParameterError, match=says("`outcome` must be differentiable", "'accuracy'", "'loss'")):
        dr.taylor(model, data, elements, outcome="accuracy")
    own = dr.PerExample(lambda labels, outputs: outputs[:, 0], "first", greater_is_better=True)
    with pytest.raises(dr.ParameterError, match=says("`outcome` must be differentiable", "'first'")):
        dr.taylor(model, data, elements, outcome=own)


@pytest.mark.parametrize("curvature", [dr.Exact(), dr.GaussNewton(), dr.Hutchinson()])
@pytest.mark.parametrize("function", [tf.abs, tf.identity])
def test_an_outcome_without_second_derivatives_is_refused(curvature: Any, function: Any, data: Labelled) -> None:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(5, "relu", name="first"), layers.Dense(3, name="out")])
    own = dr.PerExample(
        lambda labels, outputs: function(outputs[:, 0]), "size", greater_is_better=True, differentiable=True
    )
    with pytest.raises(dr.ModelError, match=says("'size' must have second derivatives", "piecewise linear", "order=1")):
        dr.obd(model, data, dr.elements(model), outcome=own, curvature=curvature)
    assert np.isfinite(dr.taylor(model, data, dr.elements(model), outcome=own).impact).all()


def test_a_saturated_loss_has_second_derivatives(data: Labelled) -> None:
    """A network that is sure has hardly any curvature, which is no reason to refuse it."""
    model = keras.Sequential([keras.Input((4,)), layers.Dense(5, "relu"), layers.Dense(3)])
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel * 1e4, bias])
    assert np.isfinite(dr.obd(model, data, dr.elements(model)).impact).all()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"order": 3}, says("`order` must be 1 or 2, received 3")),
        ({"statistic": "median"}, says("`statistic` must be one of mean, absolute", "received 'median'")),
        ({"curvature": dr.Exact()}, says("`curvature` goes with order=2", "leave it out")),
        ({"order": 2, "curvature": "exact"}, says("`curvature` must be GaussNewton()", "received 'exact'")),
        ({"outcome": "f1"}, says("`outcome` must be one of", "'f1'")),
        ({"rows": 2}, says("`rows` must pay for at least one example, 3 row-equivalents, received 2", "rows=3")),
        ({"rows": 1.5}, says("`rows` must be an integer of at least 1, received 1.5")),
        ({"seed": -1}, says("`seed` must be an integer from 0", "-1")),
        ({"kept": np.ones(4, bool)}, says("`kept` must be 9 booleans", "(4,)")),
        ({"kept": np.zeros(9, bool)}, says("`kept` must keep at least one element")),
    ],
)
def test_arguments_out_of_range(
    settings: dict, text: str, model: keras.Model, data: Labelled, elements: dr.Elements
) -> None:
    with pytest.raises(dr.ParameterError, match=text):
        dr.taylor(model, data, elements, **settings)


@pytest.mark.parametrize(
    ("scorer", "settings", "text"),
    [
        (dr.magnitude, {"norm": "L1"}, says("`norm` must be one of incoming, outgoing, both, received 'L1'")),
        (dr.activation, {"moment": "max"}, says("`moment` must be one of mean, rms, zeros, received 'max'")),
        (dr.greedy, {"step": 0}, says("`step` must be a fraction above 0", "received 0")),
        (dr.gates, {"fraction": 1.0}, says("`fraction` must lie strictly between 0 and 1, received 1.0")),
        (dr.gates, {"learning_rate": 0}, says("`learning_rate` must be positive, received 0")),
        (dr.shapley, {"rows": 100}, says("`rows` must pay for two permutations of 9 elements, 320 rows, received 100")),
        (dr.shapley, {"rows": 1000, "tolerance": 1}, says("`tolerance` must lie in [0, 1), received 1")),
        (dr.ablation_regression, {"rows": 90}, says("at least 20 masks on 30 examples, 600 rows, received 90")),
        (
            dr.ablation_regression,
            {"rows": 900, "keep": 1},
            says("`keep` must lie strictly between 0 and 1, received 1"),
        ),
        (dr.random, {"seed": -3}, says("`seed` must be an integer of at least 0, received -3")),
        (
            dr.leave_one_out,
            {"outcome": dr.PerMask(lambda y, p: 0.0, "f1", True)},
            says("one of single examples", "'f1'"),
        ),
    ],
)
def test_other_arguments_out_of_range(
    scorer: Any, settings: dict, text: str, model: keras.Model, data: Labelled, elements: dr.Elements
) -> None:
    with pytest.raises(dr.ParameterError, match=text):
        scorer(model, data, elements, **settings)


def test_labels_are_asked_for(model: keras.Model, data: Labelled, elements: dr.Elements) -> None:
    with pytest.raises(dr.DataError, match=says("outcome 'loss' must have labels", "'divergence'")):
        dr.taylor(model, (data[0], None), elements)
    assert np.isfinite(dr.obd(model, (data[0], None), elements, outcome="divergence").impact).all()


def test_exact_curvature_of_many_elements_asks_for_a_budget(make_model: Any) -> None:
    model, elements = make_model(), dr.elements(make_model())
    x = np.zeros((300_000, 4), np.float32)
    with pytest.raises(dr.ParameterError, match=says("would cost 24,300,000 row-equivalents", "pass rows=")):
        dr.obd(model, (x, np.zeros(300_000, int)), elements, curvature=dr.Exact())


def test_other_kinds_have_no_magnitude(model: keras.Model, data: Labelled, elements: dr.Elements) -> None:
    heads = replace(elements, kinds=("head",) * len(elements))
    for scorer in (dr.magnitude, dr.activation, dr.weight_activation):
        with pytest.raises(dr.ParameterError, match=says("defined for neurons", "filters", "kind head", "taylor")):
            scorer(model, data, heads)
