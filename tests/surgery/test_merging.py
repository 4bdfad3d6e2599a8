"""Laws of merging: copies are folded exactly, least squares is least squares, the mean is the mean."""

import keras
import models
import numpy as np
import pytest
from keras import layers

import dropreg as dr
from dropreg.errors import DataError, ParameterError
from dropreg.surgery._merging import _ridge as mixing
from dropreg.surgery._merging._ridge import Sums, copies, fit_predictions, solve
from dropreg.surgery._merging._side_by_side import SideBySide


def run(model: keras.Model, x: np.ndarray) -> np.ndarray:
    return np.asarray(model(x, training=False), np.float64)


def sums(x: np.ndarray, y: np.ndarray) -> Sums:
    return Sums(float(len(x)), x.sum(0), y.sum(0), x.T @ x, x.T @ y, y.T @ y)


def duplicate(model: keras.Model, name: str, copy: int, of: int, scale: float = 1.0) -> None:
    """Make one unit of a layer a multiple of another; consumers are unchanged."""
    layer = model.get_layer(name)
    weights = layer.get_weights()
    for array in weights:
        array[..., copy] = scale * array[..., of]
    layer.set_weights(weights)


@pytest.mark.parametrize(
    ("name", "layer", "scale"),
    [
        ("mlp", "a", 2.0),
        ("cnn", "c1", 0.5),
        ("cnn", "c2", 1.0),
        ("cnn", "d", 1.0),
        ("residual_operator", "branch", 1.0),
    ],
)
def test_copies_are_merged_exactly(name: str, layer: str, scale: float) -> None:
    """Also on examples that merging never saw."""
    model = models.build(name)
    scale = scale if name == "mlp" or layer == "c1" else 1.0
    for each in ("stem", "branch") if name == "residual_operator" else (layer,):
        duplicate(model, each, copy=2, of=0, scale=scale)
    elements = dr.elements(model)
    number = next(j for j, tied in enumerate(elements.members) if (layer, 2) in tied)
    x, y = models.data_for(model, 60)
    unseen = models.inputs_for(model, 20, seed=9)[0]
    expected = run(model, unseen)
    selection = dr.Selection.dropping(elements, [number])
    merged = run(dr.remove(model, selection, data=(x, y)).model, unseen)
    np.testing.assert_allclose(merged, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())
    deleted = run(dr.remove(model, selection).model, unseen)
    assert np.abs(merged - expected).max() < np.abs(deleted - expected).max() / 20


@pytest.mark.parametrize(
    "name", ["mlp", "cnn", "cnn_1d", "cnn_bn", "residual", "concatenating", "grouped", "shared", "recurrent"]
)
def test_merging_approximates_the_original_model_better_than_deletion(name: str) -> None:
    model = models.ready(name)
    x, y = models.data_for(model, 400)
    unseen = models.inputs_for(model, 200, seed=9)
    inputs = unseen if len(unseen) > 1 else unseen[0]
    selection = dr.Selection.random(dr.elements(model), 0.4, seed=2)
    whole = np.asarray(model(inputs, training=False))
    merges = {"none": "none", "least_squares": dr.merging.LeastSquares(predictions=False)}
    small = {name: dr.remove(model, selection, data=(x, y), merge=merge) for name, merge in merges.items()}
    errors = {name: np.square(np.asarray(p.model(inputs)) - whole).mean() for name, p in small.items()}
    assert errors["least_squares"] < errors["none"]
    merged = small["least_squares"].merged
    assert merged is not None
    assert (merged["unexplained"] <= 1).all()


@pytest.mark.parametrize("name", ["cnn_bn", "residual", "shared", "transformer_block"])
def test_cached_activations_equal_recomputed_ones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.ready(name)
    data = models.data_for(model, 60)
    selection = dr.Selection.random(dr.elements(model), 0.4, seed=1)
    merged = []
    for memory, batch_size in ((1 << 30, 8), (20_000, 8), (0, 8), (1 << 30, 60)):  # all batches, some, none, as it is
        monkeypatch.setattr(SideBySide.__init__, "__defaults__", (memory,))
        merge = dr.merging.LeastSquares(batch_size=batch_size, ridges=(0.1,), predictions=False)
        merged.append(run(dr.remove(model, selection, data=data, merge=merge).model, data[0]))
    for values in merged[1:]:
        np.testing.assert_allclose(values, merged[0], rtol=1e-3, atol=1e-4)


