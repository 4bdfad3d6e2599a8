"""Which elements stay."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from .._utils import check_several, concatenate_names, is_number, positive
from ..errors import ParameterError
from ._table import Elements, check_elements

Scores = npt.NDArray[np.float64]
Least = int | float | str
Floor = Least | Mapping[str, Least]
"""Fewest elements that every layer keeps, or each named one: a number, a share of the layer's elements, or all."""


@dataclass(frozen=True, repr=False, eq=False)
class Selection:
    """The elements of a model that stay.

    Attributes
    ----------
    elements : Elements
    kept : ndarray of bool, shape (n_elements,)
        True = stays.

    Raises
    ------
    ParameterError
        If `kept` is no boolean array with one entry an element.
    """

    elements: Elements
    kept: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        kept = np.asarray(self.kept)
        if kept.dtype != np.bool_ or kept.shape != (len(self.elements),):
            raise ParameterError(
                f"`kept` must be booleans of shape ({len(self.elements)},), one for each element (True = stays), "
                f"received {kept.dtype} of shape {kept.shape}: numbers of elements go to Selection.dropping(...)."
            )
        frozen = kept.copy()
        frozen.flags.writeable = False
        object.__setattr__(self, "kept", frozen)

    @classmethod
    def keeping(cls, elements: Elements, indices: Collection[int]) -> "Selection":
        """Keep the elements with these numbers, drop all others.

        Parameters
        ----------
        elements : Elements
        indices : collection of int
            From 0, in any order.

        Returns
        -------
        Selection

        Raises
        ------
        ParameterError
            If a number is no element's.
        """
        return cls(elements, _flags(elements, indices))

    @classmethod
    def dropping(cls, elements: Elements, indices: Collection[int]) -> "Selection":
        """Drop the elements with these numbers, keep all others.

        Parameters
        ----------
        elements, indices
            As in `keeping`.

        Returns
        -------
        Selection

        Raises
        ------
        ParameterError
            If a number is no element's.
        """
        return cls(elements, ~_flags(elements, indices))

    @classmethod
    def random(
        cls, elements: Elements, fraction: float, *, seed: int = 0, floor: Floor = 1, round_to: int = 1
    ) -> "Selection":
        """Drop a random fraction of the elements.

        Parameters
        ----------
        elements : Elements
        fraction : float
            Of the elements to drop, in [0, 1).
        seed : int
        floor, round_to
            As in `select`.

        Returns
        -------
        Selection
            The same for the same arguments.

        Raises
        ------
        ParameterError
            As in `select`.
        """
        check_elements(elements)
        scores = np.random.default_rng(positive("seed", seed, 0)).random(len(elements))
        return keep_best(elements, scores, fraction, floor, round_to)

    @property
    def dropped(self) -> npt.NDArray[np.int64]:
        """Numbers of the elements that go, ascending."""
        return np.flatnonzero(~self.kept)

    @property
    def fraction(self) -> float:
        """Fraction of the elements that goes."""
        return float(1.0 - self.kept.mean())

    @property
    def params(self) -> int:
        """Parameters that go, at most: those between two elements that both go are counted twice.

        The exact numbers are in the report of `dropreg.prune`.
        """
        return int(self.elements.params[~self.kept].sum())

    @property
    def macs(self) -> float:
        """Multiply-adds an example that go, at most, as in `params`; NaN where a size is unknown."""
        return float(self.elements.macs[~self.kept].sum())

    def by_layer(self) -> pd.DataFrame:
        """How much stays of each layer.

        Returns
        -------
        DataFrame
            One row a layer and kind: layer, kind, elements, kept (how many of them stay).
        """
        frame = self.elements.to_frame().assign(kept=self.kept)
        groups = frame.groupby(["layer", "kind"], sort=False, as_index=False)
        return groups.agg(elements=("element", "size"), kept=("kept", "sum"))

    def to_frame(self) -> pd.DataFrame:
        """The elements as a table.

        Returns
        -------
        DataFrame
            `Elements.to_frame` with a column ``kept``, True = stays.
        """
        return self.elements.to_frame().assign(kept=self.kept)

    def __repr__(self) -> str:
        heading = f"Selection: {int(self.kept.sum())} of {len(self.kept)} elements stay ({self.fraction:.1%} go)"
        return "\n".join([heading, self.by_layer().to_string(index=False)])


def keep_best(elements: Elements, scores: Scores, fraction: float, floor: Floor, round_to: int = 1) -> Selection:
    """Keep the elements of highest `scores` (n_elements,); the other parameters and errors are those of `select`."""
    positive("round_to", round_to, 1)
    floors = floors_by_layer(elements, floor)
    layers = _columns_by_layer(elements)
    kept = _guarded(scores, layers, floors)
    spare = _n_kept(elements, fraction, int(kept.sum()), floor) - int(kept.sum())
    order = np.argsort(-scores, kind="stable")
    kept[order[~kept[order]][:spare]] = True
    kept = balanced(elements, scores, kept, floors)
    emptied = [layer for layer, columns in layers.items() if not kept[columns].any()]
    if emptied:
        raise ParameterError(
            f"`fraction` must leave every layer something, received {fraction:g}, with which these impacts empty "
            f"{concatenate_names(emptied)}: pass floor=1 to keep the best of every layer, or a smaller fraction."
        )
    return Selection(elements, _rounded(elements, scores, kept, floors, round_to))


