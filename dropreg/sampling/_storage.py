"""Create the folder of a record: Parquet and JSON files."""

import json
import shutil
import tempfile
import weakref
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from .._utils import is_leftover, write_atomically
from ..element import Elements
from ..errors import RecordError
from ._designs import Design
from ._record import Record
from ._settings import BASELINE, ELEMENTS, FIDELITY, SETTINGS, STOP, RunSettings
from ._unseen_masks import FidelityMasks

_HASHED = {
    "model": "the model has another structure",
    "configuration": "layers have another configuration",
    "weights": "the model has other weights, or other elements were asked for",
    "data": "the examples are others",
}


def create_record(
    folder: str | Path | None,
    settings: RunSettings,
    elements: Elements,
    baseline: pd.DataFrame,
    design: Design,
    fidelity_masks: FidelityMasks | None = None,
) -> Record:
    """Return a new record, or the record that an earlier run with the same settings has left in `folder`.

    Raises RecordError if the folder holds another run or other files, or cannot be written.
    """
    frame = elements.to_frame()
    if folder is None:
        place = Path(tempfile.mkdtemp(prefix="dropreg-"))
        record = Record(place, settings, frame, baseline, design, fidelity_masks=fidelity_masks, store_masks=False)
        weakref.finalize(record, shutil.rmtree, place, ignore_errors=True)
        return record
    place = Path(folder)
    if (place / SETTINGS).exists():
        _check_same_run(place, settings)
    elif place.is_file() or (place.exists() and any(not is_leftover(path) for path in place.iterdir())):
        raise RecordError(f"folder {place}: expected an empty or new folder, received one with other files.")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"folder {place}: cannot be made ({error.strerror}): choose another.") from error
    text = json.dumps(asdict(settings), indent=1) + "\n"
    # the settings are written first: they mark the folder as this run's, even if the run is interrupted here
    write_atomically(place / SETTINGS, lambda part: part.write_text(text), 0)
    write_atomically(place / ELEMENTS, frame.to_parquet, 0)
    write_atomically(place / BASELINE, baseline.to_parquet, 0)
    if fidelity_masks is not None:
        fidelity_masks.write(place / FIDELITY, settings.outcomes)
    record = Record(place, settings, frame, baseline, design, fidelity_masks=fidelity_masks)
    record._forget_damaged()
    return record


def write_stop(record: Record, reason: str, n_chunks: int) -> None:
    """Store the reason why the run was stopped after its first `n_chunks` chunks."""
    text = json.dumps({"stop": reason, "chunks": n_chunks}) + "\n"
    write_atomically(record.folder / STOP, lambda part: part.write_text(text), record.rows)
    record.stop = reason
    record._keep_first(n_chunks)


def clear_stop(record: Record) -> None:
    """Delete the reason of an earlier stop, because the run resumes."""
    (record.folder / STOP).unlink(missing_ok=True)
    record.stop = None


def _check_same_run(place: Path, settings: RunSettings) -> None:
    there = RunSettings.read(place)
    if there.rows > settings.rows:
        raise RecordError(
            f"folder {place} holds a run of {there.rows:,} rows, received rows={settings.rows:,}: open it with "
            "dropreg.Record.load, or choose another folder."
        )
    here, found = asdict(settings), asdict(replace(there, rows=settings.rows))
    differing = [
        f"{_HASHED[name]} there" if name in _HASHED else f"{name} is {found[name]} there and {here[name]} here"
        for name in here
        if here[name] != found[name]
    ]
    if differing:
        raise RecordError(f"folder {place} holds another run: {'; '.join(differing)}. Choose another folder.")
