"""Examples and labels, checked against the model."""

import hashlib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .errors import DataError

if TYPE_CHECKING:
    import keras

Data = tuple[Any, Any]
"""(x, y): x an array, or a list, tuple or dict of arrays for several inputs; y the labels."""


@dataclass(frozen=True)
class Examples:
    """Checked examples.

    Attributes
    ----------
    inputs : tuple of ndarray, each of shape (n_examples, ...)
        One for each input of the model, in its dtype.
    labels : ndarray of int64, shape (n_examples,)
        Classes.
    """

    inputs: tuple[npt.NDArray[Any], ...]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def fingerprint(self) -> str:
        """Hash of all values."""
        digest = hashlib.sha256(self.labels.tobytes())
        for array in self.inputs:
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()[:16]


def check_data(model: "keras.Model", data: Data) -> Examples:
    """Check (x, y) against a classifier's inputs and outputs.

    Parameters
    ----------
    model : keras.Model
        Its output must have shape (batch, classes).
    data : (x, y)
        Labels as integers (n,) or (n, 1), or one-hot (n, classes).

    Returns
    -------
    checked : Examples

    Raises
    ------
    DataError
        If shapes, dtypes, lengths or values do not fit; the text says which, and what to do.
    """
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise DataError(f"`data` must be a pair (x, y), received {type(data).__name__}: pass (x, y).")
    x, y = data
    tensors = model.inputs
    arrays = _as_list(x, [tensor.name for tensor in tensors])
    inputs = tuple(
        _checked_input(array, tensor.name, tuple(tensor.shape), str(tensor.dtype))
        for array, tensor in zip(arrays, tensors, strict=True)
    )
    n_examples = len(inputs[0])
    for array, tensor in zip(inputs, tensors, strict=True):
        if len(array) != n_examples:
            raise DataError(
                f"all inputs must have the same number of examples, received {n_examples} for "
                f"'{tensors[0].name}' and {len(array)} for '{tensor.name}'."
            )
    if n_examples == 0:
        raise DataError("`data` must hold at least one example, received none.")
    return Examples(inputs, _checked_labels(y, n_examples, tuple(model.outputs[0].shape)))


def _as_list(x: Any, names: Sequence[str]) -> list[Any]:
    """`x` as a list in the order of the model's inputs."""
    if isinstance(x, Mapping):
        missing = [name for name in names if name not in x]
        if missing:
            raise DataError(f"`x` must have the inputs {', '.join(names)}, received {', '.join(map(str, x))}.")
        return [x[name] for name in names]
    if isinstance(x, tuple | list) and len(names) > 1:
        if len(x) != len(names):
            raise DataError(f"`x` must hold {len(names)} arrays ({', '.join(names)}), received {len(x)}.")
        return list(x)
    if len(names) > 1:
        raise DataError(f"`x` must hold {len(names)} arrays ({', '.join(names)}), received one: pass a list or a dict.")
    return [x]


def _checked_input(array: Any, name: str, expected: tuple[int | None, ...], dtype: str) -> npt.NDArray[Any]:
    array = np.asarray(array)
    if array.dtype.kind not in "fiub":
        raise DataError(f"input '{name}' must be numbers ({dtype}), received dtype {array.dtype}.")
    fits = array.ndim == len(expected) and all(
        want is None or got == want for got, want in zip(array.shape, expected, strict=True)
    )
    if not fits:
        sizes = ", ".join("any" if size is None else str(size) for size in expected)
        hint = " Add the channel axis: x[..., np.newaxis]." if (*array.shape, 1)[1:] == expected[1:] else ""
        raise DataError(f"input '{name}' must have shape ({sizes}), received {array.shape}.{hint}")
    with np.errstate(over="ignore", invalid="ignore"):
        values = array.astype(dtype, copy=False)
    finite = np.isfinite(array) & np.isfinite(values)  # what overflows in the model's dtype is refused too
    if not finite.all():
        bad = np.flatnonzero(~finite.reshape(len(array), -1).all(axis=1))
        raise DataError(
            f"input '{name}' must be finite, received NaN or infinity in {len(bad)} examples (the first is "
            f"example {bad[0]}): remove or impute them."
        )
    return values


def _checked_labels(y: Any, n_examples: int, output: tuple[int | None, ...]) -> npt.NDArray[np.int64]:
    labels = np.asarray(y)
    if len(output) != 2 or output[1] is None or output[1] < 2:
        raise DataError(
            f"the model's output must have shape (batch, classes) with at least two classes, received {output}: "
            "pass a classifier."
        )
    n_classes = output[1]
    if labels.ndim == 0 or len(labels) != n_examples:
        received = "a single value" if labels.ndim == 0 else f"{len(labels)} labels"
        raise DataError(f"`y` must have one label for each of {n_examples} examples, received {received}.")
    if labels.dtype.kind not in "fiub":
        raise DataError(f"`y` must be integer classes or one-hot rows, received dtype {labels.dtype}.")
    if labels.ndim == 2 and labels.shape[1] == n_classes:
        one_hot = ((labels == 0) | (labels == 1)).all() and (labels.sum(axis=1) == 1).all()
        if not one_hot:
            raise DataError(f"`y` of shape {labels.shape} must be one-hot, received rows that are not.")
        return labels.argmax(axis=1).astype(np.int64)
    labels = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim != 1:
        raise DataError(f"`y` must have shape ({n_examples},) or ({n_examples}, {n_classes}), received {labels.shape}.")
    wrong = ~np.isfinite(labels) | (labels != np.round(labels)) | (labels < 0) | (labels >= n_classes)
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise DataError(
            f"`y` must be classes 0 to {n_classes - 1}, received {labels[first]!s} at example {first} "
            f"({int(wrong.sum())} such labels): renumber the classes from 0."
        )
    return labels.astype(np.int64)


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
