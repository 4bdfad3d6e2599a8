"""Impacts for each slice of the examples: right for each, independent of how they are asked for, tested over both."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flat
import keras
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from conftest import says
from runs import small
from test_enumeration import enumerated

import dropreg as dr
from dropreg.errors import DataError, ParameterError, UnidentifiedError
from dropreg.sampling._parquet import write_table

QUIET: dict[str, Any] = {"fidelity": None, "batch_size": 256}
COLUMN = np.array(["odd", "even"])[np.arange(20) % 2]


def flipped(rows: int, **options: Any) -> dr.Record:
    given = {"outcomes": ("loss", "accuracy"), "gradients": True, "flips": 3, "by": COLUMN}
    return flat.sample(*small(), rows=rows, **(given | QUIET | options))


def slices_in(table: dr.ImpactTable) -> dr.SliceTable:
    assert table.slices is not None
    return table.slices


@pytest.mark.parametrize("estimator", ["corrected", "ols", "marginal"])
def test_each_slice_agrees_with_enumeration_on_its_examples(estimator: Any) -> None:
    model, (x, y), elements = small()
    record = flipped(16_000, design=dr.designs.Bernoulli(0.3), seed=1)
    for outcome in ("loss", "accuracy"):
        table = dr.regress(record, outcome=outcome, by="slice", estimator=estimator)
        overall, table = table.impact, slices_in(table)
        assert table.names == ("even", "odd")
        for name in table.names:
            part = name == COLUMN
            expected = enumerated((model, (x[part], y[part]), elements), outcome, np.full(len(elements), 0.3))
            known = np.isfinite(table[name].std_error)
            z = ((table[name].impact - expected) / table[name].std_error)[known]
            assert np.abs(z).max() < 3.7, (outcome, name)
            assert np.sqrt((z**2).mean()) > 0.3
            np.testing.assert_allclose(table[name].impact[~known], expected[~known], atol=1e-6)
        whole = np.mean([table[name].impact for name in table.names], axis=0)  # as many examples each
        if estimator == "corrected":
            np.testing.assert_allclose(whole, overall, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("covariance", ["HC1", "cluster"])
def test_slices_do_not_change_what_is_said_of_all_examples(covariance: Any) -> None:
    plain, sliced = (dr.regress(flipped(8_000, by=by), covariance=covariance) for by in (None, COLUMN))
    np.testing.assert_allclose(plain.impact, sliced.impact, rtol=1e-5)
    ratio = sliced.std_error / plain.std_error
    assert 0.8 < np.exp(np.log(ratio).mean()) < 1.25
    assert 0.5 < ratio.min() <= ratio.max() < 2.0


def test_a_rare_effect_is_no_certainty() -> None:
    """One example alone carries the effect: its group says nothing of how much groups differ."""
    from dropreg.regression import _corrected
    from dropreg.sampling._flip_sums import FlipSums

    effects = np.zeros(400)
    effects[7] = 1.0
    rng = np.random.default_rng(0)
    rows = np.concatenate([effects + (effects != 0) * rng.normal(0, 0.5, 400) for _ in range(2)])
    groups = np.bincount(np.tile(np.arange(400) % 20, 2), rows, minlength=20).astype(float)[np.newaxis]
    one, zero = np.array([rows.sum()]), np.zeros(1)
    sums = FlipSums(one, np.array([(rows**2).sum()]), zero, zero, groups, np.full(20, 40.0))
    fit = _corrected.corrected([_corrected.Stratum(sums, np.full(400, 2))], by_example=False)
    assert fit.std_errors[0] > 0.5 * rows.std() / np.sqrt(len(rows))


def test_intervals_of_slices_cover_over_replications(monkeypatch: pytest.MonkeyPatch) -> None:
    """The truth is the mean of all replications, whose chunks are 1,000 rows each."""
    from dropreg.sampling import _runner

    monkeypatch.setattr(_runner, "_BATCHES_PER_CHUNK", 1)
    record = flipped(1_000 * 50, batch_size=1_000, seed=3, outcomes="loss")
    tables = []
    for chunk in range(50):
        one = record.head(50)
        one._chunks = [chunk]
        tables.append(slices_in(dr.regress(one, by="slice")).frame)
    impacts, errors = (np.array([table[name] for table in tables]) for name in ("impact", "std_error"))
    covered = np.abs(impacts - impacts.mean(axis=0)) < 1.96 * errors
    assert 0.92 < covered.mean() < 0.99


def test_slices_that_were_not_given_to_the_run_are_estimated_by_ols() -> None:
    record = flipped(4_000)
    other = np.arange(20) < 10
    table = slices_in(dr.regress(record, by=pd.Series(other, name="first half")))
    assert (table.by, table.names) == ("first half", ("False", "True"))
    assert {one.method for one in table.tables.values()} == {"OLS"}
    chunks = list(record.chunks())
    x, y, examples = (np.concatenate([getattr(c, n) for c in chunks]) for n in ("masks", "effects", "examples"))
    rows = other[examples[:, 0]]
    design = np.column_stack([np.ones(rows.sum()), ~x[rows]])
    expected = np.linalg.lstsq(design, y[rows, 0], rcond=None)[0][1:]
    np.testing.assert_allclose(table["True"].impact, expected, rtol=1e-5, atol=1e-7)
    again = slices_in(dr.regress(record, by=np.where(COLUMN == "odd", "b", "a")))  # those of the run under other names
    assert {one.method for one in again.tables.values()} == {"gradients corrected by flips"}


def test_the_same_on_threads_and_after_resuming(tmp_path: Path) -> None:
    whole = flipped(3_000)
    with ThreadPoolExecutor(2) as pool:
        threads = flipped(3_000, executor=pool)
    flipped(4_096 // 2, out=tmp_path)
    resumed, loaded = flipped(3_000, out=tmp_path), dr.Record.load(tmp_path)
    frames = [slices_in(dr.regress(record, by="slice")).frame for record in (whole, threads, resumed, loaded)]
    for other in frames[1:]:
        pd.testing.assert_frame_equal(frames[0], other, check_exact=True)
    with pytest.raises(dr.errors.RecordError, match=says("holds another run", "slices")):
        flipped(3_000, out=tmp_path, by=COLUMN[::-1])


def test_by_class() -> None:
    model, data, elements = small()
    overall = dr.estimate(model, data, elements, by="class", rows=3_000, progress=False)
    table = slices_in(overall)
    assert repr(table) in overall.summary()
    assert table.by == "class"
    assert table.names == tuple(str(k) for k in np.unique(data[1]))
    assert table.matrix().shape == (len(elements), len(table))
    np.testing.assert_array_equal(table.matrix("p_bh").to_numpy().T.reshape(-1), table.frame["p_bh"])
    np.testing.assert_array_equal(table.worst().impact, table.matrix().max(axis=1))
    assert "clear" in repr(table)
    assert not table.worst().uncertainty.covers
    np.testing.assert_array_equal(table[int(table.names[0])].impact, table.frame["impact"][: len(elements)])


def planted(n: int = 400) -> tuple[keras.Model, Any, dr.Elements]:
    """A linear model whose unit k acts on class k alone, for k < 4; the other units are noise without any mean."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % 4
    h = rng.normal(size=(n, 24)).astype("float32")
    for k in range(4):
        for j in range(24):
            h[y == k, j] -= h[y == k, j].mean()
        h[y == k, k] += 1.0
    inputs = keras.Input((24,))
    hidden = keras.layers.Dense(24, name="hidden")
    outputs = keras.layers.Dense(4, name="out")(hidden(inputs))
    model = keras.Model(inputs, outputs)
    hidden.set_weights([np.eye(24, dtype="float32"), np.zeros(24, "float32")])
    model.get_layer("out").set_weights([np.full((24, 4), 0.3, "float32"), np.zeros(4, "float32")])
    return model, (h, y), dr.elements(model)


