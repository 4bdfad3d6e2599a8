"""Arrays for a model's inputs, checked against their shapes and dtypes."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from ._streams import as_array

if TYPE_CHECKING:
    from ..graph import Shape

_BLOCK_BYTES = 2**26


def as_list(x: Any, names: Sequence[str]) -> list[Any]:
    """Return `x` as a list in the order of the model's inputs."""
    if isinstance(x, Mapping):
        if any(name not in x for name in names):
            raise DataError(f"`x` must have the inputs {', '.join(names)}, received {', '.join(map(str, x))}.")
        return [x[name] for name in names]
    if len(names) == 1:
        return [x]
    several = isinstance(x, tuple | list)
    if not several or len(x) != len(names):
        received = len(x) if several else "one: pass a list or a dict"
        raise DataError(f"`x` must hold {len(names)} arrays ({', '.join(names)}), received {received}.")
    return list(x)


def checked_input(array: Any, name: str, expected: "Shape", dtype: str | None) -> npt.NDArray[Any]:
    """Return what input `name` is given as an array of its dtype (None for any); text as an array of bytes objects.

    Raise DataError if it has another shape, is not finite, or cannot be converted without loss.
    """
    try:
        array = as_array(array)
    except ValueError as error:
        raise DataError(f"input '{name}' must be one array, received values of different lengths: pad them.") from error
    if dtype != "string" and array.dtype.kind not in "fiub":
        raise DataError(f"input '{name}' must be numbers ({dtype or 'any'}), received dtype {array.dtype}.")
    if not fits(array, expected):
        hint = " Add the channel axis: x[..., np.newaxis]." if (*array.shape, 1)[1:] == expected[1:] else ""
        raise DataError(f"input '{name}' must have shape {written(expected)}, received {array.shape}.{hint}")
    if dtype == "string":
        return _checked_text(array, name)
    if dtype is None:
        dtype = "float32" if array.dtype.kind == "f" else str(array.dtype)
    _check_finite(array, name)
    if array.dtype == dtype:
        return array
    values = _converted(array, name, dtype)
    _check_finite(values, name)  # values that overflow in the model's dtype are refused too
    return values


def check_ids(ids: npt.NDArray[Any], name: str, count: int) -> None:
    """Raise DataError unless `ids` lie from 0 to `count` - 1."""
    for start, block in blocks(ids):
        wrong = (block < 0) | (block >= count)
        if wrong.any():
            raise DataError(
                f"input '{name}' must be numbers from 0 to {count - 1}, the size of its embedding being {count}, "
                f"received {block[wrong].flat[0]} at example {start + int(np.argwhere(wrong)[0][0])}: number the "
                "tokens as in training."
            )


def _checked_text(array: npt.NDArray[Any], name: str) -> npt.NDArray[Any]:
    text = np.empty(array.shape, dtype=object)
    for place, value in np.ndenumerate(array):
        if not isinstance(value, str | bytes):
            raise DataError(
                f"input '{name}' must be text, received {value!r} ({type(value).__name__}) at example {place[0]}: "
                "convert or remove it."
            )
        text[place] = value.encode() if isinstance(value, str) else bytes(value)
    return text


def _check_finite(values: npt.NDArray[Any], name: str) -> None:
    bad: list[int] = []
    for start, block in blocks(values) if values.dtype.kind == "f" else ():
        bad += (start + np.flatnonzero(~np.isfinite(block).reshape(len(block), -1).all(axis=1))).tolist()
    if bad:
        raise DataError(
            f"input '{name}' must be finite, received NaN or infinity in {len(bad)} examples (the first is "
            f"example {bad[0]}): remove or impute them."
        )


def _converted(array: npt.NDArray[Any], name: str, dtype: str) -> npt.NDArray[Any]:
    """Return `array` in the input's dtype; fractions are refused where it takes whole numbers."""
    with np.errstate(over="ignore", invalid="ignore"):
        values = array.astype("float32" if dtype == "bfloat16" else dtype)
        if np.issubdtype(values.dtype, np.integer) and (values != array).any():
            raise DataError(
                f"input '{name}' must be whole numbers ({dtype}), received fractions or values out of range such as "
                f"{array[values != array].flat[0]}: round them if they are meant to be whole."
            )
    return values


def blocks(array: npt.NDArray[Any]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield (number of the first example, consecutive examples that fit in memory if `array` lies on disk)."""
    step = max(_BLOCK_BYTES // max(array.itemsize * math.prod(array.shape[1:]), 1), 1)
    for start in range(0, len(array), step):
        yield start, array[start : start + step]


def fits(array: npt.NDArray[Any], expected: "Shape") -> bool:
    """Whether an array has a shape, in which None is any length."""
    same = len(array.shape) == len(expected)
    return same and all(want in (None, got) for got, want in zip(array.shape, expected, strict=True))


def written(shape: "Shape") -> str:
    """Return a shape as Python writes it, with "any" for None."""
    return str(tuple(shape)).replace("None", "any")
