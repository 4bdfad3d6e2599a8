"""Tables and packed masks in Parquet files."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from .._utils import BoolMasks, write_atomically
from ..errors import RecordError


def write_table(table: pa.Table, path: Path, rows: int) -> None:
    """Write a Parquet file with checksums atomically; `rows` rows are recorded so far."""
    write_atomically(path, lambda part: pq.write_table(table, part, write_page_checksum=True), rows)


def read_table(path: Path, columns: Sequence[str]) -> pa.Table:
    """Return a Parquet table; RecordError if the file is missing or damaged, or lacks one of `columns`."""
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        lacking = sorted(set(columns).difference(table.column_names))
        if lacking:
            raise pa.ArrowKeyError(f"a table without columns {', '.join(lacking)}")
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())  # on one line
        raise RecordError(
            f"{path}: expected a file of a record, received {reason}: sample into the same folder again to replace it."
        ) from error
    return table


def mask_column(masks: npt.NDArray[np.uint8]) -> pa.Array:
    """Return a column of packed masks (n_masks, bytes)."""
    return pa.Array.from_buffers(pa.binary(masks.shape[1]), len(masks), [None, pa.py_buffer(masks.tobytes())])


def packed_masks(column: pa.Array) -> npt.NDArray[np.uint8]:
    """Return the packed masks (n_masks, bytes) of a column."""
    width = column.type.byte_width
    raw = np.frombuffer(column.buffers()[1], np.uint8, len(column) * width, column.offset * width)
    return raw.reshape(-1, width)


def unpack_masks(column: pa.Array, n_elements: int) -> BoolMasks:
    """Return the masks (n_masks, n_elements) of a column of packed masks."""
    return np.unpackbits(packed_masks(column), axis=1, count=n_elements).view(np.bool_)
