"""Find the scales of kernels that are whole multiples of a scale for each output channel."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

MOST_CODE = 127
_TRIED = 8
_SPREAD = 40  # binary digits between the largest and the least significant digit in a column


class Multiples(NamedTuple):
    """A matrix (rows, columns) as ``codes * scales``, exactly.

    Attributes
    ----------
    scales : ndarray of float32, shape (columns,)
    codes : ndarray of int8, shape (rows, columns)
    """

    scales: npt.NDArray[np.float32]
    codes: npt.NDArray[np.int8]


def find_multiples(array: npt.NDArray[np.float32], columns: int) -> Multiples | None:
    """Return codes and scales of an array with this many columns; None if there are none of few bits."""
    matrix = array.reshape(-1, columns)
    if matrix.size == 0 or not np.isfinite(matrix).all() or (np.signbit(matrix) & (matrix == 0)).any():
        return None
    if _of_columns(matrix[:, :_TRIED]) is None:
        return None
    found = _of_columns(matrix)
    if found is None or multiplied(found.scales, found.codes).tobytes() != matrix.tobytes():
        return None
    return found


def multiplied(scales: npt.NDArray[np.float32], codes: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
    """Return the matrix of codes (rows, columns) and scales (columns,)."""
    return codes.astype(np.float32) * scales


def _of_columns(matrix: npt.NDArray[np.float32]) -> Multiples | None:
    """Return codes and scales by the greatest common divisor of each column."""
    mantissas, exponents = np.frexp(matrix.astype(np.float64))
    whole = np.ldexp(mantissas, 24).astype(np.int64)
    is_zero = whole == 0
    least = np.where(is_zero, np.iinfo(np.int32).max, exponents).min(axis=0)
    shifts = np.where(is_zero, 0, exponents - least)
    if shifts.max(initial=0) > _SPREAD - 24:
        return None
    whole <<= shifts
    divisors = np.maximum(np.gcd.reduce(whole, axis=0), 1)
    codes = whole // divisors
    if np.abs(codes).max(initial=0) > MOST_CODE:
        return None
    scales = np.where(is_zero.all(axis=0), 1.0, np.ldexp(divisors.astype(np.float64), np.minimum(least, 1000) - 24))
    return Multiples(scales.astype(np.float32), codes.astype(np.int8))
