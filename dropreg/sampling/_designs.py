"""Designs: the distributions that masks are drawn from.

Masks come from a counter-based generator (Philox, keyed by seed and chunk), so chunk k of seed s is
the same on every machine, in any order, and can be drawn again instead of being stored. Only raw
bits of the generator are used: NumPy keeps those stable between versions.
"""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from .._utils import BoolMasks, positive, random_words
from ..errors import ParameterError

_MASK_STREAM = 0


@dataclass(frozen=True)
class Design(ABC):
    """A distribution over masks.

    Parameters
    ----------
    examples_per_mask : int
        Examples that every mask runs on. One is best for outcomes of single examples, because each
        row then observes a mask of its own; outcomes such as F1 need more.

    Attributes
    ----------
    masks_per_group : int
        Consecutive masks that share their examples.
    """

    examples_per_mask: int = field(default=1, kw_only=True)
    masks_per_group: ClassVar[int] = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "examples_per_mask", positive("examples_per_mask", self.examples_per_mask))

    @property
    def rows_per_group(self) -> int:
        """Rows that cannot be split: those of one group of masks."""
        return self.examples_per_mask * self.masks_per_group

    @abstractmethod
    def check(self, n_elements: int) -> None:
        """Check that the design can draw masks over so many elements.

        Parameters
        ----------
        n_elements : int

        Raises
        ------
        ParameterError
            If it cannot.
        """

    @abstractmethod
    def draw(self, seed: int, chunk: int, n_masks: int, n_elements: int) -> BoolMasks:
        """The first masks of a chunk.

        Parameters
        ----------
        seed, chunk : int
            The masks depend on these, the design and `n_elements` alone.
        n_masks : int
        n_elements : int

        Returns
        -------
        ndarray of bool, shape (n_masks, n_elements)
            True = kept.
        """

    @abstractmethod
    def keep_probabilities(self, n_elements: int) -> npt.NDArray[np.float64]:
        """Probability that each element is kept.

        Parameters
        ----------
        n_elements : int

        Returns
        -------
        ndarray of float64, shape (n_elements,)
        """

    def settings(self) -> dict[str, object]:
        """What tells this design from others.

        Returns
        -------
        dict of str to object
            JSON values: the name of the class, and its parameters.
        """
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return {"name": type(self).__name__, **values}


def _checked_rate(rate: float | tuple[float, ...], highest: float = 1.0) -> float | tuple[float, ...]:
    """`rate` as a float or a tuple of floats, each strictly between 0 and `highest`."""
    try:
        rates = np.asarray(rate, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise ParameterError(f"`rate` must be a number or one for each element, received {rate!r}.") from error
    if rates.ndim > 1:
        raise ParameterError(f"`rate` must be a number or one for each element, received shape {rates.shape}.")
    wrong = ~((rates > 0) & (rates < highest))
    if wrong.any():
        received = np.atleast_1d(rates)[np.atleast_1d(wrong)][0]
        raise ParameterError(f"`rate` must lie strictly between 0 and {highest:g}, received {received:g}.")
    return rates.item() if rates.ndim == 0 else tuple(rates.tolist())


def _check_length(rate: float | tuple[float, ...], n_elements: int) -> None:
    if isinstance(rate, tuple) and len(rate) != n_elements:
        raise ParameterError(f"`rate` must be a number or one for each of {n_elements} elements, received {len(rate)}.")


def _thresholds(rate: npt.ArrayLike) -> npt.NDArray[np.uint32]:
    """Words below these are dropped; no rate is rounded to never or always."""
    return np.clip(np.round(np.asarray(rate) * 2.0**32), 1, 2**32 - 1).astype(np.uint32)


@dataclass(frozen=True)
class Bernoulli(Design):
    """Every element is dropped independently.

    Parameters
    ----------
    rate : float or sequence of float
        Probability that an element is dropped, strictly between 0 and 1; one for all, or one for
        each element. Realized to a multiple of 2**-32.
    examples_per_mask : int
        As in `Design`.

    Raises
    ------
    ParameterError
        If a rate lies outside (0, 1), or there are more or fewer rates than elements.
    """

    rate: float | tuple[float, ...] = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "rate", _checked_rate(self.rate))

    def check(self, n_elements: int) -> None:
        _check_length(self.rate, n_elements)

    def draw(self, seed: int, chunk: int, n_masks: int, n_elements: int) -> BoolMasks:
        words = random_words(seed, chunk, _MASK_STREAM, n_masks * n_elements).reshape(n_masks, n_elements)
        return words >= _thresholds(self.rate)

    def keep_probabilities(self, n_elements: int) -> npt.NDArray[np.float64]:
        return 1.0 - np.broadcast_to(np.asarray(self.rate, dtype=np.float64), n_elements)


@dataclass(frozen=True)
class Paired(Design):
    """Masks in complementary pairs inside a random pool, on the same examples.

    A pool takes every element with probability twice the rate. The first mask of a pair drops each
    element of the pool with probability one half, the second drops the rest of the pool. Each mask
    alone is that of `Bernoulli`, but within a pool pairs of elements see rate one half while little
    is dropped, and what both masks share (the example, interactions of even order) cancels in the
    difference [1]_.

    Parameters
    ----------
    rate : float or sequence of float
        Probability that an element is dropped, strictly between 0 and 0.5.
    examples_per_mask : int
        As in `Design`.

    Raises
    ------
    ParameterError
        If a rate lies outside (0, 0.5), or there are more or fewer rates than elements.

    References
    ----------
    .. [1] Dery et al. (2024), "Everybody prune now" (Bonsai), section 3; complementary pairs as in
       Covert, Lee (2021), "Improving KernelSHAP", section 4.
    """

    rate: float | tuple[float, ...] = 0.2
    masks_per_group: ClassVar[int] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "rate", _checked_rate(self.rate, highest=0.5))

    def check(self, n_elements: int) -> None:
        _check_length(self.rate, n_elements)

    def draw(self, seed: int, chunk: int, n_masks: int, n_elements: int) -> BoolMasks:
        n_pairs = -(-n_masks // 2)
        words = random_words(seed, chunk, _MASK_STREAM, 2 * n_pairs * n_elements).reshape(n_pairs, 2, n_elements)
        in_pool = words[:, 0] < _thresholds(2.0 * np.asarray(self.rate))
        is_first = words[:, 1] < 2**31
        dropped = np.stack([in_pool & is_first, in_pool & ~is_first], axis=1)
        return ~dropped.reshape(-1, n_elements)[:n_masks]

    def keep_probabilities(self, n_elements: int) -> npt.NDArray[np.float64]:
        return 1.0 - np.broadcast_to(np.asarray(self.rate, dtype=np.float64), n_elements)


def design_from(settings: dict[str, Any]) -> Design:
    """The design with these `Design.settings`.

    Raises
    ------
    ParameterError
        If no design has that name.
    """
    kinds = {kind.__name__: kind for kind in (Bernoulli, Paired)}
    values: Any = {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items() if name != "name"}
    if settings["name"] not in kinds:
        raise ParameterError(f"a design must be one of {', '.join(kinds)}, received {settings['name']!r}.")
    return kinds[settings["name"]](**values)
