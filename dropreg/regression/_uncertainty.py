"""What standard errors stand for, and the tests and intervals that follow from them."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from .._utils import Array, check_between

ErrorKind = Literal["data set", "population", "posterior", "sampling", "none"]
_TEXTS: dict[ErrorKind, str] = {
    "data set": "intervals for this data set",
    "population": "intervals for new examples",
    "posterior": "posterior standard errors, which need not cover",
    "sampling": "standard errors of sampling only, without the method's bias",
    "none": "no standard errors",
}


@dataclass(frozen=True)
class Uncertainty:
    """What the standard errors of a table stand for, and which tests and intervals they allow.

    Attributes
    ----------
    kind : {"data set", "population", "posterior", "sampling", "none"}
        "data set": intervals cover the impact on these examples. "population": they cover that on new examples.
        "posterior": the uncertainty under a prior, "sampling": that of the sample without the method's bias; neither
        need cover, so there are no intervals and no tests. "none": there are no standard errors.
    level : float
        Confidence level of the intervals, strictly between 0 and 1.
    df : float
        Degrees of freedom of Student's t in tests and intervals; infinite for the normal.

    Raises
    ------
    ParameterError
        If `level` is out of range.

    Examples
    --------
    >>> import dropreg as dr
    >>> print(dr.regression.Uncertainty("population", level=0.9))
    90% intervals for new examples
    >>> dr.regression.Uncertainty("posterior").covers
    False
    """

    kind: ErrorKind = "none"
    level: float = 0.95
    df: float = np.inf

    def __post_init__(self) -> None:
        check_between("level", self.level)

    @property
    def covers(self) -> bool:
        """Whether intervals cover at their level, so that there are tests and intervals."""
        return self.kind in ("data set", "population")

    def columns(self, impact: Array, std_error: Array | None) -> dict[str, npt.NDArray[np.generic]]:
        """Return the columns of an impact table that describe uncertainty; none without standard errors.

        A standard error of zero is no certainty: all rows showed the same change. It becomes NaN and there is no
        interval. Where that change is zero, ``no_change`` is True and the p-value is 1.
        """
        if self.kind == "none" or std_error is None:
            return {}
        error = np.where(std_error > 0, std_error, np.nan)
        no_change = (std_error == 0) & (impact == 0)
        if not self.covers:
            return {"std_error": error, "no_change": no_change}
        z = impact / error
        p_value = np.where(no_change, 1.0, 2 * stats.t.sf(np.abs(z), self.df))
        half = stats.t.ppf(0.5 + self.level / 2, self.df) * error
        return {
            "std_error": error,
            "z": z,
            "p_value": p_value,
            "p_bh": adjust_p_values(p_value, "fdr_bh"),
            "p_by": adjust_p_values(p_value, "fdr_by"),
            "ci_low": impact - half,
            "ci_high": impact + half,
            "no_change": no_change,
        }

    def __str__(self) -> str:
        level = f"{100 * self.level:.10g}% " if self.covers else ""
        return level + _TEXTS[self.kind]


NO_ERRORS = Uncertainty()
"""Of a table without standard errors."""


def adjust_p_values(p_value: Array, method: str) -> Array:
    """Adjust p-values for multiple tests (``fdr_bh`` or ``fdr_by``); NaN is passed on and not counted."""
    from statsmodels.stats.multitest import multipletests

    known = np.isfinite(p_value)
    result = np.full(len(p_value), np.nan)
    if known.any():
        result[known] = multipletests(p_value[known], method=method)[1]
    return result
