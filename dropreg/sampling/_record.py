"""Recorded masks and outcomes, read and written chunk by chunk."""

import copy
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from .._utils import BoolMasks
from ..errors import RecordError
from ._chunks import Chunk, ChunkResult, GradientSums, examples_of_masks
from ._designs import Design, design_from
from ._parquet import read_table, unpack_masks, write_table
from ._settings import RunSettings
from ._unseen_masks import FidelityMasks

MOST_STORED = 8_000
"""Most elements whose masks are stored; those of more are drawn again from seed and chunk."""


class Record:
    """Masks and outcomes of a run, read chunk by chunk.

    Made by ``dropreg.sample`` and ``dropreg.Record.load``. Without a folder of its own the record
    lies in a temporary one, which goes when the object goes.

    Attributes
    ----------
    folder : Path
    settings : RunSettings
    elements : DataFrame
        One row an element: element, layer, kind, index, params, macs, units.
    baseline : DataFrame
        Unmasked outcomes, one row an example, one column an outcome (of single examples).
    fidelity_masks : FidelityMasks or None
        Unseen masks to judge predictions on.
    stop : str or None
        Why the run stopped before all rows that were allowed, if a stop rule ended it.
    """

    def __init__(
        self,
        folder: Path,
        settings: RunSettings,
        elements: pd.DataFrame,
        baseline: pd.DataFrame,
        design: Design | None = None,
        *,
        fidelity_masks: "FidelityMasks | None" = None,
        store_masks: bool = True,
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.elements = elements
        self.baseline = baseline
        self.fidelity_masks = fidelity_masks
        self.stop: str | None = None
        self._design = design
        self._store_masks = store_masks
        self._chunks = [k for k in range(settings.n_chunks) if self._is_done(k)]

    @classmethod
    def load(cls, folder: str | Path) -> "Record":
        """Open a record that a run wrote to a folder.

        Parameters
        ----------
        folder : str or Path
            The ``out`` of the run, finished or not.

        Returns
        -------
        Record

        Raises
        ------
        RecordError
            If the folder holds no record, or a damaged one.
        """
        from ._storage import load_record

        return load_record(folder)

    @property
    def rows(self) -> int:
        """Rows that are recorded, fewer than asked for if the run was stopped."""
        return sum(self.settings.rows_in(k) for k in self._chunks)

    @property
    def is_complete(self) -> bool:
        """Whether all rows are recorded that were asked for, or a stop rule ended the run."""
        return self.rows == self.settings.rows or self.stop is not None

    @property
    def row_equivalents(self) -> int:
        """Cost in forward passes; a backward pass counts as two."""
        return self.rows * self.settings.row_cost

    def chunks(self) -> Iterator[Chunk]:
        """All recorded rows in order, one chunk at a time.

        Yields
        ------
        Chunk
            Of n masks: ``masks`` (n, n_elements), True = kept; ``examples`` (n, examples_per_mask); ``outcomes`` and
            ``effects`` (n, n_outcomes), float64: what was measured, and its change from the same examples' unmasked
            outcome.

        Raises
        ------
        RecordError
            If a chunk cannot be read.
        """
        for k in self._chunks:
            yield self._read(k)

    def keep_probabilities(self) -> npt.NDArray[np.float64]:
        """Probability that the design keeps each element.

        Returns
        -------
        ndarray of float64, shape (n_elements,)
        """
        s = self.settings
        return design_from(s.design).keep_probabilities(s.n_elements)

    def to_frame(self) -> pd.DataFrame:
        """All masks and their outcomes as a table.

        Takes rows x elements bytes; for a long run go through `chunks` instead.

        Returns
        -------
        DataFrame
            One row a mask: example (if masks ran on one), a boolean column an element (True = kept), a column an
            outcome.

        Raises
        ------
        RecordError
            If nothing is recorded, or a chunk cannot be read.
        """
        names = self.elements["element"].tolist()
        frames = []
        for chunk in self.chunks():
            frame = pd.DataFrame(chunk.masks, columns=names)
            if chunk.examples.shape[1] == 1:
                frame.insert(0, "example", chunk.examples[:, 0])
            frames.append(frame.assign(**dict(zip(self.settings.outcomes, chunk.outcomes.T, strict=True))))
        if not frames:
            raise RecordError(f"folder {self.folder}: expected recorded rows, received none: sample into it again.")
        return pd.concat(frames, ignore_index=True)

    def __repr__(self) -> str:
        s = self.settings
        state = "" if self.is_complete else f" of {s.rows:,} (stopped: sample into the same folder to go on)"
        state = f" ({self.stop})" if self.stop else state
        return (
            f"Record: {self.rows:,} rows{state}, {s.n_elements:,} elements, {s.n_examples:,} examples, "
            f"outcomes {', '.join(s.outcomes)}, seed {s.seed}, {s.design}"
        )

    def gradient_sums(self, outcome: str) -> GradientSums:
        """Gradients of an outcome's surrogate, summed over all rows.

        Parameters
        ----------
        outcome : str
            One of those whose gradients were recorded.

        Returns
        -------
        GradientSums
            Arrays of float64, shape (n_elements,), kept and dropped states apart.

        Raises
        ------
        RecordError
            If they were not recorded.
        """
        if outcome not in self.settings.gradients or not self._chunks:
            recorded = ", ".join(self.settings.gradients) or "none"
            raise RecordError(
                f"the record must hold gradients of '{outcome}', received {recorded}: sample with "
                f"gradients=({outcome!r},), or pass an estimator that needs none, such as 'ols'."
            )
        total: GradientSums | None = None
        for k in self._chunks:
            table = self._gradient_table(k)
            columns = [table[f"{outcome}_{f.name}"].to_numpy().astype(np.float64) for f in fields(GradientSums)]
            here = GradientSums(*columns)
            total = here if total is None else total + here
        assert total is not None
        return total

    def head(self, n_chunks: int) -> "Record":
        """The same record, its first chunks only; it lives as long as this one.

        Parameters
        ----------
        n_chunks : int

        Returns
        -------
        Record
        """
        view = copy.copy(self)
        view.keep_first(n_chunks)
        return view

    def only(self, chunk: int) -> "Record":
        """The same record, one chunk only; it lives as long as this one.

        Parameters
        ----------
        chunk : int
            Its number, from 0.

        Returns
        -------
        Record
        """
        view = copy.copy(self)
        view._chunks = [k for k in self._chunks if k == chunk]
        return view

    def keep_first(self, n_chunks: int) -> None:
        """Look no further than the first chunks.

        Parameters
        ----------
        n_chunks : int
        """
        self._chunks = [k for k in self._chunks if k < n_chunks]

    def _path(self, chunk: int) -> Path:
        return self.folder / f"chunk-{chunk:06d}.parquet"

    def _gradient_path(self, chunk: int) -> Path:
        return self.folder / f"gradients-{chunk:06d}.parquet"

    def _is_done(self, chunk: int) -> bool:
        """Whether the chunk is there at its length, judged by the end of its file."""
        try:
            return pq.read_metadata(self._path(chunk)).num_rows == self.settings.masks_in(chunk)
        except (OSError, pa.ArrowException):
            return False

    def forget_damaged(self) -> None:
        """Read all chunks, and take those that cannot be read for missing, so that they are run again."""
        self._chunks = [k for k in self._chunks if self._is_readable(k)]

    def _is_readable(self, chunk: int) -> bool:
        try:
            self._table(chunk)
            return not self.settings.gradients or self._gradient_table(chunk).num_rows == self.settings.n_elements
        except RecordError:
            return False

    def _table(self, chunk: int) -> pa.Table:
        names = [f"{name}{s}" for name in self.settings.outcomes for s in ("", "_change")]
        return read_table(self._path(chunk), ["example", *names] if self.settings.examples_per_mask == 1 else names)

    def _gradient_table(self, chunk: int) -> pa.Table:
        keys = [f.name for f in fields(GradientSums)]
        names = [f"{name}_{key}" for name in self.settings.gradients for key in keys]
        return read_table(self._gradient_path(chunk), names)

    def missing(self) -> list[int]:
        """Chunks that are still to be run.

        Returns
        -------
        list of int
            Their numbers, from 0; none where a stop rule ended the run.
        """
        return [] if self.stop else sorted(set(range(self.settings.n_chunks)) - set(self._chunks))

    def write(self, chunk: int, result: ChunkResult) -> None:
        """Add a chunk; in a folder of one's own its masks are stored beside its outcomes.

        Masks of more than 8,000 elements are not stored but drawn again, and their gradients are
        rounded to float32.

        Parameters
        ----------
        chunk : int
            Its number, from 0.
        result : ChunkResult

        Raises
        ------
        RecordError
            If an outcome or a gradient is not finite, or the disk does not take it; what was recorded stays.
        """
        s = self.settings
        self._check_finite(chunk, result)
        columns: dict[str, pa.Array] = {}
        if s.examples_per_mask == 1:
            columns["example"] = pa.array(self._examples(chunk)[:, 0].astype(np.int32))
        if self._store_masks and s.n_elements <= MOST_STORED and self._design is not None:
            packed = np.packbits(self._draw(self._design, chunk), axis=1)
            buffer = pa.py_buffer(packed.tobytes())
            columns["mask"] = pa.Array.from_buffers(pa.binary(packed.shape[1]), len(packed), [None, buffer])
        for j, name in enumerate(s.outcomes):
            columns[name] = pa.array(result.outcomes[:, j])
            columns[f"{name}_change"] = pa.array(result.effects[:, j])
        if result.gradients:
            sums = {f"{name}_{key}": value for name, g in result.gradients.items() for key, value in vars(g).items()}
            sums = sums if s.n_elements <= MOST_STORED else {k: v.astype(np.float32) for k, v in sums.items()}
            write_table(pa.table(sums), self._gradient_path(chunk), self.rows)
        write_table(pa.table(columns), self._path(chunk), self.rows)
        self._chunks = sorted({*self._chunks, chunk})

    def _check_finite(self, chunk: int, result: ChunkResult) -> None:
        stays = f"{self.rows:,} rows are recorded in {self.folder} and stay usable."
        for j, name in enumerate(self.settings.outcomes):
            n_bad = int((~np.isfinite(result.effects[:, j])).sum())
            if n_bad:
                raise RecordError(
                    f"outcome '{name}' must be finite, received NaN or infinity for {n_bad} masks of chunk {chunk}: "
                    f"mend the outcome or leave it out. {stays}"
                )
        for name, sums in result.gradients.items():
            n_bad = int((~np.isfinite([*vars(sums).values()])).any(axis=0).sum())
            if n_bad:
                raise RecordError(
                    f"gradients of outcome '{name}' must be finite, received NaN or infinity for {n_bad} elements in "
                    f"chunk {chunk}: mend the outcome, or pass gradients=() to sample, gradients=False to estimate. "
                    f"{stays}"
                )

    def _examples(self, chunk: int) -> npt.NDArray[np.int64]:
        s = self.settings
        return examples_of_masks(s, chunk, s.masks_in(chunk))

    def _draw(self, design: Design, chunk: int) -> BoolMasks:
        s = self.settings
        return design.draw(s.seed, chunk, s.masks_in(chunk), s.n_elements)

    def _read(self, k: int) -> Chunk:
        table = self._table(k)
        outcomes, effects = (
            np.stack([table[f"{name}{suffix}"].to_numpy() for name in self.settings.outcomes], axis=1).astype(
                np.float64
            )
            for suffix in ("", "_change")
        )
        if self._design is not None or self.settings.n_elements > MOST_STORED:
            masks = self._draw(self._design or design_from(self.settings.design), k)
        else:
            masks = unpack_masks(table["mask"].combine_chunks(), self.settings.n_elements)
        stored = self.settings.examples_per_mask == 1
        examples = table["example"].to_numpy().astype(np.int64)[:, np.newaxis] if stored else self._examples(k)
        return Chunk(masks, examples, outcomes, effects)
