"""The base class of rules that end a run early."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._record import Record
    from ._settings import RunSettings


class StopRule(ABC):
    """A rule that ends a run early, the base class of `dropreg.Precision`.

    Examples
    --------
    >>> import dropreg as dr
    >>> class Enough(dr.sampling.StopRule):
    ...     def check(self, record):
    ...         return "there are 4,096 rows" if record.rows >= 4_096 else None
    """

    def validate(self, settings: "RunSettings") -> None:  # noqa: B027
        """Raise ParameterError if the rule cannot be checked on a run of these settings; called before the run.

        Parameters
        ----------
        settings : RunSettings
        """

    @abstractmethod
    def check(self, record: "Record") -> str | None:
        """Return the reason to stop after the recorded rows, or None to continue.

        Parameters
        ----------
        record : Record

        Returns
        -------
        str or None
            None also where there are too few rows to tell.
        """
