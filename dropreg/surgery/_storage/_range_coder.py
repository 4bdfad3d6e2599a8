"""Entropy coding of symbols with known counts: range asymmetric numeral systems (rANS), in lanes that run at once.

Lane j codes symbols j, j + lanes, j + 2 lanes, ... with a state of 64 bits and words of 32 bits ([1]_). The stream is
the number of lanes in four bytes, the final state of every lane, then the words in the order in which the decoder
consumes them.

References
----------
.. [1] Duda (2013), "Asymmetric numeral systems", arXiv:1311.2540; Giesen (2014), "Interleaved entropy coders",
   arXiv:1402.3392.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from ..._utils import Array

Symbols = npt.NDArray[np.int64]
_BITS = 24  # frequencies of the symbols sum to 2 ** _BITS
_LEAST = 1 << 31  # states lie in [2 ** 31, 2 ** 63)
_WORD = 32
_HEAD = 4  # bytes of the number of lanes
_OVERHEAD = 100
"""Share of the stream, as a divisor, that the states of the lanes may take."""


def entropy_bits(counts: npt.NDArray[Any]) -> float:
    """Return the empirical entropy of all symbols together, in bits; `counts` has how often each one occurs."""
    p = counts[counts > 0] / counts.sum()
    return float(-counts.sum() * np.sum(p * np.log2(p)))


def n_lanes(counts: npt.NDArray[Any]) -> int:
    """Return the number of lanes to encode with: more are faster, each costs eight bytes."""
    n, size = int(counts.sum()), entropy_bits(counts) / 8
    return min(n, max(int(size / 8 / _OVERHEAD), _fewest_lanes(n)))


def _fewest_lanes(n: int) -> int:
    """Return the fewest lanes for `n` symbols; with fewer a stream would take long to decode."""
    return max(1, min(n >> 11, 64))


def encode(symbols: Symbols, counts: npt.NDArray[Any]) -> bytes:
    """Return the coded symbols, integers in [0, len(counts)); empty if they are all the same."""
    if len(counts) < 2:
        return b""
    lanes = n_lanes(counts)
    frequencies, starts = _table(counts)
    f, start = frequencies[symbols], starts[symbols]
    limit = f << np.uint64(63 - _BITS)
    state = np.full(lanes, _LEAST, np.uint64)
    words: list[npt.NDArray[np.uint32]] = []
    for first in range((len(symbols) - 1) // lanes * lanes, -1, -lanes):
        part = slice(first, first + lanes)
        x = state[: len(f[part])]
        full = x >= limit[part]
        words.append((x[full] & np.uint64(0xFFFFFFFF)).astype(np.uint32))
        x = np.where(full, x >> np.uint64(_WORD), x)
        quotient, rest = np.divmod(x, f[part])
        state[: len(x)] = (quotient << np.uint64(_BITS)) + rest + start[part]
    head = lanes.to_bytes(_HEAD, "little")
    return b"".join([head, state.astype("<u8").tobytes(), *(part.astype("<u4").tobytes() for part in reversed(words))])


def decode(stream: bytes, counts: npt.NDArray[Any]) -> Symbols:
    """Return the symbols that `encode` has coded; ValueError if the stream does not fit the counts."""
    n = int(counts.sum())
    if len(counts) < 2:
        return np.zeros(n, np.int64)
    lanes = int.from_bytes(stream[:_HEAD], "little")
    if not _fewest_lanes(n) <= lanes <= n or len(stream) < _HEAD + 8 * lanes or len(stream) % 4:
        raise ValueError("a coded stream of wrong length")
    state = np.frombuffer(stream, "<u8", lanes, _HEAD).astype(np.uint64)
    words = np.frombuffer(stream, "<u4", offset=_HEAD + 8 * lanes).astype(np.uint64)
    frequencies, starts = _table(counts)
    symbols, used = np.empty(n, np.int64), 0
    for first in range(0, n, lanes):
        x = state[: min(lanes, n - first)]
        slot = x & np.uint64((1 << _BITS) - 1)
        found = np.searchsorted(starts, slot, "right") - 1
        x = frequencies[found] * (x >> np.uint64(_BITS)) + slot - starts[found]
        short = np.flatnonzero(x < _LEAST)
        more = words[used : used + len(short)]
        if len(more) < len(short):
            raise ValueError("a coded stream that ends early")
        x[short] = (x[short] << np.uint64(_WORD)) | more
        state[: len(x)], used = x, used + len(short)
        symbols[first : first + len(x)] = found
    if used < len(words) or (state != _LEAST).any():
        raise ValueError("a coded stream that does not end where it should")
    return symbols


def _table(counts: npt.NDArray[Any]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    """Return positive frequencies proportional to the counts that sum to 2 ** _BITS, and the sums of those before."""
    total = 1 << _BITS
    exact: Array = counts / counts.sum() * (total - len(counts))
    frequencies = 1 + np.floor(exact).astype(np.int64)
    frequencies[np.argmax(counts)] += total - frequencies.sum()
    starts = np.cumsum(frequencies) - frequencies
    return frequencies.astype(np.uint64), starts.astype(np.uint64)
