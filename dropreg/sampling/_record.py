"""The record of a run: masks and outcomes, read and written chunk by chunk."""

import copy
import operator
from collections.abc import Iterator
from dataclasses import fields, replace
from functools import reduce
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from .._utils import BoolMasks, concatenate_names, read_json
from ..errors import RecordError
from ._chunks import Chunk, ChunkResult, GradientSums, examples_of_masks
from ._designs import Design, design_from
from ._flip_cells import groups_of_examples
from ._flip_sums import FlipSums, flips_key, joined, read_flips, write_flips
from ._parquet import mask_column, read_table, rows_of_file, unpack_masks, write_table
from ._settings import BASELINE, ELEMENTS, FIDELITY, SLICES, STOP, RunSettings
from ._unseen_masks import FidelityMasks

MOST_STORED = 8_000
"""Largest number of elements for which masks are stored; with more, they are drawn again from seed and chunk."""


class Record:
    """The masks and outcomes of a run, read chunk by chunk.

    Records are created by ``dropreg.sample`` and opened by ``dropreg.Record.load``. A record that was not given a
    folder is kept in a temporary folder, which is deleted with the object.

    Attributes
    ----------
    folder : Path
    settings : RunSettings
    elements : DataFrame
        One row per element: element, layer, kind, index, params, macs, units.
    baseline : DataFrame
        The original model's outcomes, one row per example, one column per outcome (of single examples).
    fidelity_masks : FidelityMasks or None
        Masks that the regression does not use, to judge predictions on.
    slices : ndarray of int64, shape (n_examples,), or None
        Number of each example's slice, one of ``settings.slices``, if the run was given slices.
    stop : str or None
        Why a stop rule ended the run early, None if no rule did.

    Examples
    --------
    >>> import dropreg as dr
    >>> model, data = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
    >>> record = dr.sample(model, data, dr.elements(model), rows=500, sampling=dr.Sampling(fidelity=None))
    >>> record.is_complete, record.row_equivalents
    (True, 3500)
    >>> [(chunk.masks.shape, chunk.outcomes.shape) for chunk in record.chunks()]
    [((500, 400), (500, 1))]
    >>> record.keep_probabilities().round(2)[:3].tolist()
    [0.7, 0.7, 0.7]
    >>> frame = record.to_frame()
    >>> frame.shape, frame.columns[0], frame.columns[-1]
    ((500, 402), 'example', 'loss')
    >>> sums = record.gradient_sums("loss")
    >>> bool((sums.n_kept + sums.n_dropped == 500).all())
    True
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
        slices: npt.NDArray[np.int64] | None = None,
        store_masks: bool = True,
    ) -> None:
        self.folder = folder
        self.settings = settings
        self.elements = elements
        self.baseline = baseline
        self.fidelity_masks = fidelity_masks
        self.slices = slices
        self.stop: str | None = None
        self._part: tuple[npt.NDArray[np.bool_], int | None] | None = None
        self._design = design
        self._store_masks = store_masks
        self._run = settings.digest()
        self._chunks = [k for k in range(settings.n_chunks) if self._is_done(k)]

    @classmethod
    def load(cls, folder: str | Path) -> "Record":
        """Open a record that ``dropreg.sample`` has written to a folder; the model is not needed.

        Parameters
        ----------
        folder : str or Path
            The argument `out` of the run, which may be unfinished.

        Returns
        -------
        Record
            With the rows that are recorded so far. `missing` and the printed record name the chunks that are not.

        Raises
        ------
        RecordError
            If the folder contains no record, a damaged one, or a file of another run or in the place of another:
            sampling into the same folder again replaces these files.

        Examples
        --------
        >>> import tempfile
        >>> import dropreg as dr
        >>> model, data = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = dr.sample(model, data, dr.elements(model), rows=500, out=folder)
        ...     dr.Record.load(folder).rows
        500
        """
        place = Path(folder)
        settings = RunSettings.read(place)
        run = settings.digest()
        elements, baseline = (read_table(place / name, [], run).to_pandas() for name in (ELEMENTS, BASELINE))
        fidelity = None
        if (place / FIDELITY).exists():
            fidelity = FidelityMasks.read(place / FIDELITY, settings.outcomes, settings.n_elements, run)
        slices = read_table(place / SLICES, ["slice"], run)["slice"].to_numpy() if settings.slices else None
        record = cls(place, settings, elements, baseline, fidelity_masks=fidelity, slices=slices)
        for k in record.missing():
            record._rows_of_file(k)
        record._read_stop()
        return record

    @property
    def rows(self) -> int:
        """Number of recorded rows; less than was asked for if the run has been stopped."""
        if self._part is not None:
            return int(self.rows_of_examples().sum())
        return sum(self.settings.rows_in(k) for k in self._chunks)

    @property
    def is_complete(self) -> bool:
        """Whether all rows that were asked for are recorded, or a stop rule has ended the run."""
        return self.rows == self.settings.rows or self.stop is not None

    @property
    def is_part(self) -> bool:
        """Whether this is a view of the rows of some examples."""
        return self._part is not None

    @property
    def row_equivalents(self) -> int:
        """Cost of the recorded rows in forward passes; a backward pass counts as two."""
        return self.rows * self.settings.row_cost

    def chunks(self) -> Iterator[Chunk]:
        """Iterate over all recorded rows in order, one chunk in memory at a time.

        Yields
        ------
        Chunk
            Arrays for n masks: ``masks`` (n, n_elements) of bool, True = kept; ``examples`` (n, examples_per_mask) of
            int64; ``outcomes`` and ``effects`` (n, n_outcomes) of float64, where effects are the outcomes minus those
            of the original model on the same examples.

        Raises
        ------
        RecordError
            If a chunk cannot be read.
        """
        for k in self._chunks:
            chunk = self._read(k)
            if self._part is not None:
                rows = self._part[0][chunk.examples[:, 0]]
                chunk = Chunk(*(getattr(chunk, field.name)[rows] for field in fields(Chunk)))
            yield chunk

    def keep_probabilities(self) -> npt.NDArray[np.float64]:
        """Return the probability that the design keeps each element.

        Returns
        -------
        ndarray of float64, shape (n_elements,)
        """
        design = self._design or design_from(self.settings.design)
        return design.keep_probabilities(self.settings.n_elements)

    def to_frame(self) -> pd.DataFrame:
        """Return all masks and their outcomes as a table of about rows x elements bytes.

        Returns
        -------
        DataFrame
            One row per mask. Columns: example (if each mask was run on one example), a boolean column per element
            (True = kept), a column per outcome.

        Raises
        ------
        RecordError
            If nothing is recorded, a chunk cannot be read, or an element has the name of an outcome or "example".
        """
        names = self.elements["element"].tolist()
        if clash := {"example", *self.settings.outcomes}.intersection(names):
            raise RecordError(
                f"elements must have other names than the columns of a table, received the layer {sorted(clash)[0]!r}: "
                "read the arrays of `chunks` instead."
            )
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
        state = "" if self.is_complete else f" of {s.rows:,} ({self._gaps()}: sample into the same folder to resume)"
        state = f" ({self.stop})" if self.stop else state
        return (
            f"Record: {self.rows:,} rows{state}, {s.n_elements:,} elements, {s.n_examples:,} examples, "
            f"outcomes {', '.join(s.outcomes)}, seed {s.seed}, {s.design}"
        )

    def _gaps(self) -> str:
        """Return "stopped", or which chunks are missing although later ones are recorded."""
        missing = [k for k in self.missing() if k < max(self._chunks, default=0)]
        if not missing:
            return "stopped"
        return f"chunk{'s' * (len(missing) > 1)} {concatenate_names(missing)} missing"

    def gradient_sums(self, outcome: str) -> GradientSums:
        """Return the gradients of an outcome's surrogate with respect to the masks, summed over all rows.

        Parameters
        ----------
        outcome : str
            An outcome whose gradients were recorded.

        Returns
        -------
        GradientSums
            Arrays of float64, shape (n_elements,), with separate sums over rows that keep and that drop an element.

        Raises
        ------
        RecordError
            If the gradients were not recorded.
        """
        if self._part is not None:
            raise RecordError(
                "gradients must be those of all examples, received a slice: pass estimator='corrected' with slices "
                "that were given to sample, or 'ols'."
            )
        if outcome not in self.settings.gradients or not self._chunks:
            recorded = ", ".join(self.settings.gradients) or "none"
            raise RecordError(
                f"the record must hold gradients of '{outcome}', received {recorded}: sample with "
                f"sampling=dropreg.Sampling(gradients=({outcome!r},)), or pass an estimator that needs none, such as "
                "'ols'."
            )
        tables = (self._gradient_table(k) for k in self._chunks)
        names = [f"{outcome}_{f.name}" for f in fields(GradientSums)]
        parts = (GradientSums(*(t[name].to_numpy().astype(np.float64) for name in names)) for t in tables)
        return reduce(operator.add, parts)

    def flip_sums(self, outcome: str) -> FlipSums:
        """Return the effects of the elements on an outcome, corrected by flips and summed over all rows.

        Parameters
        ----------
        outcome : str
            An outcome whose gradients were recorded.

        Returns
        -------
        FlipSums
            Arrays of float64, shape (n_elements,), and the sums of each group of examples.

        Raises
        ------
        RecordError
            If there were no flips.
        """
        if not self.settings.flips or outcome not in self.settings.gradients or not self._chunks:
            raise RecordError(
                f"the record must hold flips for '{outcome}', received none: sample with gradients and "
                "sampling=dropreg.Sampling(flips=4), or pass another estimator, such as 'ols'."
            )
        sums = joined([self._flip_sums(key) for key in self._flip_keys(outcome)])
        if self.settings.examples_per_mask > 1:
            return replace(sums, rows_of_groups=np.zeros(0))
        groups = groups_of_examples(self.settings.seed, self.settings.n_examples, self.slices)
        counts = np.bincount(groups.of_examples, self._all_rows_of_examples(), minlength=groups.bounds[-1])
        if self._part is not None:
            counts = counts[groups.slice_of_group == self._part[1]]
        return replace(sums, rows_of_groups=counts)

    def _flip_keys(self, outcome: str) -> list[str]:
        """Return the names of an outcome's sums: those of the slice that this record is restricted to, or all."""
        parts = [None] if self.slices is None else [*range(len(self.settings.slices))]
        return [flips_key(outcome, part) for part in (parts if self._part is None else [self._part[1]])]

    def _flip_sums(self, key: str) -> FlipSums:
        parts = (read_flips(self._path(chunk, "flips"), key, self._run) for chunk in self._chunks)
        return reduce(operator.add, parts)

    def changes(self, outcome: str) -> npt.NDArray[np.float64]:
        """Return the change of an outcome under each mask, from the original model on the same examples.

        Parameters
        ----------
        outcome : str
            One of the record's outcomes.

        Returns
        -------
        ndarray of float64, shape (n_masks,)
        """
        if self._part is not None:
            column = self.settings.outcomes.index(outcome)
            return np.concatenate([chunk.effects[:, column] for chunk in self.chunks()])
        return np.concatenate([self._table(k)[f"{outcome}_change"].to_numpy().astype(np.float64) for k in self._chunks])

    def original(self, outcome: str) -> float | None:
        """Return the mean outcome of the original model, None where outcomes are not those of single examples.

        Parameters
        ----------
        outcome : str
            One of the record's outcomes.

        Returns
        -------
        float or None
        """
        return float(self.baseline[outcome].mean()) if outcome in self.baseline else None

    def rows_of_examples(self) -> npt.NDArray[np.int64]:
        """Return how many rows used each example; where one mask serves several examples, one for each mask.

        Returns
        -------
        ndarray of int64, shape (n_examples,) or (n_masks,)
        """
        s = self.settings
        if s.examples_per_mask > 1:
            return np.ones(self.rows // s.examples_per_mask, np.int64)
        counts = self._all_rows_of_examples()
        return counts if self._part is None else counts[self._part[0]]

    def _all_rows_of_examples(self) -> npt.NDArray[np.int64]:
        s = self.settings
        counts = np.zeros(s.n_examples, np.int64)
        for chunk in self._chunks:
            counts += np.bincount(self._examples(chunk).reshape(-1), minlength=s.n_examples)
        return counts

    def head(self, n_chunks: int) -> "Record":
        """Return a view of the first `n_chunks` chunks, valid as long as this record exists.

        Parameters
        ----------
        n_chunks : int

        Returns
        -------
        Record
        """
        view = copy.copy(self)
        view._keep_first(n_chunks)
        return view

    def of_examples(self, chosen: npt.NDArray[np.bool_], part: int | None = None) -> "Record":
        """Return a view of the rows of some examples, valid as long as this record exists.

        Parameters
        ----------
        chosen : ndarray of bool, shape (n_examples,)
        part : int, optional
            Number of the slice that these are all examples of; without it there are no gradients and no flips.

        Returns
        -------
        Record
        """
        view = copy.copy(self)
        view._part, view.baseline, view.fidelity_masks = (chosen, part), self.baseline[chosen], None
        if part is None:
            view.settings = replace(self.settings, gradients=(), flips=0)
        return view

    def strata(self) -> list["Record"]:
        """Return views of the rows of each slice that was given to the run, or the record if there are none.

        Returns
        -------
        list of Record
        """
        if self.slices is None or self._part is not None:
            return [self]
        return [self.of_examples(self.slices == k, k) for k in range(len(self.settings.slices))]

    def _keep_first(self, n_chunks: int) -> None:
        """Ignore all chunks but the first `n_chunks`."""
        self._chunks = [k for k in self._chunks if k < n_chunks]

    def _path(self, chunk: int, kind: str = "chunk") -> Path:
        return self.folder / f"{kind}-{chunk:06d}.parquet"

    def _read_stop(self) -> None:
        """Read why the run was stopped early, if it was."""
        path = self.folder / STOP
        if not path.exists():
            return
        try:
            values = read_json(path)
            if values["run"] != self._run:
                raise ValueError("that of another run")
            self.stop, n_chunks = str(values["stop"]), int(values["chunks"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RecordError(
                f"{path}: expected why a run was stopped and after how many chunks, received {error}: sample "
                "into the same folder again to replace it."
            ) from error
        self._keep_first(n_chunks)

    def _is_done(self, chunk: int) -> bool:
        """Return whether the chunk's files are this run's and have the expected number of rows, from their metadata."""
        try:
            return self._rows_of_file(chunk) == self.settings.masks_in(chunk)
        except RecordError:
            return False

    def _rows_of_file(self, chunk: int) -> int:
        """Return the number of masks in a chunk's file, 0 if it is missing; RecordError if its files are others."""
        if not self._path(chunk).exists():
            return 0
        beside = {"gradients": self.settings.gradients, "flips": self.settings.gradients and self.settings.flips}
        for kind in (kind for kind, recorded in beside.items() if recorded):
            rows_of_file(self._path(chunk, kind), self._run)
        return rows_of_file(self._path(chunk), self._run)

    def _forget_damaged(self) -> None:
        """Read all chunks and treat those that cannot be read as missing, so that they are run again."""
        self._chunks = [k for k in self._chunks if self._is_readable(k)]

    def _is_readable(self, chunk: int) -> bool:
        try:
            self._table(chunk)
            for name in self.settings.gradients if self.settings.flips else ():
                for key in self._flip_keys(name):
                    read_flips(self._path(chunk, "flips"), key, self._run)
            return not self.settings.gradients or self._gradient_table(chunk).num_rows == self.settings.n_elements
        except RecordError:
            return False

    def _table(self, chunk: int) -> pa.Table:
        names = [f"{name}{s}" for name in self.settings.outcomes for s in ("", "_change")]
        names = ["example", *names] if self.settings.examples_per_mask == 1 else names
        return read_table(self._path(chunk), names, self._run)

    def _gradient_table(self, chunk: int) -> pa.Table:
        keys = [f.name for f in fields(GradientSums)]
        names = [f"{name}_{key}" for name in self.settings.gradients for key in keys]
        return read_table(self._path(chunk, "gradients"), names, self._run)

    def missing(self) -> list[int]:
        """Return the numbers of the chunks that are not recorded yet; none if a stop rule has ended the run.

        Returns
        -------
        list of int
        """
        return [] if self.stop else sorted(set(range(self.settings.n_chunks)) - set(self._chunks))

    def _write(self, chunk: int, result: ChunkResult) -> None:
        """Add a chunk; RecordError if an outcome or a gradient is not finite, or the file cannot be written.

        Masks are stored too if the record has a folder of its own and at most 8,000 elements. With more elements masks
        are drawn again from the seed, and gradients are rounded to float32.
        """
        s = self.settings
        self._check_finite(chunk, result)
        columns: dict[str, pa.Array] = {}
        if s.examples_per_mask == 1:
            columns["example"] = pa.array(self._examples(chunk)[:, 0].astype(np.int32))
        if self._store_masks and s.n_elements <= MOST_STORED and self._design is not None:
            columns["mask"] = mask_column(np.packbits(self._draw(self._design, chunk), axis=1))
        for j, name in enumerate(s.outcomes):
            columns[name] = pa.array(result.outcomes[:, j])
            columns[f"{name}_change"] = pa.array(result.effects[:, j])
        if result.gradients:
            sums = {f"{name}_{key}": value for name, g in result.gradients.items() for key, value in vars(g).items()}
            sums = sums if s.n_elements <= MOST_STORED else {k: v.astype(np.float32) for k, v in sums.items()}
            write_table(pa.table(sums), self._path(chunk, "gradients"), self._run, self.rows)
        if result.flips:
            write_flips(self._path(chunk, "flips"), result.flips, self._run, self.rows)
        write_table(pa.table(columns), self._path(chunk), self._run, self.rows)
        self._chunks = sorted({*self._chunks, chunk})

    def _check_finite(self, chunk: int, result: ChunkResult) -> None:
        recorded = f"{self.rows:,} rows are recorded in {self.folder} and remain usable."
        for j, name in enumerate(self.settings.outcomes):
            n_bad = int((~np.isfinite(result.effects[:, j])).sum())
            if n_bad:
                raise RecordError(
                    f"outcome '{name}' must be finite, received NaN or infinity for {n_bad} masks of chunk {chunk}: "
                    f"correct the outcome or leave it out. {recorded}"
                )
        for name, sums in result.gradients.items():
            n_bad = int((~np.isfinite([*vars(sums).values()])).any(axis=0).sum())
            if n_bad:
                raise RecordError(
                    f"gradients of outcome '{name}' must be finite, received NaN or infinity for {n_bad} elements in "
                    f"chunk {chunk}: correct the outcome, or pass sampling=dropreg.Sampling(gradients=False). "
                    f"{recorded}"
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
