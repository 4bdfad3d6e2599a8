"""Laws of pruning in steps."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import flat
import keras
import models
import numpy as np
import pandas as pd
import pytest
from keras import layers

import dropreg as dr
from dropreg.errors import DataError, ModelError, ParameterError
from dropreg.network._masked import MaskedNetwork
from dropreg.pruning._step_sizes import fractions_by_step

ROUNDING = 1e-4  # float32, relative to the largest output
FAST = dr.Recovery(epochs=1, learning_rate=0.01, batch_size=16)
UNITS = ("mlp", "cnn", "residual", "two_inputs", "nested")


def run(model: keras.Model, x: Any) -> np.ndarray:
    return np.asarray(model(x, training=False))


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= ROUNDING * np.abs(expected).max()


def weights_of(model: keras.Model) -> list[np.ndarray]:
    return [np.array(weight) for weight in model.get_weights()]


def assert_same(before: list[np.ndarray], after: list[np.ndarray]) -> None:
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


def table_of(elements: dr.Elements, impact: np.ndarray) -> dr.ImpactTable:
    table = dr.scorers.random(None, None, elements)  # type: ignore[arg-type]
    order = np.argsort(-impact, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    return dr.ImpactTable(table.frame.assign(impact=impact, rank=rank), "by hand", "nothing", "nothing", 0, 0)


def biases(model: keras.Model, data: Any, elements: dr.Elements, *, seed: int) -> dr.ImpactTable:
    """A unit's bias as its impact: deletion leaves it as it is, so it tells who is who in a smaller model."""
    found = {layer.name: layer.get_weights()[-1] for layer in model._flatten_layers() if layer.weights}
    impact = [float(found[layer][index]) for layer, index in zip(elements.layers, elements.indices, strict=True)]
    return table_of(elements, np.array(impact))


def iterate(model: keras.Model, kind: Any = "neurons", **changes: Any) -> dr.Pruned:
    """Three steps on random data."""
    settings: dict[str, Any] = {"fraction": 0.5, "scorer": dr.scorers.random, "steps": 3, "merge": "none"}
    return flat.prune_iteratively(model, models.data_for(model, 40), dr.elements(model, kind), **(settings | changes))


@pytest.mark.parametrize(
    ("name", "kind", "merge"),
    [("mlp", "neurons", None), ("residual", "neurons", "least_squares"), ("two_inputs", "neurons", "none")]
    + [("mlp", "weights", None)],
)
def test_one_step_is_pruning_at_once(name: str, kind: Any, merge: str | None) -> None:
    model = models.ready(name)
    elements, data = dr.elements(model, kind), models.data_for(model, 40)
    found = iterate(model, kind, steps=1, merge=merge, seed=3)
    chosen = dr.select(elements, dr.scorers.random(model, data, elements, seed=3), fraction=0.5)
    expected = dr.remove(model, chosen, data=data, merge=merge)
    np.testing.assert_array_equal(found.selection.kept, chosen.kept)
    assert_same(weights_of(found.model), weights_of(expected.model))
    pd.testing.assert_frame_equal(found.report.layers, expected.report.layers)
    assert (found.merge, found.original, found.blocked) == (expected.merge, model, ())
    if found.merged is not None and expected.merged is not None:
        pd.testing.assert_frame_equal(found.merged.drop(columns="step"), expected.merged)
    assert (found.merged is None) == (merge == "none" or kind == "weights")
    assert expected.history is None


@pytest.mark.parametrize("name", [name for name in UNITS if name != "residual"])
@pytest.mark.parametrize("schedule", ["linear", "cubic"])
def test_selections_refer_to_the_elements_of_the_original(name: str, schedule: Any) -> None:
    """Scores that do not change give the same selection in steps as at once."""
    model = models.ready(name)
    elements = dr.elements(model)
    found = iterate(model, scorer=biases, schedule=schedule)
    chosen = dr.select(elements, biases(model, None, elements, seed=0), fraction=0.5)
    np.testing.assert_array_equal(found.selection.kept, chosen.kept)
    assert found.selection.elements is elements or found.selection.elements.names == elements.names


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "neurons") for name in (*UNITS, "separable")]
    + [("mlp", "weights"), ("nested", "weights"), ("transformer_block", ("neurons", "heads"))],
)
def test_steps_of_deletion_compute_what_the_masked_network_computes(name: str, kind: Any, tmp_path: Path) -> None:
    model = models.ready(name)
    x, _ = models.data_for(model, 6)
    before = weights_of(model)
    found = iterate(model, kind, fraction=0.6)
    assert_same(before, weights_of(model))
    inputs = x if isinstance(x, list) else [x]
    elements, kept = found.selection.elements, found.selection.kept
    assert (~kept).sum() == round(0.6 * len(elements))
    assert_close(run(found.model, x), np.asarray(MaskedNetwork(model, elements)(inputs, kept[np.newaxis])))
    assert found.report.layers["params_before"].sum() == model.count_params()
    assert found.report.layers["params_after"].sum() == found.model.count_params()
    found.model.save(tmp_path / "model.keras")
    loaded: Any = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(run(loaded, x), run(found.model, x))


