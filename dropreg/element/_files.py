"""Write selections of elements to JSON files and read them again."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .._utils import check_writable, read_json, write_json
from ..errors import ParameterError, RecordError
from ._table import Elements, check_elements

FORMAT = 1


def save_selections(
    path: str | Path, elements: Elements, values: dict[str, Any], kind: str, *, overwrite: bool
) -> None:
    """Write JSON values about elements, such as which are kept, labelled with what they are and of which elements.

    Raises ParameterError if the path has another ending than ".json", or the file exists and `overwrite` is False.
    """
    place = Path(path)
    check_writable("`path`", place, (".json",))
    if place.exists() and not overwrite:
        raise ParameterError(
            f"`path` must be a new file, received {place}, which exists: choose another, or pass overwrite=True."
        )
    label = {"format": FORMAT, "kind": kind, "elements": len(elements), "names": _digest(elements)}
    write_json(place, label | values)


def load_selections(path: str | Path, elements: Elements, kind: str) -> dict[str, Any]:
    """Return the values; RecordError if the file cannot be read, ParameterError if it is about other elements."""
    check_elements(elements)
    place = Path(path)
    try:
        values = read_json(place)
        if values["kind"] != kind:
            raise ValueError(f"a {values['kind']}")
        if values["format"] > FORMAT:
            raise ValueError(f"format {values['format']} of a later version of dropreg, newer than {FORMAT}")
        number, names = int(values["elements"]), values["names"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecordError(f"{place}: expected a saved {kind}, received {error}: save it again.") from error
    if names != _digest(elements):
        raise ParameterError(
            f"`elements` must be those of the saved {kind} ({number:,} elements), received {len(elements):,} others: "
            "call dropreg.elements(model, ...) as before."
        )
    return values


def as_kept(values: Any, path: str | Path) -> npt.NDArray[np.bool_]:
    """Return a list of booleans as an array; RecordError if it is none."""
    if not isinstance(values, list) or not all(isinstance(value, bool) for value in values):
        raise RecordError(f"{path}: expected a boolean for each element, received other values: save it again.")
    return np.array(values, dtype=bool)


def _digest(elements: Elements) -> str:
    """Return a hash of the structure of the model and of the names and kinds of the elements."""
    text = repr((elements.signature, elements.names, elements.kinds))
    if elements.replacement is not None:
        text += repr(elements.replacement)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
