"""Keep the elements of highest score, at least as many of every layer as its floor."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from .._utils import check_several, concatenate_names, is_number, positive
from ..errors import ParameterError
from ._gates import Columns
from ._table import Elements, check_elements

Kept = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float64]
Least = int | float | str
Floor = Least | Mapping[str, Least]
"""Fewest elements that every layer keeps, or each named one: a number, a share of the layer's elements, or all."""


def keep_best(elements: Elements, scores: Scores, fraction: float, floor: Floor, round_to: int = 1) -> Kept:
    """Return a mask that keeps the elements of highest `scores` (n_elements,), as `dropreg.select` does."""
    positive("round_to", round_to, 1)
    floors = floors_by_layer(elements, floor)
    layers = _columns_by_layer(elements)
    kept = _guarded(scores, layers, floors)
    spare = _n_kept(elements, fraction, int(kept.sum()), floor) - int(kept.sum())
    order = np.argsort(-scores, kind="stable")
    kept[order[~kept[order]][:spare]] = True
    kept = balanced(elements, scores, kept, floors)
    emptied = [layer for layer, columns in layers.items() if not kept[columns].any()]
    if emptied and elements.replacement is None:
        raise ParameterError(
            f"`fraction` must leave at least one element in every layer, received {fraction:g}, which would empty "
            f"{concatenate_names(emptied)}: pass floor=1 to keep the best of every layer, or a smaller fraction."
        )
    return _rounded(elements, scores, kept, floors, round_to)


def floors_by_layer(elements: Elements, floor: Floor) -> dict[str, int]:
    """Return the fewest elements that each layer must keep."""
    sizes = {layer: len(columns) for layer, columns in _columns_by_layer(elements).items()}
    if not isinstance(floor, Mapping):
        if elements.replacement is not None and floor == 1:
            floor = 0  # a layer works without any of its original weights
        return {layer: min(_least("`floor`", floor, size), size) for layer, size in sizes.items()}
    unknown = [layer for layer in floor if layer not in sizes]
    if unknown:
        raise ParameterError(
            f"`floor` must name layers of the elements ({concatenate_names(list(sizes))}), received "
            f"{concatenate_names(unknown)}."
        )
    floors = {layer: min(1, size) for layer, size in sizes.items()}
    for layer, least in floor.items():
        floors[layer] = _least(f"`floor` of layer '{layer}'", least, sizes[layer])
        if floors[layer] > sizes[layer]:
            raise ParameterError(
                f"`floor` of layer '{layer}' must be at most its {sizes[layer]} elements, received {least}: pass 'all' "
                "to keep the layer."
            )
    return floors


def _least(name: str, least: Any, size: int) -> int:
    """Return the number of elements that a floor asks of a layer of `size` elements."""
    if isinstance(least, str) and least == "all":
        return size
    if isinstance(least, int | np.integer) and not isinstance(least, bool) and least >= 0:
        return int(least)
    if isinstance(least, float | np.floating) and 0 < least < 1:
        return int(np.ceil(least * size - 1e-9))
    remedy = ""
    if isinstance(least, float | np.floating) and least in (0, 1):
        remedy = ": pass 'all' to keep the layer, or the int 1 to keep one element" if least else ": pass the int 0"
    raise ParameterError(
        f"{name} must be a number of elements (an int of at least 0), a share of the layer's elements (a float "
        f"strictly between 0 and 1) or 'all', received {least!r}{remedy}."
    )


def check_fractions(elements: Elements, fractions: Sequence[float], floor: Floor) -> None:
    """Raise ParameterError unless each fraction leaves what `floor` asks for in every layer."""
    check_elements(elements)
    check_several("fractions", fractions)
    needed = _n_needed(elements, floor)
    for fraction in fractions:
        _n_kept(elements, fraction, needed, floor)


def largest_fraction(elements: Elements, floor: Floor) -> float:
    """Return the largest fraction of the elements that can be removed."""
    return 1.0 - max(_n_needed(elements, floor), 1) / len(elements)


def _n_needed(elements: Elements, floor: Floor) -> int:
    """Return the fewest elements that can be kept."""
    scores, floors = np.zeros(len(elements)), floors_by_layer(elements, floor)
    return int(_guarded(scores, _columns_by_layer(elements), floors).sum())


def is_allowed(elements: Elements, kept: Kept, floor: Floor) -> bool:
    """Whether every layer keeps what `floor` asks for, and the pairs in `Elements.equal` keep equally many."""
    floors = floors_by_layer(elements, floor)
    enough = all(kept[columns].sum() >= floors[layer] for layer, columns in _columns_by_layer(elements).items())
    pairs = _equal_columns(elements).values()
    return enough and all(kept[first].sum() == kept[second].sum() for first, second in pairs)


