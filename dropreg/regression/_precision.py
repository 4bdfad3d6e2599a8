"""The rule that ends a run once the impacts are precise enough."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .._utils import check_positive
from ..errors import ParameterError, UnidentifiedError
from ..sampling import StopRule
from ._ols import CovarianceType
from ._regress import Estimator, choose_estimator, regress

if TYPE_CHECKING:
    from ..sampling import Record, RunSettings

_LEAST_ROWS = 30
"""Masks that must keep, and that must drop, each element before standard errors are looked at."""


@dataclass(frozen=True)
class Precision(StopRule):
    """Stop sampling when every standard error is small enough.

    The rule is checked after 1, 2, 3, 4, 6, 9, ... chunks of rows, so the result depends on the rows alone. It looks at
    the standard errors and not at the impacts, so intervals are as good as those of a run without it.

    Parameters
    ----------
    outcome : str
        Outcome whose impacts are estimated.
    std_error : float
        Largest standard error allowed, in the outcome's unit; positive.
    estimator, covariance : str
        As in `dropreg.regress`. By default those of its table, and of the one that `dropreg.estimate` returns.

    Raises
    ------
    ParameterError
        If `std_error` is not positive and finite; when the run begins, if it cannot be estimated in this way.

    Examples
    --------
    >>> import dropreg as dr
    >>> dr.Precision("accuracy", std_error=0.002)
    Precision(outcome='accuracy', std_error=0.002, estimator='auto', covariance='HC1')
    """

    outcome: str
    std_error: float
    estimator: Estimator = "auto"
    covariance: CovarianceType = "HC1"

    def __post_init__(self) -> None:
        check_positive("std_error", self.std_error)

    def validate(self, settings: "RunSettings") -> None:
        name = choose_estimator(settings, self.outcome, self.estimator, self.covariance)
        if name in ("assisted", "gradient", "corrected") and self.outcome not in settings.gradients:
            raise ParameterError(
                f"{self} must have gradients of '{self.outcome}', received a run without: pass "
                f"gradients=({self.outcome!r},) to Sampling, or another estimator to Precision."
            )
        if name == "corrected" and not settings.flips:
            raise ParameterError(
                f"{self} must have flips, received a run without: pass flips=4 to Sampling, or another estimator to "
                "Precision."
            )

    def check(self, record: "Record") -> str | None:
        keep = record.keep_probabilities()
        rarest = min(keep.min(), 1.0 - keep.max()) * record.rows / record.settings.examples_per_mask
        if rarest < _LEAST_ROWS:
            return None
        try:
            table = regress(record, outcome=self.outcome, estimator=self.estimator, covariance=self.covariance)
        except UnidentifiedError:
            return None
        known = table.std_error[np.isfinite(table.std_error)]  # NaN: an element that changed nothing
        if len(known) == 0 or known.max() > self.std_error:
            return None
        return (
            f"stopped after {record.rows:,} rows because all standard errors by {table.method} are at most "
            f"{self.std_error:g}; they are as good as without the rule, which does not look at the impacts"
        )
