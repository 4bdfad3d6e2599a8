"""Estimate impacts from a record."""

from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np

from .._utils import ROUNDING, Array, check_between, check_type, is_number, one_blas_thread
from ..errors import ParameterError, UnidentifiedError
from ..sampling import Record, RunSettings
from ._adjusted import adjusted
from ._assisted import assisted, assisted_marginal, gradient_change, gradient_only
from ._compression import CompressedDesign, Rows, compress, observations
from ._corrected import Stratum, combined, corrected, shrunk, unchanged, unmeasured, without_change
from ._fidelity import fidelity_table
from ._impact import ImpactTable, impact_table
from ._interactions import Interactions
from ._interactions import interactions as pairwise
from ._ols import CovarianceType, Fit, check_identified, marginal, ols, residuals
from ._penalized import Penalty, ridge
from ._slices import ConstantError, by_slice
from ._uncertainty import Uncertainty

Estimator = Literal["auto", "corrected", "assisted", "gradient", "ols", "adjusted", "ridge", "marginal"]
_LABELS = {
    "corrected": "gradients corrected by flips",
    "assisted": "gradient-assisted regression",
    "gradient": "gradient at the dropout states",
    "ols": "OLS",
    "adjusted": "OLS adjusted by example",
    "ridge": "ridge",
    "marginal": "marginal regression",
}
_ROWS_FOR_OLS = 2
"""Rows for each element from which OLS, and not marginal regression, stands in for elements without flips."""
MOST_DENSE = 8_000
"""Most elements for estimators whose memory grows with the square of the number of elements."""


