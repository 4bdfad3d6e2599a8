"""What a run costs before it starts: rows and seconds for a standard error."""

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from .._utils import check_positive, positive
from ..data import Data, Task
from ..element import Elements, check_elements
from ..errors import ParameterError
from ..network import OutcomeLike
from ..regression import ImpactTable
from ..sampling import Sampling, default_design
from ._estimate import estimate

if TYPE_CHECKING:
    import keras

_SHARE = 0.95


@dataclass(frozen=True)
class Plan:
    """What a trial run says of a longer one.

    Attributes
    ----------
    rows : int
        Rows after which all standard errors but one in twenty are at most `std_error`.
    seconds : float
        How long these rows take here, without the time to start.
    std_error : float
        In the outcome's unit.
    trial : ImpactTable
        The table of the trial run.

    Examples
    --------
    >>> import dropreg as dr
    >>> model, data = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
    >>> elements = dr.elements(model, include="dense_2")
    >>> text = str(dr.plan(model, data, elements, std_error=0.01, trial_rows=1_000))
    >>> text.split(" here, ")[1]
    'for standard errors of at most 0.01 on loss (from a trial of 1,000 rows)'
    """

    rows: int
    seconds: float
    std_error: float
    trial: ImpactTable

    def __str__(self) -> str:
        return (
            f"{self.rows:,} rows, about {_duration(self.seconds)} here, for standard errors of at most "
            f"{self.std_error:g} on {self.trial.outcome} (from a trial of {self.trial.rows:,} rows)"
        )


def plan(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    std_error: float,
    outcome: OutcomeLike = "loss",
    trial_rows: int = 4_000,
    sampling: Sampling | None = None,
    task: Task | None = None,
    output: int | str | None = None,
    seed: int = 0,
) -> Plan:
    """Return how many rows of `estimate` reach a standard error, and how long they take on this machine.

    A short run of the same kind measures both. Standard errors fall with the root of the number of rows.

    Parameters
    ----------
    model, data, elements, outcome, task, output, seed
        As in `estimate`.
    std_error : float
        The standard error that 95 % of the elements should have at most, in the outcome's unit; positive.
    trial_rows : int
        Rows of the trial.
    sampling : Sampling, optional
        As in `estimate`; fidelity masks are left out.

    Returns
    -------
    Plan

    Raises
    ------
    ModelError, DataError, ParameterError
        As in `estimate`, and if the trial has no standard errors.

    Examples
    --------
    >>> import dropreg as dr
    >>> model, data = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
    >>> elements = dr.elements(model, include="dense_2")
    >>> plan = dr.plan(model, data, elements, outcome="accuracy", std_error=0.001, trial_rows=1_000)
    >>> plan.rows > 1_000, plan.seconds > 0
    (True, True)
    """
    check_positive("std_error", std_error)
    positive("trial_rows", trial_rows, least=8)
    options = replace(Sampling() if sampling is None else sampling, fidelity=None, stop=None)

    def run(rows: int) -> tuple[ImpactTable, float]:
        unit = rows_together(elements, options)
        start = time.perf_counter()
        table = estimate(
            *(model, data, elements),
            outcome=outcome,
            rows=max(rows // unit, 1) * unit,
            sampling=options,
            task=task,
            output=output,
            seed=seed,
            progress=False,
        )
        return table, time.perf_counter() - start

    first, before = run(trial_rows // 8)
    trial, after = run(trial_rows)
    errors = trial.std_error[np.isfinite(trial.std_error)]
    if len(errors) == 0:
        raise ParameterError(
            f"`plan` must have standard errors, received none by {trial.method}: pass more trial_rows."
        )
    needed = int(np.ceil(trial.rows * (float(np.quantile(errors, _SHARE)) / std_error) ** 2))
    each = (after - before) / (trial.rows - first.rows) if after > before else after / trial.rows
    return Plan(needed, needed * each, std_error, trial)


def rows_together(elements: Elements, options: Sampling) -> int:
    """Return the number that the rows of a run must be a multiple of."""
    check_elements(elements)
    return (default_design(elements) if options.design is None else options.design).rows_per_group


def _duration(seconds: float) -> str:
    """Return a duration in words, such as "3 minutes"."""
    for size, unit in ((3600.0, "hours"), (60.0, "minutes")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"
