"""Lossless codings of arrays: as they are, as a codebook with entropy-coded codes, by bytes, or zeros apart.

A coding is a JSON value that says how the bytes of an array are to be read:

- ``[k, a, b]``, a leaf: k different values, a bytes of zlib with how often each occurs, b bytes of codes
  (`_range_coder`); or the values themselves where k is 0;
- ``{"planes": [leaf, ...]}``: the bytes of all values, least significant bytes first, a leaf each;
- ``{"zeros": leaf, "rest": coding}``: a bit for each value, 1 where it is not zero, in bytes; then the other values;
- ``{"narrow": dtype, "rest": coding}``: the same numbers in a smaller type;
- ``{"columns": n, "scales": coding, "codes": coding}``: float32 as int8 times a float32 for each of n columns.

Values are compared by their bits, so negative zeros and every NaN are kept as well.
"""

import zlib
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ._multiples import find_multiples, multiplied
from ._range_coder import decode, encode, entropy_bits, n_lanes

Coding = list[int] | dict[str, Any]
Words = npt.NDArray[Any]
"""Unsigned integers with the bits of an array's values."""
_NARROWER = {"float64": "float32", "float32": "float16"}
_FEW_ZEROS = 0.02
_SAMPLE = 1 << 15
_PER_VALUE = 1.5  # bytes of zlib with the number of occurrences of one value, about
_FIXED = 16


def dtype_named(name: Any) -> npt.DTypeLike:
    """Return a numeric type by its name, those of `ml_dtypes` included; ValueError if there is none."""
    if not isinstance(name, str):
        raise ValueError(f"a type {name!r}")
    try:
        found = np.dtype(getattr(ml_dtypes, name, name))
    except TypeError as error:
        raise ValueError(f"a type {name!r}") from error
    if found.kind not in "biuf" + ("V" if hasattr(ml_dtypes, name) else "") or found.itemsize not in (1, 2, 4, 8):
        raise ValueError(f"a type {name!r}")
    return found


def encode_array(array: npt.NDArray[Any]) -> tuple[Coding, list[bytes]]:
    """Return the smallest of the codings of an array, and its bytes in parts."""
    narrow = _NARROWER.get(array.dtype.name)
    if narrow is not None:
        with np.errstate(over="ignore", invalid="ignore"):
            smaller = array.astype(narrow)
        if np.array_equal(_words(smaller.astype(array.dtype)), _words(array)):
            coding, parts = encode_array(smaller)
            return {"narrow": narrow, "rest": coding}, parts
    found = [_encode(_words(array)), *_encode_multiples(array)]
    return min(found, key=lambda each: sum(map(len, each[1])))


def _encode_multiples(array: npt.NDArray[Any]) -> list[tuple[Coding, list[bytes]]]:
    """Return the codings as multiples of scales, for columns of the last axis and of the last two."""
    if array.dtype != np.float32 or array.ndim < 2:
        return []
    found = []
    for columns in {array.shape[-1], array.shape[-1] * array.shape[-2] if array.ndim > 2 else array.shape[-1]}:
        multiples = find_multiples(array, columns)
        if multiples is not None:
            scales, before = _encode(_words(multiples.scales))
            codes, after = _encode(_words(multiples.codes))
            found.append(({"columns": columns, "scales": scales, "codes": codes}, before + after))
    return found


def decode_array(coding: Any, data: memoryview, dtype: str, n: int) -> npt.NDArray[Any]:
    """Return the `n` values of a coding; ValueError if coding and bytes do not fit."""
    kind = np.dtype(dtype_named(dtype))
    if isinstance(coding, dict) and set(coding) == {"narrow", "rest"}:
        if coding["narrow"] != _NARROWER.get(dtype):
            raise ValueError(f"{dtype} from {coding['narrow']!r}")
        return decode_array(coding["rest"], data, coding["narrow"], n).astype(kind)
    if isinstance(coding, dict) and set(coding) == {"columns", "scales", "codes"}:
        return _decode_multiples(coding, data, dtype, n)
    words, used = _decode(coding, data, n, kind.itemsize)
    if used != len(data):
        raise ValueError("bytes that no coding describes")
    return words.view(kind)


def _decode_multiples(coding: dict[str, Any], data: memoryview, dtype: str, n: int) -> npt.NDArray[Any]:
    columns = coding["columns"]
    if dtype != "float32" or type(columns) is not int or not 0 < columns <= n or n % columns:
        raise ValueError(f"{dtype} in {columns!r} columns")
    scales, used = _decode(coding["scales"], data, columns, 4)
    codes, size = _decode(coding["codes"], data[used:], n, 1)
    if used + size != len(data):
        raise ValueError("bytes that no coding describes")
    return multiplied(scales.view(np.float32), codes.view(np.int8).reshape(-1, columns)).reshape(-1)


def _words(array: npt.NDArray[Any]) -> Words:
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(f"u{flat.dtype.itemsize}")


def _encode(words: Words) -> tuple[Coding, list[bytes]]:
    zeros = len(words) - np.count_nonzero(words)
    plans = [_plan_dense(words)]
    if _FEW_ZEROS * len(words) < zeros < len(words):
        is_kept = words != 0
        bits, (cost, planes) = np.packbits(is_kept), _plan_dense(rest := words[is_kept])
        if _cost_of_leaf(bits) + cost + _FIXED < plans[0][0]:
            leaf, parts = _encode_leaf(bits)
            coding, others = _encode_dense(rest, planes=planes)
            return {"zeros": leaf, "rest": coding}, parts + others
    return _encode_dense(words, planes=plans[0][1])