@one_blas_thread
def regress(
    record: Record,
    *,
    outcome: str | None = None,
    by: Any = None,
    estimator: Estimator = "auto",
    covariance: CovarianceType = "HC1",
    penalty: Penalty | None = None,
    paired: bool | None = None,
    interactions: bool = False,
    level: float = 0.95,
) -> ImpactTable:
    """Estimate the impact of every element by regressing an outcome on the recorded masks.

    The outcome of each row is taken relative to the unmasked outcome of the same example. All rows are used; they are
    read chunk by chunk, so the memory needed does not grow with their number.

    Parameters
    ----------
    record : Record
        From ``dropreg.sample`` or ``dropreg.Record.load``.
    outcome : str, optional
        One of the record's outcomes; by default its first.
    by : str or array of shape (n_examples,), optional
        Also estimate the impacts for each slice of the examples: the slices that were given to `sample`, by their name,
        or one value for each example. The rows of each slice are regressed apart. Gradients are there for slices that
        were given to `sample` only; others are estimated by OLS.
    estimator : str
        "corrected": the recorded gradients, corrected by rows in which one element is flipped; unbiased, with intervals
        that hold. "assisted": regression that shrinks towards the recorded gradients. "gradient": the gradients alone.
        "ols": by statsmodels. "adjusted": OLS with the mean residual of the other rows of the same example as a
        covariate, more precise where examples differ and have several rows; not for pairs of masks. "ridge": shrunk
        towards zero. "marginal": one element at a time, for very many elements. "auto" is "corrected" if the record
        holds flips, "assisted" if it holds gradients only, else "ols". Above 8,000 elements there are all but "ols",
        "adjusted" and "ridge", in memory proportional to the elements; "auto" without gradients is then "marginal".
    covariance : {"HC1", "HC3", "cluster", "nonrobust"}
        Standard errors of OLS, "adjusted" and "corrected": "HC1" for inference about this data set, "cluster" (by
        example) about the population that the examples came from. OLS only: "HC3", as "HC1" for few rows (fewer than
        ten for each element), and "nonrobust" for rows of equal variance. Other estimators take "HC1" only: ridge and
        "assisted" have those of a posterior, "gradient" its sampling error, "marginal" heteroscedastic ones.
    penalty : float or "evidence", optional
        Of ridge, on squared coefficients; by default "evidence", an average over penalties by marginal likelihood.
    paired : bool, optional
        Regress the differences within pairs of masks. By default done if the design is `Paired`, but not by "marginal"
        nor above 8,000 elements.
    interactions : bool
        Also estimate all pairwise interactions. Memory grows with the square of the number of elements.
    level : float
        Confidence level of the intervals, strictly between 0 and 1. The estimators "assisted", "gradient" and "ridge"
        have standard errors but no intervals and p-values, because those need not cover; they take no level.

    Returns
    -------
    ImpactTable
        Impacts in the outcome's unit; positive = replacing the element hurts. With `by`, its ``slices`` are those for
        each slice.

    Raises
    ------
    ParameterError
        If the record lacks the outcome, an argument is out of range, or there are too many elements.
    UnidentifiedError
        If the rows cannot identify the elements, or the outcome never changes.
    RecordError
        If the estimator needs gradients that were not recorded.

    Examples
    --------
    >>> import dropreg as dr
    >>> model, data = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
    >>> elements = dr.elements(model, include=["dense_2"])
    >>> record = dr.sample(model, data, elements, rows=1000, outcomes=("loss", "accuracy"), progress=False)
    >>> table = dr.regress(record, estimator="ols")
    >>> table.outcome, len(table), table.method
    ('loss', 100, 'OLS')
    >>> str(table.uncertainty)
    '95% intervals for this data set'
    """
    check_type("record", record, Record, "call dropreg.sample, or dropreg.Record.load(folder)")
    check_between("level", level)
    if by is not None:
        if interactions:
            raise ParameterError("`interactions` must be False with `by`, received True: regress them without `by`.")
        options: dict[str, Any] = {"estimator": estimator, "covariance": covariance, "penalty": penalty}
        options |= {"paired": paired, "level": level, "outcome": outcome}
        overall = regress(record, **options)
        return replace(overall, slices=by_slice(record, by, overall, lambda part: regress(part, **options)))
    settings = record.settings
    outcome = settings.outcomes[0] if outcome is None else outcome
    name = choose_estimator(settings, outcome, estimator, covariance, penalty)
    column = settings.outcomes.index(outcome)
    if level != 0.95 and name in ("assisted", "gradient", "ridge"):
        raise ParameterError(
            f"`level` must be left out with estimator={name!r}, whose tables have no intervals, received {level:g}: "
            "pass estimator='ols', or 'corrected' for a record with flips."
        )
    if paired and (name == "marginal" or settings.n_elements > MOST_DENSE):
        raise ParameterError(
            f"`paired` must be False or None with estimator='marginal' or above {MOST_DENSE:,} elements, received True."
        )
    if paired is None:
        paired = name != "marginal" and is_paired(settings)
    rows = observations(record, paired=paired)
    fit = _fit(record, rows, outcome, name, covariance, penalty)
    if paired:  # the intercept cancels in differences, so take it from the single rows
        unexplained = [residuals(block, column, fit.coefficients, 0.0) for block in observations(record).blocks()]
        fit = replace(fit, intercept=float(np.concatenate(unexplained).mean()))
    sign = -1.0 if settings.greater_is_better[column] else 1.0
    details: dict[str, Any] = {"design": _design_text(settings.design), "errors": fit.errors}
    details |= {key: value for key, value in fit.details.items() if key != "covariance"}
    details |= {"differences of pairs": True} if paired else {}
    details |= {"row equivalents": record.row_equivalents} if settings.row_cost > 1 else {}
    table = impact_table(
        record.elements,
        sign * fit.coefficients,
        fit.std_errors,
        method=_LABELS[name],
        outcome=outcome,
        rows=record.rows,
        seed=settings.seed,
        uncertainty=Uncertainty(fit.kind, level, fit.df),
        details=details,
    )
    if fit.shrunk is not None:
        table.frame.insert(list(table.frame).index("unit"), "shrunk", sign * fit.shrunk + 0.0)
    unseen = record.fidelity_masks
    return replace(
        table,
        fidelity=None if unseen is None else fidelity_table(unseen, column, *_predictor(record, fit)),
        interactions=_interactions(record, column, fit, sign) if interactions else None,
        original=record.original(outcome),
        stop=record.stop,
    )


def _predictor(record: Record, fit: Fit) -> tuple[Array, float]:
    """Return coefficients and intercept for predictions, which agree with the mean change."""
    if fit.shrunk is None:
        return fit.coefficients, fit.intercept
    rates = 1.0 - record.keep_probabilities()
    return fit.shrunk, fit.intercept + float((rates * (fit.coefficients - fit.shrunk)).sum())


