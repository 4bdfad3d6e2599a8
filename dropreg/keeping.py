"""Which elements stay when the least important go."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from .elements import concatenate_names
from .errors import ParameterError
from .impact import ImpactTable


def keep_top(table: ImpactTable, fraction: float, *, least: int = 1) -> npt.NDArray[np.bool_]:
    """The elements that stay when the `fraction` with the lowest impact goes.

    Parameters
    ----------
    table : ImpactTable
    fraction : float
        In [0, 1); of elements, rounded to a whole number.
    least : int
        Elements that every layer keeps, the best of it; 0 lets the impacts alone decide.

    Returns
    -------
    ndarray of bool, shape (n_elements,)
        True = kept.

    Raises
    ------
    ParameterError
        If `fraction` is out of range, or a layer would be emptied: by so large a fraction that not
        every layer can keep `least`, or with ``least=0`` by these impacts.
    """
    layers = table.frame["layer"].to_numpy()
    check_fractions((fraction,), layers, least)
    n_kept = len(layers) - round(fraction * len(layers))
    order = np.argsort(table.frame["rank"].to_numpy(), kind="stable")
    place = pd.Series(layers[order]).groupby(layers[order], sort=False).cumcount().to_numpy()
    guarded = (place < least) & (_sizes(layers)[order] > 1)
    first = np.argsort(~guarded, kind="stable")  # the guarded ones first, then by impact
    kept = np.zeros(len(layers), dtype=bool)
    kept[order[first[:n_kept]]] = True
    several = [layer for layer in dict.fromkeys(layers) if (layers == layer).sum() > 1]
    emptied = [layer for layer in several if not kept[layers == layer].any()]
    if emptied:
        raise ParameterError(
            f"`fraction` must leave every layer something, received {fraction:g}, with which {table.method} empties "
            f"{concatenate_names(emptied)}: pass least=1 to keep the best of every layer, or a smaller fraction."
        )
    return kept


def _sizes(layers: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Elements in the layer of each element; those alone in theirs are not guarded."""
    return pd.Series(layers).groupby(layers).transform("size").to_numpy()


def check_fractions(fractions: Sequence[float], layers: npt.NDArray[Any], least: int) -> None:
    """Raise ParameterError unless every layer can keep `least` elements at every fraction."""
    if isinstance(least, bool) or not isinstance(least, int | np.integer) or least < 0:
        raise ParameterError(f"`least` must be an integer of at least 0, received {least!r}.")
    counts = pd.Series(layers).value_counts()
    needed = int(np.minimum(counts[counts > 1], least).sum())
    for fraction in fractions:
        if isinstance(fraction, bool) or not 0 <= fraction < 1:
            raise ParameterError(f"fractions must lie in [0, 1), received {fraction!r}.")
        n_kept = len(layers) - round(fraction * len(layers))
        if n_kept < max(needed, 1):
            raise ParameterError(
                f"fraction {fraction:g} leaves {n_kept} of {len(layers)} elements, which would empty a layer: expected "
                f"at least {max(needed, 1)} ({least} for each layer of several), so pass a fraction of at most "
                f"{1 - max(needed, 1) / len(layers):.3g}."
            )
