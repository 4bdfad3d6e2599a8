"""What a run follows from and what it gives: settings, chunks, gradient sums, unseen masks."""

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from .designs import BoolMasks, examples_of_rows
from .errors import RecordError


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
    gradients : tuple of str
        Outcomes whose gradients with respect to the masks were summed.
    task : str
        "classes", "binary", "multilabel" or "regression".
    n_elements, n_examples : int
    examples_per_mask, masks_per_group : int
        Of the design.
    chunk_rows, batch_size : int
        Rows of a chunk, rows of one forward pass.
    from_logits : bool
        Whether the model's outputs were taken for logits (else for probabilities).
    model, weights, data : str
        Fingerprints of the model's structure, its weights and the examples.
    output : int
        Number of the model's output that was measured.
    gradient_unit : str
        What squares of gradients are summed over: "row", or "mask" where a mask serves a batch.
    metrics : dict of str to str
        Fingerprints of the functions of `PerExample` and `PerMask` outcomes, by name.
    """

    rows: int
    seed: int
    design: dict[str, Any]
    outcomes: tuple[str, ...]
    greater_is_better: tuple[bool, ...]
    gradients: tuple[str, ...]
    task: str
    n_elements: int
    n_examples: int
    examples_per_mask: int
    masks_per_group: int
    chunk_rows: int
    batch_size: int
    from_logits: bool
    model: str
    weights: str
    data: str
    output: int = 0
    gradient_unit: str = "row"
    metrics: dict[str, str] = field(default_factory=dict)

    @property
    def n_chunks(self) -> int:
        return -(-self.rows // self.chunk_rows)

    def rows_in(self, chunk: int) -> int:
        """Rows of one chunk; the last may be shorter."""
        return min(self.chunk_rows, self.rows - chunk * self.chunk_rows)

    def masks_in(self, chunk: int) -> int:
        """Masks of one chunk."""
        return self.rows_in(chunk) // self.examples_per_mask

    @property
    def row_cost(self) -> int:
        """Forward passes that one row is worth; a backward pass counts as two."""
        return 1 + 2 * len(self.gradients)


@dataclass(frozen=True)
class GradientSums:
    """Sums over the rows of one or more chunks, for the gradients of one outcome's surrogate.

    Attributes
    ----------
    kept, dropped : ndarray of float64, shape (n_elements,)
        Derivatives with respect to an element's mask value, summed over the rows that keep it and
        over those that drop it.
    kept_squares, dropped_squares : ndarray of float64, shape (n_elements,)
        Their squares.
    n_kept, n_dropped : ndarray of float64, shape (n_elements,)
        How many rows those are.
    """

    kept: npt.NDArray[np.float64]
    dropped: npt.NDArray[np.float64]
    kept_squares: npt.NDArray[np.float64]
    dropped_squares: npt.NDArray[np.float64]
    n_kept: npt.NDArray[np.float64]
    n_dropped: npt.NDArray[np.float64]

    def __add__(self, other: "GradientSums") -> "GradientSums":
        return GradientSums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class ChunkResult:
    """What a chunk's masked forward passes gave.

    Attributes
    ----------
    outcomes, effects : ndarray of float32, shape (n_masks, n_outcomes)
        As measured (the mean over the examples of a mask), and minus the whole model's on the same
        examples.
    gradients : dict of str to GradientSums
        By outcome, where they were asked for.
    """

    outcomes: npt.NDArray[np.float32]
    effects: npt.NDArray[np.float32]
    gradients: dict[str, GradientSums]


@dataclass(frozen=True)
class Chunk:
    """Consecutive masks of a record.

    Attributes
    ----------
    masks : ndarray of bool, shape (n_masks, n_elements)
        True = kept.
    examples : ndarray of int64, shape (n_masks, examples_per_mask)
        Examples that each mask ran on.
    outcomes : ndarray of float64, shape (n_masks, n_outcomes)
        As measured.
    effects : ndarray of float64, shape (n_masks, n_outcomes)
        Minus the whole model's outcome on the same examples.
    """

    masks: BoolMasks
    examples: npt.NDArray[np.int64]
    outcomes: npt.NDArray[np.float64]
    effects: npt.NDArray[np.float64]


@dataclass(frozen=True)
class FidelityMasks:
    """Masks that no regression has seen, and what the network did on them.

    Attributes
    ----------
    rates : ndarray of float64, shape (n_masks,)
        Drop rate that each mask was drawn with.
    packed : ndarray of uint8, shape (n_masks, ceil(n_elements / 8))
        Masks as bits, 1 = kept.
    n_elements : int
    effects : ndarray of float64, shape (n_masks, n_outcomes)
        Mean change of each outcome over the examples of a mask.
    variances : ndarray of float64, shape (n_masks, n_outcomes)
        Sampling variance of those means.
    examples : int
        Examples of each mask.
    """

    rates: npt.NDArray[np.float64]
    packed: npt.NDArray[np.uint8]
    n_elements: int
    effects: npt.NDArray[np.float64]
    variances: npt.NDArray[np.float64]
    examples: int

    @property
    def masks(self) -> BoolMasks:
        """All masks, shape (n_masks, n_elements), True = kept."""
        return np.unpackbits(self.packed, axis=1, count=self.n_elements).view(np.bool_)

    def predict(self, coefficients: npt.NDArray[np.float64], intercept: float) -> npt.NDArray[np.float64]:
        """Predicted change of an outcome for each mask, shape (n_masks,); one mask in memory at a time."""
        return np.array(
            [intercept + coefficients[np.unpackbits(bits, count=self.n_elements) == 0].sum() for bits in self.packed]
        )

    def write(self, path: Path, outcomes: tuple[str, ...]) -> None:
        """Write as Parquet."""
        packed = self.packed
        buffer = pa.py_buffer(packed.tobytes())
        columns = {
            "rate": pa.array(self.rates),
            "examples": pa.array(np.full(len(self.rates), self.examples)),
            "mask": pa.Array.from_buffers(pa.binary(packed.shape[1]), len(packed), [None, buffer]),
        }
        for j, name in enumerate(outcomes):
            columns[f"{name}_change"] = pa.array(self.effects[:, j])
            columns[f"{name}_variance"] = pa.array(self.variances[:, j])
        write_table(pa.table(columns), path, 0)

    @classmethod
    def read(cls, path: Path, outcomes: tuple[str, ...], n_elements: int) -> "FidelityMasks":
        """Read what `write` wrote, or raise RecordError."""
        columns = [f"{name}_{suffix}" for name in outcomes for suffix in ("change", "variance")]
        table = read_table(path, [*columns, "rate", "mask", "examples"])
        effects, variances = (
            np.stack([table[f"{name}_{suffix}"].to_numpy() for name in outcomes], axis=1)
            for suffix in ("change", "variance")
        )
        packed = packed_masks(table["mask"].combine_chunks())
        examples = int(table["examples"][0].as_py())
        return cls(table["rate"].to_numpy(), packed, n_elements, effects, variances, examples)


def write_table(table: pa.Table, path: Path, rows: int) -> None:
    """Write Parquet with checksums, whole or not at all; `rows` are recorded so far."""
    write_atomically(path, lambda passing: pq.write_table(table, passing, write_page_checksum=True), rows)


def read_table(path: Path, columns: Sequence[str]) -> pa.Table:
    """Read Parquet that must hold these columns.

    Raises
    ------
    RecordError
        If the file is missing, damaged or another.
    """
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        lacking = sorted(set(columns).difference(table.column_names))
        if lacking:
            raise pa.ArrowKeyError(f"a table without columns {', '.join(lacking)}")
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())  # on one line
        raise RecordError(
            f"{path}: expected a file of a record, received {reason}: sample into the same folder again, which "
            "makes up for it."
        ) from error
    return table


def packed_masks(column: pa.Array) -> npt.NDArray[np.uint8]:
    """Masks as bits, shape (n_masks, bytes), from a column of them."""
    width = column.type.byte_width
    raw = np.frombuffer(column.buffers()[1], np.uint8, len(column) * width, column.offset * width)
    return raw.reshape(-1, width)


def unpack_masks(column: pa.Array, n_elements: int) -> BoolMasks:
    """Masks (n_masks, n_elements) from a column of packed bits."""
    return np.unpackbits(packed_masks(column), axis=1, count=n_elements).view(np.bool_)


def examples_of_masks(settings: RunSettings, chunk: int, n_masks: int) -> npt.NDArray[np.int64]:
    """Examples of the first `n_masks` masks of a chunk, shape (n_masks, examples_per_mask)."""
    n, group = settings.examples_per_mask, settings.masks_per_group
    first = chunk * settings.chunk_rows // group
    order = examples_of_rows(settings.seed, first, n_masks // group * n, settings.n_examples)
    return order.reshape(-1, n).repeat(group, axis=0)


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
