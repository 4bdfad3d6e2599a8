"""From a model to impacts in one call."""

from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING

from .._utils import check_type
from ..data import Data, Task
from ..element import Elements, check_elements
from ..errors import ParameterError
from ..network import Outcome, resolve
from ..regression import MOST_DENSE, ImpactTable, regress
from ..sampling import Design, StopRule, default_design, sample

if TYPE_CHECKING:
    import keras

ROWS_PER_ELEMENT = 500
LEAST_ROWS, MOST_DEFAULT_ROWS = 50_000, 1_000_000


def estimate(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    outcome: str | Outcome = "accuracy",
    rows: int | None = None,
    design: Design | None = None,
    gradients: bool | None = None,
    task: Task | None = None,
    output: int | str | None = None,
    interactions: bool = False,
    seed: int = 0,
    out: str | Path | None = None,
    stop: StopRule | None = None,
    executor: Executor | None = None,
    progress: bool = True,
) -> ImpactTable:
    """Sample and regress with good defaults.

    Parameters
    ----------
    model : keras.Model
        Whose measured output has shape (batch, ..., n_outputs). It is not changed.
    data : (x, y), or batches
        Held-out examples and their labels; see `sample`.
    elements : Elements
        From ``dropreg.elements(model)``.
    outcome : str or Outcome
        "accuracy", "retained", "loss", "margin", "divergence", or a metric of your own.
    rows : int, optional
        Masked forward passes; by default 500 for each element, at least 50,000 and at most 1,000,000.
    design : Design, optional
        ``Bernoulli(rate=0.3)`` by default; see `sample`.
    gradients : bool, optional
        Let the gradients at the dropout states help: two more row-equivalents for each row, worth
        many times that. By default wherever the outcome and the model allow; False for forward
        passes only, which need no derivatives.
    task, output, seed, out, stop, executor, progress
        As in `sample`.
    interactions : bool
        Also estimate pairwise interactions.

    Returns
    -------
    ImpactTable

    Raises
    ------
    ModelError, DataError, ParameterError, RecordError
        As `sample` and `regress` do.
    """
    check_elements(elements)
    measured = resolve(outcome)
    assisted = measured.differentiable if gradients is None else gradients
    design = default_design(elements) if design is None else design
    check_type("design", design, Design, "pass dropreg.designs.Bernoulli(rate)")
    is_dense = len(elements) <= MOST_DENSE
    n_rows = min(max(LEAST_ROWS, ROWS_PER_ELEMENT * len(elements)), MOST_DEFAULT_ROWS) if rows is None else rows
    if rows is None:
        n_rows += -n_rows % design.rows_per_group
    if (
        is_dense
        and not assisted
        and isinstance(n_rows, int)
        and not isinstance(n_rows, bool)
        and 0 < n_rows < len(elements) + 2
    ):
        raise ParameterError(
            f"{n_rows:,} rows cannot identify {len(elements):,} elements by OLS: draw at least "
            f"{10 * len(elements):,}, or sample and pass estimator='ridge' to regress."
        )
    record = sample(
        model,
        data,
        elements,
        rows=n_rows,
        design=design,
        outcomes=(measured,),
        gradients=(measured.name,) if assisted else (),
        task=task,
        output=output,
        seed=seed,
        out=out,
        stop=stop,
        executor=executor,
        progress=progress,
    )
    return regress(record, outcome=measured.name, interactions=interactions)
