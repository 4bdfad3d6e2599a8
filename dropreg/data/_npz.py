"""Examples in an ``.npz`` file, for the command line."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import DataError
from ._examples import Data

_BROKEN = (OSError, ValueError, EOFError, AttributeError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error)


def load_npz(path: str | Path, input_names: Sequence[str], *, labelled: bool = True) -> Data:
    """Read (x, y) from an ``.npz`` file with ``x`` (or one array named like each input) and ``y``.

    With an array ``w`` that is no input, the result is (x, y, w). Raise DataError if the file is missing, is no
    ``.npz`` file, or lacks an array; y may be missing, and is None then,
    unless `labelled`.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"data file {path}: expected an .npz file, received no such file: check the path.")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except _BROKEN as error:
        raise DataError(f"data file {path}: expected an .npz archive of arrays, received {error}.") from error
    holds = ", ".join(arrays) or "nothing"
    if (labelled and "y" not in arrays) or not ("x" in arrays or all(name in arrays for name in input_names)):
        expected, saved = ("arrays 'x' and 'y'", "x=x, y=y") if labelled else ("an array 'x'", "x=x")
        raise DataError(
            f"data file {path}: expected {expected}, received {holds}: write it with np.savez(path, {saved})."
        )
    x = arrays["x"] if "x" in arrays else {name: arrays[name] for name in input_names}
    weights = [arrays["w"]] if "w" in arrays and "w" not in input_names else []
    return x, arrays.get("y"), *weights
