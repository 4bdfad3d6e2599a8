"""Impacts of a model in one call: sampling and regression."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._utils import check_type
from ..data import Data, Task
from ..element import Elements, check_elements
from ..errors import ParameterError
from ..network import OutcomeLike, resolve
from ..regression import MOST_DENSE, ImpactTable, regress
from ..sampling import Design, Sampling, default_design, sample

if TYPE_CHECKING:
    import keras

ROWS_PER_ELEMENT = 200
LEAST_ROWS, MOST_DEFAULT_ROWS = 20_000, 400_000
FORWARD_ROWS = 2.5
"""How many times more rows are taken by default where a row is a forward pass alone."""


def estimate(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    outcome: OutcomeLike = "loss",
    rows: int | None = None,
    sampling: Sampling | None = None,
    by: Any = None,
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
    outcome : str, Outcome, or loss or metric of Keras
        "loss", "accuracy", "retained", "margin", "divergence", an own outcome from `dropreg.outcomes`, or such as
        ``keras.metrics.SparseTopKCategoricalAccuracy(k=3)``.
    rows : int, optional
        Number of masks; by default 200 for each element, at least 20,000 and at most 400,000. Where gradients are not
        recorded, the default is two and a half times as many.
    sampling : Sampling, optional
        As in `sample`. By default gradients are recorded and corrected by flips: a row costs seven row-equivalents, and
        the estimates are far more precise than those of forward passes alone, ``Sampling(gradients=False)``.

    by : "class" or array of shape (n_examples,), optional
        As in `sample`: estimate the impacts for each class, or for each value of a column.

    Returns
    -------
    ImpactTable
        Impacts in the outcome's unit, positive = replacing the element hurts, with standard errors. With `by`, its
        ``slices`` are those for each slice.

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
    ('loss', 'gradients corrected by flips', 2000)
    >>> table.top(3).columns.tolist()[:3]
    ['element', 'layer', 'kind']
    """
    check_elements(elements)
    measured = resolve(outcome)
    options = Sampling() if sampling is None else sampling
    check_type("sampling", options, Sampling, "pass dropreg.Sampling(design=...)")
    design = default_design(elements) if options.design is None else options.design
    has_gradients = bool(options.gradients) and measured.differentiable
    n_rows = _default_rows(len(elements), design, has_gradients) if rows is None else rows
    by_ols = len(elements) <= MOST_DENSE and not has_gradients
    if by_ols and isinstance(n_rows, int) and not isinstance(n_rows, bool) and 0 < n_rows < len(elements) + 2:
        raise ParameterError(
            f"{n_rows:,} rows cannot identify {len(elements):,} elements by OLS: draw at least "
            f"{10 * len(elements):,}, or sample and pass estimator='ridge' to regress, whose estimates are shrunk "
            "towards zero and have no intervals."
        )
    record = sample(
        *(model, data, elements),
        rows=n_rows,
        outcomes=measured,
        sampling=replace(options, design=design),
        by=by,
        task=task,
        output=output,
        seed=seed,
        out=out,
        progress=progress,
    )
    return regress(record, outcome=measured.name, by=None if by is None else record.settings.by)


def _default_rows(n_elements: int, design: Design, has_gradients: bool) -> int:
    """Return the rows of a run, a multiple of those that the design needs together."""
    rows = min(max(LEAST_ROWS, ROWS_PER_ELEMENT * n_elements), MOST_DEFAULT_ROWS)
    rows = rows if has_gradients else int(FORWARD_ROWS * rows)
    return rows + -rows % design.rows_per_group
