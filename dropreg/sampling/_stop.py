"""The base class of rules that end a run early."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ..errors import UnidentifiedError

if TYPE_CHECKING:
    from ..regression import ImpactTable
    from ._record import Record


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
        from ..regression import regress

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
