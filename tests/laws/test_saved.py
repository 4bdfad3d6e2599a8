"""What is saved can be loaded again with all that it said, and other files are refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import flat
import matplotlib as mpl
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import says
from runs import small

import dropreg as dr
from dropreg.errors import ParameterError, RecordError

mpl.use("agg")
COLUMN = np.arange(20) % 2


@pytest.fixture(scope="module")
def tables() -> dict[str, dr.ImpactTable]:
    case = small()
    record = flat.sample(*case, rows=2_000, gradients=True, flips=2, by=COLUMN, outcomes=("loss", "accuracy"))
    return {
        "corrected": dr.regress(record),
        "slices": dr.regress(record, by="slice", covariance="cluster"),
        "ols": dr.regress(record, estimator="ols", interactions=True, level=0.9, covariance="HC3"),
        "ridge": dr.regress(record, outcome="accuracy", estimator="ridge"),
        "leave one out": dr.scorers.leave_one_out(*case),
        "magnitude": dr.scorers.magnitude(*case),
        "obd": dr.scorers.obd(*case),
    }


NAMES = ["corrected", "slices", "ols", "ridge", "leave one out", "magnitude", "obd"]


def assert_equal(one: dr.ImpactTable, other: dr.ImpactTable) -> None:
    pd.testing.assert_frame_equal(one.frame, other.frame, check_exact=True)
    for name in ("method", "outcome", "unit", "rows", "seed", "uncertainty", "original", "stop"):
        assert getattr(one, name) == getattr(other, name), name
    assert one.summary() == other.summary()
    assert (one.fidelity is None) == (other.fidelity is None)
    if one.fidelity is not None and other.fidelity is not None:
        pd.testing.assert_frame_equal(one.fidelity, other.fidelity)
    if one.interactions is not None and other.interactions is not None:
        np.testing.assert_array_equal(one.interactions.values, other.interactions.values)
        pd.testing.assert_frame_equal(one.interactions.pairs(), other.interactions.pairs())
    assert (one.interactions is None) == (other.interactions is None)
    assert (one.slices is None) == (other.slices is None)
    if one.slices is not None and other.slices is not None:
        pd.testing.assert_frame_equal(one.slices.frame, other.slices.frame, check_exact=True)
        pd.testing.assert_frame_equal(one.slices.contrasts(), other.slices.contrasts())
        for name in one.slices.names:
            assert_equal(one.slices[name], other.slices[name])


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
@pytest.mark.parametrize("name", NAMES)
def test_tables(name: str, suffix: str, tables: dict[str, dr.ImpactTable], tmp_path: Path) -> None:
    path = tmp_path / f"impact{suffix}"
    tables[name].save(path)
    assert_equal(tables[name], dr.ImpactTable.load(path))
    plain = pd.read_parquet(path) if suffix == ".parquet" else pd.read_csv(path)
    np.testing.assert_array_equal(plain["impact"], tables[name].impact)
    with pytest.raises(ParameterError, match=says("must be a new file", "which exists", "overwrite=True")):
        tables[name].save(path)
    tables["corrected"].save(path, overwrite=True)
    assert_equal(tables["corrected"], dr.ImpactTable.load(path))


def test_what_happened_to_names_in_csv_files(tables: dict[str, dr.ImpactTable], tmp_path: Path) -> None:
    from dataclasses import replace

    odd = tables["magnitude"].frame.assign(element=["NA", "nan", "None", "a,b", 'a"b', "a\nb", " a", "null", "#"])
    table = replace(tables["magnitude"], frame=odd)
    table.save(tmp_path / "impact.csv")
    assert dr.ImpactTable.load(tmp_path / "impact.csv").frame["element"].tolist() == odd["element"].tolist()


def test_selections_and_paths(tmp_path: Path) -> None:
    model, data, elements = small()
    selection = dr.Selection.random(elements, 0.4)
    selection.save(tmp_path / "kept.json")
    np.testing.assert_array_equal(dr.Selection.load(tmp_path / "kept.json", elements).kept, selection.kept)
    path = flat.anneal_path(model, data, elements, fractions=(0.3, 0.6), rounds=2)
    path.save(tmp_path / "path.json")
    loaded = dr.SelectionPath.load(tmp_path / "path.json", dr.elements(model))
    assert repr(loaded) == repr(path)
    np.testing.assert_array_equal(loaded.logits, path.logits)
    pd.testing.assert_frame_equal(loaded.history, path.history, check_exact=False, rtol=1e-12)
    pd.testing.assert_frame_equal(loaded.to_impact().frame, path.to_impact().frame)


def changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_other_files_are_refused(tables: dict[str, dr.ImpactTable], tmp_path: Path) -> None:
    model, _, elements = small()
    expected = "expected a table that ImpactTable.save has written"
    tables["ols"].frame.to_parquet(tmp_path / "plain.parquet")
    with pytest.raises(RecordError, match=says(expected, "without the table's description", "save it again")):
        dr.ImpactTable.load(tmp_path / "plain.parquet")
    (tmp_path / "noise.parquet").write_bytes(b"noise")
    with pytest.raises(RecordError, match=says("noise.parquet", expected)):
        dr.ImpactTable.load(tmp_path / "noise.parquet")
    with pytest.raises(RecordError, match=says("missing.csv", expected, "No such file")):
        dr.ImpactTable.load(tmp_path / "missing.csv")
    with pytest.raises(ParameterError, match=says("`path` must end in .parquet or .csv", "impact.txt")):
        tables["ols"].save(tmp_path / "impact.txt")
    with pytest.raises(ParameterError, match=says("`path` must end in .parquet or .csv", "impact.txt")):
        dr.ImpactTable.load(tmp_path / "impact.txt")

    tables["slices"].save(tmp_path / "a.parquet")
    tables["ols"].save(tmp_path / "b.csv")
    (tmp_path / "a.slices.parquet").rename(tmp_path / "moved.parquet")
    with pytest.raises(RecordError, match=says("no a.slices.parquet beside it", "which holds its slices")):
        dr.ImpactTable.load(tmp_path / "a.parquet")
    (tmp_path / "b.interactions.parquet").rename(tmp_path / "a.slices.parquet")
    with pytest.raises(RecordError, match=says("a.slices.parquet of another table")):
        dr.ImpactTable.load(tmp_path / "a.parquet")
    changed(tmp_path / "b.csv.json", lambda values: values.update(format=99))
    with pytest.raises(RecordError, match=says("format 99 of a later version")):
        dr.ImpactTable.load(tmp_path / "b.csv")
    changed(tmp_path / "b.csv.json", lambda values: values.clear())
    with pytest.raises(RecordError, match=says("b.csv", expected)):
        dr.ImpactTable.load(tmp_path / "b.csv")

    selection = dr.Selection.random(elements, 0.4)
    selection.save(tmp_path / "kept.json")
    with pytest.raises(ParameterError, match=says("must be a new file", "kept.json")):
        selection.save(tmp_path / "kept.json")
    with pytest.raises(ParameterError, match=says("`path` must end in .json")):
        selection.save(tmp_path / "kept.txt")
    with pytest.raises(ParameterError, match=says("those of the saved selection (9 elem", "5 others")):
        dr.Selection.load(tmp_path / "kept.json", dr.elements(model, include=["a"]))
    with pytest.raises(RecordError, match=says("expected a saved path of selections", "received a selection")):
        dr.SelectionPath.load(tmp_path / "kept.json", elements)
    changed(tmp_path / "kept.json", lambda values: values.update(kept=[True] * 9))
    with pytest.raises(RecordError, match=says("expected a saved selection", "disagree with their checksum")):
        dr.Selection.load(tmp_path / "kept.json", elements)
    assert pq.read_metadata(tmp_path / "a.parquet").num_rows == len(elements)


def test_the_original_score_is_said_first(tables: dict[str, dr.ImpactTable]) -> None:
    model, (x, y), _ = small()
    accuracy = float((model.predict(x, verbose=cast(Any, 0)).argmax(axis=1) == y).mean())
    lines = repr(tables["ridge"]).splitlines()
    assert lines[1] == f"original model: mean accuracy {accuracy:.4g} on the data"
    part = COLUMN == 1
    of_slice = float((model.predict(x[part], verbose=cast(Any, 0)).argmax(axis=1) == y[part]).mean())
    record = flat.sample(model, (x, y), dr.elements(model), rows=500, outcomes="accuracy", by=COLUMN)
    slices = dr.regress(record, by="slice").slices
    assert slices is not None
    assert slices["1"].original == pytest.approx(of_slice)


def test_plots_draw_into_given_axes(tables: dict[str, dr.ImpactTable]) -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    assert tables["corrected"].plot(ax=axes) is axes
    assert len(axes.get_lines()) == 1 + tables["corrected"].frame["layer"].nunique()
    with pytest.raises(ParameterError, match=says("`ax` must be an Axes of matplotlib", "received str")):
        tables["corrected"].plot(ax="axes")  # type: ignore[arg-type]


def test_plots_of_many_layers_name_as_many_as_there_is_room_for(tables: dict[str, dr.ImpactTable]) -> None:
    from dataclasses import replace

    from matplotlib.figure import Figure

    many = pd.concat([tables["ols"].frame.assign(layer=f"block_{k}_with_a_long_name") for k in range(300)])
    axes = replace(tables["ols"], frame=many, interactions=None).plot(ax=Figure(figsize=(10, 4)).subplots())
    assert len(axes.get_xticks()) <= 46
    assert "of 300 not named" in axes.get_xlabel()
    assert axes.get_legend() is None
