"""Rules that end a run once it is precise enough.

They are asked after 1, 2, 3, 4, 6, 9 ... chunks, so the answer depends on the rows alone, and every
rule goes with a largest number of rows (the `rows` of ``dropreg.sample``).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from scipy import stats

from .errors import ParameterError, UnidentifiedError, check_between, check_positive, is_number

if TYPE_CHECKING:
    from .impact import ImpactTable
    from .record import Record


@dataclass(frozen=True)
class StopRule(ABC):
    """When to stop.

    Parameters
    ----------
    outcome : str
        Outcome whose impacts are looked at, by OLS with HC1 errors.

    Attributes
    ----------
    effect : str
        What stopping by this rule does to the error bars.
    """

    outcome: str
    effect: ClassVar[str]

    def check(self, record: "Record") -> str | None:
        """Ask whether a run may stop after the rows that are recorded.

        Parameters
        ----------
        record : Record

        Returns
        -------
        str or None
            The reason to stop, with the effect on the error bars; None to go on, also where there are too few rows to
            tell the elements apart.
        """
        from .regress import regress

        try:
            table = regress(record, outcome=self.outcome, estimator="ols")
        except UnidentifiedError:
            return None
        reason = self.reached(table, record)
        return None if reason is None else f"stopped after {record.rows:,} rows because {reason}; {self.effect}"

    @abstractmethod
    def reached(self, table: "ImpactTable", record: "Record") -> str | None:
        """Why the run may stop with these impacts.

        Parameters
        ----------
        table : ImpactTable
            Of `outcome`, by OLS with HC1 errors.
        record : Record

        Returns
        -------
        str or None
            None to go on.
        """


@dataclass(frozen=True)
class Precision(StopRule):
    """Stop when every standard error is small enough.

    Parameters
    ----------
    outcome : str
        As in `StopRule`.
    std_error : float
        Largest standard error, in the outcome's unit; positive.

    Raises
    ------
    ParameterError
        If `std_error` is not positive.
    """

    std_error: float
    effect: ClassVar[str] = "error bars are as good as without the rule, which does not look at the impacts"

    def __post_init__(self) -> None:
        check_positive("std_error", self.std_error)

    def reached(self, table: "ImpactTable", record: "Record") -> str | None:
        largest = float(table.std_error.max())
        return f"all standard errors are at most {self.std_error:g}" if largest <= self.std_error else None


@dataclass(frozen=True)
class StableOrder(StopRule):
    """Stop when halves of the rows agree on the order of the elements.

    Parameters
    ----------
    outcome : str
        As in `StopRule`.
    reliability : float
        Smallest rank correlation, after the Spearman-Brown correction from half the rows to all; strictly between 0
        and 1.

    Raises
    ------
    ParameterError
        If `reliability` is out of range.
    """

    reliability: float = 0.95
    effect: ClassVar[str] = (
        "the rule looks at the impacts, so the error bars are slightly too small for the elements it turned on"
    )

    def __post_init__(self) -> None:
        check_between("reliability", self.reliability)

    def reached(self, table: "ImpactTable", record: "Record") -> str | None:
        from .compression import compress, observations
        from .regression import ols

        rows = observations(record, paired=record.settings.masks_per_group == 2)
        column = record.settings.outcomes.index(self.outcome)
        halves = []
        for first in (0, 1):
            part = rows.every(2, first)
            design = compress(part)
            if not design.is_full_rank:
                return None
            halves.append(ols(design, part, column, "nonrobust").coefficients)
        correlation = float(stats.spearmanr(*halves).statistic)
        reliability = 2 * correlation / (1 + correlation)
        return f"the order is stable (reliability {reliability:.3f})" if reliability >= self.reliability else None


@dataclass(frozen=True)
class Separated(StopRule):
    """Stop when the set to prune at a given fraction stands clear of the rest.

    The set is that of the lowest impacts. An element is clear if its interval at `level` does not
    reach across the boundary, half-way between the highest impact in the set and the lowest outside.

    Parameters
    ----------
    outcome : str
        As in `StopRule`.
    fraction : float
        Fraction of the elements to prune, strictly between 0 and 1.
    level : float
        Confidence level of the intervals, strictly between 0 and 1.
    undecided : float
        Fraction of all elements that may stay unclear, in [0, 1).

    Raises
    ------
    ParameterError
        If a parameter is out of range.
    """

    fraction: float
    level: float = 0.95
    undecided: float = 0.1
    effect: ClassVar[str] = (
        "the rule looks at the impacts, so intervals near the boundary cover somewhat less than their level"
    )

    def __post_init__(self) -> None:
        check_between("fraction", self.fraction)
        check_between("level", self.level)
        if not is_number(self.undecided) or not 0 <= self.undecided < 1:
            raise ParameterError(f"`undecided` must lie between 0 and 1, received {self.undecided!r}.")

    def reached(self, table: "ImpactTable", record: "Record") -> str | None:
        ordered = np.sort(table.impact)
        n_pruned = min(max(round(self.fraction * len(ordered)), 1), len(ordered) - 1)
        boundary = (ordered[n_pruned - 1] + ordered[n_pruned]) / 2
        half = float(stats.norm.ppf(0.5 + self.level / 2)) * table.std_error
        unclear = float((np.abs(table.impact - boundary) < half).mean())
        if unclear > self.undecided:
            return None
        return f"the {n_pruned} elements to prune are separated but for {unclear:.1%} of all elements"
