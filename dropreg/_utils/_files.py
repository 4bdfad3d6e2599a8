"""Write files atomically, and JSON files with a checksum."""

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import RecordError


def write_atomically(path: Path, write: Callable[[Path], Any], rows: int | None = None) -> None:
    """Write a file under a temporary name and rename it, so that no partly written file is ever seen at `path`.

    `rows` are those that a record has so far, for errors.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "free some space, or choose another folder."
            if rows is not None:
                remedy = f"{rows:,} rows are recorded there and kept. Free some space and sample into the same folder "
                remedy += "again: the run resumes where it stopped."
            raise RecordError(f"the disk is full at {path.parent}: {remedy}") from error
        raise RecordError(f"{path}: cannot be written ({error}): choose another folder.") from error


def is_leftover(path: Path) -> bool:
    """Return whether a file is what `write_atomically` left when it was killed; it is overwritten or ignored."""
    return path.name.startswith(".") and path.name.endswith(".part")


def write_json(path: Path, values: dict[str, Any], rows: int | None = None) -> None:
    """Write `values` and their checksum atomically; `rows` as in `write_atomically`."""
    text = json.dumps({**values, "checksum": _checksum(values)}, indent=1) + "\n"
    write_atomically(path, lambda part: part.write_text(text), rows)


def read_json(path: Path) -> dict[str, Any]:
    """Return what `write_json` has written; ValueError or OSError if the file is damaged."""
    values = json.loads(path.read_text())
    if not isinstance(values, dict) or "checksum" not in values:
        raise ValueError("a file without a checksum, as other versions of dropreg write it")
    if values.pop("checksum") != _checksum(values):
        raise ValueError("values that disagree with their checksum")
    return values


def _checksum(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]
