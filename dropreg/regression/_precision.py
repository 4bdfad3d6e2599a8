"""The rule that ends a run once the impacts are precise enough."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .._utils import check_positive
from ..errors import UnidentifiedError
from ..sampling import StopRule
from ._regress import regress

if TYPE_CHECKING:
    from ..sampling import Record


@dataclass(frozen=True)
class Precision(StopRule):
    """Stop sampling when every standard error is small enough.

    The rule is checked after 1, 2, 3, 4, 6, 9, ... chunks of rows, so the result depends on the rows alone. It looks at
    the standard errors and not at the impacts, so intervals are as good as those of a run without it.

    Parameters
    ----------
    outcome : str
        Outcome whose impacts are estimated, by OLS with HC1 standard errors.
    std_error : float
        Largest standard error allowed, in the outcome's unit; positive.

    Raises
    ------
    ParameterError
        If `std_error` is not positive and finite.

    Examples
    --------
    >>> import dropreg as dr
    >>> dr.Precision("accuracy", std_error=0.002)
    Precision(outcome='accuracy', std_error=0.002)
    """

    outcome: str
    std_error: float

    def __post_init__(self) -> None:
        check_positive("std_error", self.std_error)

    def check(self, record: "Record") -> str | None:
        try:
            table = regress(record, outcome=self.outcome, estimator="ols")
        except UnidentifiedError:
            return None
        if table.std_error.max() > self.std_error:
            return None
        return (
            f"stopped after {record.rows:,} rows because all standard errors are at most {self.std_error:g}; error "
            "bars are as good as without the rule, which does not look at the impacts"
        )