@pytest.mark.parametrize("kind", ["neurons", "weights"])
def test_each_step_scores_the_model_of_the_step_before(kind: Any) -> None:
    model = models.ready("cnn")
    seen: list[tuple[int, np.ndarray, int]] = []

    def watching(model: Any, data: Any, elements: Any, *, kept: Any = None, seed: int) -> dr.ImpactTable:
        zeros = sum(int((weight == 0).sum()) for weight in weights_of(model))
        seen.append((seed, np.ones(len(elements), bool) if kept is None else kept, zeros))
        return dr.scorers.random(model, data, elements, seed=seed)

    found = iterate(model, kind, scorer=watching, seed=5, steps=4)
    n = len(found.selection.kept)
    assert found.history is not None
    counts = [round(n * fraction) for fraction in fractions_by_step(0.5, 4, "cubic")]
    counts = sorted(set(counts))
    assert [seed for seed, _, _ in seen] == [5 + k for k in range(len(counts))]
    assert found.history["fraction"].to_list() == pytest.approx([count / n for count in counts])
    masks = [kept for _, kept, _ in seen]
    if kind == "neurons":
        assert [len(kept) for kept in masks] == [n - gone for gone in (0, *counts[:-1])]
        return
    assert [int((~kept).sum()) for kept in masks] == [0, *counts[:-1]] == [zeros for _, _, zeros in seen]
    nested = [*masks, found.selection.kept]
    assert all(not (later & ~earlier).any() for earlier, later in pairwise(nested))


@pytest.mark.parametrize("kind", ["neurons", "weights"])
def test_floors_hold(kind: Any) -> None:
    model = models.build("mlp")
    found = iterate(model, kind, fraction=0.5, floor=2, scorer=biases if kind == "neurons" else dr.scorers.magnitude)
    assert found.selection.by_layer()["kept"].min() >= 2
    spoiled = models.build("mlp")
    for name in ("a", "b"):
        kernel, bias = spoiled.get_layer(name).get_weights()
        spoiled.get_layer(name).set_weights(
            [kernel * (1e-3 if name == "b" else 1.0), bias - (99 if name == "b" else 0)]
        )
    found = iterate(spoiled, kind, floor=2, scorer=biases if kind == "neurons" else dr.scorers.magnitude)
    assert found.selection.by_layer().set_index("layer")["kept"]["b"] == 2


@pytest.mark.parametrize(("name", "kind"), [("mlp", "neurons"), ("mlp", "weights")])
def test_fine_tuning_in_every_step(name: str, kind: Any) -> None:
    model = models.ready(name)
    before = weights_of(model)
    x, _ = models.data_for(model, 80, seed=7)
    settings = dr.Recovery(epochs=2, learning_rate=0.02, batch_size=16, distill=1.0)
    more: dict[str, Any] = {
        "recovery": settings,
        "tuning": (x[:60], None),
        "validation": (x[60:], None),
        "merge": "least_squares",
        "schedule": "linear",
    }
    found = iterate(model, kind, **more)
    assert_same(before, weights_of(model))
    history = found.history
    assert history is not None
    assert (history["loss_after"] <= history["loss_before"]).all()
    assert history["epochs"].max() > 0
    assert history["step"].to_list() == [1, 2, 3]
    left = found.model.count_params() - (found.selection.params if kind == "weights" else 0)
    assert history["params"].to_list()[-1] == left
    teacher, student = (run(one, x[60:]).astype(np.float64) / 2.0 for one in (model, found.model))
    log_q, log_p = (s - np.log(np.exp(s).sum(axis=1, keepdims=True)) for s in (teacher, student))
    divergence = 4.0 * (np.exp(log_q) * (log_q - log_p)).sum(axis=1).mean()  # of temperature 2
    assert history["loss_after"].to_list()[-1] == pytest.approx(divergence, rel=1e-2)
    again = iterate(model, kind, **more)
    assert_same(weights_of(found.model), weights_of(again.model))
    if kind == "weights":
        zeros = sum(int((weight == 0).sum()) for weight in weights_of(found.model))
        assert zeros == (~found.selection.kept).sum()
        tuned = dr.recover(found.model, models.data_for(model, 60), recovery=FAST).model
        assert sum(int((weight == 0).sum()) for weight in weights_of(tuned)) == zeros


