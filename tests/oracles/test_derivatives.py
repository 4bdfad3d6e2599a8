"""Derivatives with respect to gates (law 7): against finite differences, full Hessians and each other."""

from typing import Any

import keras
import models
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from scoring import OF_UNITS, Labelled, given, losses, one_mask

import dropreg as dr
from dropreg.network._masked import MaskedNetwork
from dropreg.scorers._derivatives import Running


@pytest.mark.parametrize("name", [*OF_UNITS, "recurrent"])
def test_first_order_agrees_with_finite_differences(name: str) -> None:
    model, data, elements, network = given(name)
    table = dr.scorers.taylor(model, data, elements)
    step = 2e-3
    expected = [
        float(tf.reduce_mean(losses(network, data, 1 + step * row) - losses(network, data, 1 - step * row)))
        / (2 * step)
        for row in np.eye(len(elements), dtype=np.float32)
    ]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(table.frame["gradient_mean"], expected, rtol=0.02, atol=2e-3 * scale + 2e-4)
    np.testing.assert_allclose(table.impact, -table.frame["gradient_mean"])


@pytest.mark.parametrize(
    "name", sorted(set(OF_UNITS) - {"cnn_1d", "mlp", "nested", "preprocessing", "separable", "u_net"})
)
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
    table = dr.scorers.taylor(model, data, elements, order=2, curvature=dr.scorers.Exact())
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
        dr.scorers.taylor(model, (x, y), elements, order=2, curvature=curvature, outcome=outcome, task=task)
        for curvature in (dr.scorers.Exact(), dr.scorers.GaussNewton())
    ]
    for column in ("gradient_mean", "curvature_mean", "curvature_sd", "change_sd"):
        np.testing.assert_allclose(tables[1].frame[column], tables[0].frame[column], rtol=2e-3, atol=1e-5)
    assert tables[0].frame["curvature_mean"].max() > 1e-3


def test_random_directions_are_unbiased() -> None:
    """Many copies of the same examples draw many directions."""
    model, (x, y), elements, _ = given("mlp", 3)
    expected = dr.scorers.obd(model, (x, y), elements).impact
    found = dr.scorers.obd(
        model, (np.repeat(x, 1000, axis=0), np.repeat(y, 1000)), elements, curvature=dr.scorers.GaussNewton(4)
    )
    assert (np.abs(found.impact - expected) <= 4.5 * found.std_error + 1e-5).all()
    assert found.std_error.max() < 0.1 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        *(("mlp", {}), ("cnn", {"statistic": "sd"}), ("residual", {"statistic": "squared"})),
        *((name, {"order": 2, "curvature": dr.scorers.Exact()}) for name in ("mlp", "cnn", "residual")),
        *(("mlp", {"order": 2, "statistic": "sd"}), ("cnn", {"order": 2, "statistic": "sd"})),
    ],
)
def test_one_mask_a_batch_gives_the_same_derivatives(name: str, settings: dict[str, Any]) -> None:
    model, data, elements, _ = given(name)
    rows, batch = (dr.scorers.taylor(model, data, e, **settings) for e in (elements, one_mask(elements)))
    np.testing.assert_allclose(batch.impact, rows.impact, rtol=1e-3, atol=1e-5)
    assert batch.rows == rows.rows


def test_statistics_are_those_of_single_examples() -> None:
    """Each example by itself, put together by hand."""
    model, (x, y), elements, _ = given("mlp", 7)
    single = [dr.scorers.taylor(model, (x[i : i + 1], y[i : i + 1]), elements, order=2) for i in range(7)]
    changes = np.array([table.frame["change_mean"] for table in single])
    expected = {"mean": changes.mean(axis=0), "squared": changes.mean(axis=0) ** 2, "sd": changes.std(axis=0, ddof=1)}
    for statistic, values in expected.items():
        table = dr.scorers.taylor(model, (x, y), elements, order=2, statistic=statistic)  # type: ignore[arg-type]
        np.testing.assert_allclose(table.impact, values, rtol=1e-3, atol=1e-6)
        if statistic == "mean":
            np.testing.assert_allclose(table.std_error, changes.std(axis=0, ddof=1) / 7**0.5, rtol=1e-3)
    np.testing.assert_allclose(dr.scorers.spread(model, (x, y), elements, order=2).impact, expected["sd"], rtol=1e-3)


def test_moments_gathered_in_batches_are_those_of_all() -> None:
    rows, running = np.random.default_rng(0).normal(3.0, size=(50, 4)), Running(4)
    for start, end in ((0, 1), (1, 30), (30, 50)):
        running.add(rows[start:end])
    np.testing.assert_allclose(running.mean, rows.mean(axis=0))
    np.testing.assert_allclose(running.variance, rows.var(axis=0, ddof=1))
    np.testing.assert_allclose(running.mean_absolute, np.abs(rows).mean(axis=0))


def test_second_order_is_exact_for_a_quadratic_outcome() -> None:
    """A squared error of a linear network is a parabola in each mask, so Taylor is leave one out."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(5), layers.Dense(2)])
    rng = np.random.default_rng(1)
    data, elements = (rng.normal(size=(20, 3)), rng.normal(size=(20, 2))), dr.elements(model)
    taylor, measured = (
        dr.scorers.taylor(model, data, elements, order=2),
        dr.scorers.leave_one_out(model, data, elements),
    )
    np.testing.assert_allclose(taylor.impact, measured.impact, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(taylor.std_error, measured.std_error, rtol=1e-3)
    np.testing.assert_allclose(taylor.frame["change_sd"], measured.frame["change_sd"], rtol=1e-3)


def test_outcomes_of_which_more_is_better_change_sign(model: keras.Model, data: Labelled, elements: Any) -> None:
    table = dr.scorers.taylor(model, data, elements, outcome="margin")
    np.testing.assert_allclose(table.impact, table.frame["gradient_mean"])
    measured = dr.scorers.leave_one_out(model, data, elements, outcome="accuracy")
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
    model = models.ready(name)
    elements, data = dr.elements(model, kind), models.data_for(model, 4)
    network, step = MaskedNetwork(model, elements), 2e-3
    chosen = np.random.default_rng(0).choice(len(elements), min(len(elements), 12), replace=False)
    table = dr.scorers.taylor(model, data, elements)
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
    np.testing.assert_allclose(dr.scorers.taylor(model, (x, y), elements).impact, -expected, rtol=1e-3, atol=1e-5)
    exact, newton = (
        dr.scorers.obd(model, (x, y), elements, curvature=c).impact
        for c in (dr.scorers.Exact(), dr.scorers.GaussNewton())
    )
    last = np.array(elements.layers) == "out"  # logits are linear in these
    np.testing.assert_allclose(newton[last], exact[last], rtol=1e-3, atol=1e-6)
