"""How layers make up for what they no longer read: the strategies of `dropreg.merging`."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pandas as pd

from .errors import ParameterError, check_between, positive

RIDGES = tuple(float(ridge) for ridge in 10.0 ** np.arange(-8.0, 1.5, 0.5))


@dataclass(frozen=True, eq=False)
class Merge:
    """How layers make up for what they no longer read.

    Parameters
    ----------
    held_out : float
        Fraction of the examples that choose penalties, strictly between 0 and 1.
    most_examples : int
        Examples that are used, the first ones.
    batch_size : int

    Raises
    ------
    ParameterError
        If a parameter is out of range.
    """

    held_out: float = 0.2
    most_examples: int = 10_000
    batch_size: int = 250

    name: ClassVar[str]

    def __post_init__(self) -> None:
        check_between("held_out", self.held_out)
        for name in ("most_examples", "batch_size"):
            positive(name, getattr(self, name))


@dataclass(frozen=True, eq=False)
class MeanShift(Merge):
    """Biases take the mean of what is no longer read; statistics of normalizations follow.

    Parameters
    ----------
    held_out, most_examples, batch_size
        As in `Merge`.
    """

    name: ClassVar[str] = "mean"


@dataclass(frozen=True, eq=False)
class LeastSquares(Merge):
    """Kernels and biases take the best linear prediction of what is no longer read.

    Channels that copy one that stays, up to a factor, are folded into it exactly.

    Parameters
    ----------
    ridges : tuple of float
        Penalties to choose from, in units of the mean second moment of what stays.
    predictions : bool
        Whether the last layer of a softmax classifier, of examples or of their positions, then gives the whole
        network's probabilities as closely as it can (a convex fit, without labels), not only its scores.
    pairs : DataFrame, optional
        Of ``ImpactTable.redundant_pairs()``: a removed element that is in one with an element that stays is shrunk
        towards its prediction from such partners instead of towards nothing.
    held_out, most_examples, batch_size
        As in `Merge`.

    Raises
    ------
    ParameterError
        If a parameter is out of range, or `pairs` lacks the columns element and other.
    """

    ridges: tuple[float, ...] = RIDGES
    predictions: bool = True
    pairs: pd.DataFrame | None = None

    name: ClassVar[str] = "least_squares"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ridges or min(self.ridges) <= 0:
            raise ParameterError(f"`ridges` must be one or more positive numbers, received {self.ridges}.")
        if self.pairs is not None and not {"element", "other"} <= set(self.pairs.columns):
            raise ParameterError(
                "`pairs` must have the columns element and other, received "
                f"{', '.join(map(str, self.pairs.columns))}: pass ImpactTable.redundant_pairs()."
            )


_BY_NAME: dict[str, type[Merge]] = {kind.name: kind for kind in (LeastSquares, MeanShift)}


def resolve_merge(merge: str | Merge | None, has_data: bool) -> Merge | None:
    """The strategy that `merge` names, None for deletion.

    Raises
    ------
    ParameterError
        If the name is unknown, or there are no data to merge with.
    """
    if merge == "none" or (merge is None and not has_data):
        return None
    if isinstance(merge, Merge):
        strategy = merge
    elif merge is None or merge in _BY_NAME:
        strategy = _BY_NAME[merge or LeastSquares.name]()
    else:
        raise ParameterError(f"`merge` must be one of {', '.join(_BY_NAME)}, none or a Merge, received {merge!r}.")
    if not has_data:
        raise ParameterError(
            f"`merge` {strategy.name!r} must have examples to learn from, received none: pass data=(x, y), or "
            "merge='none'."
        )
    return strategy
