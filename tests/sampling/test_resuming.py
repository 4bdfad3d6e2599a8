"""Runs that are stopped, resumed and cleaned up: the record is always that of one run."""

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pyarrow.parquet as pq
import pytest
from conftest import Labelled, says
from runs import CHUNK, EXECUTORS, ROWS, assert_same, rows_of, sample

import dropreg as dr
from dropreg.errors import RecordError

OTHER_BATCH = 1e-6
"""Relative rounding of float32 where a forward pass has another number of rows."""

# --- stopping and resuming ---------------------------------------------------------------------------------------


class KilledError(BaseException):
    """Stands for the end of the process."""


@contextmanager
def killed_after(n_chunks: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The block ends in the middle of writing one chunk more than `n_chunks`."""
    write, left = pq.write_table, [n_chunks]

    def write_or_die(table: Any, where: Any, *args: Any, **options: Any) -> None:
        if "chunk" in str(where):
            if left[0] == 0:
                Path(where).write_bytes(b"PAR1 and no more")
                raise KilledError
            left[0] -= 1
        write(table, where, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", write_or_die)
        with pytest.raises(KilledError):
            yield


@pytest.mark.parametrize("stops", [[5], [2, 0, 1]])
@pytest.mark.parametrize("name", ["none", "three threads"])
def test_a_killed_run_is_resumed(
    model: keras.Model,
    data: Labelled,
    elements: dr.Elements,
    record: dr.Record,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    stops: list[int],
) -> None:
    for n_chunks in stops:
        with killed_after(n_chunks, monkeypatch), EXECUTORS[name]() as executor:
            sample(model, data, elements, out=tmp_path, executor=executor)
    stopped = dr.Record.load(tmp_path)
    assert not stopped.is_complete
    assert CHUNK * sum(stops) - CHUNK < stopped.rows <= CHUNK * sum(stops), "what was recorded stays"
    assert ": sample into the same folder to resume)" in repr(stopped)
    if name == "none":
        assert "(stopped: sample into the same folder to resume)" in repr(stopped)
    with EXECUTORS[name]() as executor:
        assert_same(sample(model, data, elements, out=tmp_path, executor=executor), record)
    assert_same(dr.Record.load(tmp_path), record)


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


@pytest.mark.parametrize(
    ("lose", "numbers"), [(Path.unlink, [0]), (damaged, [1, 4]), (lambda path: path.write_bytes(b""), [5])]
)
def test_lost_chunks_are_run_again(
    model: keras.Model,
    data: Labelled,
    elements: dr.Elements,
    record: dr.Record,
    folder: Path,
    lose: Callable[[Path], object],
    numbers: list[int],
) -> None:
    files = sorted(folder.glob("chunk-*"))
    assert len(files) == 6
    for number in numbers:
        lose(files[number])
    if lose is not Path.unlink:
        with pytest.raises(RecordError, match=says(f"{files[numbers[0]]}: expected a file of a record", "same folder")):
            dr.Record.load(folder)
        for number in numbers:
            files[number].unlink()
    rest = dr.Record.load(folder)
    kept = np.repeat([number not in numbers for number in range(6)], CHUNK)[:ROWS]
    assert rest.rows == kept.sum()
    np.testing.assert_array_equal(rows_of(rest)["outcomes"], rows_of(record)["outcomes"][kept])
    assert_same(sample(model, data, elements, out=folder), record)


def test_a_stopped_run_can_be_regressed(
    model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with killed_after(2, monkeypatch):
        sample(model, data, elements, out=tmp_path)
    table = dr.regress(dr.Record.load(tmp_path))
    assert table.rows == 2 * CHUNK
    shorter = sample(model, data, elements, rows=2 * CHUNK)
    np.testing.assert_array_equal(table.impact, dr.regress(shorter).impact)


@pytest.mark.parametrize("earlier", [1, 300, 3 * CHUNK])
def test_a_longer_run_keeps_the_earlier_rows(
    model: keras.Model, data: Labelled, elements: dr.Elements, record: dr.Record, tmp_path: Path, earlier: int
) -> None:
    short = rows_of(sample(model, data, elements, rows=earlier, out=tmp_path))
    longer = sample(model, data, elements, out=tmp_path)
    assert_same(longer, record)
    long = rows_of(longer)
    whole = earlier // CHUNK * CHUNK
    for field, values in short.items():
        np.testing.assert_array_equal(long[field][:whole], values[:whole], err_msg=field)
        np.testing.assert_allclose(long[field][:earlier], values, rtol=OTHER_BATCH, atol=OTHER_BATCH, err_msg=field)
    np.testing.assert_array_equal(long["masks"][:earlier], short["masks"])
    np.testing.assert_array_equal(long["examples"][:earlier], short["examples"])


def test_a_longer_run_does_not_rewrite_complete_chunks(
    model: keras.Model, data: Labelled, elements: dr.Elements, folder: Path
) -> None:
    whole = sorted(folder.glob("chunk-*"))[:5]
    before = [path.stat().st_mtime_ns for path in whole]
    longer = sample(model, data, elements, rows=ROWS + 2 * CHUNK, out=folder)
    assert longer.rows == ROWS + 2 * CHUNK
    assert [path.stat().st_mtime_ns for path in whole] == before


@pytest.mark.parametrize(("owner", "write"), [(Path, "write_text"), (pq, "write_table")])
def test_a_longer_run_that_ends_at_once_leaves_a_record(
    model: keras.Model,
    data: Labelled,
    elements: dr.Elements,
    record: dr.Record,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    write: str,
) -> None:
    def write_or_die(*arguments: Any, **options: Any) -> None:
        path = next(argument for argument in arguments if isinstance(argument, Path))
        path.write_bytes(b"half")
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(owner, write, write_or_die)
        with pytest.raises(KilledError):
            sample(model, data, elements, rows=ROWS + 1, out=folder)
    left, before = rows_of(dr.Record.load(folder)), rows_of(record)
    assert len(left["outcomes"]) >= ROWS // CHUNK * CHUNK
    for field, values in left.items():
        np.testing.assert_array_equal(values, before[field][: len(values)], err_msg=field)
    assert sample(model, data, elements, rows=ROWS + 1, out=folder).is_complete


# --- temporary folders -----------------------------------------------------------------------------------------


def test_a_temporary_record_is_deleted_with_its_object(
    model: keras.Model, data: Labelled, elements: dr.Elements
) -> None:
    record = sample(model, data, elements, rows=20)
    folder = record.folder
    assert any(folder.iterdir())
    del record
    gc.collect()
    assert not folder.exists()


def test_stored_record_outlives_its_object(
    model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path
) -> None:
    record = sample(model, data, elements, rows=20, out=tmp_path)
    del record
    gc.collect()
    assert dr.Record.load(tmp_path).rows == 20


@pytest.mark.parametrize("name", ["none", "three threads"])
def test_no_other_files_remain(
    model: keras.Model,
    data: Labelled,
    elements: dr.Elements,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", os.fspath(place))
    with EXECUTORS[name]() as executor:
        sample(model, data, elements, rows=200, out=tmp_path / "run", executor=executor)
        with killed_after(1, monkeypatch):
            sample(model, data, elements, rows=ROWS, out=tmp_path / "other", executor=executor)
        with killed_after(1, monkeypatch):
            sample(model, data, elements, rows=ROWS, executor=executor)
    gc.collect()
    assert not list(place.iterdir())
