"""Tables and packed masks in Parquet files, labelled with their run, their name and a checksum."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from .._utils import BoolMasks, write_atomically
from ..errors import RecordError

_LABEL = b"dropreg"


def write_table(table: pa.Table, path: Path, run: str, rows: int) -> None:
    """Write a Parquet file atomically; its label names the `run` and the file. `rows` rows are recorded so far."""
    label = json.dumps({"run": run, "file": path.name, "checksum": _checksum(table)})
    labelled = table.replace_schema_metadata({**(table.schema.metadata or {}), _LABEL: label.encode()})
    write_atomically(path, lambda part: pq.write_table(labelled, part, write_page_checksum=True), rows)


def read_table(path: Path, columns: Sequence[str], run: str) -> pa.Table:
    """Return a table; RecordError if the file is missing, damaged or of another run, or lacks one of `columns`."""
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        lacking = sorted(set(columns).difference(table.column_names))
        if lacking:
            raise pa.ArrowKeyError(f"a table without columns {', '.join(lacking)}")
        label = _checked_label(table.schema.metadata, path, run)
        if label["checksum"] != _checksum(table):
            raise pa.ArrowInvalid("values that disagree with their checksum")
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise _refusal(path, error) from error
    return table


def rows_of_file(path: Path, run: str) -> int:
    """Return the number of rows of a table from its metadata; RecordError as in `read_table`."""
    try:
        metadata = pq.read_metadata(path)
        _checked_label(metadata.metadata, path, run)
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise _refusal(path, error) from error
    return metadata.num_rows


def _checked_label(metadata: Mapping[bytes, bytes] | None, path: Path, run: str) -> dict[str, str]:
    """Return the label of a file; ValueError unless it names this run and this file."""
    label = json.loads((metadata or {}).get(_LABEL, b"{}"))
    if "run" not in label:
        raise ValueError("a file that does not say which run it belongs to")
    if label["run"] != run:
        raise ValueError(f"{label['file']} of another run")
    if label["file"] != path.name:
        raise ValueError(f"{label['file']} of the same run")
    return label


def _refusal(path: Path, error: Exception) -> RecordError:
    reason = " ".join(str(error.args[0] if isinstance(error, KeyError) else error).split())  # on one line
    return RecordError(
        f"{path}: expected a file of a record, received {reason}: sample into the same folder again to replace it."
    )


def _checksum(table: pa.Table) -> str:
    """Return a hash of the names and values of all columns."""
    digest = hashlib.sha256()
    for name in table.column_names:
        column = table[name].combine_chunks()
        if pa.types.is_fixed_size_list(column.type):  # Parquet gives its items another name
            column = column.flatten()
        digest.update(f"{name} {column.type} {len(column)} ".encode())
        if pa.types.is_fixed_size_binary(column.type):
            digest.update(packed_masks(column).tobytes())
        elif pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
            digest.update(column.to_numpy(zero_copy_only=False).tobytes())
        else:
            digest.update(json.dumps(column.to_pylist(), default=str).encode())
    return digest.hexdigest()[:16]


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