def is_paired(settings: RunSettings) -> bool:
    """Return whether OLS regresses the differences within pairs of masks by default."""
    return settings.masks_per_group == 2 and settings.n_elements <= MOST_DENSE


def choose_estimator(
    settings: RunSettings,
    outcome: str,
    estimator: Estimator,
    covariance: CovarianceType,
    penalty: Penalty | None = None,
) -> Estimator:
    """Return the estimator for a record of these settings, resolving "auto"; ParameterError if there is none."""
    check_arguments(settings, outcome, estimator, covariance, penalty)
    name, is_dense = estimator, settings.n_elements <= MOST_DENSE
    if name == "auto":
        name = "ols" if is_dense else "marginal"
        if outcome in settings.gradients:
            name = "corrected" if settings.flips else "assisted"
    allowed = {"ols": get_args(CovarianceType), "adjusted": get_args(CovarianceType), "corrected": ("HC1", "cluster")}
    if covariance not in allowed.get(name, ("HC1",)):
        raise ParameterError(
            f"`covariance` must be 'HC1', its default, for other estimators than OLS, received {covariance!r} with "
            f"{name!r}: pass estimator='ols'."
        )
    if name == "adjusted" and (settings.examples_per_mask > 1 or settings.masks_per_group > 1):
        raise ParameterError(
            f"estimator='adjusted' must have independent masks of one example each, received "
            f"{settings.examples_per_mask} examples for each mask and masks in groups of {settings.masks_per_group}: "
            "pass estimator='ols'."
        )
    if name in ("ols", "adjusted", "ridge") and not is_dense:
        raise ParameterError(
            f"estimator={name!r} must have at most {MOST_DENSE:,} elements, received {settings.n_elements:,} (a matrix "
            f"of {8 * settings.n_elements**2 / 2**30:,.1f} GiB): pass estimator='marginal', or sample with "
            f"gradients=({outcome!r},) and pass 'assisted'."
        )
    return name


def check_arguments(settings: RunSettings, outcome: str, estimator: Any, covariance: str, penalty: Any) -> None:
    if outcome not in settings.outcomes:
        raise ParameterError(
            f"`outcome` must be one of the record's ({', '.join(settings.outcomes)}), received {outcome!r}: "
            f"sample again with outcomes=({outcome!r},)."
        )
    if estimator not in get_args(Estimator):
        raise ParameterError(f"`estimator` must be one of {', '.join(get_args(Estimator))}, received {estimator!r}.")
    if covariance not in get_args(CovarianceType):
        raise ParameterError(
            f"`covariance` must be one of {', '.join(get_args(CovarianceType))}, received {covariance!r}."
        )
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
    if estimator != "ridge":
        raise ParameterError(
            f"`penalty` must be None unless estimator is 'ridge', received {penalty} with {estimator!r}."
        )
    if penalty != "evidence" and not (is_number(penalty) and 0 < penalty < np.inf):
        raise ParameterError(f"`penalty` must be positive and finite, or 'evidence', received {penalty!r}.")


def _fit(
    record: Record, rows: Rows, outcome: str, name: Estimator, covariance: CovarianceType, penalty: Penalty | None
) -> Fit:
    n_elements, column = record.settings.n_elements, record.settings.outcomes.index(outcome)
    rates = 1.0 - record.keep_probabilities()
    if name == "marginal":
        return _marginal(record, rows, outcome, rates)
    if name == "corrected":
        return _corrected(record, rows, outcome, covariance)
    if name in ("assisted", "gradient"):
        sums = record.gradient_sums(outcome)
        if n_elements <= MOST_DENSE:
            design = _compress(record, rows, outcome)
            if name == "gradient":
                return gradient_only(sums, partial(design.intercept, column))
            return assisted(design, column, sums)
        fit = _marginal(record, rows, outcome, rates)
        if name == "gradient":
            return gradient_only(sums, lambda change: fit.intercept + float(rates @ (fit.coefficients - change)))
        return assisted_marginal(fit, rates, sums)
    design = _compress(record, rows, outcome)
    if name == "ridge":
        return ridge(design, column, penalty or "evidence")
    check_identified(design, record.elements["element"].tolist())
    return (adjusted if name == "adjusted" else ols)(design, rows, column, covariance)


