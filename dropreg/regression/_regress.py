"""From a record to impacts."""

from dataclasses import replace
from typing import Any, Literal

import numpy as np

from .._utils import check_between, check_type, is_number
from ..errors import ParameterError, UnidentifiedError
from ..sampling import Record
from . import _assisted as assisted
from . import _compression as compression
from . import _ols as regression
from . import _penalized as shrinkage
from ._compression import Rows
from ._fidelity import score
from ._impact import ImpactTable, impact_table
from ._interactions import interactions as pairwise
from ._ols import COVARIANCES, CovarianceType, Fit

Estimator = Literal["auto", "assisted", "gradient", "ols", "ridge", "lasso", "marginal"]
ESTIMATORS = ("auto", "assisted", "gradient", "ols", "ridge", "lasso", "marginal")
_LABELS = {
    "assisted": "gradient-assisted regression",
    "gradient": "gradient at the dropout states",
    "ols": "OLS",
    "ridge": "ridge",
    "lasso": "lasso",
    "marginal": "marginal regression",
}
MOST_DENSE = 8_000
"""Most elements for estimators whose memory grows with their square."""
_MOST_STATSMODELS_BYTES = 2**31


def regress(
    record: Record,
    *,
    outcome: str | None = None,
    estimator: Estimator | Any = "auto",
    covariance: CovarianceType = "HC1",
    penalty: shrinkage.Penalty | None = None,
    paired: bool | None = None,
    interactions: bool = False,
    level: float = 0.95,
) -> ImpactTable:
    """Estimate the impact of every element by regressing an outcome on the recorded masks.

    The outcome of each row is taken relative to the unmasked outcome of the same example. All rows
    are used, and none is held in memory.

    Parameters
    ----------
    record : Record
    outcome : str, optional
        One of the record's outcomes; by default its first.
    estimator : str or scikit-learn estimator
        "assisted": regression that shrinks towards the recorded gradients; "gradient": those alone;
        "ols", by statsmodels; "ridge" and "lasso", by scikit-learn; "marginal", for very many
        elements; or a LinearRegression, Ridge, Lasso, ElasticNet, Lars, LassoLars or
        OrthogonalMatchingPursuit of scikit-learn, as an object. "auto" is "assisted" where the record
        holds the outcome's gradients, else "ols". Above 8,000 elements "marginal" and "assisted" use
        the known covariance of independent masks instead of the measured one, at memory in
        proportion to the elements; the others are refused, and "auto" without gradients is "marginal".
    covariance : {"HC1", "cluster", "nonrobust"}
        Standard errors of OLS: "HC1" for this data set, "cluster" (by example) for the population
        that the examples came from. Ridge and "assisted" have posterior ones, lasso and scikit-learn
        estimators none.
    penalty : float, "evidence" or "cv", optional
        Of ridge (on squared coefficients; "evidence" by default) and lasso ("cv" by default).
    paired : bool, optional
        Regress differences within pairs of masks; by default where the design is `Paired` and the
        estimator is one on compressed rows.
    interactions : bool
        Also estimate all pairwise interactions (memory: elements squared).
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
    RecordError
        If the estimator needs gradients that were not recorded.
    """
    check_type("record", record, Record, "call dropreg.sample, or dropreg.Record.load(folder)")
    check_between("level", level)
    settings = record.settings
    outcome = settings.outcomes[0] if outcome is None else outcome
    _check_arguments(record, outcome, estimator, covariance, penalty)
    column = settings.outcomes.index(outcome)
    if isinstance(estimator, str) and estimator == "auto":
        estimator = _best_estimator(record, outcome)
    in_pairs = _in_pairs(record, estimator, paired)
    rows = compression.observations(record, paired=in_pairs)
    fit = _fit(record, rows, column, outcome, estimator, covariance, penalty)
    if in_pairs:  # what is left where nothing is dropped cancels in differences
        fit = replace(fit, intercept=_intercept(compression.observations(record), column, fit.coefficients))
    sign = -1.0 if settings.greater_is_better[column] else 1.0
    details: dict[str, Any] = {"design": _design_text(settings.design), "errors": fit.errors}
    details |= {name: value for name, value in fit.details.items() if name != "covariance"}
    details |= {"differences of pairs": True} if in_pairs else {}
    details |= {"row equivalents": record.row_equivalents} if settings.row_cost > 1 else {}
    unseen = record.fidelity_masks
    table = impact_table(
        record.elements,
        sign * fit.coefficients,
        fit.std_errors,
        method=_LABELS.get(estimator, "") if isinstance(estimator, str) else f"{estimator!r}",
        outcome=outcome,
        rows=record.rows,
        seed=settings.seed,
        level=level,
        df=fit.df,
        details=details,
    )
    return replace(
        table,
        fidelity=None if unseen is None else score(unseen, column, fit.coefficients, fit.intercept),
        interactions=_interactions(record, column, fit, sign) if interactions else None,
        stop=record.stop,
    )


