"""Folders that hold no record or another one, and disks that are full: refused by name, nothing lost."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from conftest import Labelled
from test_bad_input import refused, sample

import dropreg as dr
from dropreg._utils import fingerprint
from dropreg.errors import RecordError

# --- records ---------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 8}, ("seed is 0 there and 8 here",)),
        ({"design": dr.designs.Bernoulli(0.4)}, ("design is", "'rate': 0.3", "there and", "'rate': 0.4", "here")),
        ({"outcomes": ["loss"]}, ("outcomes is ('accuracy', 'loss', 'margin') there and ('loss',) here",)),
        ({"seed": 8, "batch_size": 4}, ("seed is 0 there and 8 here;", "batch_size is 8 there and 4 here")),
    ],
)
def test_folder_with_another_run(
    model: keras.Model,
    data: Labelled,
    elements: dr.Elements,
    tmp_path: Path,
    changes: dict[str, Any],
    says: tuple[str, ...],
) -> None:
    sample(model, data, elements, out=tmp_path)
    before = contents(tmp_path)
    expected = (f"folder {tmp_path} holds another run: ", *says, "Choose another folder.")
    with refused(RecordError, *expected, model=model):
        sample(model, data, elements, out=tmp_path, **changes)
    assert contents(tmp_path) == before


def test_folder_with_a_run_on_other_data(
    model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path
) -> None:
    sample(model, data, elements, out=tmp_path)
    with refused(RecordError, "holds another run: the examples of `data` are others there (inputs).", model=model):
        sample(model, (data[0] + 1, data[1]), elements, out=tmp_path)


def test_folder_with_a_run_of_other_weights(
    make_model: Callable[[], keras.Model], data: Labelled, elements: dr.Elements, tmp_path: Path
) -> None:
    model = make_model()
    sample(model, data, elements, out=tmp_path)
    model.set_weights([weight * 1.1 for weight in model.get_weights()])
    with refused(RecordError, "holds another run: the model has other weights", model=model):
        sample(model, data, elements, out=tmp_path)


def first_output(factor: float) -> dr.outcomes.PerExample:
    return dr.outcomes.PerExample(lambda y, p: factor * p[:, 0], "mine", greater_is_better=True)


@pytest.mark.parametrize(
    "other",
    [
        first_output(2.0),
        dr.outcomes.PerExample(lambda y, p: p[:, 0], "mine", greater_is_better=True),
        dr.outcomes.PerExample(lambda y, p: p[:, 1], "mine", greater_is_better=True),
    ],
)
def test_folder_with_a_run_of_another_metric(
    model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path, other: dr.outcomes.PerExample
) -> None:
    sample(model, data, elements, out=tmp_path, outcomes=first_output(1.0))
    with refused(RecordError, "holds another run: outcome 'mine' has other code or data there", model=model):
        sample(model, data, elements, out=tmp_path, outcomes=other, rows=600)
    assert sample(model, data, elements, out=tmp_path, outcomes=first_output(1.0), rows=600).rows == 600


def test_folder_with_a_run_of_another_version_without_checksums(
    model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path
) -> None:
    sample(model, data, elements, out=tmp_path)
    settings = json.loads((tmp_path / "run.json").read_text())
    del settings["checksum"]
    (tmp_path / "run.json").write_text(json.dumps(settings))
    with refused(RecordError, "expected the settings of a run, received a file without a checksum, as other versions"):
        dr.Record.load(tmp_path)


def test_functions_are_known_by_their_code() -> None:
    def metric(threshold: float, names: Any = ("a", "b")) -> Callable[..., Any]:
        def recursive(n: int) -> int:
            return recursive(n - 1) if n else 0

        return lambda y, p: (p > threshold) + len(names) + recursive(3) + (y in {"one", "two"})

    same = {fingerprint(metric(0.5)) for _ in range(3)}
    assert len(same) == 1
    others = [metric(0.6), metric(0.5, ("a", "c")), partial(metric(0.5), 1), partial(metric(0.5), 2), len, sum]
    assert len(same | {fingerprint(function) for function in others}) == 1 + len(others)
    arrays = [metric(0.5, np.zeros(n)) for n in (2, 3)]
    assert len({fingerprint(function) for function in arrays}) == 2


def test_folder_with_other_files(model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    says = f"folder {tmp_path}: expected an empty or new folder, received one with other files."
    with refused(RecordError, says, model=model):
        sample(model, data, elements, out=tmp_path)
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}


def test_folder_that_is_a_file(model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with refused(RecordError, f"folder {tmp_path / 'file'}: expected an empty or new folder", model=model):
        sample(model, data, elements, out=tmp_path / "file")
    with refused(RecordError, f"folder {tmp_path / 'file' / 'run'}: cannot be made", "choose another", model=model):
        sample(model, data, elements, out=tmp_path / "file" / "run")


def test_record_with_more_rows_than_asked(
    model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path
) -> None:
    sample(model, data, elements, out=tmp_path)
    says = f"folder {tmp_path} holds a run of 300 rows, received rows=200: open it with dropreg.Record.load"
    with refused(RecordError, says, model=model):
        sample(model, data, elements, out=tmp_path, rows=200)
    assert dr.Record.load(tmp_path).rows == 300


def test_folder_without_a_record(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        says = f"folder {folder}: expected a record with run.json, received none: check the path."
        with refused(RecordError, says):
            dr.Record.load(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"outcomes": [], "greater_is_better": []}'])
def test_damaged_settings_of_a_record(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with refused(RecordError, f"{tmp_path / 'run.json'}: expected the settings of a run, received "):
        dr.Record.load(tmp_path)


@pytest.mark.parametrize("name", ["elements.parquet", "baseline.parquet"])
def test_record_that_lacks_a_table(
    model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path, name: str
) -> None:
    sample(model, data, elements, out=tmp_path)
    (tmp_path / name).unlink()
    with refused(RecordError, name, "sample into the same folder again"):
        dr.Record.load(tmp_path)
    sample(model, data, elements, out=tmp_path)
    assert dr.Record.load(tmp_path).is_complete, "the remedy must work"


def flipped(path: Path) -> None:
    """A few bytes of the first values are others."""
    content = bytearray(path.read_bytes())
    content[60:90] = bytes(value ^ 255 for value in content[60:90])
    path.write_bytes(bytes(content))


def halved(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def another_table(path: Path) -> None:
    frame = pd.DataFrame({"other": np.zeros(pq.read_metadata(path).num_rows)})
    frame.to_parquet(path)


WITH_GRADIENTS: dict[str, Any] = {"outcomes": ("loss",), "gradients": ("loss",), "fidelity": dr.designs.Fidelity(3, 5)}


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(("chunk-000001.parquet", damage) for damage in (flipped, another_table)),
        *(("gradients-000001.parquet", damage) for damage in (flipped, another_table, halved, Path.unlink)),
    ],
)
def test_damaged_chunks_are_refused_and_run_again(
    model: keras.Model,
    data: Labelled,
    elements: dr.Elements,
    tmp_path: Path,
    name: str,
    damage: Callable[[Path], object],
) -> None:
    whole = sample(model, data, elements, out=tmp_path, **WITH_GRADIENTS)
    expected = dr.regress(whole, outcome="loss").impact
    before = contents(tmp_path)
    damage(tmp_path / name)
    with refused(RecordError, f"{tmp_path / name}: expected a file of a record, received ", "sample into the same"):
        dr.regress(dr.Record.load(tmp_path), outcome="loss")
    again = sample(model, data, elements, out=tmp_path, **WITH_GRADIENTS)
    np.testing.assert_array_equal(dr.regress(again, outcome="loss").impact, expected)
    assert contents(tmp_path) == before, "the remedy must work"


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *(("fidelity.parquet", damage) for damage in (halved, flipped, another_table)),
        *(("stop.json", lambda path, text=text: path.write_text(text)) for text in ("", "{", "{}", "[]")),
    ],
)
def test_damage_beside_the_chunks(
    model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path, name: str, damage: Callable[[Path], Any]
) -> None:
    sample(model, data, elements, out=tmp_path, **WITH_GRADIENTS)
    before = contents(tmp_path)
    damage(tmp_path / name)
    with refused(RecordError, f"{tmp_path / name}: expected ", "received ", "sample into the same folder again"):
        dr.Record.load(tmp_path)
    sample(model, data, elements, out=tmp_path, **WITH_GRADIENTS)
    assert contents(tmp_path) == before, "the remedy must work"


def test_chunk_that_is_a_folder(model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path) -> None:
    sample(model, data, elements, out=tmp_path)
    chunk = tmp_path / "chunk-000001.parquet"
    chunk.unlink()
    chunk.mkdir()
    with refused(RecordError, f"{chunk}: expected a file of a record, received ", "sample into the same folder again"):
        dr.Record.load(tmp_path)
    with refused(RecordError, f"{chunk}: cannot be written (", "choose another folder.", model=model):
        sample(model, data, elements, out=tmp_path)


# --- a full disk -----------------------------------------------------------------------------------------------


@contextmanager
def disk_full_after(n_files: int, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only `n_files` more Parquet files whose name contains `name` fit on the disk; the next leaves half a file."""
    written = []

    def failing(write: Callable[..., Any]) -> Callable[..., Any]:
        def write_or_fail(content: Any, where: Any, *args: Any, **options: Any) -> None:
            if name in str(where):
                written.append(where)
                if len(written) > n_files:
                    Path(where).write_bytes(b"PAR1 and no more")
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(where))
            write(content, where, *args, **options)

        return write_or_fail

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", failing(pq.write_table))
        patch.setattr(pd.DataFrame, "to_parquet", failing(pd.DataFrame.to_parquet))
        yield


