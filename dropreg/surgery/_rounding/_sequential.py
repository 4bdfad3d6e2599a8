"""Round the rows of a matrix one after the other, so that later rows compensate for the errors of earlier ones.

With W (m, n) the kernel, H (m, m) the second moment of the layer's input and Q the rounded kernel, the squared error
of the output is tr (W - Q)'H(W - Q). After row i is rounded, the best change of the rows that remain is that of a
regression; with U'U the inverse of H, U upper triangular, it subtracts U[i, i+1:]' (W[i] - Q[i]) / U[i, i], and the
error grows by the square of (W[i] - Q[i]) / U[i, i] ([1]_, [2]_).

A code costs bits where it is rare: minimizing error + rate x bits, with the bits of an entropy coder, prefers frequent
codes, zero above all, where this hardly matters ([3]_).

References
----------
.. [1] Hassibi, Stork (1993), "Second order derivatives for network pruning: Optimal Brain Surgeon".
.. [2] Frantar et al. (2023), "GPTQ: Accurate Post-Training Quantization", arXiv:2210.17323, section 3.
.. [3] Wiedemann et al. (2020), "DeepCABAC", arXiv:1907.11900, section 4: rate-distortion quantization.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..._utils import Array, one_blas_thread
from ...element import Clustered, Quantized, Replacement, short

Codes = npt.NDArray[np.int64]
_DAMPING = 0.01
_PASSES = 2
_NARROW = 64  # candidates around the nearest level, where all would be too many


class Rounded(NamedTuple):
    """A rounded matrix.

    Attributes
    ----------
    codes : ndarray of int64, shape (m, n)
        Multiples of the scale, or numbers of centres.
    levels : ndarray of float64, shape (n,) or (values,)
        Scale of each column, or shared values.
    values : ndarray of float32, shape (m, n)
    prices : ndarray of float64, shape (m, codes) or (1, 1)
        For each row, the squared change of a weight that is worth choosing each code, 0 for all without a rate.
    """

    codes: Codes
    levels: Array
    values: npt.NDArray[np.float32]
    prices: Array


@one_blas_thread
def round_matrix(matrix: Array, moment: Array | None, strategy: Replacement, rate: float = 0.0) -> Rounded:
    """Round a matrix (m, n); without `moment` (m, m) to the nearest levels.

    `rate` is in units of the mean squared error of one weight that is worth one bit, relative to the output's second
    moment for each weight.
    """
    levels = strategy.scales(matrix) if isinstance(strategy, Quantized) else strategy.centres(matrix)
    levels = levels.astype(np.float32).astype(np.float64)
    if moment is None and not rate:
        codes = strategy.codes(matrix, levels)
        return Rounded(codes, levels, _values(codes, levels, strategy), np.zeros((1, 1)))
    h = np.eye(len(matrix)) if moment is None else moment
    h = h + np.eye(len(h)) * max(_DAMPING * float(np.trace(h)) / len(h), 1e-12)
    order = np.argsort(-np.diag(h), kind="stable")
    upper = np.asarray(np.linalg.cholesky(np.linalg.inv(h[np.ix_(order, order)])).T, np.float64)
    price = rate * float(np.einsum("in,ij,jn->", matrix, h, matrix, optimize=True)) / matrix.size
    codes = strategy.codes(matrix, levels)
    for _ in range(_PASSES):
        bits = _bits(codes, strategy, len(levels))
        codes = _sequential(matrix[order], upper, levels, strategy, price * bits)[np.argsort(order)]
        levels = _refit(matrix, h, codes, levels, strategy)
    pivots = np.diag(upper)[np.argsort(order)]
    prices = np.square(pivots)[:, np.newaxis] * price * _bits(codes, strategy, len(levels))
    return Rounded(codes, levels, _values(codes, levels, strategy), prices if price else np.zeros((1, 1)))


def _sequential(matrix: Array, upper: Array, levels: Array, strategy: Replacement, costs: Array) -> Codes:
    """Return codes, row after row; `costs` has one entry for each possible code."""
    rest, codes = matrix.copy(), np.zeros(matrix.shape, np.int64)
    is_zero, nothing = matrix == 0, strategy.codes(np.zeros(matrix.shape[1]), levels)  # removed weights stay zero
    grid = _grid(levels, strategy)
    for i in range(len(rest)):
        pivot = upper[i, i]
        codes[i] = _best(rest[i], grid, costs, pivot, levels, strategy)
        codes[i] = np.where(is_zero[i], nothing, codes[i])
        error = np.where(is_zero[i], 0.0, rest[i] - _values(codes[i], levels, strategy)) / pivot
        rest[i + 1 :] -= np.outer(upper[i, i + 1 :], error)
    return codes


def _best(row: Array, grid: Array | None, costs: Array, pivot: float, levels: Array, strategy: Replacement) -> Codes:
    """Return the codes of a row with the least error and cost."""
    if not costs.any():
        return strategy.codes(row, levels)
    first = -strategy.most if isinstance(strategy, Quantized) else 0
    if grid is not None:
        total = np.square((row[:, np.newaxis] - grid) / pivot) + costs
        return total.argmin(axis=1) + first
    near = strategy.codes(row, levels)
    nothing = np.zeros_like(near) if first else np.full_like(near, int(np.argmin(np.abs(levels))))
    candidates = np.stack([near, near - np.sign(near - nothing), nothing], axis=1)
    values = np.stack([_values(c, levels, strategy) for c in candidates.T], axis=1)
    total = np.square((row[:, np.newaxis] - values) / pivot) + costs[candidates - first]
    return candidates[np.arange(len(row)), total.argmin(axis=1)]


def _grid(levels: Array, strategy: Replacement) -> Array | None:
    """Return all values that a weight can take, (n or 1, codes); None if they are many."""
    if isinstance(strategy, Clustered):
        return levels[np.newaxis] if len(levels) <= _NARROW else None
    multiples = np.arange(-strategy.most, strategy.most + 1)
    return levels[:, np.newaxis] * multiples if len(multiples) <= _NARROW else None


def _values(codes: Codes, levels: Array, strategy: Replacement) -> npt.NDArray[np.float32]:
    narrow = levels.astype(np.float32)
    if isinstance(strategy, Clustered):
        return narrow[codes]
    return codes.astype(np.float32) * narrow + np.float32(0.0)  # no negative zeros


def _bits(codes: Codes, strategy: Replacement, n_levels: int) -> Array:
    """Return the bits that an entropy coder spends on each code."""
    first, count = (-strategy.most, 2 * strategy.most + 1) if isinstance(strategy, Quantized) else (0, n_levels)
    counts = np.bincount((codes - first).reshape(-1), minlength=count) + 0.5
    return -np.log2(counts / counts.sum())


def _refit(matrix: Array, h: Array, codes: Codes, levels: Array, strategy: Replacement) -> Array:
    """Return the levels with the least error of the output for these codes."""
    if isinstance(strategy, Quantized):
        q = codes.astype(np.float64)
        hq = h @ q
        below = (q * hq).sum(axis=0)
        found = (matrix * hq).sum(axis=0) / np.where(below > 0, below, 1.0)
        return short(np.where((below > 0) & (found > 0), found, levels))
    hots = [codes == level for level in range(len(levels))]
    products = [h @ hot.astype(np.float64) for hot in hots]
    gram = np.array([[float(product[hot].sum()) for hot in hots] for product in products])
    target = np.array([float((matrix * product).sum()) for product in products])
    used = np.array([hot.any() for hot in hots]) & ((levels != 0) | ~(matrix == 0).any())
    found = levels.copy()
    found[used] = np.linalg.lstsq(gram[np.ix_(used, used)], target[used], rcond=1e-10)[0]
    return found.astype(np.float32).astype(np.float64)
