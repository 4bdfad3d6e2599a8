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
    """A rule that ends a run early, the base class of `dropreg.Precision`.

    Parameters
    ----------
    outcome : str
        Outcome whose impacts the rule judges, estimated by OLS with HC1 standard errors.

    Attributes
    ----------
    effect : str
        How stopping by this rule affects the standard errors.
    """

    outcome: str
    effect: ClassVar[str]

    def check(self, record: "Record") -> str | None:
        """Return the reason to stop after the recorded rows, or None to continue.

        Parameters
        ----------
        record : Record

        Returns
        -------
        str or None
            None also where there are too few rows to separate the elements.
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
        """Return why these impacts are reason to stop, or None to continue.

        Parameters
        ----------
        table : ImpactTable
            Impacts on `outcome`, by OLS with HC1 standard errors.
        record : Record

        Returns
        -------
        str or None
        """
