"""Rules that end a run once it is precise enough.

They are asked after 1, 2, 3, 4, 6, 9 ... chunks, so the answer depends on the rows alone, and every
rule goes with a largest number of rows (the `rows` of ``dropreg.sample``).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .errors import UnidentifiedError, check_positive

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