def balanced(elements: Elements, scores: Scores, kept: Kept, floors: Mapping[str, int] | None = None) -> Kept:
    """Return `kept` with equally many units of the two layers of each pair in `Elements.equal`.

    The units of highest `scores` (n_elements,) are kept, NaN last; of both layers together as many as in `kept`, or one
    more, and at least as many as `floors` asks for.
    """
    kept, least = kept.copy(), floors or {}
    for pair, columns in _equal_columns(elements).items():
        n_kept = sum(int(kept[one].sum()) for one in columns)
        count = max(-(-n_kept // 2), *(least.get(layer, 0) for layer in pair))
        for one in columns:
            kept[one] = False
            kept[_best(one, scores)[:count]] = True
    return kept


def _equal_columns(elements: Elements) -> dict[tuple[str, str], list[Columns]]:
    """Return the elements of both layers of each pair in `Elements.equal`, where both have some."""
    pairs = {pair: [elements.columns_of(layer) for layer in pair] for pair in elements.equal}
    return {pair: columns for pair, columns in pairs.items() if all(len(one) for one in columns)}


def _n_kept(elements: Elements, fraction: float, needed: int, floor: Floor) -> int:
    """Return the number of elements to keep; raise ParameterError if it is less than `needed`."""
    if not is_number(fraction) or not 0 <= fraction < 1:
        raise ParameterError(f"`fraction` must lie in [0, 1), received {fraction!r}: it is the fraction to remove.")
    n_kept = len(elements) - round(fraction * len(elements))
    if n_kept < max(needed, 1):
        asked = floor if isinstance(floor, Mapping) else f"{floor} for each layer"
        raise ParameterError(
            f"`fraction` {fraction:g} leaves {n_kept} of {len(elements)} elements, fewer than `floor` asks for: "
            f"expected at least {max(needed, 1)} ({asked}), so pass a fraction of at most "
            f"{1 - max(needed, 1) / len(elements):.3g}, or a lower floor."
        )
    return n_kept


def _guarded(scores: Scores, layers: dict[str, Columns], floors: dict[str, int]) -> Kept:
    """Return a mask that keeps the best elements of every layer, as many as its floor."""
    kept = np.zeros(len(scores), dtype=bool)
    for layer, columns in layers.items():
        kept[_best(columns, scores)[: floors[layer]]] = True
    return kept


def finite_numbers(name: str, values: Any, elements: Elements) -> Scores:
    """Return one finite number for each element, shape (n_elements,), or raise ParameterError.

    A Series is aligned by its index: names of elements, or their numbers from 0.
    """
    n = len(elements)
    what = f"`{name}` must be finite numbers of shape ({n},), one for each element, received"
    if isinstance(values, pd.Series):
        for keys in (list(elements.names), list(range(n))):
            if len(values) == n and values.index.is_unique and set(values.index) == set(keys):
                values = values.loc[keys]
                break
        else:
            raise ParameterError(
                f"`{name}` must have an index of all {n} names of the elements, or of their numbers, received a Series "
                f"of {len(values)} with the index {concatenate_names(list(map(str, values.index)), 3)}: pass "
                "table.to_frame().set_index('element')['impact'], or an array in the order of the elements."
            )
    try:
        found = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"{what} {type(values).__name__}: pass numbers, or an ImpactTable.") from error
    if found.shape != (n,) or not np.isfinite(found).all():
        n_others = int((~np.isfinite(found)).sum())
        raise ParameterError(f"{what} shape {found.shape} with {n_others} that are not finite.")
    return found


def _columns_by_layer(elements: Elements) -> dict[str, Columns]:
    """Return the elements that remove a unit of each layer; not the elements that remove a layer or branch."""
    found: dict[str, dict[int, None]] = {}
    for j, (tied, kind) in enumerate(zip(elements.members, elements.kinds, strict=True)):
        for layer, _ in tied if kind not in ("layer", "branch") else ():
            found.setdefault(layer, {})[j] = None
    return {layer: np.array(list(columns), dtype=np.int64) for layer, columns in found.items()}


def _best(columns: Columns, scores: Scores) -> Columns:
    return columns[np.argsort(-scores[columns], kind="stable")]


def _rounded(elements: Elements, scores: Scores, kept: Kept, floors: dict[str, int], round_to: int) -> Kept:
    """Return `kept` with a multiple of `round_to` elements in each layer, the nearest that the floor allows."""
    if round_to == 1:
        return kept
    kept = kept.copy()
    for pair in _equal_columns(elements):
        floors = floors | dict.fromkeys(pair, max(floors[layer] for layer in pair))
    layers, by_layer = np.array(elements.layers, dtype=object), _columns_by_layer(elements)
    for layer in dict.fromkeys(elements.layers):
        columns = np.flatnonzero(layers == layer)
        count = int(kept[columns].sum())
        if count == len(columns):
            continue
        tied = [floors[name] for name, others in by_layer.items() if np.isin(columns, others).all()]
        lowest = -(-max(tied, default=0) // round_to) * round_to
        target = min(max(round(count / round_to) * round_to, lowest), len(columns))
        kept[columns] = False
        kept[_best(columns, scores)[:target]] = True
    return kept
