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