def _plan_dense(words: Words) -> tuple[float, bool]:
    """Return the bytes that the best coding of values takes, about, and whether it is that by planes."""
    whole = _cost_of_leaf(words)
    by_planes = sum(map(_cost_of_leaf, _planes(words))) if words.itemsize > 1 else np.inf
    return min(whole, by_planes), by_planes < whole


def _encode_dense(words: Words, *, planes: bool) -> tuple[Coding, list[bytes]]:
    if not planes:
        return _encode_leaf(words)
    found = [_encode_leaf(plane) for plane in _planes(words)]
    return {"planes": [leaf for leaf, _ in found]}, [part for _, parts in found for part in parts]


def _planes(words: Words) -> Sequence[Words]:
    return [(words >> np.array(8 * k, words.dtype)).astype(np.uint8) for k in range(words.itemsize)]


def _cost_of_leaf(words: Words) -> float:
    """Return the bytes of a leaf, about."""
    if _has_many_values(words):
        return words.nbytes
    counts = np.unique(words, return_counts=True)[1] if len(words) else np.zeros(0)
    return min(words.nbytes, _cost_of_codes(counts, words.itemsize))


def _cost_of_codes(counts: npt.NDArray[Any], itemsize: int) -> float:
    if len(counts) < 2:
        return len(counts) * itemsize + _FIXED
    return len(counts) * (itemsize + _PER_VALUE) + entropy_bits(counts) / 8 + 8 * n_lanes(counts) + _FIXED


def _has_many_values(words: Words) -> bool:
    """Return whether most values of a sample are different, so that a codebook would not pay."""
    sample = words[:: max(1, len(words) // _SAMPLE)]
    return len(words) > _SAMPLE and len(np.unique(sample)) > len(sample) / 2


def _encode_leaf(words: Words) -> tuple[Coding, list[bytes]]:
    if len(words) and not _has_many_values(words):
        values, symbols, counts = np.unique(words, return_inverse=True, return_counts=True)
        if _cost_of_codes(counts, words.itemsize) < words.nbytes:
            packed = zlib.compress(_as_little(counts.astype(np.uint64)).reshape(-1, 8).T.tobytes(), 9)
            stream = encode(symbols, counts)
            return [len(values), len(packed), len(stream)], [_as_little(values).tobytes(), packed, stream]
    return [0, 0, words.nbytes], [_as_little(words).tobytes()]


def _as_little(words: Words) -> npt.NDArray[np.uint8]:
    return words.astype(words.dtype.newbyteorder("<")).view(np.uint8)


def _decode(coding: Any, data: memoryview, n: int, itemsize: int) -> tuple[Words, int]:
    """Return the values, and the number of bytes that they take."""
    if isinstance(coding, list):
        return _decode_leaf(coding, data, n, itemsize)
    if isinstance(coding, dict) and set(coding) == {"planes"} and len(coding["planes"]) == itemsize:
        words, used = np.zeros(n, f"u{itemsize}"), 0
        for k, leaf in enumerate(coding["planes"]):
            plane, size = _decode_leaf(leaf, data[used:], n, 1)
            words |= plane.astype(words.dtype) << np.array(8 * k, words.dtype)
            used += size
        return words, used
    if isinstance(coding, dict) and set(coding) == {"zeros", "rest"} and not _has_zeros(coding["rest"]):
        bits, used = _decode_leaf(coding["zeros"], data, -(-n // 8), 1)
        is_kept = np.unpackbits(bits, count=n).astype(bool)
        rest, size = _decode(coding["rest"], data[used:], int(is_kept.sum()), itemsize)
        words = np.zeros(n, f"u{itemsize}")
        words[is_kept] = rest
        return words, used + size
    raise ValueError("an unknown coding")


def _has_zeros(coding: Any) -> bool:
    return isinstance(coding, dict) and "zeros" in coding


def _decode_leaf(leaf: Any, data: memoryview, n: int, itemsize: int) -> tuple[Words, int]:
    if not (isinstance(leaf, list) and len(leaf) == 3 and all(type(k) is int and k >= 0 for k in leaf)):
        raise ValueError("an unknown coding")
    n_values, size, codes = leaf
    dtype, book = np.dtype(f"<u{itemsize}"), n_values * itemsize
    if book + size + codes > len(data) or n_values > n or (n_values == 0 and codes != n * itemsize):
        raise ValueError("a coding of another length than its bytes")
    if n_values == 0:
        return np.frombuffer(data[:codes], dtype).astype(f"u{itemsize}"), codes
    values = np.frombuffer(data[:book], dtype).astype(f"u{itemsize}")
    counts = _counts(bytes(data[book : book + size]), n_values, n)
    stream = bytes(data[book + size : book + size + codes])
    return values[decode(stream, counts)], book + size + codes


def _counts(packed: bytes, n_values: int, n: int) -> npt.NDArray[np.int64]:
    inflate = zlib.decompressobj()
    try:
        raw = inflate.decompress(packed, 8 * n_values)
    except zlib.error as error:
        raise ValueError("numbers of occurrences that cannot be read") from error
    if len(raw) != 8 * n_values:
        raise ValueError("too few numbers of occurrences")
    counts = np.ascontiguousarray(np.frombuffer(raw, np.uint8).reshape(8, -1).T).view("<u8").reshape(-1)
    if (counts == 0).any() or (counts > n).any() or sum(counts.tolist()) != n:
        raise ValueError("numbers of occurrences that do not add up")
    return counts.astype(np.int64)
