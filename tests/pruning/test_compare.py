"""Comparisons of scorers: removed elements, sizes and costs, and resuming after a stop."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import models
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import says
from keras import layers

import dropreg as dr
from dropreg.element._cost import cost_of, total_macs
from dropreg.errors import ParameterError, RecordError
from dropreg.pruning._compare import COLUMNS

Labelled = tuple[np.ndarray, np.ndarray]


def by_fraction(model: Any, data: Any, elements: dr.Elements, *, fraction: float, seed: int) -> dr.ImpactTable:
    """Random scores whose reported cost is the fraction in thousandths."""
    table = dr.scorers.random(model, data, elements, seed=seed)
    return replace(table, rows=round(1000 * fraction))


SCORERS = {
    "random": dr.scorers.Scorer(dr.scorers.random, draws=3),
    "OBD": dr.scorers.Scorer(dr.scorers.obd),
    "leave one out": dr.scorers.leave_one_out,
    "by fraction": dr.scorers.Scorer(by_fraction, per_fraction=True),
}


def compare(model: keras.Model, data: Labelled, elements: dr.Elements, **changes: Any) -> pd.DataFrame:
    settings: dict[str, Any] = {"scorers": SCORERS, "fractions": (0.3, 0.6), "seeds": (0, 1), "progress": False}
    return dr.compare(model, data, elements, **(settings | changes))


def table_of(elements: dr.Elements, impact: Any) -> dr.ImpactTable:
    table = dr.scorers.random(None, None, elements)  # type: ignore[arg-type]
    order = np.argsort(-np.asarray(impact), kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    frame = table.frame.assign(impact=impact, rank=rank)
    return dr.ImpactTable(frame, "by hand", "nothing", "nothing", 0, 0)


def test_one_row_for_each_scorer_fraction_and_seed(model: keras.Model, data: Labelled, elements: dr.Elements) -> None:
    frame = compare(model, data, elements)
    assert tuple(frame.columns) == COLUMNS
    counts = frame.groupby("scorer", sort=False).size().to_dict()
    assert counts == {"original model": 1, "random": 2 * 2 * 3, "OBD": 4, "leave one out": 4, "by fraction": 4}
    whole = frame.iloc[0]
    expected = float((np.argmax(model(data[0]), axis=1) == data[1]).mean())
    assert whole["accuracy"] == pytest.approx(expected, abs=1e-6)
    assert whole["params"] == model.count_params()
    assert set(frame[frame["scorer"] == "random"]["seed"]) == {0, 1000, 2000, 1, 1001, 2001}
    rows = frame.groupby("scorer")["rows"].first()
    assert rows["random"] == 0
    assert rows["OBD"] == 30 * 7
    assert rows["leave one out"] == 30 * 9
    assert frame[frame["scorer"] == "by fraction"].set_index("fraction")["rows"].to_dict() == {0.3: 300, 0.6: 600}


def test_accuracy_and_loss_are_those_of_the_masked_network(
    model: keras.Model, data: Labelled, elements: dr.Elements
) -> None:
    frame = compare(model, data, elements, scorers={"spread": dr.scorers.spread}, seeds=(0,)).iloc[1:]
    table = dr.scorers.spread(model, data, elements)
    from dropreg.network._masked import MaskedNetwork

    network = MaskedNetwork(model, elements)
    for line in frame.itertuples():
        kept = dr.select(elements, table, fraction=float(line.fraction)).kept  # type: ignore[arg-type]
        assert kept.sum() == 9 - round(9 * float(line.fraction))  # type: ignore[arg-type]
        outputs = np.asarray(network([data[0]], np.broadcast_to(kept, (30, 9))))
        assert line.accuracy == pytest.approx((outputs.argmax(axis=1) == data[1]).mean(), abs=1e-6)
        log_p = outputs - np.log(np.exp(outputs).sum(axis=1, keepdims=True))
        assert line.loss == pytest.approx(-log_p[np.arange(30), data[1]].mean(), rel=1e-4)


def test_sizes_are_counted_on_the_smaller_model(model: keras.Model, data: Labelled, elements: dr.Elements) -> None:
    kept = np.array([True, False, True, True, False, True, False, True, True])  # 3 of 'first', 3 of 'second'
    smaller = keras.Sequential([keras.Input((4,)), layers.Dense(3), layers.Dense(3), layers.Dense(3)])
    saved = cost_of(model, elements).saved(kept)
    assert model.count_params() - saved[0] == smaller.count_params()
    assert total_macs(model) - saved[1] == total_macs(smaller) == 4 * 3 + 3 * 3 + 3 * 3


def conv_net(filters: int, width: int, units: int) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.Conv2D(filters, 3, padding="same", name="c1"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.Conv2D(width, 3, name="c2"),
            layers.Flatten(),
            layers.Dense(units, name="d"),
            layers.Dense(3, name="out"),
        ]
    )


def test_costs_of_convolutions_are_those_of_the_smaller_model() -> None:
    model, smaller = conv_net(6, 5, 4), conv_net(4, 2, 3)
    elements = dr.elements(model)
    kept = np.ones(len(elements), bool)
    for layer, gone in (("c1", 2), ("c2", 3), ("d", 1)):
        kept[elements.columns_of(layer)[:gone]] = False
    saved = cost_of(model, elements).saved(kept)
    assert model.count_params() - saved[0] == smaller.count_params()
    assert total_macs(model) - saved[1] == total_macs(smaller)
    assert np.isnan(total_macs(models.ready("transformer_block")))  # attention has no kernel that is known


def test_the_best_element_of_every_layer_is_kept(elements: dr.Elements) -> None:
    table = table_of(elements, [9, 8, 7, 6, 5, 4, 3, 2, 1])
    for fraction, floor, expected in (
        (0.5, 1, [0, 1, 2, 3, 5]),
        (0.5, 2, [0, 1, 2, 5, 6]),
        (0.3, 0, [0, 1, 2, 3, 4, 5]),
    ):
        kept = dr.select(elements, table, fraction=fraction, floor=floor).kept
        np.testing.assert_array_equal(np.flatnonzero(kept), expected)
    with pytest.raises(ParameterError, match=says("in every layer, received 0.5", "empty second", "floor=1")):
        dr.select(elements, table, fraction=0.5, floor=0)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"fractions": (0.5, 0.9)},
            says("`fraction` 0.9 leaves 1 of 9 elements", "fewer than `floor` asks for", "at most 0.778"),
        ),
        ({"fractions": (1.0,)}, says("`fraction` must lie in [0, 1), received 1.0")),
        ({"floor": 5}, says("fewer than `floor` asks for", "5 for each layer")),
        ({"floor": -1}, says("`floor` must be a number of elements (an int of at least 0)", "or 'all', received -1.")),
        ({"seeds": ()}, says("`seeds` must be one or more different integers")),
        ({"scorers": {}}, says("`scorers` must be a dict of names to scorers")),
        ({"scorers": {1: dr.scorers.obd}}, says("`scorers` must have names as keys, received 1: pass '1'.")),
        (
            {"scorers": {"original model": dr.scorers.obd}},
            says("`scorers` must not be called 'original model'", "rename it"),
        ),
        ({"scorers": {"obd": "obd"}}, says("scorer 'obd' must be callable, received 'obd'")),
    ],
)
def test_bad_comparisons_are_refused(
    changes: dict, text: str, model: keras.Model, data: Labelled, elements: dr.Elements
) -> None:
    called: list[int] = []
    with pytest.raises(ParameterError, match=text):
        compare(model, data, elements, **({"scorers": {"x": counting(called)}} | changes))
    assert not called  # refused before anything is spent


def counting(called: list[int], stop_at: int | None = None) -> dr.scorers.Scorer:
    def scorer(model: Any, data: Any, elements: dr.Elements, *, seed: int) -> dr.ImpactTable:
        if seed == stop_at:
            raise KeyboardInterrupt
        called.append(seed)
        return dr.scorers.random(model, data, elements, seed=seed)

    return dr.scorers.Scorer(scorer, version="1")


def test_a_killed_comparison_is_resumed(
    model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path
) -> None:
    first: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        compare(model, data, elements, scorers={"x": counting(first, 2)}, seeds=(0, 1, 2, 3), out=tmp_path)
    assert len(pd.read_csv(tmp_path / "comparison.csv")) == 1 + 2 * 2
    second: list[int] = []
    frame = compare(model, data, elements, scorers={"x": counting(second)}, seeds=(0, 1, 2, 3), out=tmp_path)
    assert (first, second) == ([0, 1], [2, 3])
    whole = compare(model, data, elements, scorers={"x": counting([])}, seeds=(0, 1, 2, 3))
    pd.testing.assert_frame_equal(frame.drop(columns="seconds"), whole.drop(columns="seconds"))


@pytest.mark.parametrize("name", ["None", "nan", "", "1", "two, names"])
def test_scorers_may_have_any_name(
    name: str, model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path
) -> None:
    called: list[int] = []
    first, again = (compare(model, data, elements, scorers={name: counting(called)}, out=tmp_path) for _ in range(2))
    assert called == [0, 1]
    assert first["scorer"].tolist() == ["original model", *[name] * 4]
    pd.testing.assert_frame_equal(again, first)


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", ",".join(COLUMNS) + "\nx,half,0,1,1,1,1,0,0\n"])
def test_a_damaged_comparison_is_refused(
    text: str, model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path
) -> None:
    compare(model, data, elements, scorers={"x": dr.scorers.random}, out=tmp_path)
    (tmp_path / "comparison.csv").write_text(text)
    with pytest.raises(RecordError, match=says("comparison.csv: expected the rows of a comparison", "remove")):
        compare(model, data, elements, scorers={"x": dr.scorers.random}, out=tmp_path)
    (tmp_path / "comparison.csv").unlink()
    assert len(compare(model, data, elements, scorers={"x": dr.scorers.random}, out=tmp_path)) == 5, (
        "the remedy must work"
    )


def test_another_comparison_in_the_folder_is_refused(
    model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path
) -> None:
    compare(model, data, elements, scorers={"obd": dr.scorers.Scorer(dr.scorers.obd)}, seeds=(0,), out=tmp_path)
    with pytest.raises(
        RecordError,
        match=says("holds another comparison: fractions is [0.3, 0.6] there and [0.4] here.", "another folder"),
    ):
        compare(
            model, data, elements, scorers={"obd": dr.scorers.Scorer(dr.scorers.obd)}, fractions=(0.4,), out=tmp_path
        )
    with pytest.raises(RecordError, match=says("scorer 'obd' is obd() there and obd(rows=50) here")):
        compare(model, data, elements, scorers={"obd": dr.scorers.Scorer(dr.scorers.obd, {"rows": 50})}, out=tmp_path)
    with pytest.raises(
        RecordError,
        match=says("`data` are others there (inputs); the examples of `test_data` are others there (inputs)"),
    ):
        compare(
            model, (data[0] + 1, data[1]), elements, scorers={"obd": dr.scorers.Scorer(dr.scorers.obd)}, out=tmp_path
        )
    more = compare(
        model, data, elements, scorers={"spread": dr.scorers.Scorer(dr.scorers.spread)}, seeds=(0,), out=tmp_path
    )
    assert set(more["scorer"]) == {"original model", "obd", "spread"}  # others join it
    (tmp_path / "comparison.json").write_text("{")
    with pytest.raises(RecordError, match=says("expected the settings of a comparison")):
        compare(model, data, elements, out=tmp_path)


def by_table(values: float) -> Callable[..., dr.ImpactTable]:
    table = np.arange(9.0) * values
    return lambda model, data, elements, *, seed: table_of(elements, table)


def build(activation: str) -> tuple[keras.Model, dr.Elements]:
    keras.utils.set_random_seed(0)
    parts = [keras.Input((4,)), layers.Dense(9, activation, name="a"), layers.Dense(1, name="out")]
    model = keras.Sequential(parts)
    return model, dr.elements(model)


def test_a_comparison_of_another_model_task_or_scorer_is_not_resumed(tmp_path: Path) -> None:
    model, elements = build("relu")
    rng = np.random.default_rng(0)
    data = rng.normal(size=(12, 4)).astype(np.float32), np.arange(12) % 2
    run: dict[str, Any] = {"seeds": (0,), "out": tmp_path}
    scorers = {"lambda": by_table(1.0), "metric": dr.scorers.Scorer(dr.scorers.leave_one_out, {"outcome": metric(1)})}
    first = compare(model, data, elements, scorers=scorers, **run)
    again = {"lambda": by_table(1.0), "metric": dr.scorers.Scorer(dr.scorers.leave_one_out, {"outcome": metric(1)})}
    pd.testing.assert_frame_equal(compare(model, data, elements, scorers=again, **run), first)
    other = {"metric": dr.scorers.Scorer(dr.scorers.leave_one_out, {"outcome": metric(2)})}
    for changes, text in (
        ({"scorers": {"lambda": by_table(2.0)}}, "scorer 'lambda' has other code or data there"),
        ({"scorers": other}, "scorer 'metric' is leave_one_out("),
        ({"task": "regression"}, "task is binary there and regression here"),
    ):
        with pytest.raises(RecordError, match=says("holds another comparison: ", text)):
            compare(model, data, elements, **{"scorers": scorers, **run, **changes})
    sigmoid = build("sigmoid")
    with pytest.raises(RecordError, match=says("layer 'a' (Dense)", "activation is relu there and sigmoid here")):
        compare(sigmoid[0], data, sigmoid[1], scorers=scorers, **run)
    assert compare(model, data, elements, scorers={"other": dr.scorers.random}, **run)["scorer"].nunique() == 4


def test_scorers_that_cannot_be_identified_need_a_version_in_folders_only(
    model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path
) -> None:
    lock = threading.Lock()

    def scorer(model: Any, data: Any, elements: dr.Elements, *, seed: int) -> dr.ImpactTable:
        with lock:
            return dr.scorers.random(model, data, elements, seed=seed)

    compare(model, data, elements, scorers={"x": scorer}, seeds=(0,))
    says_so = says("scorer 'x' must be one that can be recognized", "'function.lock' (_thread.lock)", "version='1'")
    with pytest.raises(ParameterError, match=says_so):
        compare(model, data, elements, scorers={"x": scorer}, seeds=(0,), out=tmp_path)
    named = [dr.scorers.Scorer(scorer, version=version) for version in ("1", "1", "2")]
    for given in named[:2]:
        compare(model, data, elements, scorers={"x": given}, seeds=(0,), out=tmp_path)
    with pytest.raises(RecordError, match=says("scorer 'x' has other code or data there")):
        compare(model, data, elements, scorers={"x": named[2]}, seeds=(0,), out=tmp_path)


def metric(power: int) -> dr.outcomes.PerExample:
    """Of one power each, a function anew each time."""
    return dr.outcomes.PerExample(lambda labels, outputs: tf.reduce_max(outputs, axis=1) ** power, "margin", True)


def test_scorers_with_a_metric_are_known_in_other_processes() -> None:
    shown = [str(dr.scorers.Scorer(dr.scorers.spread, {"outcome": metric(power), "rows": 50})) for power in (1, 1, 2)]
    assert shown[0] == shown[1] != shown[2]
    assert " at 0x" not in shown[0]
    assert (
        str(dr.scorers.Scorer(dr.scorers.spread, {"outcome": "loss", "rows": 50})) == "spread(outcome='loss', rows=50)"
    )


def test_a_regression_has_a_loss_and_no_accuracy(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(6, "relu"), layers.Dense(2)])
    rng = np.random.default_rng(0)
    data = (rng.normal(size=(12, 3)), rng.normal(size=(12, 2)))
    frame = compare(model, data, dr.elements(model), scorers={"spread": dr.scorers.spread}, seeds=(0,))
    assert frame["accuracy"].isna().all()
    assert np.isfinite(frame["loss"]).all()
    for _ in range(2):
        kept = compare(model, data, dr.elements(model), scorers={"spread": dr.scorers.spread}, seeds=(0,), out=tmp_path)
        pd.testing.assert_frame_equal(kept.drop(columns="seconds"), frame.drop(columns="seconds"))
