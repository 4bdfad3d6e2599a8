"""Scorers with their settings, and what all scorers share: their budgets and their tables."""

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .._utils import ROUNDING, Array, Versioned, check_version, fingerprint, positive
from ..data import Task
from ..errors import ModelError, ParameterError
from ..network import Question
from ..regression import NO_ERRORS, ImpactTable, Uncertainty, impact_table


def affordable(rows: int | None, cost: int, most: int, unit: str, *, limit: int | None = None) -> int:
    """Return how many units of `cost` row-equivalents a budget of `rows` pays for, at most `most`.

    ParameterError if the budget pays for none, or if there is no budget and `most` units cost more than `limit`.
    """
    if rows is None:
        if limit is not None and cost * most > limit:
            raise ParameterError(
                f"{most:,} times {unit} would cost {cost * most:,} row-equivalents: pass rows=, for example "
                f"rows={max(limit, cost):,}, to use fewer."
            )
        return most
    if positive("rows", rows) < cost:
        raise ParameterError(
            f"`rows` must pay for at least one {unit}, {cost:,} row-equivalents, received {rows:,}: pass "
            f"rows={cost:,} or more."
        )
    return int(min(rows // cost, most))


def table_of(
    question: Question,
    impact: Array,
    std_error: Array | None = None,
    *,
    method: str,
    rows: int,
    details: dict[str, Any],
    outcome: str | None = None,
    unit: str | None = None,
    uncertainty: Uncertainty = NO_ERRORS,
    columns: Mapping[str, Array] | None = None,
) -> ImpactTable:
    """Return the impact table of a scorer, with more `columns`; `outcome` is by default that of the question.

    `unit` says what scores are that are no changes of the outcome.
    Raises ModelError if an impact is not finite.
    """
    if not np.isfinite(impact).all():
        raise ModelError(
            f"scores ({method}) must be finite, received NaN or infinity for {int((~np.isfinite(impact)).sum())} of "
            f"{len(impact)} elements: check the size of the model's weights and activations."
        )
    table = impact_table(
        question.elements.to_frame(),
        impact + 0.0,  # no -0.0
        std_error,
        method=method,
        outcome=outcome or question.outcome.name,
        rows=rows,
        seed=question.seed,
        unit=unit,
        uncertainty=uncertainty,
        details=details,
    )
    return replace(table, frame=table.frame.assign(**{name: value + 0.0 for name, value in (columns or {}).items()}))


def check_changes(question: Question, changes: Array, what: str, original: Array | None = None) -> None:
    """Raise ParameterError if all `changes`, of which `what` says of which kind, are zero: the scores mean nothing.

    Changes from `original` outcomes (n_examples,) are zero up to rounding, relative to the size of these.
    """
    size = 0.0 if original is None else float(np.sqrt((original**2).mean()))
    if not np.any(np.abs(changes) > ROUNDING * size):
        raise ParameterError(
            f"outcome '{question.outcome.name}' must change with the elements, received {what} of zero for all of "
            "them: pass another outcome, such as 'divergence' or 'loss', or more examples."
        )


def spent(table: ImpactTable) -> int:
    """Return the cost of an impact table in row-equivalents, for any scorer.

    Parameters
    ----------
    table : ImpactTable
        From a scorer, `estimate` or `regress`.

    Returns
    -------
    int
        A masked forward pass of one example counts one, a backward pass two more.

    Examples
    --------
    >>> import dropreg as dr
    >>> model, data = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
    >>> table = dr.scorers.taylor(model, data, dr.elements(model), rows=300)
    >>> dr.scorers.spent(table), table.details["examples"]
    (300, 100)
    """
    return int(table.details.get("row equivalents", table.rows))


@dataclass(frozen=True)
class Scorer(Versioned):
    """A scoring function with its settings, for `compare` and `prune_iteratively`.

    Parameters
    ----------
    function : callable
        Called as ``function(model, data, elements, *, seed, **settings)``, also with ``kept=`` if it takes that and
        weights are pruned in steps; returns an `ImpactTable`.
    settings : dict
        Keyword arguments of every call.
    per_fraction : bool
        Whether `function` takes ``fraction=`` and is called again for every fraction, as for trained gates.
    draws : int
        For `compare`: number of calls for each seed, shown as seed, seed + 1000 and so on; random scores need several.
    version : str, optional
        For a function of your own: identifies its scores in the place of its code and data where `compare` resumes.
        Choose another whenever they change.

    Raises
    ------
    ParameterError
        If `version` is neither None nor a string that is not empty.

    Examples
    --------
    >>> import dropreg as dr
    >>> print(dr.scorers.Scorer(dr.scorers.taylor, {"order": 2}))
    taylor(order=2)
    """

    function: Callable[..., ImpactTable]
    settings: Mapping[str, Any] = field(default_factory=dict)
    per_fraction: bool = False
    draws: int = 1
    version: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_version(self.version)

    def settings_with(self, task: Task | None) -> dict[str, Any]:
        """Return the settings, with ``task`` where it is given, the function takes it and the settings do not hold it.

        Parameters
        ----------
        task : str, optional

        Returns
        -------
        dict
        """
        takes = task is not None and "task" in inspect.signature(self.function).parameters
        return {**({"task": task} if takes else {}), **self.settings}

    def identity(self) -> str:
        """Return a text that is equal for the same scores in every process, whatever the number of draws.

        Returns
        -------
        str
            The function with its settings, and a hash of the code and data that it uses, or of its version.
        """
        return f"{self} {fingerprint(replace(self, draws=1))}"

    def __str__(self) -> str:
        shown = ", ".join(_shown(name, value) for name, value in self.settings.items())
        return f"{getattr(self.function, '__name__', self.function)}({shown})"


def _shown(name: str, value: Any) -> str:
    """Return a setting as text that is equal in every process: functions by their code, not by their address."""
    shown = f"{name}={value!r}"
    plain = re.sub(r" at 0x[0-9a-fA-F]+", "", shown)
    return plain if plain == shown else f"{plain} {fingerprint(value)}"