def test_planted_units_are_found_and_few_others() -> None:
    """The false discovery rate of element x class over replications; effects on others are zero exactly."""
    model, data, elements = planted()
    own = dr.outcomes.PerExample(lambda y, p: p[:, 0], "first output", greater_is_better=True)
    true = np.zeros((24, 4), dtype=bool)
    true[np.arange(4), np.arange(4)] = True
    false, found, own_class = [], [], []
    for seed in range(20):
        record = flat.sample(model, data, elements, rows=12_000, outcomes=own, seed=seed, by="class", **QUIET)
        table = slices_in(dr.regress(record, by="class"))
        called = table.matrix("p_bh").to_numpy() <= 0.05
        false.append((called & ~true).sum() / max(called.sum(), 1))
        found.append(called[true].mean())
        contrasts: Any = table.contrasts()
        first = contrasts[contrasts["p_bh"] <= 0.05]
        own_class.append(
            sum((str(k), f"hidden[{k}]") in {*zip(first["slice"], first["element"], strict=True)} for k in range(4))
        )
    assert np.mean(found) > 0.99
    assert np.mean(own_class) > 3.6
    assert np.mean(false) < 0.05 + 2 * np.std(false) / np.sqrt(20)
    assert np.mean(false) > 0.001  # noise is there to be found


