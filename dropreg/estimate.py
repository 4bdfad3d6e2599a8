"""From a record to impacts, and from a model to impacts in one call."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .data import Data
from .designs import Bernoulli, Design
from .elements import Elements
from .errors import ParameterError
from .impact import ImpactTable, impact_table
from .outcomes import resolve
from .record import Record
from .regression import COVARIANCES, CovarianceType, check_identified, compress, ols, ridge
from .sampler import sample

if TYPE_CHECKING:
    import keras

Estimator = Literal["ols", "ridge"]
ROWS_PER_ELEMENT = 500
LEAST_ROWS = 50_000


def regress(
    record: Record,
    *,
    outcome: str = "accuracy",
    estimator: Estimator = "ols",
    covariance: CovarianceType = "HC1",
    penalty: float | None = None,
    level: float = 0.95,
) -> ImpactTable:
    """Estimate the impact of every element by regressing an outcome on the recorded masks.

    The outcome of each row is taken relative to the unmasked outcome of the same example. All rows
    are used, and none is held in memory.

    Parameters
    ----------
    record : Record
    outcome : str
        One of the record's outcomes.
    estimator : {"ols", "ridge"}
        Ordinary least squares by statsmodels, or ridge by scikit-learn.
    covariance : {"HC1", "cluster", "nonrobust"}
        Standard errors of OLS: "HC1" for this data set, "cluster" (by example) for the population
        that the examples came from. Ridge has posterior ones.
    penalty : float, optional
        Ridge penalty on the squared coefficients; the marginal likelihood's choice by default.
    level : float
        Confidence level of the intervals.

    Returns
    -------
    ImpactTable
        Impacts in the outcome's unit, positive = it hurts to lose the element.

    Raises
    ------
    ParameterError
        If the record lacks the outcome, an argument is out of range, or the rows cannot identify
        the elements.
    """
    settings = record.settings
    if outcome not in settings.outcomes:
        raise ParameterError(
            f"`outcome` must be one of the record's ({', '.join(settings.outcomes)}), received {outcome!r}: "
            f"sample again with outcomes=({outcome!r},)."
        )
    if estimator not in ("ols", "ridge"):
        raise ParameterError(f"`estimator` must be 'ols' or 'ridge', received {estimator!r}.")
    if covariance not in COVARIANCES:
        raise ParameterError(f"`covariance` must be one of {', '.join(COVARIANCES)}, received {covariance!r}.")
    if penalty is not None and not (estimator == "ridge" and penalty > 0):
        raise ParameterError(f"`penalty` must be positive and goes with estimator='ridge', received {penalty}.")
    column = settings.outcomes.index(outcome)
    design = compress(record.chunks)
    if estimator == "ols":
        check_identified(design, record.elements["element"].tolist())
        fit = ols(design, record.chunks, column, covariance)
    else:
        fit = ridge(design, column, penalty)
    sign = -1.0 if settings.greater_is_better[column] else 1.0
    details = {"design": _design_text(settings.design), "errors": fit.covariance_type, "R2 over rows": fit.r2}
    if estimator == "ridge":
        details["penalty"] = fit.penalty
    return impact_table(
        record.elements,
        sign * fit.coefficients,
        fit.std_errors,
        method="OLS" if estimator == "ols" else "ridge",
        outcome=outcome,
        rows=record.rows,
        seed=settings.seed,
        level=level,
        details=details,
    )


def _design_text(design: dict[str, object]) -> str:
    values = ", ".join(f"{name}={value}" for name, value in design.items() if name != "name")
    return f"{design['name']}({values})"


def estimate(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    outcome: str = "accuracy",
    rows: int | None = None,
    design: Design | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool = True,
) -> ImpactTable:
    """Sample and regress with good defaults.

    Parameters
    ----------
    model : keras.Model
        A classifier. It is not changed.
    data : (x, y)
        Held-out examples and their classes.
    elements : Elements
        From ``dropreg.elements(model)``.
    outcome : str
        "accuracy", "loss" or "margin".
    rows : int, optional
        Masked forward passes; by default 500 for each element and at least 50,000.
    design : Design, optional
        ``Bernoulli(rate=0.3)`` by default.
    seed : int
    out : str or Path, optional
        Folder to keep the record in.
    progress : bool
        Show a progress bar.

    Returns
    -------
    ImpactTable

    Raises
    ------
    ModelError, DataError, ParameterError, RecordError
        As `sample` and `regress` do.
    """
    n_rows = max(LEAST_ROWS, ROWS_PER_ELEMENT * len(elements)) if rows is None else rows
    if isinstance(n_rows, int) and not isinstance(n_rows, bool) and 0 < n_rows < len(elements) + 2:
        raise ParameterError(
            f"{n_rows:,} rows cannot identify {len(elements):,} elements by OLS: draw at least "
            f"{10 * len(elements):,}, or sample and pass estimator='ridge' to regress."
        )
    record = sample(
        model,
        data,
        elements,
        rows=n_rows,
        design=Bernoulli() if design is None else design,
        outcomes=(resolve(outcome),),
        seed=seed,
        out=out,
        progress=progress,
    )
    return regress(record, outcome=outcome)
