"""From a model to impacts in one call."""

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
    """Estimate the impact of every element: sample random masks and regress, with good defaults.

    Parameters
    ----------
    model : keras.Model
        Its measured output has shape (batch, ..., n_outputs). It is not changed.
    data : (x, y), or batches
        Held-out examples and their labels; see `sample`.
    elements : Elements
        From ``dropreg.elements(model)``.
    outcome : str or Outcome
        "loss", "accuracy", "retained", "margin", "divergence", or a metric of your own.
    rows : int, optional
        Masked forward passes; by default 500 for each element, at least 50,000 and at most 1,000,000.
    sampling : Sampling, optional
        As in `sample`. With gradients, the default, a row costs three row-equivalents and the estimates are far more
        precise; ``Sampling(gradients=False)`` takes forward passes only.
    task, output, seed, out, progress
        As in `sample`.

    Returns
    -------
    ImpactTable
        Impacts in the outcome's unit, positive = replacing the element hurts.

    Raises
    ------
    ModelError, DataError, ParameterError, RecordError
        As `sample` and `regress` do.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> impact = dr.estimate(model, dr.datasets.fashion_mnist("test"), dr.elements(model), rows=2_000)
    >>> impact.to_frame().columns.tolist()[:4]
    ['element', 'layer', 'index', 'kind']
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
