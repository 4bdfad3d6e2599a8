"""Rules that end a run once it is precise enough.

They are asked after 1, 2, 3, 4, 6, 9 ... chunks, so the answer depends on the rows alone, and every
rule goes with a largest number of rows (the `rows` of ``dropreg.sample``).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from .._utils import check_positive
from ..sampling import StopRule

if TYPE_CHECKING:
    from ..sampling import Record
    from ._impact import ImpactTable


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