def test_the_model_is_unchanged_when_a_scorer_raises() -> None:
    for kind in ("neurons", "weights"):
        model = models.ready("mlp")
        before, calls = weights_of(model), []

        def failing(model: Any, data: Any, elements: Any, *, seed: int, calls: list[int] = calls) -> dr.ImpactTable:
            calls.append(seed)
            if len(calls) == 2:
                raise RuntimeError("no more")
            return dr.scorers.random(model, data, elements, seed=seed)

        with pytest.raises(RuntimeError, match="no more"):
            iterate(model, kind, scorer=failing)
        assert_same(before, weights_of(model))
        assert all(variable.constraint is None for variable in model.variables)


def test_scorers_that_take_a_fraction_receive_it() -> None:
    asked = []

    def asking(model: Any, data: Any, elements: Any, *, fraction: float, seed: int) -> dr.ImpactTable:
        asked.append((len(elements), fraction))
        return dr.scorers.random(model, data, elements, seed=seed)

    model = models.ready("mlp")
    iterate(model, scorer=dr.scorers.Scorer(asking, per_fraction=True), schedule="linear", fraction=6 / 9)
    assert asked == [(9, pytest.approx(2 / 9)), (7, pytest.approx(2 / 7)), (5, pytest.approx(2 / 5))]
    asked.clear()
    iterate(model, "weights", scorer=dr.scorers.Scorer(asking, per_fraction=True), schedule="linear", fraction=0.6)
    assert [fraction for _, fraction in asked] == pytest.approx([0.2, 0.4, 0.6], abs=0.01)


def test_layers_that_cannot_be_cut_are_refused_or_kept() -> None:
    class Folding(layers.Layer):
        def call(self, inputs: Any) -> Any:
            return inputs * 2.0

    class Follow(dr.layers.Rule):
        def flow(self, call: Any, index: int, inputs: Any, channels: Any) -> Any:
            return [inputs[0]]

    dr.layers.register(Folding, rule=Follow())
    x = inputs = keras.Input((4,))
    x = Folding(name="folding")(layers.Dense(4, name="stuck")(x))
    model = keras.Model(inputs, layers.Dense(3, name="out")(layers.Dense(6, name="free")(x)))
    with pytest.raises(ModelError, match=r"layer 'folding' \(Folding\) must be cut.*on_blocked='keep'"):
        iterate(model)
    found = iterate(model, on_blocked="keep")
    assert found.blocked == (("folding", "its rule has no `cut` method"),)
    assert found.selection.by_layer()["kept"].to_list()[0] == 4
    assert 0 < found.selection.fraction < 0.5
    assert found.model.get_layer("free").units == found.selection.kept[4:].sum()


def test_layers_are_removed_one_after_the_other() -> None:
    x = inputs = keras.Input((4,))
    for number in range(4):
        x = layers.Dense(4, activation="tanh", name=f"same_{number}")(x)
    model = keras.Model(inputs, layers.Dense(3, name="out")(x))
    found = iterate(model, "layers", schedule="linear", fraction=0.75)
    assert [layer.name for layer in found.model.layers[1:-1]] == [
        f"same_{j}" for j in np.flatnonzero(found.selection.kept)
    ]
    assert_close(run(found.model, np.ones((2, 4))), run(dr.remove(model, found.selection).model, np.ones((2, 4))))


def test_elements_removed_with_a_branch_are_named() -> None:
    model = models.ready("residual_operator")
    x = inputs = keras.Input((5,))
    x = layers.Dense(4, activation="relu", name="stem")(x)
    y = layers.Dense(4, name="second")(layers.Dense(6, activation="relu", name="first")(x))
    model = keras.Model(inputs, layers.Dense(3, name="out")(layers.Add()([x, y])))

    def branches_first(model: Any, data: Any, elements: Any, *, seed: int) -> dr.ImpactTable:
        return table_of(
            elements, np.array([0.0 if kind == "branch" else 1.0 + j for j, kind in enumerate(elements.kinds)])
        )

    with pytest.raises(ModelError, match=r"after step 1 the smaller model must have the 10 remaining elements.*"):
        iterate(model, ("neurons", "branches"), scorer=branches_first, schedule="linear", fraction=3 / 11)
    with pytest.raises(ModelError, match=r"received .*none of heads, branches.*Prune one kind after the other"):
        iterate(model_of_one_branch_and_a_head(), ("heads", "branches"), scorer=branches_first, schedule="linear")


