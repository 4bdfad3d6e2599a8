"""Designs: the distributions that masks are drawn from.

Masks come from a counter-based generator (Philox, keyed by seed and chunk): chunk k of seed s is the same on every
machine and in any order, and can be drawn again instead of being stored. Only raw bits of the generator are used,
because NumPy keeps those stable between versions.
"""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from .._utils import BoolMasks, Versioned, fingerprint, is_installed, positive, random_words
from ..errors import ParameterError

_MASK_STREAM = 0


@dataclass(frozen=True)
class Design(Versioned, ABC):
    """A distribution over masks, the base class of `Bernoulli` and `Paired`.

    Parameters
    ----------
    rate : float or sequence of float
        Probability that an element is dropped, one for all elements or one for each.
    examples_per_mask : int
        Examples that every mask is run on. 1 is best for outcomes of single examples, because each row then has a mask
        of its own; outcomes of several examples, such as F1, need more.

    Attributes
    ----------
    masks_per_group : int
        Consecutive masks that are run on the same examples.
    version : str or None
        For designs of your own: identifies their masks in the place of their code and data, see `PerExample`.

    Examples
    --------
    >>> import dropreg as dr
    >>> design = dr.designs.Bernoulli(0.25, examples_per_mask=8)
    >>> isinstance(design, dr.designs.Design), design.rows_per_group
    (True, 8)
    """

    rate: float | tuple[float, ...]
    examples_per_mask: int = field(default=1, kw_only=True)
    masks_per_group: ClassVar[int] = 1
    _highest_rate: ClassVar[float] = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "examples_per_mask", positive("examples_per_mask", self.examples_per_mask))
        object.__setattr__(self, "rate", _checked_rate(self.rate, self._highest_rate))

    @property
    def rows_per_group(self) -> int:
        """Rows of one group of masks; the number of rows of a run is a multiple of it."""
        return self.examples_per_mask * self.masks_per_group

    def check(self, n_elements: int) -> None:
        """Raise ParameterError unless the number of rates is 1 or `n_elements`."""
        if isinstance(self.rate, tuple) and len(self.rate) != n_elements:
            raise ParameterError(
                f"`rate` must be a number or one for each of {n_elements} elements, received {len(self.rate)}."
            )

    @abstractmethod
    def draw(self, seed: int, chunk: int, n_masks: int, n_elements: int) -> BoolMasks:
        """Return the first masks of a chunk.

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

        Examples
        --------
        >>> import dropreg as dr
        >>> dr.designs.Bernoulli(0.3).draw(seed=0, chunk=0, n_masks=2, n_elements=5).shape
        (2, 5)
        """

    def keep_probabilities(self, n_elements: int) -> npt.NDArray[np.float64]:
        """Return the probability that each element is kept.

        Parameters
        ----------
        n_elements : int

        Returns
        -------
        ndarray of float64, shape (n_elements,)

        Examples
        --------
        >>> import dropreg as dr
        >>> dr.designs.Paired(0.25).keep_probabilities(3).tolist()
        [0.75, 0.75, 0.75]
        """
        return 1.0 - np.broadcast_to(np.asarray(self.rate, dtype=np.float64), n_elements)

    def settings(self) -> dict[str, object]:
        """Return the name of the class, its parameters and a hash of code that is not dropreg's, as JSON values.

        Returns
        -------
        dict of str to object
        """
        values = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        own = {} if is_installed(type(self)) else {"code": fingerprint(self)}
        return {"name": type(self).__name__, **values, **own}


def _checked_rate(rate: float | tuple[float, ...], highest: float) -> float | tuple[float, ...]:
    """Return `rate` as a float or a tuple of floats, each strictly between 0 and `highest`."""
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


def _thresholds(rate: npt.ArrayLike) -> npt.NDArray[np.uint32]:
    """Return the 32-bit words below which elements are dropped; no rate is rounded to 0 or 1."""
    return np.clip(np.round(np.asarray(rate) * 2.0**32), 1, 2**32 - 1).astype(np.uint32)


@dataclass(frozen=True)
class Bernoulli(Design):
    """Masks that drop every element independently.

    Parameters
    ----------
    rate : float or sequence of float
        Probability that an element is dropped, strictly between 0 and 1, one for all elements or one for each. It is
        rounded to a multiple of 2**-32.
    examples_per_mask : int
        As in `Design`.

    Raises
    ------
    ParameterError
        If a rate lies outside (0, 1).

    Examples
    --------
    >>> import dropreg as dr
    >>> masks = dr.designs.Bernoulli(rate=0.3).draw(seed=0, chunk=0, n_masks=1000, n_elements=50)
    >>> masks.dtype.name, round(float(masks.mean()), 1)
    ('bool', 0.7)
    """

    rate: float | tuple[float, ...] = 0.3

    def draw(self, seed: int, chunk: int, n_masks: int, n_elements: int) -> BoolMasks:
        words = random_words(seed, chunk, _MASK_STREAM, n_masks * n_elements).reshape(n_masks, n_elements)
        return words >= _thresholds(self.rate)


@dataclass(frozen=True)
class Paired(Design):
    """Pairs of complementary masks within a random pool, on the same examples.

    A pool contains every element with probability twice the rate. The first mask of a pair drops each element of the
    pool with probability one half, the second mask drops the rest of the pool. Each mask alone has the distribution of
    `Bernoulli`. What both masks share (the example, interactions of even order) cancels in the difference of their
    outcomes [1]_.

    Parameters
    ----------
    rate : float or sequence of float
        Probability that an element is dropped, strictly between 0 and 0.5, one for all elements or one for each.
    examples_per_mask : int
        As in `Design`.

    Raises
    ------
    ParameterError
        If a rate lies outside (0, 0.5).

    References
    ----------
    .. [1] Dery et al. (2024), "Everybody Prune Now" (Bonsai), section 3; complementary pairs as in Covert, Lee (2021),
       "Improving KernelSHAP", section 4.

    Examples
    --------
    >>> import dropreg as dr
    >>> first, second = dr.designs.Paired(rate=0.2).draw(seed=0, chunk=0, n_masks=2, n_elements=50)
    >>> bool((first | second).all())  # no element is dropped by both
    True
    """

    rate: float | tuple[float, ...] = 0.2
    masks_per_group: ClassVar[int] = 2
    _highest_rate: ClassVar[float] = 0.5

    def draw(self, seed: int, chunk: int, n_masks: int, n_elements: int) -> BoolMasks:
        n_pairs = -(-n_masks // 2)
        words = random_words(seed, chunk, _MASK_STREAM, 2 * n_pairs * n_elements).reshape(n_pairs, 2, n_elements)
        in_pool = words[:, 0] < _thresholds(2.0 * np.asarray(self.rate))
        is_first = words[:, 1] < 2**31
        dropped = np.stack([in_pool & is_first, in_pool & ~is_first], axis=1)
        return ~dropped.reshape(-1, n_elements)[:n_masks]


def design_from(settings: dict[str, Any]) -> Design:
    """Return the design with these `Design.settings`; ParameterError if no design has their name."""
    kinds = {kind.__name__: kind for kind in (Bernoulli, Paired)}
    values: Any = {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items() if name != "name"}
    if settings["name"] not in kinds:
        raise ParameterError(
            f"a record that is opened from a folder must have a design of dropreg ({', '.join(kinds)}), received "
            f"{settings['name']!r}: sample into the same folder again with your design, and use what it returns."
        )
    return kinds[settings["name"]](**values)
