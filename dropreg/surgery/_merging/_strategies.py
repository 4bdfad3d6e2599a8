"""How layers make up for what they no longer read: the options of `dropreg.surgery`."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..._utils import check_between, positive
from ...errors import ParameterError

RIDGES = tuple(float(ridge) for ridge in 10.0 ** np.arange(-8.0, 1.5, 0.5))


@dataclass(frozen=True, eq=False)
class LeastSquares:
    """Kernels and biases take the best linear prediction of what is no longer read.

    Channels that copy one that stays, up to a factor, are folded into it exactly.

    Parameters
    ----------
    held_out : float
        Fraction of the examples that choose penalties, strictly between 0 and 1.
    most_examples : int
        Examples that are used, the first ones.
    batch_size : int
    ridges : tuple of float
        Penalties to choose from, in units of the mean second moment of what stays.
    predictions : bool
        Whether the last layer of a softmax classifier, of examples or of their positions, then gives the whole
        network's probabilities as closely as it can (a convex fit, without labels), not only its scores.

    Raises
    ------
    ParameterError
        If a parameter is out of range.
    """

    held_out: float = 0.2
    most_examples: int = 10_000
    batch_size: int = 250
    ridges: tuple[float, ...] = RIDGES
    predictions: bool = True

    name: ClassVar[str] = "least_squares"

    def __post_init__(self) -> None:
        check_between("held_out", self.held_out)
        for name in ("most_examples", "batch_size"):
            positive(name, getattr(self, name))
        if not self.ridges or min(self.ridges) <= 0:
            raise ParameterError(f"`ridges` must be one or more positive numbers, received {self.ridges}.")


def resolve_merge(merge: str | LeastSquares | None, has_data: bool) -> LeastSquares | None:
    """The options that `merge` names or gives, None for deletion.

    Raises
    ------
    ParameterError
        If the name is unknown, or there are no data to merge with.
    """
    if merge == "none" or (merge is None and not has_data):
        return None
    if merge is not None and merge != LeastSquares.name and not isinstance(merge, LeastSquares):
        raise ParameterError(f"`merge` must be one of {LeastSquares.name}, none or a LeastSquares, received {merge!r}.")
    if not has_data:
        raise ParameterError(
            f"`merge` {LeastSquares.name!r} must have examples to learn from, received none: pass data=(x, y), or "
            "merge='none'."
        )
    return merge if isinstance(merge, LeastSquares) else LeastSquares()