def _best_estimator(record: Record, outcome: str) -> Estimator:
    if outcome in record.settings.gradients:
        return "assisted"
    return "ols" if record.settings.n_elements <= MOST_DENSE else "marginal"


def _check_arguments(record: Record, outcome: str, estimator: Any, covariance: str, penalty: Any) -> None:
    settings = record.settings
    if outcome not in settings.outcomes:
        raise ParameterError(
            f"`outcome` must be one of the record's ({', '.join(settings.outcomes)}), received {outcome!r}: "
            f"sample again with outcomes=({outcome!r},)."
        )
    if isinstance(estimator, str) and estimator not in ESTIMATORS:
        raise ParameterError(
            f"`estimator` must be one of {', '.join(ESTIMATORS)} or a scikit-learn estimator, received {estimator!r}."
        )
    if covariance not in COVARIANCES:
        raise ParameterError(f"`covariance` must be one of {', '.join(COVARIANCES)}, received {covariance!r}.")
    if covariance == "cluster" and settings.examples_per_mask > 1:
        raise ParameterError(
            f"`covariance='cluster'` must have one example for each mask, received {settings.examples_per_mask}: "
            "pass covariance='HC1'."
        )
    if covariance == "cluster" and settings.n_examples < 2:
        raise ParameterError(
            "`covariance='cluster'` must have at least two examples, received a record of one: pass covariance='HC1'."
        )
    if penalty is None:
        return
    if not (isinstance(estimator, str) and estimator in ("ridge", "lasso")):
        raise ParameterError(
            f"`penalty` goes with estimator='ridge' or 'lasso', received {penalty} with {estimator!r}."
        )
    if not (penalty in ("evidence", "cv") if isinstance(penalty, str) else is_number(penalty) and 0 < penalty < np.inf):
        raise ParameterError(f"`penalty` must be positive and finite, 'evidence' or 'cv', received {penalty!r}.")


def _in_pairs(record: Record, estimator: Any, paired: bool | None) -> bool:
    """Whether to regress differences within pairs of masks."""
    if paired is not None:
        if paired and isinstance(estimator, str) and estimator == "marginal":
            raise ParameterError("`paired` does not go with estimator='marginal': pass paired=False.")
        return paired
    return record.settings.masks_per_group == 2 and not (isinstance(estimator, str) and estimator == "marginal")


def _fit(
    record: Record,
    rows: Rows,
    column: int,
    outcome: str,
    estimator: Any,
    covariance: CovarianceType,
    penalty: shrinkage.Penalty | None,
) -> Fit:
    if isinstance(estimator, str) and estimator == "marginal":
        return regression.marginal(rows, column, _rates(record))
    if isinstance(estimator, str) and estimator in ("assisted", "gradient"):
        sums = record.gradient_sums(outcome)
        if record.settings.n_elements <= MOST_DENSE:
            combine = assisted.assisted if estimator == "assisted" else assisted.gradient_only
            return combine(_compress(rows), column, sums)
        marginal = regression.marginal(rows, column, _rates(record))
        if estimator == "gradient":
            return assisted.gradient_marginal(marginal, _rates(record), sums)
        return assisted.assisted_marginal(marginal, _rates(record), sums)
    if record.settings.n_elements > MOST_DENSE:
        gib = 8 * record.settings.n_elements**2 / 2**30
        raise ParameterError(
            f"estimator={estimator!r} must have at most {MOST_DENSE:,} elements, received "
            f"{record.settings.n_elements:,} (a matrix of {gib:,.1f} GiB): pass estimator='marginal', or sample with "
            f"gradients=({outcome!r},) and pass 'assisted'."
        )
    design = _compress(rows)
    if not isinstance(estimator, str):
        return shrinkage.from_estimator(design, column, estimator)
    if estimator == "ridge":
        return shrinkage.ridge(design, rows, column, penalty or "evidence")
    if estimator == "lasso":
        return shrinkage.lasso(design, rows, column, penalty or "cv")
    regression.check_identified(design, record.elements["element"].tolist())
    return regression.ols(design, rows, column, covariance)


