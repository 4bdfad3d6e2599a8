"""Law: the order of the examples in a data set does not matter beyond noise."""

from collections.abc import Callable
from typing import Any

import flat
import keras
import numpy as np
import pytest
from keras import layers

import dropreg as dr
from dropreg import recovery
from dropreg.data import check_data
from dropreg.graph import trace_graph

N_CLASSES, N_EXAMPLES = 6, 1_800
SELECTION = (1, 2, 5, 8, 9, 13, 17, 18, 20, 22)
"""Units to remove."""

Data = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def model() -> keras.Model:
    """A classifier of clusters: each hidden layer mixes its inputs, and the last is the rule of the nearest centre."""
    keras.utils.set_random_seed(0)
    parts = [keras.Input((6,)), layers.Dense(24, activation="relu", name="a"), layers.Dense(N_CLASSES, name="out")]
    model = keras.Sequential(parts)
    x, y = clusters()
    hidden = np.asarray(model.get_layer("a")(x))
    kernel, *_ = np.linalg.lstsq(np.column_stack([hidden, np.ones(len(x))]), 4.0 * np.eye(N_CLASSES)[y], rcond=None)
    model.get_layer("out").set_weights([kernel[:-1], kernel[-1]])
    return model


def clusters() -> Data:
    """Examples of clusters, sorted by class."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(N_CLASSES), N_EXAMPLES // N_CLASSES)
    centres = 2.0 * rng.normal(size=(N_CLASSES, 6))
    return (centres[y] + 0.7 * rng.normal(size=(N_EXAMPLES, 6))).astype(np.float32), y


def orders() -> tuple[Data, Data]:
    """The same examples, sorted by class and shuffled."""
    x, y = clusters()
    shuffled = np.random.default_rng(1).permutation(len(y))
    return (x, y), (x[shuffled], y[shuffled])


@pytest.mark.parametrize(
    ("outcome", "estimator"),
    [("accuracy", "ols"), ("accuracy", "assisted"), ("loss", "assisted"), ("divergence", "ridge")],
)
def test_impacts_agree(model: keras.Model, outcome: Any, estimator: Any) -> None:
    tables, elements = [], dr.elements(model)
    for data in orders():  # fewer rows than examples
        options: dict[str, Any] = {"rows": 1_500, "fidelity": None, "gradients": estimator == "assisted"}
        record = flat.sample(model, data, elements, outcomes=outcome, **options)
        tables.append(dr.regress(record, estimator=estimator))
    one, other = tables
    noise = np.hypot(one.std_error, other.std_error)
    assert (np.abs(one.impact - other.impact) < 4.5 * noise).all()
    assert np.mean(((one.impact - other.impact) / noise) ** 2) < 2.0


def test_all_classes_are_among_few_rows(model: keras.Model) -> None:
    """A run of a few rows, a scorer's part of the examples."""
    for data in orders():
        record = flat.sample(model, data, dr.elements(model), rows=120, fidelity=None)
        drawn = np.concatenate([chunk.examples.ravel() for chunk in record.chunks()])
        assert (np.bincount(data[1][drawn], minlength=N_CLASSES) >= 5).all()


SCORERS: dict[str, Callable[..., dr.ImpactTable]] = {
    **{
        moment: lambda *given, moment=moment, **more: dr.scorers.activation(*given, moment=moment, **more)
        for moment in ("mean", "rms", "zeros")
    },
    "weight x activation": dr.scorers.weight_activation,
    "Taylor": dr.scorers.taylor,
    "spread": dr.scorers.spread,
    "leave one out": dr.scorers.leave_one_out,
}
COST = {"Taylor": 3, "spread": 3, "leave one out": 25}
"""Row-equivalents of an example."""


@pytest.mark.parametrize("name", SCORERS)
def test_scores_of_a_part_of_the_examples_agree(model: keras.Model, name: str) -> None:
    """A third of the examples would be the first two classes."""
    scorer, elements, rows = SCORERS[name], dr.elements(model), N_EXAMPLES // 3 * COST.get(name, 1)
    first, second = ([scorer(model, data, elements, rows=rows, seed=k).impact for k in (0, 1)] for data in orders())
    between = np.abs(np.array(first) - np.array(second)).mean()
    within = np.mean([np.abs(scores[0] - scores[1]).mean() for scores in (first, second)])
    assert within > 0, "it takes a part of the examples"
    assert between < 2.5 * within
    x, y = clusters()
    alone = scorer(model, (x[: N_EXAMPLES // 3], y[: N_EXAMPLES // 3]), elements, rows=rows).impact
    assert np.abs(alone - second[0]).mean() > 2.5 * within, "the first examples would differ"


def correct_by_class(model: Any) -> np.ndarray:
    x, y = clusters()
    right = np.asarray(model(x)).argmax(axis=-1) == y
    return np.array([right[y == k].mean() for k in range(N_CLASSES)])


def merged(model: keras.Model, data: Data) -> keras.Model:
    selection = dr.Selection.dropping(dr.elements(model), SELECTION)
    return dr.remove(model, selection, data=data, merge=dr.merging.LeastSquares(most_examples=N_EXAMPLES // 6)).model


def distilled(model: keras.Model, data: Data) -> keras.Model:
    graph = trace_graph(model)
    small = dr.remove(model, dr.Selection.dropping(dr.elements(model), SELECTION))
    options = dr.Recovery(epochs=3, batch_size=16, learning_rate=1e-2, distill=1.0, patience=None)
    return recovery.distilled(small, graph, check_data(graph, data), options, progress=False).model


@pytest.mark.parametrize("shrink", [merged, distilled])
def test_smaller_models_agree_for_every_class(
    model: keras.Model, shrink: Callable[..., keras.Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are fitted to a sixth of the examples; the first sixth would be one class."""
    monkeypatch.setattr("dropreg.recovery._distill._MOST_EXAMPLES", N_EXAMPLES // 6)
    one, other = (correct_by_class(shrink(model, data)) for data in orders())
    assert abs(one.mean() - other.mean()) < 0.02
    assert np.abs(one - other).max() < 0.08
    x, y = clusters()
    alone = correct_by_class(shrink(model, (x[: N_EXAMPLES // 6], y[: N_EXAMPLES // 6])))
    assert alone.min() < one.min() - 0.1, "one class alone would do harm"
