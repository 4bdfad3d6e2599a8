"""Examples in an ``.npz`` file, for the command line."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .data import Data
from .errors import DataError


def load_npz(path: str | Path, input_names: Sequence[str]) -> Data:
    """Read (x, y) from an ``.npz`` file with ``x`` (or one array for each input's name) and ``y``.

    Raises
    ------
    DataError
        If the file is missing, is no ``.npz`` file, or lacks an array.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"data file {path}: expected an .npz file, received no such file.")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise DataError(f"data file {path}: expected an .npz archive of arrays, received {error}.") from error
    holds = ", ".join(arrays) or "nothing"
    if "y" not in arrays or not ("x" in arrays or all(name in arrays for name in input_names)):
        raise DataError(
            f"data file {path}: expected arrays 'x' and 'y', received {holds}: write it with np.savez(path, x=x, y=y)."
        )
    if "x" in arrays:
        return arrays["x"], arrays["y"]
    return {name: arrays[name] for name in input_names}, arrays["y"]
