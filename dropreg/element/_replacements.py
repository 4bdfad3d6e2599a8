"""Cheaper values that weights can take instead of zero: rounded, or shared."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from .._utils import Array
from ..errors import ParameterError

_SHRINKS = np.linspace(1.0, 0.2, 33)
"""Scales that are tried, relative to the one that covers the largest weight."""
_ROUNDS, _MANTISSA = 50, 16
MOST_BITS, MOST_VALUES = 16, 65_536


@dataclass(frozen=True)
class Quantized:
    """Weights that are rounded to whole multiples of a scale; each output channel (last axis) has its own.

    The multiples are -K, ..., K with K = 2 ** (bits - 1) - 1, so that 2 bits leave -1, 0 and 1. Of some scales the one
    with the least squared error is taken.

    Parameters
    ----------
    bits : int
        2 to 16.

    Raises
    ------
    ParameterError
        If it is out of range.

    Examples
    --------
    >>> import dropreg as dr, numpy as np
    >>> kernel = np.array([[1.0, 0.5], [-1.0, 0.1], [0.1, 0.0]])
    >>> dr.Quantized(2).values(kernel)
    array([[ 1. ,  0.5],
           [-1. ,  0. ],
           [ 0. ,  0. ]])
    """

    bits: int
    name: ClassVar[str] = "quantized"

    def __post_init__(self) -> None:
        _check_range("bits", self.bits, 2, MOST_BITS)

    @property
    def most(self) -> int:
        """Largest multiple of the scale."""
        return 2 ** (self.bits - 1) - 1

    def scales(self, kernel: npt.ArrayLike) -> Array:
        """Return the scale of each output channel.

        Parameters
        ----------
        kernel : array_like, shape (..., outputs)

        Returns
        -------
        ndarray of float64, shape (outputs,)
            Of 16 binary digits; 1 for a channel of zeros.
        """
        matrix = _as_matrix(kernel)
        largest = np.abs(matrix).max(axis=0, initial=0.0) / self.most
        largest = np.where(largest > 0, largest, 1.0)
        best, least = largest, np.full(len(largest), np.inf)
        for shrink in _SHRINKS:
            scale = largest * shrink
            codes = np.clip(np.rint(matrix / scale), -self.most, self.most)
            error = np.square(matrix - codes * scale).sum(axis=0)
            best, least = np.where(error < least, scale, best), np.minimum(error, least)
        return short(best)

    def values(self, kernel: npt.ArrayLike) -> npt.NDArray[np.floating]:
        """Return the rounded weights.

        Parameters
        ----------
        kernel : array_like, shape (..., outputs)

        Returns
        -------
        ndarray
            Of the same shape and dtype.
        """
        array, scale = np.asarray(kernel), self.scales(kernel)
        found = self.codes(kernel, scale) * scale + 0.0  # no negative zeros
        return found.reshape(array.shape).astype(array.dtype)

    def codes(self, kernel: npt.ArrayLike, scales: Array | None = None) -> npt.NDArray[np.int64]:
        """Return the multiples of the scales.

        Parameters
        ----------
        kernel : array_like, shape (..., outputs)
        scales : ndarray, shape (outputs,), optional
            Those of `scales` by default.

        Returns
        -------
        ndarray of int64
            Of the kernel's shape.
        """
        scale = self.scales(kernel) if scales is None else scales
        array = np.asarray(kernel, np.float64)
        return np.clip(np.rint(array / scale), -self.most, self.most).astype(np.int64)


@dataclass(frozen=True)
class Clustered:
    """Weights that share few values, the same ones in the whole kernel: the centres of k-means clusters.

    Parameters
    ----------
    n_values : int
        2 to 65,536.

    Raises
    ------
    ParameterError
        If it is out of range.

    References
    ----------
    .. [1] Han, Mao, Dally (2016), "Deep Compression", arXiv:1510.00149, section 3.

    Examples
    --------
    >>> import dropreg as dr, numpy as np
    >>> kernel = np.array([[1.0, 0.5], [-1.0, 0.7], [0.8, -1.2]])
    >>> dr.Clustered(2).values(kernel)
    array([[ 0.75,  0.75],
           [-1.1 ,  0.75],
           [ 0.75, -1.1 ]])
    """

    n_values: int
    name: ClassVar[str] = "clustered"

    def __post_init__(self) -> None:
        _check_range("n_values", self.n_values, 2, MOST_VALUES)

    def centres(self, kernel: npt.ArrayLike) -> Array:
        """Return the shared values of a kernel.

        Parameters
        ----------
        kernel : array_like

        Returns
        -------
        ndarray of float64, shape (at most n_values,)
            Ascending. Zero is one of them if there are zeros, which stay zero. Lloyd's algorithm starts at evenly
            spaced values.
        """
        ordered = np.sort(np.asarray(kernel, np.float64).reshape(-1))
        different = np.unique(ordered)
        if len(different) <= self.n_values:
            return different
        if (different == 0).any() and self.n_values > 2:
            others = Clustered(self.n_values - 1).centres(ordered[ordered != 0])
            return np.sort(np.append(others, 0.0))
        sums = np.concatenate([[0.0], np.cumsum(ordered)])
        centres = np.linspace(ordered[0], ordered[-1], self.n_values)
        for _ in range(_ROUNDS):
            edges = np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2)
            edges = np.concatenate([[0], edges, [len(ordered)]])
            counts = np.diff(edges)
            means = np.diff(sums[edges])[counts > 0] / counts[counts > 0]
            if len(means) == len(centres) and np.allclose(means, centres, rtol=1e-9, atol=0.0):
                break
            centres = means
        return centres

    def values(self, kernel: npt.ArrayLike) -> npt.NDArray[np.floating]:
        """Return each weight's nearest shared value.

        Parameters
        ----------
        kernel : array_like

        Returns
        -------
        ndarray
            Of the same shape and dtype.
        """
        array, centres = np.asarray(kernel), self.centres(kernel)
        return centres[self.codes(array, centres)].astype(array.dtype)

    def codes(self, kernel: npt.ArrayLike, centres: Array | None = None) -> npt.NDArray[np.int64]:
        """Return the number of each weight's nearest shared value.

        Parameters
        ----------
        kernel : array_like
        centres : ndarray, ascending, optional
            Those of `centres` by default.

        Returns
        -------
        ndarray of int64
            Of the kernel's shape.
        """
        found = self.centres(kernel) if centres is None else centres
        return np.searchsorted((found[1:] + found[:-1]) / 2, np.asarray(kernel, np.float64)).astype(np.int64)


Replacement = Quantized | Clustered


def short(scales: Array) -> Array:
    """Round to 16 binary digits, so that products with codes of up to 8 bits are exact in float32."""
    mantissas, exponents = np.frexp(scales)
    return np.ldexp(np.rint(mantissas * 2.0**_MANTISSA) / 2.0**_MANTISSA, exponents)


def check_replacement(name: str, replacement: object) -> None:
    """Raise ParameterError unless it is one of the replacements."""
    if not isinstance(replacement, Quantized | Clustered):
        raise ParameterError(
            f"`{name}` must be dropreg.Quantized or dropreg.Clustered, received {replacement!r}: pass Quantized(4)."
        )


def _as_matrix(kernel: npt.ArrayLike) -> Array:
    array = np.asarray(kernel, np.float64)
    return array.reshape(-1, array.shape[-1])


def _check_range(name: str, value: object, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        raise ParameterError(f"`{name}` must be a whole number from {least} to {most:,}, received {value!r}.")
