"""Designs: the distributions that masks are drawn from.

Masks come from a counter-based generator (Philox, keyed by seed and chunk), so chunk k of seed s is
the same on every machine, in any order, and can be drawn again instead of being stored. Only raw
bits of the generator are used: NumPy keeps those stable between versions.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from .errors import ParameterError

BoolMasks = npt.NDArray[np.bool_]
"""Shape (rows, n_elements), True = kept."""

_MASK_STREAM, _ORDER_STREAM = 0, 1


def random_words(seed: int, chunk: int, stream: int, count: int) -> npt.NDArray[np.uint32]:
    """`count` uniform 32-bit words that depend on seed, chunk and stream alone."""
    bits = np.random.Philox(key=np.array([seed, chunk], np.uint64), counter=[0, 0, 0, stream])
    return bits.random_raw((count + 1) // 2).astype("<u8", copy=False).view("<u4")[:count]


@lru_cache(maxsize=4)
def _example_order(seed: int, epoch: int, n_examples: int) -> npt.NDArray[np.int64]:
    order = np.argsort(random_words(seed, epoch, _ORDER_STREAM, n_examples), kind="stable")
    order.flags.writeable = False
    return order


def examples_of_rows(seed: int, first: int, count: int, n_examples: int) -> npt.NDArray[np.int64]:
    """Which example each row uses: all examples once, in random order, then again in another.

    Parameters
    ----------
    seed : int
    first, count : int
        Rows `first` to ``first + count - 1`` of the run.
    n_examples : int

    Returns
    -------
    ndarray of int64, shape (count,)
    """
    rows = np.arange(first, first + count)
    epochs, places = np.divmod(rows, n_examples)
    examples = np.empty(count, dtype=np.int64)
    for epoch in np.unique(epochs).tolist():
        chosen = epochs == epoch
        examples[chosen] = _example_order(seed, epoch, n_examples)[places[chosen]]
    return examples


@dataclass(frozen=True)
class Design(ABC):
    """A distribution over masks."""

    @abstractmethod
    def check(self, n_elements: int) -> None:
        """Raise ParameterError unless the design can draw masks over `n_elements` elements."""

    @abstractmethod
    def draw(self, words_seed: int, chunk: int, rows: int, n_elements: int) -> BoolMasks:
        """The first `rows` masks of a chunk, shape (rows, n_elements), True = kept."""

    @abstractmethod
    def keep_probabilities(self, n_elements: int) -> npt.NDArray[np.float64]:
        """Probability that each element is kept, shape (n_elements,)."""

    @abstractmethod
    def settings(self) -> dict[str, object]:
        """What tells this design from others, as JSON values."""


@dataclass(frozen=True)
class Bernoulli(Design):
    """Every element is dropped independently.

    Parameters
    ----------
    rate : float or sequence of float
        Probability that an element is dropped, strictly between 0 and 1; one for all, or one for
        each element. Realized to a multiple of 2**-32.

    Raises
    ------
    ParameterError
        If a rate lies outside (0, 1), or there are more or fewer rates than elements.
    """

    rate: float | tuple[float, ...] = 0.3

    def __post_init__(self) -> None:
        rates = np.asarray(self.rate, dtype=np.float64)
        if rates.ndim > 1:
            raise ParameterError(f"`rate` must be a number or one for each element, received shape {rates.shape}.")
        wrong = ~((rates > 0) & (rates < 1))
        if wrong.any():
            received = np.atleast_1d(rates)[np.atleast_1d(wrong)][0]
            raise ParameterError(f"`rate` must lie strictly between 0 and 1, received {received:g}.")
        object.__setattr__(self, "rate", rates.item() if rates.ndim == 0 else tuple(rates.tolist()))

    def check(self, n_elements: int) -> None:
        if isinstance(self.rate, tuple) and len(self.rate) != n_elements:
            raise ParameterError(
                f"`rate` must be a number or one for each of {n_elements} elements, received {len(self.rate)}."
            )

    def draw(self, words_seed: int, chunk: int, rows: int, n_elements: int) -> BoolMasks:
        words = random_words(words_seed, chunk, _MASK_STREAM, rows * n_elements).reshape(rows, n_elements)
        thresholds = np.clip(np.round(np.asarray(self.rate) * 2.0**32), 1, 2**32 - 1).astype(np.uint32)
        return words >= thresholds

    def keep_probabilities(self, n_elements: int) -> npt.NDArray[np.float64]:
        return 1.0 - np.broadcast_to(np.asarray(self.rate, dtype=np.float64), n_elements)

    def settings(self) -> dict[str, object]:
        rate = list(self.rate) if isinstance(self.rate, tuple) else self.rate
        return {"name": "Bernoulli", "rate": rate}
