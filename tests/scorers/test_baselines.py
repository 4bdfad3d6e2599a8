"""Laws of the baseline scorers: measured changes, magnitudes, activations, budgets."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import models
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from scoring import OF_UNITS, Labelled, N, given, losses, one_mask, without

import dropreg as dr
from dropreg.errors import ParameterError

# --- measured -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*OF_UNITS, "recurrent", "encoder_decoder"])
def test_leave_one_out_agrees_with_single_masks(name: str) -> None:
    model, data, elements, network = given(name)
    n = len(elements)
    whole = losses(network, data, without(n))
    expected = np.array([losses(network, data, without(n, j)) - whole for j in range(n)])
    kinds = (elements, one_mask(elements)) if name in ("mlp", "cnn", "residual") else (elements,)
    for found in (dr.scorers.leave_one_out(model, data, chosen) for chosen in kinds):
        np.testing.assert_allclose(found.impact, expected.mean(axis=1), rtol=1e-3, atol=1e-5)
        std_error = expected.std(axis=1, ddof=1) / N**0.5
        std_error[std_error == 0] = np.nan
        np.testing.assert_allclose(found.std_error, std_error, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("scorer", [dr.scorers.taylor, dr.scorers.leave_one_out])
def test_dropped_elements_remain_dropped(scorer: Any) -> None:
    model, data, elements, network = given("mlp")
    n, gone = len(elements), [0, 6]
    kept = without(n, *gone) > 0
    table = scorer(model, data, elements, kept=kept)
    whole, step = losses(network, data, without(n, *gone)), 1e-2
    for j in range(n):
        if not kept[j]:
            assert table.impact[j] == 0.0
            continue
        size = 1.0 if scorer is dr.scorers.leave_one_out else step
        mask = without(n, *gone) - size * np.eye(n, dtype=np.float32)[j]
        expected = float(tf.reduce_mean(losses(network, data, mask) - whole)) / size
        np.testing.assert_allclose(table.impact[j], expected, rtol=0.05, atol=2e-2 if size == step else 1e-5)


@pytest.mark.parametrize("step", [0.01, 0.3])
def test_greedy_drops_the_remaining_element_of_least_impact(step: float) -> None:
    model, data, elements, network = given("mlp", 4)
    n = len(elements)
    a_round = max(round(step * n), 1)
    gone: list[int] = []
    while len(gone) < n:
        left = [j for j in range(n) if j not in gone]
        whole = losses(network, data, without(n, *gone))
        change = {j: float(tf.reduce_mean(losses(network, data, without(n, *gone, j)) - whole)) for j in left}
        gone += sorted(left, key=change.__getitem__)[:a_round]
    table = dr.scorers.greedy(model, data, elements, step=step)
    assert np.argsort(table.impact).tolist() == gone
    np.testing.assert_allclose(np.sort(table.impact), np.arange(n) / n)


# --- what nobody reads (law 5), magnitudes, activations --------------------------------------------------------


SCORERS: dict[str, Callable[..., dr.ImpactTable]] = {
    "taylor": dr.scorers.taylor,
    "taylor 2": lambda *a, **k: dr.scorers.taylor(*a, order=2, **k),
    "squared": lambda *a, **k: dr.scorers.taylor(*a, statistic="squared", **k),
    "obd": dr.scorers.obd,
    "spread": dr.scorers.spread,
    "leave one out": dr.scorers.leave_one_out,
    "outgoing": lambda *a, **k: dr.scorers.magnitude(*a, norm="outgoing", **k),
    "weight x activation": dr.scorers.weight_activation,
}


@pytest.mark.parametrize("scorer", SCORERS.values(), ids=SCORERS)
def test_an_element_that_nothing_reads_has_impact_zero(scorer: Any) -> None:
    model, data, elements, _ = given("mlp", 20, models.build)
    kernel, bias = model.get_layer("out").get_weights()
    kernel[2] = 0.0
    model.get_layer("out").set_weights([kernel, bias])
    impact = scorer(model, data, elements, seed=0).impact
    assert abs(impact[elements.names.index("b[2]")]) < 1e-6
    assert np.abs(np.delete(impact, elements.names.index("b[2]"))).min() > 1e-6


@pytest.mark.parametrize("norm", ["incoming", "outgoing", "both"])
@pytest.mark.parametrize("name", OF_UNITS)
def test_magnitude_is_the_norm_of_the_removed_weights(name: str, norm: Any) -> None:
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
    table = dr.scorers.magnitude(model, None, elements, norm=norm)
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
        np.testing.assert_allclose(dr.scorers.magnitude(model, None, elements).impact, expected, rtol=1e-6)
        if name == "mlp":
            hidden = [np.asarray(data[0])]
            for layer in model.layers[:-1]:
                hidden.append(np.asarray(layer(hidden[-1])))
            sizes = [np.sqrt((h**2).mean(axis=0)) for h in hidden]
            product = np.concatenate(
                [np.ravel(np.abs(k) * size[:, None]) for k, size in zip(kernels, sizes, strict=True)]
            )
            np.testing.assert_allclose(dr.scorers.weight_activation(model, data, elements).impact, product, rtol=1e-4)
    rows = dr.elements(model, "weights", groups="rows")
    assert dr.scorers.magnitude(model, None, rows).impact.shape == (len(rows),)


def test_activations_are_those_that_consumers_read() -> None:
    model, (x, _), elements, _ = given("mlp", 40)
    hidden = np.asarray(model.get_layer("a")(x))
    others = np.asarray(model.get_layer("b")(hidden))
    values = np.concatenate([hidden, others], axis=1)
    for moment, expected in {
        "mean": np.abs(values.mean(axis=0)),
        "rms": np.sqrt((values**2).mean(axis=0)),
        "zeros": (values != 0).mean(axis=0),
    }.items():
        table = dr.scorers.activation(model, (x, None), elements, moment=moment)  # type: ignore[arg-type]
        np.testing.assert_allclose(table.impact, expected, rtol=1e-4)
    outgoing = dr.scorers.magnitude(model, None, elements, norm="outgoing").impact
    product = dr.scorers.weight_activation(model, (x, None), elements).impact
    np.testing.assert_allclose(product, outgoing * np.sqrt((values**2).mean(axis=0)), rtol=1e-5)


def test_random_scores_follow_the_seed(model: keras.Model, data: Labelled, elements: dr.Elements) -> None:
    first, again, other = (dr.scorers.random(model, data, elements, seed=seed).impact for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


# --- budgets (law 8) ------------------------------------------------------------------------------------------


@dataclass
class Counter:
    """Counts the rows that an outcome is measured on."""

    rows: int = 0

    def outcome(self) -> dr.outcomes.PerExample:
        def measured(labels: Any, outputs: Any) -> Any:
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs)
            return tf.ensure_shape(tf.numpy_function(self.count, [loss], tf.float32), [None])

        return dr.outcomes.PerExample(measured, "counted loss", greater_is_better=False)

    def count(self, values: np.ndarray) -> np.ndarray:
        self.rows += len(values)
        return values


@pytest.mark.parametrize(
    ("scorer", "settings"), [(dr.scorers.leave_one_out, {"rows": 100}), (dr.scorers.greedy, {"rows": 500, "step": 0.2})]
)
@pytest.mark.parametrize("as_one_mask", [False, True])
def test_rows_reported_are_rows_measured(
    scorer: Any, settings: dict, as_one_mask: bool, model: keras.Model, data: Labelled, elements: dr.Elements
) -> None:
    counter = Counter()
    asked = one_mask(elements) if as_one_mask else elements
    table = scorer(model, data, asked, outcome=counter.outcome(), **settings)
    assert counter.rows == table.rows + table.details["examples"]  # the original model's pass is not counted
    assert 0.5 * settings["rows"] < table.rows <= settings["rows"]


@pytest.mark.parametrize(
    ("scorer", "settings", "cost"),
    [
        (dr.scorers.taylor, {}, 3),
        (dr.scorers.spread, {}, 3),
        (dr.scorers.taylor, {"order": 2}, 1 + 2 * 3),
        (dr.scorers.obd, {"curvature": dr.scorers.GaussNewton(2)}, 1 + 2 + 4),
        (dr.scorers.obd, {"curvature": dr.scorers.Exact()}, 9 * 9),
        (dr.scorers.leave_one_out, {}, 9),
        (dr.scorers.activation, {}, 1),
        (dr.scorers.weight_activation, {}, 1),
    ],
)
def test_a_budget_is_spent_on_whole_examples(
    scorer: Any, settings: dict, cost: int, model: keras.Model, data: Labelled, elements: dr.Elements
) -> None:
    for budget in (cost, 5 * cost + cost // 2):
        assert scorer(model, data, elements, rows=budget, **settings).rows == budget // cost * cost
    with pytest.raises(ParameterError, match=rf"`rows` must pay for .*received .*pass rows={cost}"):
        scorer(model, data, elements, rows=cost - 1, **settings) if cost > 1 else _refuse(cost)


def _refuse(cost: int) -> None:
    raise ParameterError(f"`rows` must pay for one, received 0: pass rows={cost}")


@pytest.mark.parametrize(
    "scorer",
    [
        *(
            dr.scorers.activation,
            dr.scorers.greedy,
            dr.scorers.leave_one_out,
            dr.scorers.magnitude,
            dr.scorers.obd,
            dr.scorers.random,
        ),
        *(dr.scorers.spread, dr.scorers.taylor, dr.scorers.weight_activation),
    ],
)
def test_scorers_take_the_same_arguments_in_the_same_order(scorer: Any) -> None:
    parameters = inspect.signature(scorer).parameters
    shared = [name for name in ("outcome", "rows", "task", "kept", "seed") if name in parameters]
    assert list(parameters)[:3] == ["model", "data", "elements"]
    assert list(parameters)[-len(shared) :] == shared
    defaults = {name: parameter.default for name, parameter in list(parameters.items())[3:]}
    assert inspect.Parameter.empty not in defaults.values()
    assert defaults.get("outcome", "loss") == "loss"
    assert defaults["seed"] == 0
    assert defaults.get("rows") is None


def test_same_seed_same_table_and_unchanged_model(make_model: Any, data: Labelled, elements: dr.Elements) -> None:
    model = make_model()
    before = [np.array(weight) for weight in model.get_weights()]
    for scorer in (dr.scorers.taylor, dr.scorers.obd, dr.scorers.leave_one_out, dr.scorers.greedy):
        first, again = (scorer(model, data, elements, rows=2_000, seed=5).frame for _ in range(2))
        assert first.equals(again)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