def floors_by_layer(elements: Elements, floor: Floor) -> dict[str, int]:
    """Return the fewest elements that each layer must keep."""
    sizes = {layer: len(columns) for layer, columns in _columns_by_layer(elements).items()}
    if not isinstance(floor, Mapping):
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
    """Raise ParameterError unless every layer can keep `floor` elements at every fraction."""
    check_elements(elements)
    check_several("fractions", fractions)
    floors = floors_by_layer(elements, floor)
    needed = int(_guarded(np.zeros(len(elements)), _columns_by_layer(elements), floors).sum())
    for fraction in fractions:
        _n_kept(elements, fraction, needed, floor)


def largest_fraction(elements: Elements, floor: Floor) -> float:
    """The largest fraction of the elements that can go."""
    needed = int(_guarded(np.zeros(len(elements)), _columns_by_layer(elements), floors_by_layer(elements, floor)).sum())
    return 1.0 - max(needed, 1) / len(elements)


def is_allowed(elements: Elements, kept: npt.NDArray[np.bool_], floor: Floor) -> bool:
    """Whether every layer keeps what `floor` asks for, and as many as the layer that it must equal."""
    floors = floors_by_layer(elements, floor)
    enough = all(kept[columns].sum() >= floors[layer] for layer, columns in _columns_by_layer(elements).items())
    pairs = _equal_columns(elements).values()
    return enough and all(kept[first].sum() == kept[second].sum() for first, second in pairs)


def balanced(
    elements: Elements, scores: Scores, kept: npt.NDArray[np.bool_], floors: Mapping[str, int] | None = None
) -> npt.NDArray[np.bool_]:
    """`kept` with as many units of the one as of the other layer where they must be equal.

    The best by `scores` (n_elements,), NaN last; of both together as many as `kept` has, or one more, and what `floors`
    asks for.
    """
    kept, least = kept.copy(), floors or {}
    for pair, columns in _equal_columns(elements).items():
        n_kept = sum(int(kept[one].sum()) for one in columns)
        count = max(-(-n_kept // 2), *(least.get(layer, 0) for layer in pair))
        for one in columns:
            kept[one] = False
            kept[_best(one, scores)[:count]] = True
    return kept


def _equal_columns(elements: Elements) -> dict[tuple[str, str], list[npt.NDArray[np.int64]]]:
    """Elements of both layers of a pair that must keep equally many, where both have some."""
    pairs = {pair: [elements.columns_of(layer) for layer in pair] for pair in elements.equal}
    return {pair: columns for pair, columns in pairs.items() if all(len(one) for one in columns)}


def _n_kept(elements: Elements, fraction: float, needed: int, floor: Floor) -> int:
    """Elements that stay, at least the `needed` ones."""
    if not is_number(fraction) or not 0 <= fraction < 1:
        raise ParameterError(f"`fraction` must lie in [0, 1), received {fraction!r}: it is the fraction to remove.")
    n_kept = len(elements) - round(fraction * len(elements))
    if n_kept < max(needed, 1):
        asked = floor if isinstance(floor, Mapping) else f"{floor} for each layer"
        raise ParameterError(
            f"`fraction` {fraction:g} leaves {n_kept} of {len(elements)} elements, which would empty a layer: expected "
            f"at least {max(needed, 1)} ({asked}), so pass a fraction of at most "
            f"{1 - max(needed, 1) / len(elements):.3g}."
        )
    return n_kept


def _guarded(scores: Scores, layers: dict[str, npt.NDArray[np.int64]], floors: dict[str, int]) -> npt.NDArray[np.bool_]:
    """The best elements of every layer, as many as its floor."""
    kept = np.zeros(len(scores), dtype=bool)
    for layer, columns in layers.items():
        kept[_best(columns, scores)[: floors[layer]]] = True
    return kept


def finite_numbers(name: str, values: Any, n_elements: int) -> Scores:
    """`values` as an array of finite numbers, shape (n_elements,), or ParameterError."""
    what = f"`{name}` must be finite numbers of shape ({n_elements},), one for each element, received"
    try:
        found = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ParameterError(f"{what} {type(values).__name__}: pass numbers, or an ImpactTable.") from error
    if found.shape != (n_elements,) or not np.isfinite(found).all():
        n_others = int((~np.isfinite(found)).sum())
        raise ParameterError(f"{what} shape {found.shape} with {n_others} that are not finite.")
    return found


def _flags(elements: Elements, indices: Collection[int]) -> npt.NDArray[np.bool_]:
    numbers = np.asarray(list(indices))
    if numbers.size and (numbers.dtype.kind not in "iu" or numbers.min() < 0 or numbers.max() >= len(elements)):
        raise ParameterError(
            f"`indices` must be numbers of elements, 0 to {len(elements) - 1}, received "
            f"{concatenate_names(numbers.tolist())}."
        )
    flags = np.zeros(len(elements), dtype=bool)
    flags[numbers.astype(np.int64)] = True
    return flags


def _columns_by_layer(elements: Elements) -> dict[str, npt.NDArray[np.int64]]:
    """Elements that drop a unit of a layer, for every layer that cannot go whole; one element may be in several."""
    found: dict[str, dict[int, None]] = {}
    for j, (tied, kind) in enumerate(zip(elements.members, elements.kinds, strict=True)):
        for layer, _ in tied if kind not in ("layer", "branch") else ():
            found.setdefault(layer, {})[j] = None
    return {layer: np.array(list(columns), dtype=np.int64) for layer, columns in found.items()}


def _best(columns: npt.NDArray[np.int64], scores: Scores) -> npt.NDArray[np.int64]:
    return columns[np.argsort(-scores[columns], kind="stable")]


def _rounded(
    elements: Elements, scores: Scores, kept: npt.NDArray[np.bool_], floors: dict[str, int], round_to: int
) -> npt.NDArray[np.bool_]:
    """`kept` with a multiple of `round_to` in each layer, the nearest that the floor allows."""
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
