"""A scorer by name with its settings, and what its budget pays for."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._utils import function_fingerprint
from ..errors import ParameterError
from ..regression import ImpactTable


def affordable(rows: int | None, cost: int, most: int, unit: str, *, limit: int | None = None) -> int:
    """How many units of `cost` row-equivalents a budget of `rows` pays for, at most `most`.

    Raises
    ------
    ParameterError
        If it pays for none, or, where no budget was given, `most` units would cost over `limit`.
    """
    if rows is None:
        if limit is not None and cost * most > limit:
            raise ParameterError(
                f"{most:,} times {unit} would cost {cost * most:,} row-equivalents: pass rows=, for example "
                f"rows={max(limit, cost):,}, to pay for fewer."
            )
        return most
    if isinstance(rows, bool) or not isinstance(rows, int | np.integer) or rows < 1:
        raise ParameterError(f"`rows` must be an integer of at least 1, received {rows!r}.")
    if rows < cost:
        raise ParameterError(
            f"`rows` must pay for at least one {unit}, {cost:,} row-equivalents, received {rows:,}: pass "
            f"rows={cost:,} or more."
        )
    return int(min(rows // cost, most))


def spent(table: ImpactTable) -> int:
    """Row-equivalents that an impact table cost, whichever scorer made it."""
    return int(table.details.get("row equivalents", table.rows))


@dataclass(frozen=True)
class Scorer:
    """A scoring function with its settings.

    Attributes
    ----------
    function : callable
        ``function(model, data, elements, *, seed, **settings)`` giving an `ImpactTable`.
    settings : dict
    per_fraction : bool
        Whether it is to be called anew for every fraction, with ``fraction=`` (trained gates).
    draws : int
        Calls with different seeds for each seed of the comparison (random needs several); they are
        told apart in column ``seed`` as seed, seed + 1000, seed + 2000 and so on.
    """

    function: Callable[..., ImpactTable]
    settings: Mapping[str, Any] = field(default_factory=dict)
    per_fraction: bool = False
    draws: int = 1

    def __str__(self) -> str:
        shown = ", ".join(_shown(name, value) for name, value in self.settings.items())
        return f"{getattr(self.function, '__name__', self.function)}({shown})"


def _shown(name: str, value: Any) -> str:
    """A setting, the same in every process: functions in it by what they do, not by where they lie."""
    shown = f"{name}={value!r}"
    plain = re.sub(r" at 0x[0-9a-fA-F]+", "", shown)
    return plain if plain == shown else f"{plain} {function_fingerprint(value)}"
