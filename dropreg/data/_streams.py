"""Data that comes in batches, written to disk, so that any example can be drawn at any time."""

import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ..errors import DataError


class _Columns:
    """Files to which batches are appended, one file for each array of a batch."""

    def __init__(self, folder: Path, leaves: list[npt.NDArray[Any]]) -> None:
        self.paths = [folder / f"{k}.bin" for k in range(len(leaves))]
        self.files: list[BinaryIO] = [path.open("wb") for path in self.paths]
        self.dtypes = [leaf.dtype for leaf in leaves]
        self.shapes = [leaf.shape[1:] for leaf in leaves]
        self.count = 0

    def append(self, leaves: list[npt.NDArray[Any]]) -> None:
        lengths = {len(leaf) for leaf in leaves}
        if len(lengths) != 1:
            raise DataError(f"a batch must have as many labels as examples, received lengths {sorted(lengths)}.")
        for file, leaf, dtype, shape in zip(self.files, leaves, self.dtypes, self.shapes, strict=True):
            if leaf.shape[1:] != shape:
                raise DataError(
                    f"all batches must have the same shape, received {leaf.shape[1:]} after {shape}: pad the examples."
                )
            file.write(np.ascontiguousarray(_as_type(leaf, dtype)).data)
        self.count += lengths.pop()

    def close(self) -> None:
        for file in self.files:
            file.close()

    def arrays(self) -> list[npt.NDArray[Any]]:
        """Return everything written, as arrays that are read from disk on demand."""
        self.close()
        each = zip(self.paths, self.dtypes, self.shapes, strict=True)
        return [np.memmap(path, dtype, mode="r", shape=(self.count, *shape)) for path, dtype, shape in each]


def as_array(value: Any) -> npt.NDArray[Any]:
    """Return `value` as an array; bfloat16, which NumPy does not know, as float32."""
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _as_type(array: npt.NDArray[Any], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return `array` in the dtype of the first batch; raise DataError if that cannot hold all values."""
    if array.dtype == dtype:
        return array
    with np.errstate(invalid="ignore", over="ignore"):
        values = array.astype(dtype)
        back = values.astype(array.dtype)
    if not (np.array_equal(values, array, equal_nan=True) and np.array_equal(back, array, equal_nan=True)):
        raise DataError(
            f"all batches must have the same dtype, received {array.dtype} after {dtype}, which cannot hold its "
            f"values: convert every batch, such as x.astype('{np.result_type(array.dtype, dtype)}')."
        )
    return values


def stream(batches: Any, folder: str | Path | None = None) -> tuple[Any, ...]:
    """Write batches of (x, y), or (x, y, w), to disk, in one pass, and return them as arrays on disk.

    Examples are drawn in random order and several times, which needs arrays; these may be larger than memory.

    Parameters
    ----------
    batches : tf.data.Dataset, keras.utils.PyDataset, generator or other iterable of (x, y)
        Batched and finite; x and y are arrays or tensors, or lists or dicts of them. A batch of a single x array is
        unlabelled. A third value w holds the weights of examples or positions.
    folder : str or Path, optional
        Where to write; by default a temporary folder, which is removed with the arrays.

    Returns
    -------
    (x, y) or (x, y, w)
        Arrays of numpy.memmap in the structure of the batches; y is None without labels.

    Raises
    ------
    DataError
        If there is no example, the batches are infinite, or they differ in structure, shape or dtype. The dtype of the
        first batch is kept, and must hold all later values.

    Examples
    --------
    >>> import dropreg as dr
    >>> import numpy as np
    >>> batches = ((np.ones((8, 4), "float32"), np.zeros(8, int)) for _ in range(3))
    >>> x, y = dr.datasets.stream(batches)
    >>> x.shape, y.shape
    ((24, 4), (24,))
    """
    import keras

    place = Path(tempfile.mkdtemp(prefix="dropreg-data-")) if folder is None else Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    columns, structure = None, None
    try:
        for batch in _iterate(batches):
            pair = _pair(batch)
            leaves = _leaves(pair)
            if columns is None:
                columns, structure = _Columns(place, leaves), pair
            _check_structure(structure, pair)
            columns.append(leaves)
        if columns is None or columns.count == 0:
            raise DataError("`data` must hold at least one example, received none: a generator can be read once only.")
    except BaseException:
        if columns is not None:
            columns.close()
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)
        raise
    arrays = columns.arrays()
    if folder is None:
        remaining = [len(arrays)]
        for array in arrays:
            weakref.finalize(array, _release, remaining, place)
    packed = keras.tree.pack_sequence_as(structure, arrays)
    return packed if len(packed) > 1 else (packed[0], None)


def _release(remaining: list[int], place: Path) -> None:
    """Remove the folder when the last of its arrays is deleted."""
    remaining[0] -= 1
    if not remaining[0]:
        shutil.rmtree(place, ignore_errors=True)


def _iterate(batches: Any) -> Iterator[Any]:
    """Iterate over batches; raise DataError if they are infinite or no batches."""
    import keras
    import tensorflow as tf

    if isinstance(batches, tf.data.Dataset):
        if int(batches.cardinality()) == tf.data.INFINITE_CARDINALITY:
            raise DataError("`data` must be finite, received a dataset that repeats for ever: use dataset.take(n).")
        return iter(batches)
    if isinstance(batches, keras.utils.PyDataset):
        if batches.num_batches is None:
            raise DataError("`data` must be finite, received a PyDataset without a number of batches: define __len__.")
        return (batches[k] for k in range(batches.num_batches))
    if isinstance(batches, np.ndarray | Mapping | str | bytes) or not isinstance(batches, Iterable):
        raise DataError(
            f"`data` must be a pair (x, y) or come in batches, received {type(batches).__name__}: pass (x, y)."
        )
    return iter(batches)


def _pair(batch: Any) -> tuple[Any, ...]:
    """Return (x, y) of a batch, (x,) if it has no labels, or (x, y, w) if it has weights."""
    if not isinstance(batch, tuple | list):
        return (batch,)
    if len(batch) > 3:
        raise DataError(f"a batch must be (x, y), or (x, y, w) with weights, received {len(batch)} values.")
    x, y, w = [*batch, None, None][:3]
    if w is not None and y is None:
        raise DataError("a batch with weights must have labels, received y=None: pass whole arrays (x, None, w).")
    return tuple(value for value in (x, y, w) if value is not None)


def _leaves(pair: tuple[Any, ...]) -> list[npt.NDArray[Any]]:
    """Return the arrays of a batch."""
    import keras

    leaves = []
    for leaf in keras.tree.flatten(pair):
        array = as_array(leaf)
        if array.ndim == 0:
            raise DataError(
                "`data` must come in batches, arrays with the examples along their first axis, received a single "
                f"{type(leaf).__name__}: batch the dataset, and make lists arrays with np.asarray."
            )
        if array.dtype.kind not in "fiub":
            raise DataError(
                f"batches must hold numbers, received dtype {array.dtype}: pass text as whole arrays (x, y), and "
                "number labels that are names."
            )
        leaves.append(array)
    return leaves


def _check_structure(first: Any, pair: tuple[Any, ...]) -> None:
    """Raise DataError unless a batch has the structure of the first one."""
    import keras

    try:
        keras.tree.assert_same_structure(first, pair)
    except ValueError as error:
        shown = [keras.tree.map_structure(lambda _: "array", batch) for batch in (pair, first)]
        raise DataError(
            f"all batches must have the same structure, received {shown[0]} after {shown[1]}: give every batch the "
            "same inputs and labels."
        ) from error