def _compress(rows: Rows) -> compression.CompressedDesign:
    design = compression.compress(rows)
    if design.n_rows < 2:
        raise UnidentifiedError("a regression must have at least two masks (or pairs), received one: draw more rows.")
    return design


def _rates(record: Record) -> compression.Array:
    return 1.0 - record.keep_probabilities()


def _intercept(rows: Rows, column: int, coefficients: compression.Array) -> float:
    """Predicted change with nothing dropped: the mean of what the coefficients leave."""
    left = np.concatenate([regression.residuals(block, column, coefficients, 0.0) for block in rows.blocks()])
    return float(left.mean())


def _interactions(record: Record, column: int, fit: Fit, sign: float) -> Any:
    if record.settings.n_elements > MOST_DENSE:
        raise ParameterError(
            f"`interactions` must have at most {MOST_DENSE:,} elements, received {record.settings.n_elements:,}: "
            "estimate those of some layers with include=."
        )
    rows = compression.observations(record)
    names = tuple(record.elements["element"])
    return pairwise(rows, column, fit, _rates(record), names, sign)


def _design_text(design: dict[str, Any]) -> str:
    shown = {
        name: value for name, value in design.items() if name != "name" and (name, value) != ("examples_per_mask", 1)
    }
    values = ", ".join(f"{k}=<{len(v)} values>" if isinstance(v, list) else f"{k}={v}" for k, v in shown.items())
    return f"{design['name']}({values})"


def to_statsmodels(record: Record, *, outcome: str | None = None, covariance: CovarianceType = "HC1") -> Any:
    """Fit OLS by statsmodels on all rows, for its ``summary()`` and its tests.

    Regressors are indicators of *dropped* elements, named after them, and a constant; coefficients
    are changes of the outcome, so for one of which more is better they have the opposite sign of
    impacts.

    Parameters
    ----------
    record : Record
        That fits in memory as a matrix of rows x elements.
    outcome : str, optional
        One of the record's outcomes; by default its first.
    covariance : {"HC1", "cluster", "nonrobust"}

    Returns
    -------
    statsmodels.regression.linear_model.RegressionResults

    Raises
    ------
    ParameterError
        If the record is too large or lacks the outcome.
    """
    import pandas as pd
    import statsmodels.api as sm

    outcome = record.settings.outcomes[0] if outcome is None else outcome
    _check_arguments(record, outcome, "ols", covariance, None)
    n_bytes = 8 * record.rows // record.settings.examples_per_mask * (record.settings.n_elements + 1)
    if n_bytes > _MOST_STATSMODELS_BYTES:
        raise ParameterError(
            f"a record must fit in {_MOST_STATSMODELS_BYTES / 2**30:.0f} GiB for statsmodels, received one of "
            f"{n_bytes / 2**30:.1f} GiB: use dropreg.regress, which streams and gives the same numbers."
        )
    blocks = list(compression.observations(record).blocks())
    x = np.concatenate([block.x for block in blocks]).astype(np.float64)
    y = np.concatenate([block.y for block in blocks])[:, record.settings.outcomes.index(outcome)]
    frame = sm.add_constant(pd.DataFrame(x, columns=record.elements["element"].tolist()), has_constant="add")
    model = sm.OLS(pd.Series(y, name=outcome), frame)
    if covariance == "cluster":
        return model.fit(
            cov_type="cluster", cov_kwds={"groups": np.concatenate([block.clusters for block in blocks])}, use_t=True
        )
    return model.fit() if covariance == "nonrobust" else model.fit(cov_type="HC1")
