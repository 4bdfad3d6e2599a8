"""The file: a safetensors container with two arrays of bytes, "model" and "weights", and a checksum.

The container is eight bytes with the length of its JSON header, the header, and the bytes of the arrays
(https://github.com/huggingface/safetensors). It is simple enough to be written here: reading it needs no other package,
and nothing in it is trusted before it is checked.
"""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

FORMAT = "dropreg"
VERSION = 1
"""Raised when files change so that earlier versions of dropreg cannot read them; all earlier files stay readable."""
NAMES = ("model", "weights")
_LONGEST_HEADER = 4096


def write_container(path: Path, arrays: dict[str, bytes]) -> None:
    """Write the file; `arrays` has `NAMES`."""
    header: dict[str, Any] = {
        "__metadata__": {"format": FORMAT, "version": str(VERSION), "sha256": _digest(arrays[name] for name in NAMES)}
    }
    start = 0
    for name in NAMES:
        end = start + len(arrays[name])
        header[name] = {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.writelines([struct.pack("<Q", len(text)), text, *(arrays[name] for name in NAMES)])


def read_container(path: Path) -> dict[str, memoryview]:
    """Return the arrays; ValueError or OSError if the file is not what `write_container` writes."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(_LONGEST_HEADER, size - 8):
            raise ValueError("a file with another beginning")
        header = _header(file.read(length))
        label = header.pop("__metadata__")
        _check_version(label)
        ends = _ends(header)
        if 8 + length + ends[-1] != size:
            raise ValueError(f"{size:,} bytes in place of {8 + length + ends[-1]:,}")
        data = memoryview(file.read())
    arrays = {"model": data[: ends[0]], "weights": data[ends[0] : ends[1]]}
    if _digest(arrays.values()) != label.get("sha256"):
        raise ValueError("bytes that disagree with their checksum")
    return arrays


def _header(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError("a file without a header") from error
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__"), dict):
        raise ValueError("a file without a header")
    return header


def _check_version(label: dict[str, Any]) -> None:
    if label.get("format") != FORMAT:
        raise ValueError("a file of another program")
    version = label.get("version")
    if not isinstance(version, str) or not version.isdecimal() or len(version) > 9:
        raise ValueError("a file without a version")
    if int(version) > VERSION:
        raise ValueError(f"version {version} of the format, newer than {VERSION}: install a later dropreg")


def _ends(header: dict[str, Any]) -> list[int]:
    """Return where the arrays end; ValueError unless they follow one another."""
    start, ends = 0, []
    for name in NAMES:
        entry = header.pop(name, None)
        offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
        if not isinstance(offsets, list) or len(offsets) != 2 or any(type(k) is not int for k in offsets):
            raise ValueError(f"no array '{name}'")
        if (
            offsets[0] != start
            or offsets[1] < start
            or entry != {"dtype": "U8", "shape": [offsets[1] - start], "data_offsets": offsets}
        ):
            raise ValueError(f"an array '{name}' that lies elsewhere")
        start = offsets[1]
        ends.append(start)
    if header:
        raise ValueError("other arrays than those of a packed model")
    return ends


def _digest(parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()