def assert_same_rows(one: dr.Record, other: dr.Record) -> None:
    assert one.rows == other.rows
    for a, b in zip(one.chunks(), other.chunks(), strict=True):
        for field in ("masks", "examples", "outcomes", "effects"):
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


def test_full_disk(
    model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with (
        disk_full_after(2, "chunk", monkeypatch),
        refused(
            RecordError,
            f"the disk is full at {folder}: 256 rows are recorded there and kept. Free some space and sample into the ",
            "same folder again: the run resumes where it stopped.",
            model=model,
        ),
    ):
        sample(model, data, elements, rows=600, out=folder)

    stopped = dr.Record.load(folder)
    assert stopped.rows == 256
    assert not stopped.is_complete
    assert not list(folder.glob(".*")), "no half file is left behind"

    whole = sample(model, data, elements, rows=600)
    assert_same_rows(sample(model, data, elements, rows=600, out=folder), whole)
    assert_same_rows(dr.Record.load(folder), whole)


@pytest.mark.parametrize("name", ["elements", "baseline"])
def test_full_disk_before_the_first_row(
    model: keras.Model,
    data: Labelled,
    elements: dr.Elements,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    folder = tmp_path / "run"
    with (
        disk_full_after(0, name, monkeypatch),
        refused(RecordError, "the disk is full", "sample into the same folder again", model=model),
    ):
        sample(model, data, elements, out=folder)
    assert sample(model, data, elements, out=folder).is_complete, "the remedy must work"


def test_folder_that_cannot_be_written(
    model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(table: Any, where: Any, *args: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(where))

    monkeypatch.setattr(pq, "write_table", refuse)
    with refused(RecordError, "cannot be written (", "Permission denied", "choose another folder.", model=model):
        sample(model, data, elements, out=tmp_path)
