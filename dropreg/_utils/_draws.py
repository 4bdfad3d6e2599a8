"""Counter-based random numbers: each part of a stream can be drawn alone, in any order."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

_ORDER_STREAM = 1


def random_words(seed: int, chunk: int, stream: int, count: int) -> npt.NDArray[np.uint32]:
    """Return `count` uniform 32-bit words that depend only on seed, chunk and stream."""
    bits = np.random.Philox(key=np.array([seed, chunk], np.uint64), counter=[0, 0, 0, stream])
    return bits.random_raw((count + 1) // 2).astype("<u8", copy=False).view("<u4")[:count]


@lru_cache(maxsize=4)
def _example_order(seed: int, epoch: int, n_examples: int) -> npt.NDArray[np.int64]:
    order = np.argsort(random_words(seed, epoch, _ORDER_STREAM, n_examples), kind="stable")
    order.flags.writeable = False
    return order


def examples_of_rows(seed: int, first: int, count: int, n_examples: int) -> npt.NDArray[np.int64]:
    """Return the example that each of the rows `first` to ``first + count - 1`` uses, as int64, shape (count,).

    The rows use all examples once in random order, then once more in another order, and so on.
    """
    start = first // n_examples * n_examples
    epochs = range(start // n_examples, -(-(first + count) // n_examples))
    orders = [_example_order(seed, epoch, n_examples) for epoch in epochs]
    return np.concatenate([np.empty(0, np.int64), *orders])[first - start :][:count]


def spread_rows(n_examples: int, most: int) -> "slice | npt.NDArray[np.int64]":
    """Return the rows of at most `most` examples, drawn at random and ascending; the order of the data does not matter.

    The draw is the same for the same two numbers.
    """
    if n_examples <= most:
        return slice(None)
    return np.sort(np.random.default_rng(n_examples).permutation(n_examples)[:most])