def test_a_slice_that_nothing_changes_is_marked() -> None:
    model, (x, y), elements = small()
    record = flat.sample(model, (x, y), elements, rows=4_000, outcomes="accuracy", by=COLUMN, **QUIET)
    for k in range(len(list(record.chunks()))):
        path = record._path(k)
        table = record._table(k)
        name = table.column_names.index("accuracy_change")
        changed = np.where(COLUMN[table["example"].to_numpy()] == "odd", 0.0, table["accuracy_change"].to_numpy())
        write_table(table.set_column(name, "accuracy_change", pa.array(changed)), path, record._run, 0)
    table = slices_in(dr.regress(record, by="slice"))
    odd = table["odd"].frame
    assert odd["no_change"].all()
    assert (odd["p_value"] == 1).all()
    assert len(table["odd"].negligible(0.5)) == 0
    assert not table["even"].frame["no_change"].all()


def weights_by_class() -> Any:
    model, data, _ = small()
    return dr.estimate(model, data, dr.elements(model, "weights", include=["out"]), by="class", rows=1_280)


def by(values: Any, labels: Any = "given", **options: Any) -> Any:
    model, (x, y), elements = small()
    return dr.sample(model, (x, y if isinstance(labels, str) else labels), elements, rows=64, by=values, **options)


@pytest.mark.parametrize(
    ("use", "error", "text"),
    [
        (lambda: by("colour"), ParameterError, says("`by` must be 'class'", "received 'colour'", "frame['colour']")),
        (lambda: by(3), ParameterError, says("`by` must be 'class'", "received 3")),
        (lambda: by(COLUMN[:7]), ParameterError, says("each of the 20 examples", "received 7")),
        (lambda: by([None, *COLUMN[1:]]), ParameterError, says("a value for every example", "1 missing", "'unknown'")),
        (lambda: by(["a"] * 20), ParameterError, says("2 to 1,000 different values", "received 1", "leave it out")),
        (lambda: by(range(20)), ParameterError, says("at least two examples in each slice", "0, 1, 2", "join small")),
        (lambda: by("class", None, outcomes="divergence"), DataError, says("labels of classes", "received no labels")),
        (weights_by_class, ParameterError, says("`by` must be None where a mask serves several", "received 128")),
        (lambda: dr.regress(flipped(64), by="colour"), ParameterError, says("'colour'", "slices by 'slice'", "sample")),
        (lambda: dr.regress(flipped(64, by=None), by="class"), ParameterError, says("'class'", "with no slices")),
        (lambda: dr.regress(flipped(64), by="slice", interactions=True), ParameterError, "`interactions` must be Fal"),
        (lambda: dr.regress(flipped(64), by="slice", estimator="assisted"), dr.errors.RecordError, "those of all exam"),
        (
            lambda: dr.regress(flipped(14), by="slice", estimator="ols"),
            UnidentifiedError,
            says("slice 'even'", "rows cannot identify 9"),
        ),
        (
            lambda: slices_in(dr.regress(flipped(64), by="slice"))["up"],
            ParameterError,
            says("one of the slices even, odd", "'up'"),
        ),
        (
            lambda: slices_in(dr.regress(flipped(64), by="slice")).matrix("height"),
            ParameterError,
            says("`column`", "'height'"),
        ),
        (
            lambda: slices_in(dr.regress(flipped(64), by="slice", estimator="ridge")).contrasts(),
            ParameterError,
            says("`contrasts` must have intervals", "ridge", "'corrected'"),
        ),
    ],
)
def test_what_cannot_be_answered_is_refused(use: Callable[[], Any], error: Any, text: str) -> None:
    with pytest.raises(error, match=text):
        use()


def test_labels_of_several_classes_are_no_slices() -> None:
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(3, activation="sigmoid")(keras.layers.Dense(5)(inputs)))
    x = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")
    y = (x[:, :3] > 0).astype(int)
    with pytest.raises(DataError, match=says("labels of classes", "received task 'multilabel'")):
        dr.sample(model, (x, y), dr.elements(model), rows=64, by="class")
