"""Create the folder of a record: Parquet and JSON files."""

import shutil
import tempfile
import weakref
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from .._utils import is_leftover, write_json
from ..element import Elements
from ..errors import RecordError
from ..network import differences
from ._designs import Design
from ._parquet import rows_of_file, write_table
from ._record import Record
from ._settings import BASELINE, ELEMENTS, FIDELITY, SETTINGS, SLICES, STOP, RunSettings
from ._unseen_masks import FidelityMasks


def create_record(
    folder: str | Path | None,
    settings: RunSettings,
    elements: Elements,
    baseline: pd.DataFrame,
    design: Design,
    fidelity_masks: FidelityMasks | None = None,
    slices: npt.NDArray[np.int64] | None = None,
) -> Record:
    """Return a new record, or the record that an earlier run with the same settings has left in `folder`.

    Raises RecordError if the folder holds another run or other files, or cannot be written.
    """
    frame = elements.to_frame()
    settings = replace(settings, date=datetime.now(UTC).isoformat(timespec="seconds"))
    if folder is None:
        place = Path(tempfile.mkdtemp(prefix="dropreg-"))
        record = Record(
            *(place, settings, frame, baseline, design), fidelity_masks=fidelity_masks, slices=slices, store_masks=False
        )
        weakref.finalize(record, shutil.rmtree, place, ignore_errors=True)
        return record
    place = Path(folder)
    if (place / SETTINGS).exists():
        settings = _as_there(place, settings)
    elif place.is_file() or (place.exists() and any(not is_leftover(path) for path in place.iterdir())):
        raise RecordError(f"folder {place}: expected an empty or new folder, received one with other files.")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"folder {place}: cannot be made ({error.strerror}): choose another.") from error
    run = settings.digest()
    # the settings are written first: they mark the folder as this run's, even if the run is interrupted here
    write_json(place / SETTINGS, asdict(settings), 0)
    for name, table in ((ELEMENTS, frame), (BASELINE, baseline)):
        write_table(pa.Table.from_pandas(table), place / name, run, 0)
    if fidelity_masks is not None:
        fidelity_masks.write(place / FIDELITY, settings.outcomes, run)
    if slices is not None:
        write_table(pa.table({"slice": slices}), place / SLICES, run, 0)
    record = Record(place, settings, frame, baseline, design, fidelity_masks=fidelity_masks, slices=slices)
    record._forget_damaged()
    return record


def write_stop(record: Record, reason: str, n_chunks: int) -> None:
    """Store the reason why the run was stopped after its first `n_chunks` chunks."""
    values = {"stop": reason, "chunks": n_chunks, "run": record.settings.digest()}
    write_json(record.folder / STOP, values, record.rows)
    record.stop = reason
    record._keep_first(n_chunks)


def clear_stop(record: Record) -> None:
    """Delete the reason of an earlier stop, because the run resumes."""
    (record.folder / STOP).unlink(missing_ok=True)
    record.stop = None


def _as_there(place: Path, settings: RunSettings) -> RunSettings:
    """Return the settings with the date of the run in a folder; RecordError if that is another run."""
    try:
        there = RunSettings.read(place)
    except RecordError as error:
        _check_files(place, settings, error)
        return settings
    if there.rows > settings.rows:
        raise RecordError(
            f"folder {place} holds a run of {there.rows:,} rows, received rows={settings.rows:,}: open it with "
            "dropreg.Record.load, or choose another folder."
        )
    if differing := differences(settings.identity(), there.identity()):
        raise RecordError(f"folder {place} holds another run: {'; '.join(differing)}. Choose another folder.")
    return replace(settings, date=there.date)


def _check_files(place: Path, settings: RunSettings, unreadable: RecordError) -> None:
    """Raise RecordError unless all chunks in a folder with `unreadable` settings belong to this run."""
    for path in sorted(place.glob("chunk-*.parquet")):
        try:
            rows_of_file(path, settings.digest())
        except RecordError as error:
            raise RecordError(
                f"{place / SETTINGS}: {unreadable.args[0].partition(': ')[2].partition(': sample')[0]}, and the run of "
                f"{path.name} is not this one: restore the file, or choose another folder."
            ) from error
