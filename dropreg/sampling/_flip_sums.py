"""Sums of corrected effects, and their files."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ._parquet import read_table, write_table


@dataclass(frozen=True)
class FlipSums:
    """Sums over rows of the corrected effects of one outcome.

    The corrected effect of an element in a row is the effect that the gradient predicts, plus the error of this
    prediction divided by the probability of measuring it, where it was measured. An effect is the outcome with the
    element minus the outcome without.

    Attributes
    ----------
    total, squares : ndarray of float64, shape (n_elements,)
        Sums of the corrected effects and of their squares.
    corrections : ndarray of float64, shape (n_elements,)
        Sums of the squares of the corrections alone.
    events : ndarray of float64, shape (n_elements,)
        Measured cells in which the prediction was wrong.
    groups : ndarray of float64, shape (n_elements, n_groups)
        Sums of the corrected effects over the rows of each group of examples; no groups where one mask serves several
        examples.
    rows_of_groups : ndarray of float64, shape (n_groups,)
        Numbers of these rows; empty for the sums of a single chunk.
    """

    total: npt.NDArray[np.float64]
    squares: npt.NDArray[np.float64]
    corrections: npt.NDArray[np.float64]
    events: npt.NDArray[np.float64]
    groups: npt.NDArray[np.float64]
    rows_of_groups: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def __add__(self, other: "FlipSums") -> "FlipSums":
        return FlipSums(*(getattr(self, name) + getattr(other, name) for name in _STORED))


def flips_key(outcome: str, part: int | None) -> str:
    """Return the name under which the sums of an outcome over a slice, or over all rows, are stored."""
    return outcome if part is None else f"{outcome}[{part}]"


def joined(parts: Sequence[FlipSums]) -> FlipSums:
    """Return the sums over all rows from those of disjoint slices."""
    total = reduce(operator.add, [replace(part, groups=np.zeros((len(part.total), 0))) for part in parts])
    return replace(total, groups=np.concatenate([part.groups for part in parts], axis=1))


_STORED = [field.name for field in fields(FlipSums)][:-1]


def write_flips(path: Path, sums: dict[str, FlipSums], run: str, rows: int) -> None:
    """Write sums, by their `flips_key`, to a Parquet file of a run; those of groups in float32."""
    columns: dict[str, pa.Array] = {}
    for name, one in sums.items():
        for key in _STORED[:-1]:
            columns[f"{name}_{key}"] = pa.array(getattr(one, key))
        n_groups = one.groups.shape[1]
        flat = pa.array(one.groups.astype(np.float32).reshape(-1))
        columns[f"{name}_groups"] = (
            pa.FixedSizeListArray.from_arrays(flat, n_groups) if n_groups else pa.nulls(len(one.total))
        )
    write_table(pa.table(columns), path, run, rows)


def read_flips(path: Path, key: str, run: str) -> FlipSums:
    """Return what `write_flips` has written; RecordError if the file cannot be read."""
    names = [f"{key}_{stored}" for stored in _STORED]
    table = read_table(path, names, run)
    *sums, groups = (table[name].combine_chunks() for name in names)
    n_elements = len(table)
    n_groups = 0 if pa.types.is_null(groups.type) else groups.type.list_size
    flat = groups.flatten().to_numpy() if n_groups else np.zeros(0)
    arrays = (column.to_numpy().astype(np.float64) for column in sums)
    return FlipSums(*arrays, groups=flat.astype(np.float64).reshape(n_elements, n_groups))
