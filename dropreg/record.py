"""Recorded masks and outcomes: Parquet chunks and a JSON file in one folder."""

import errno
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .designs import BoolMasks, Design, examples_of_rows
from .elements import Elements
from .errors import RecordError

_SETTINGS, _ELEMENTS, _BASELINE = "run.json", "elements.parquet", "baseline.parquet"


@dataclass(frozen=True)
class RunSettings:
    """All that a record follows from; two runs with equal settings have equal records.

    Attributes
    ----------
    rows : int
        Masked forward passes asked for.
    seed : int
    design : dict
        Name and parameters of the design.
    outcomes : tuple of str
        Measured outcomes, in the order of the record's columns.
    greater_is_better : tuple of bool
        Direction of each.
    n_elements, n_examples : int
    chunk_rows, batch_size : int
        Rows of a chunk, rows of one forward pass.
    from_logits : bool
        Whether the model's outputs were taken for logits (else for probabilities).
    model, weights, data : str
        Fingerprints of the model's structure, its weights and the examples.
    """

    rows: int
    seed: int
    design: dict[str, Any]
    outcomes: tuple[str, ...]
    greater_is_better: tuple[bool, ...]
    n_elements: int
    n_examples: int
    chunk_rows: int
    batch_size: int
    from_logits: bool
    model: str
    weights: str
    data: str

    @property
    def n_chunks(self) -> int:
        return -(-self.rows // self.chunk_rows)

    def rows_in(self, chunk: int) -> int:
        """Rows of one chunk; the last may be shorter."""
        return min(self.chunk_rows, self.rows - chunk * self.chunk_rows)


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a record.

    Attributes
    ----------
    masks : ndarray of bool, shape (rows, n_elements)
        True = kept.
    examples : ndarray of int64, shape (rows,)
        Example of each row.
    outcomes : ndarray of float64, shape (rows, n_outcomes)
        As measured.
    effects : ndarray of float64, shape (rows, n_outcomes)
        Minus the unmasked outcome of the same example.
    """

    masks: BoolMasks
    examples: npt.NDArray[np.int64]
    outcomes: npt.NDArray[np.float64]
    effects: npt.NDArray[np.float64]


class Record:
    """Masks and outcomes of a run, read chunk by chunk.

    Made by ``dropreg.sample`` and ``dropreg.load_record``. Without a folder of its own the record
    lies in a temporary one, which goes when the object goes.

    Attributes
    ----------
    folder : Path
    settings : RunSettings
    elements : DataFrame
        One row an element: element, layer, kind, index, params, macs, units.
    baseline : DataFrame
        Unmasked outcomes, one row an example, one column an outcome.
    """

    def __init__(
        self,
        folder: Path,
        settings: RunSettings,
        elements: pd.DataFrame,
        baseline: pd.DataFrame,
        design: Design | None = None,
        *,
        store_masks: bool = True,
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.elements = elements
        self.baseline = baseline
        self._design = design
        self._store_masks = store_masks
        self._chunks = [k for k in range(settings.n_chunks) if self._is_done(k)]

    @property
    def rows(self) -> int:
        """Rows that are recorded, fewer than asked for if the run was stopped."""
        return sum(self.settings.rows_in(k) for k in self._chunks)

    @property
    def is_complete(self) -> bool:
        return self.rows == self.settings.rows

    def chunks(self) -> Iterator[Chunk]:
        """All recorded rows in order, one chunk at a time."""
        for k in self._chunks:
            yield self._read(k)

    def to_frame(self) -> pd.DataFrame:
        """All rows: example, one boolean column an element (True = kept), the outcomes.

        Takes rows x elements bytes; for a long run go through `chunks` instead.
        """
        names = self.elements["element"].tolist()
        frames = []
        for chunk in self.chunks():
            frame = pd.DataFrame(chunk.masks, columns=names)
            frame.insert(0, "example", chunk.examples)
            frames.append(frame.assign(**dict(zip(self.settings.outcomes, chunk.outcomes.T, strict=True))))
        return pd.concat(frames, ignore_index=True)

    def __repr__(self) -> str:
        s = self.settings
        state = "" if self.is_complete else f" of {s.rows:,} (stopped: sample into the same folder to go on)"
        return (
            f"Record: {self.rows:,} rows{state}, {s.n_elements:,} elements, {s.n_examples:,} examples, "
            f"outcomes {', '.join(s.outcomes)}, seed {s.seed}, {s.design}"
        )

    def _path(self, chunk: int) -> Path:
        return self.folder / f"chunk-{chunk:06d}.parquet"

    def _is_done(self, chunk: int) -> bool:
        """Whether the chunk is there whole; one that is damaged or shorter is run again."""
        try:
            return pq.read_metadata(self._path(chunk)).num_rows == self.settings.rows_in(chunk)
        except (FileNotFoundError, pa.ArrowInvalid):
            return False

    def missing(self) -> list[int]:
        """Chunks that are still to be run."""
        return sorted(set(range(self.settings.n_chunks)) - set(self._chunks))

    def write(self, chunk: int, outcomes: npt.NDArray[np.float32]) -> None:
        """Add the outcomes (rows, n_outcomes) of a chunk; its masks are stored with them in a folder of one's own."""
        s = self.settings
        columns = {"example": pa.array(self._examples(chunk).astype(np.int32))}
        if self._store_masks and self._design is not None:
            packed = np.packbits(self._draw(self._design, chunk), axis=1)
            buffer = pa.py_buffer(packed.tobytes())
            kind = pa.binary(packed.shape[1])
            columns["mask"] = pa.Array.from_buffers(kind, len(packed), [None, buffer])
        columns |= {name: pa.array(outcomes[:, j]) for j, name in enumerate(s.outcomes)}
        write_atomically(self._path(chunk), lambda path: pq.write_table(pa.table(columns), path), self.rows)
        self._chunks = sorted({*self._chunks, chunk})

    def _examples(self, chunk: int) -> npt.NDArray[np.int64]:
        s = self.settings
        return examples_of_rows(s.seed, chunk * s.chunk_rows, s.rows_in(chunk), s.n_examples)

    def _draw(self, design: Design, chunk: int) -> BoolMasks:
        s = self.settings
        return design.draw(s.seed, chunk, s.rows_in(chunk), s.n_elements)

    def _read(self, k: int) -> Chunk:
        table = pq.read_table(self._path(k))
        outcomes = np.stack([table[name].to_numpy() for name in self.settings.outcomes], axis=1).astype(np.float64)
        examples = table["example"].to_numpy().astype(np.int64)
        if self._design is not None:
            masks = self._draw(self._design, k)
        else:
            column = table["mask"].combine_chunks()
            width = column.type.byte_width
            raw = np.frombuffer(column.buffers()[1], np.uint8, len(column) * width).reshape(-1, width)
            masks = np.unpackbits(raw, axis=1, count=self.settings.n_elements).view(np.bool_)
        baseline = self.baseline.to_numpy()[examples]
        return Chunk(masks, examples, outcomes, outcomes - baseline)


def create_record(
    folder: str | Path | None,
    settings: RunSettings,
    elements: Elements,
    baseline: npt.NDArray[np.float32],
    design: Design,
) -> Record:
    """A record to write into: new, or what an earlier run with the same settings left in `folder`.

    Raises
    ------
    RecordError
        If the folder holds another run or other files, or cannot be written.
    """
    frame = pd.DataFrame(baseline, columns=list(settings.outcomes))
    if folder is None:
        place = Path(tempfile.mkdtemp(prefix="dropreg-"))
        record = Record(place, settings, elements.to_frame(), frame, design, store_masks=False)
        weakref.finalize(record, shutil.rmtree, place, ignore_errors=True)
        return record
    place = Path(folder)
    if (place / _SETTINGS).exists():
        _check_same_run(place, settings)
    elif place.is_file() or (place.exists() and any(place.iterdir())):
        raise RecordError(f"folder {place}: expected an empty or new folder, received one with other files.")
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordError(f"folder {place}: cannot be made ({error.strerror}): choose another.") from error
    text = json.dumps(asdict(settings), indent=1) + "\n"
    # the settings come first: they mark the folder as this run's, whatever stops it afterwards
    write_atomically(place / _SETTINGS, lambda path: Path(path).write_text(text), 0)
    write_atomically(place / _ELEMENTS, elements.to_frame().to_parquet, 0)
    write_atomically(place / _BASELINE, frame.to_parquet, 0)
    return Record(place, settings, elements.to_frame(), frame, design)


def load_record(folder: str | Path) -> Record:
    """Open a record that ``dropreg.sample`` wrote, finished or not.

    Raises
    ------
    RecordError
        If the folder holds no record, or one that cannot be read.
    """
    place = Path(folder)
    settings = _read_settings(place)
    try:
        elements, baseline = (pd.read_parquet(place / name) for name in (_ELEMENTS, _BASELINE))
    except (OSError, pa.ArrowInvalid) as error:
        raise RecordError(
            f"folder {place}: expected a record with {_ELEMENTS} and {_BASELINE}, received {error}: "
            "sample into the same folder again."
        ) from error
    return Record(place, settings, elements, baseline)


def _read_settings(place: Path) -> RunSettings:
    path = place / _SETTINGS
    if not path.exists():
        raise RecordError(f"folder {place}: expected a record with {_SETTINGS}, received none: check the path.")
    try:
        values = json.loads(path.read_text())
        values |= {name: tuple(values[name]) for name in ("outcomes", "greater_is_better")}
        return RunSettings(**values)
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{path}: expected the settings of a run, received {error}.") from error


def _check_same_run(place: Path, settings: RunSettings) -> None:
    there = _read_settings(place)
    if there.rows > settings.rows:
        raise RecordError(
            f"folder {place} holds a run of {there.rows:,} rows, received rows={settings.rows:,}: open it with "
            "dropreg.load_record, or choose another folder."
        )
    here, found = asdict(settings), asdict(replace(there, rows=settings.rows))
    differing = [f"{name} is {found[name]} there and {here[name]} here" for name in here if here[name] != found[name]]
    if differing:
        raise RecordError(f"folder {place} holds another run: {'; '.join(differing)}. Choose another folder.")


def write_atomically(path: Path, write: Callable[[Path], Any], rows: int) -> None:
    """Write a file under a passing name and rename it, so that it is there whole or not at all."""
    passing = path.with_name(f".{path.name}.part")
    try:
        write(passing)
        os.replace(passing, path)
    except OSError as error:
        passing.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RecordError(
                f"the disk is full at {path.parent}: {rows:,} rows are recorded there and stay. Free some space "
                "and sample into the same folder again: the run goes on where it stopped."
            ) from error
        raise RecordError(f"{path}: cannot be written ({error}): choose another folder.") from error