def _corrected(record: Record, rows: Rows, outcome: str, covariance: CovarianceType) -> Fit:
    """Return the corrected gradients; elements without a standard error of their own get that of OLS."""
    sums, n_elements, changes = record.flip_sums(outcome), record.settings.n_elements, record.changes(outcome)
    _check_several(len(changes))
    _check_varies(record, outcome, float(changes.std()))
    strata = [Stratum(part.flip_sums(outcome), part.rows_of_examples()) for part in record.strata()]
    fit = corrected(strata, by_example=covariance == "cluster")
    idle = unchanged(sums, len(changes), _size(record, outcome))
    unknown = unmeasured(sums) & ~idle
    if unknown.any():
        enough = record.rows // record.settings.examples_per_mask >= _ROWS_FOR_OLS * n_elements
        name: Estimator = "ols" if n_elements <= MOST_DENSE and enough else "marginal"
        other = _fit(record, rows, outcome, name, covariance if name == "ols" else "HC1", None)
        if other.kind != fit.kind:  # errors about this data set are none about new examples
            other = replace(other, std_errors=np.full(n_elements, np.nan))
        fit = combined(fit, other, unknown)
        fit = replace(fit, details={f"elements with errors by {_LABELS[name]}": int(unknown.sum())})
    fit, rates = without_change(fit, idle), 1.0 - record.keep_probabilities()
    if outcome in record.settings.gradients and not record.is_part:
        fit = replace(fit, shrunk=shrunk(fit, gradient_change(record.gradient_sums(outcome))[0]))
    return replace(fit, intercept=float(changes.mean() - (rates * fit.coefficients).sum()))


def _compress(record: Record, rows: Rows, outcome: str) -> CompressedDesign:
    design = compress(rows)
    _check_several(design.n_rows)
    _check_varies(record, outcome, design.deviation(record.settings.outcomes.index(outcome)))
    return design


def _marginal(record: Record, rows: Rows, outcome: str, rates: Array) -> Fit:
    fit = marginal(rows, record.settings.outcomes.index(outcome), rates)
    n_masks = record.rows // record.settings.examples_per_mask
    _check_varies(record, outcome, float((fit.std_errors * np.sqrt(n_masks * rates * (1 - rates))).max()))
    return fit


def _check_several(n_masks: int) -> None:
    if n_masks < 2:
        raise UnidentifiedError("a regression must have at least two masks (or pairs), received one: draw more rows.")


def _check_varies(record: Record, outcome: str, deviation: float) -> None:
    """Raise UnidentifiedError if the standard deviation of the changes of an outcome is zero up to rounding."""
    if deviation <= ROUNDING * _size(record, outcome):
        raise ConstantError(
            f"outcome {outcome!r} must change with the masks, received no change in all "
            f"{record.rows:,} rows: sample another outcome, such as 'loss', or at a higher rate."
        )


def _size(record: Record, outcome: str) -> float:
    """Return the root mean square of an outcome, of the original model or, where it is not recorded, of some masks."""
    known = record.baseline.get(outcome)
    values = record.head(1).to_frame()[outcome] if known is None else known
    return float(np.sqrt((values.to_numpy(np.float64) ** 2).mean()))


def _interactions(record: Record, column: int, fit: Fit, sign: float) -> Interactions:
    if record.settings.n_elements > MOST_DENSE:
        raise ParameterError(
            f"`interactions` must have at most {MOST_DENSE:,} elements, received {record.settings.n_elements:,}: "
            "estimate those of some layers with include=."
        )
    rates, names = 1.0 - record.keep_probabilities(), tuple(record.elements["element"])
    return pairwise(observations(record), column, fit, rates, names, sign)


def _design_text(design: dict[str, Any]) -> str:
    shown = {key: value for key, value in design.items() if key != "name" and (key, value) != ("examples_per_mask", 1)}
    values = ", ".join(f"{k}=<{len(v)} values>" if isinstance(v, list) else f"{k}={v}" for k, v in shown.items())
    return f"{design['name']}({values})"
