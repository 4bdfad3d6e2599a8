"""Impacts of a model in one call: sampling and regression."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from .._utils import check_type
from ..data import Data, Task
from ..element import Elements, check_elements
from ..errors import ParameterError
from ..network import Outcome, resolve
from ..regression import MOST_DENSE, ImpactTable, regress
from ..sampling import Sampling, default_design, sample

if TYPE_CHECKING:
    import keras

ROWS_PER_ELEMENT = 500
LEAST_ROWS, MOST_DEFAULT_ROWS = 50_000, 1_000_000


def estimate(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    outcome: str | Outcome = "loss",
    rows: int | None = None,
    sampling: Sampling | None = None,
    task: Task | None = None,
    output: int | str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool | None = None,
) -> ImpactTable:
    """Estimate the impact of every element: run the model with random masks and regress the outcome on them.

    This is `sample` followed by `regress`, with good defaults.

    Parameters
    ----------
    model, data, elements, task, output, seed, out, progress
        As in `sample`.
    outcome : str or Outcome
        "loss", "accuracy", "retained", "margin", "divergence", or an own outcome from `dropreg.outcomes`.
    rows : int, optional
        Number of masked forward passes; by default 500 for each element, at least 50,000 and at most 1,000,000.
    sampling : Sampling, optional
        As in `sample`. By default gradients are recorded: a row costs three row-equivalents, and the estimates are far
        more precise. ``Sampling(gradients=False)`` uses forward passes only.

    Returns
    -------
    ImpactTable
        Impacts in the outcome's unit, positive = replacing the element hurts, with standard errors.

    Raises
    ------
    ModelError, DataError, ParameterError, RecordError
        As in `sample` and `regress`.

    Examples
    --------
    >>> import dropreg as dr
    >>> model, data = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
    >>> table = dr.estimate(model, data, dr.elements(model), rows=2_000, progress=False)
    >>> table.outcome, table.method, table.rows
    ('loss', 'gradient-assisted regression', 2000)
    >>> table.top(3).columns.tolist()[:3]
    ['element', 'layer', 'kind']
    """
    check_elements(elements)
    measured = resolve(outcome)
    options = Sampling() if sampling is None else sampling
    check_type("sampling", options, Sampling, "pass dropreg.Sampling(design=...)")
    design = default_design(elements) if options.design is None else options.design
    n_rows = min(max(LEAST_ROWS, ROWS_PER_ELEMENT * len(elements)), MOST_DEFAULT_ROWS) if rows is None else rows
    if rows is None:
        n_rows += -n_rows % design.rows_per_group
    by_ols = len(elements) <= MOST_DENSE and not (options.gradients and measured.differentiable)
    if by_ols and isinstance(n_rows, int) and not isinstance(n_rows, bool) and 0 < n_rows < len(elements) + 2:
        raise ParameterError(
            f"{n_rows:,} rows cannot identify {len(elements):,} elements by OLS: draw at least "
            f"{10 * len(elements):,}, or sample and pass estimator='ridge' to regress."
        )
    record = sample(
        *(model, data, elements),
        rows=n_rows,
        outcomes=measured,
        sampling=replace(options, design=design),
        task=task,
        output=output,
        seed=seed,
        out=out,
        progress=progress,
    )
    return regress(record, outcome=measured.name)