def test_constant_channels_are_absorbed_by_biases() -> None:
    """States that do not depend on the input leave nothing to fit but the mean."""
    model = keras.Sequential([keras.Input((6, 2)), layers.GRU(4, name="cells"), layers.Dense(3)])
    kernel, recurrent, bias = model.layers[0].get_weights()
    rng = np.random.default_rng(0)
    kernel[:, 8:], recurrent[:, 8:], bias[:, :4], bias[0, 8:] = 0.0, 0.0, -20.0, rng.normal(size=4)
    recurrent[:, :8] = rng.normal(size=(4, 8))
    model.layers[0].set_weights([kernel, recurrent, bias])
    x, y = models.data_for(model, 50)
    small = dr.remove(model, dr.Selection.dropping(dr.elements(model), [0, 3]), data=(x, y)).model
    np.testing.assert_allclose(run(small, x), run(model, x), atol=0.02)


def test_least_squares_of_one_layer_is_the_regression() -> None:
    """A linear network: merging agrees with least squares of NumPy on all examples, up to the smallest penalty."""
    model = keras.Sequential([keras.Input((6,)), layers.Dense(5, name="a"), layers.Dense(3, name="out")])
    x, y = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32), np.zeros((300, 3))
    selection = dr.Selection.dropping(dr.elements(model), [1, 3])
    strategy = dr.merging.LeastSquares(ridges=(1e-9,))
    small = dr.remove(model, selection, data=(x, y), merge=strategy).model
    hidden = run(keras.Model(small.inputs[0], small.get_layer("a").output), x)
    design = np.column_stack([hidden, np.ones(300)])
    expected = np.linalg.lstsq(design, run(model, x), rcond=None)[0]
    kernel, bias = small.get_layer("out").get_weights()
    np.testing.assert_allclose(kernel, expected[:-1], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(bias, expected[-1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["mlp", "cnn", "cnn_1d", "separable"])
def test_the_mean_input_of_consumers_is_preserved(name: str) -> None:
    """Padding included: the first reader's scores before its activation keep their mean."""
    model = models.ready(name)
    x, y = models.data_for(model, 50)
    elements = dr.elements(model)
    first = [j for j, layer in enumerate(elements.layers) if layer == elements.layers[0]]
    small = dr.remove(model, dr.Selection.dropping(elements, first[:2]), data=(x, y)).model
    reader = {"mlp": "b", "cnn": "c2", "cnn_1d": "c2", "separable": "pointwise"}[name]
    means = []
    for each in (model, small):
        layer = each.get_layer(reader)
        features = keras.Model(each.inputs[0], layer.input)(x)
        config = {**layer.get_config(), "activation": "linear"}
        linear = type(layer).from_config(config)
        linear.build(features.shape)
        linear.set_weights(layer.get_weights())
        means.append(np.asarray(linear(features)).reshape(-1, linear(features).shape[-1]).mean(0))
    np.testing.assert_allclose(means[1], means[0], rtol=1e-4, atol=1e-4)


def test_normalization_statistics_are_updated() -> None:
    """After merging, the outputs of the second normalization have the moments that they had."""
    model = models.ready("cnn_bn")
    x, y = models.data_for(model, 200)
    elements = dr.elements(model)
    small = dr.remove(model, dr.Selection.dropping(elements, [1, 2]), data=(x, y)).model
    name = [layer.name for layer in model.layers if isinstance(layer, layers.BatchNormalization)][1]
    found = [np.asarray(keras.Model(m.inputs[0], m.get_layer(name).output)(x)) for m in (model, small)]
    for moment in (np.mean, np.std):
        before, after = (moment(values, axis=(0, 1, 2)) for values in found)
        np.testing.assert_allclose(after, before, rtol=1e-3, atol=1e-3)


def last_layer(kind: str) -> tuple[tuple[int, ...], list[keras.layers.Layer]]:
    """Shape of inputs, and the layers in front of an activation."""
    if kind == "convolution":
        return (3, 3, 6), [layers.Conv2D(30, 1, activation="relu"), layers.Conv2D(3, 1)]
    if kind == "time distributed":
        return (5, 6), [layers.Dense(30, activation="relu"), layers.TimeDistributed(layers.Dense(3))]
    return ((5, 6) if kind == "tokens" else (6,)), [layers.Dense(30, activation="relu"), layers.Dense(3)]


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("kind", ["examples", "tokens", "time distributed", "convolution"])
def test_merging_improves_the_predictions_of_a_classifier(kind: str, softmax: bool) -> None:
    """Those for each position as well."""
    keras.utils.set_random_seed(0)
    shape, used = last_layer(kind)
    model = keras.Sequential([keras.Input(shape), *used, *([layers.Softmax()] if softmax else [])])
    model.set_weights([3 * weight for weight in model.get_weights()])
    rng = np.random.default_rng(0)
    x, unseen = (rng.normal(size=(n, *shape)).astype(np.float32) for n in (2000, 500))
    y = run(model, x).argmax(axis=-1)
    selection = dr.Selection.random(dr.elements(model), 0.6)

    def divergence(small: keras.Model) -> float:
        outputs = [run(each, unseen) for each in (model, small)]
        p, q = outputs if softmax else [np.asarray(keras.ops.softmax(scores)) for scores in outputs]
        return float(np.sum(p * (np.log(p + 1e-9) - np.log(q + 1e-9)), axis=-1).mean())

    scores, both = (
        divergence(dr.remove(model, selection, data=(x, y), merge=dr.merging.LeastSquares(predictions=fit)).model)
        for fit in (False, True)
    )
    assert both < 0.9 * scores


def test_the_callers_model_is_unchanged_by_merging() -> None:
    model = models.ready("residual")
    x, y = models.data_for(model, 40)
    weights, outputs = model.get_weights(), run(model, x)
    dr.remove(model, dr.Selection.random(dr.elements(model), 0.5), data=(x, y))
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(outputs, run(model, x))


# The numbers by themselves


def test_solve_is_ridge_regression_with_the_best_penalty() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.normal(1.0, 1.0, (500, 4)), rng.normal(size=(4, 2))
    y = x @ w + 3.0 + rng.normal(scale=0.1, size=(500, 2))
    fit, held_out = sums(x[:400], y[:400]), sums(x[400:], y[400:])
    found = solve(fit, held_out, np.eye(2), (1e-6, 1e-1, 1e2), centre=True)
    assert found.ridge == 1e-6
    np.testing.assert_allclose(found.coefficients, w, atol=0.02)
    assert found.error == pytest.approx(0.02, rel=0.3)
    assert found.error_without > 1
    noise = solve(sums(x[:5], rng.normal(size=(5, 2))), held_out, np.eye(2), (1e-8,), centre=True)
    assert noise.error <= noise.error_without
    uncentred = solve(fit, held_out, np.eye(2), (1e-8,), centre=False)
    expected = np.linalg.lstsq(x, y, rcond=None)[0]
    np.testing.assert_allclose(uncentred.coefficients, expected, atol=1e-4)


def test_nearly_constant_channels_predict_nothing() -> None:
    """Coefficients that held-out rows cannot judge, for want of floating-point range, are not taken."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 3)), rng.normal(size=(60, 2))
    fit = sums(1e-150 * x[:30], y[:30])
    found = solve(fit, sums(1e10 * x[30:], y[30:]), np.eye(2), (1e-8, 1.0), centre=True)
    assert found.ridge == np.inf
    assert (found.coefficients == 0).all()
    assert found.error == found.error_without


def test_only_copies_are_found() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 5)).astype(np.float32)
    x[:, 3] = 2 * x[:, 0] + 1
    x[:, 4] = 0
    kept = np.array([True, True, False, False, False])
    prior = copies(x, kept)
    np.testing.assert_allclose(prior, [[1, 0, 0, 2, 0], [0, 1, 0, 0, 0]], atol=1e-5)


def test_fit_predictions_recovers_the_layer() -> None:
    rng = np.random.default_rng(0)
    x, kernel, bias = rng.normal(size=(400, 3)), rng.normal(size=(3, 4)), rng.normal(size=4)
    log_p = x @ kernel + bias
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    held_out = np.arange(400) >= 300
    start = (np.zeros((3, 4)), np.zeros(4))
    found, shift = fit_predictions(x, log_p, held_out, start, (1.0, 1e-7))
    scores = x @ found + shift
    scores -= np.log(np.exp(scores).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(scores, log_p, atol=0.02)
    exact = fit_predictions(x, log_p, held_out, (kernel, bias), (1e-2,))
    np.testing.assert_allclose(exact[0], kernel, atol=1e-3)


def test_a_single_example_is_refused() -> None:
    model = models.ready("mlp")
    x, _ = models.data_for(model, 1)
    selection = dr.Selection.random(dr.elements(model), 0.4)
    with pytest.raises(DataError, match=r"at least two examples to merge by least squares.*pass more, or merge='no"):
        dr.remove(model, selection, data=(x, None))


def test_bad_strategies_are_refused() -> None:
    with pytest.raises(ParameterError, match="`held_out` must lie strictly between 0 and 1, received 1"):
        dr.merging.LeastSquares(held_out=1)
    with pytest.raises(ParameterError, match="`ridges` must be one or more positive numbers"):
        dr.merging.LeastSquares(ridges=())
    with pytest.raises(ParameterError, match="`batch_size` must be an integer of at least 1, received 0"):
        dr.merging.LeastSquares(batch_size=0)
    assert mixing.EXACT < 1e-6