def model_of_one_branch_and_a_head() -> keras.Model:
    inputs = keras.Input((4, 6))
    x = layers.Add()([inputs, layers.MultiHeadAttention(3, 2, name="attention")(inputs, inputs)])
    return keras.Model(inputs, layers.Dense(3, name="out")(layers.GlobalAveragePooling1D()(x)))


def test_batches_are_read_once() -> None:
    model = models.ready("mlp")
    x, y = models.data_for(model, 40)
    batches = ((x[k : k + 8], y[k : k + 8]) for k in range(0, 40, 8))
    settings: dict[str, Any] = {"fraction": 0.5, "scorer": dr.scorers.activation, "steps": 2, "merge": "none"}
    once = flat.prune_iteratively(model, batches, dr.elements(model), **settings)
    again = flat.prune_iteratively(model, (x, y), dr.elements(model), **settings)
    assert_same(weights_of(once.model), weights_of(again.model))


def test_fractions_by_step() -> None:
    np.testing.assert_allclose(fractions_by_step(0.8, 4, "linear"), [0.2, 0.4, 0.6, 0.8])
    np.testing.assert_allclose(fractions_by_step(0.8, 2, "cubic"), [0.8 * 7 / 8, 0.8])


X, Y = models.data_for(models.ready("mlp"), 40)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"fraction": 1.0}, ParameterError, "`fraction` must lie strictly between 0 and 1, received 1.0"),
        (
            {"fraction": 0.01},
            ParameterError,
            "must remove at least one of the 9 elements, received 0.01: pass more than 0.056",
        ),
        ({"steps": 0}, ParameterError, "`steps` must be an integer of at least 1, received 0"),
        ({"schedule": "square"}, ParameterError, "`schedule` must be one of cubic, linear, received 'square'"),
        ({"floor": 4}, ParameterError, r"leaves 7 of 9 elements.*at least 8 \(4 for each layer\)"),
        ({"merge": "best"}, ParameterError, "`merge` must be one of"),
        ({"scorer": "taylor"}, ParameterError, "`scorer` must be a Scorer or callable, received 'taylor'"),
        ({"scorer": lambda *_, seed: 3}, ParameterError, "must return an ImpactTable of the 9 elements .*received int"),
        ({"on_blocked": "skip"}, ParameterError, "`on_blocked` must be one of raise, keep"),
        (
            {"recovery": FAST, "tuning": (X, Y)},
            DataError,
            "`data` and `tuning.data` must be different examples.*split them",
        ),
        ({"recovery": FAST, "tuning": (X[10:], Y[10:])}, DataError, "arrays that share memory"),
        (
            {"recovery": FAST, "tuning": (X.copy(), None)},
            DataError,
            "`tuning.data` must have labels where distill is below 1",
        ),
        (
            {"recovery": FAST, "tuning": (X.copy()[:, 1:], Y)},
            DataError,
            r"must have shape \(any, 6\), received \(40, 5\)",
        ),
    ],
)
def test_bad_arguments(changes: dict[str, Any], error: Any, text: str) -> None:
    model = models.ready("mlp")
    settings: dict[str, Any] = {"fraction": 0.5, "scorer": dr.scorers.random}
    with pytest.raises(error, match=text):
        flat.prune_iteratively(model, (X, Y), dr.elements(model), **(settings | changes))


def test_halves_of_one_array_are_different_examples() -> None:
    model = models.ready("mlp")
    more: dict[str, Any] = {"scorer": dr.scorers.random, "steps": 1, "recovery": FAST, "tuning": (X[1::2], Y[1::2])}
    flat.prune_iteratively(model, (X[::2], Y[::2]), dr.elements(model), fraction=0.5, **more)


def test_elements_that_do_not_belong() -> None:
    model = models.ready("mlp")
    with pytest.raises(ModelError, match="were found in another model"):
        flat.prune_iteratively(model, (X, Y), dr.elements(models.ready("cnn")), fraction=0.5)
    with pytest.raises(ParameterError, match="`elements` must be Elements, received list"):
        flat.prune_iteratively(model, (X, Y), [1], fraction=0.5)  # type: ignore[arg-type]
    mixed = dr.elements(model, ("neurons", "weights"))
    with pytest.raises(ModelError, match=r"selection of weights must hold no other kind.*one kind after the other"):
        flat.prune_iteratively(model, (X, Y), mixed, fraction=0.5)
