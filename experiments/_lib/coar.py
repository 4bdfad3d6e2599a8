"""Ablation regression as published for component attribution (COAR): a competitor that scripts measure."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

import dropreg as dr
from dropreg._utils import Array
from dropreg.data import Data, Task, check_data, read_once
from dropreg.network import Evaluator, ask
from dropreg.regression import impact_table
from dropreg.scorers._scorer import affordable

if TYPE_CHECKING:
    import keras

_HELD_OUT = 0.1
_TIMES = np.logspace(-4, 6, 61)


def ablation_regression(
    model: "keras.Model",
    data: Data,
    elements: dr.Elements,
    *,
    keep: float = 0.95,
    examples: int | None = None,
    outcome: str | dr.outcomes.Outcome | None = None,
    rows: int = 1_000_000,
    task: Task | None = None,
    seed: int = 0,
) -> dr.ImpactTable:
    """Linear fit of the mean outcome on independent masks, one mask a pass over the data.

    The estimator of [1]_, the one that one mask a row is to be compared with: every mask is measured
    on all examples, and a linear model is fitted to the mean outcomes, stopped early by the error on
    a tenth of the masks. Early-stopped descent from zero has a closed form (a filter on the singular
    values), which is what is computed.

    Parameters
    ----------
    model, data, elements, task
        As in `taylor`.
    keep : float
        Probability that an element is kept, strictly between 0 and 1.
    examples : int, optional
        Random examples that a pass goes through, the same for every mask; all by default.
    outcome : str or Outcome, optional
        Any; "margin" by default, as published, and "loss" for a regression, which has none.
    rows : int
        Budget in rows; a mask costs one for every example.
    seed : int
        Chooses masks and examples.

    Returns
    -------
    ImpactTable
        In the outcome's unit; without standard errors, as published.

    Raises
    ------
    ParameterError, DataError, ModelError
        If the arguments do not fit together, or `rows` pays for fewer than 20 masks.

    References
    ----------
    .. [1] Shah, Ilyas, Madry (2024), "Decomposing and editing predictions by modeling model computation",
       section 3 and appendix (the estimator COAR), arXiv 2404.11534.
    """
    if not 0 < keep < 1:
        raise dr.errors.ParameterError(f"`keep` must lie strictly between 0 and 1, received {keep}.")
    data = read_once(data)
    if outcome is None:
        outcome = "loss" if check_data(model, data, task).task == "regression" else "margin"
    question = ask(model, data, elements, outcome=outcome, task=task, kept=None, seed=seed)
    if examples is not None:
        question = question.first(affordable(examples, 1, len(question.examples), "example"))
    n = len(question.examples)
    n_masks = affordable(rows, n, 2**62, f"mask on {n:,} examples")
    if n_masks < 20:
        raise dr.errors.ParameterError(
            f"`rows` must pay for at least 20 masks on {n:,} examples, {20 * n:,} rows, received {rows:,}: pass more, "
            "or examples= for a smaller pass."
        )
    evaluator, rng = Evaluator(question), np.random.default_rng(seed)
    masks = rng.random((n_masks, len(elements))) < keep
    values = evaluator.means(masks, np.arange(n))
    fit = early_stopped((~masks).astype(np.float64), values, rng.random(n_masks) < _HELD_OUT)
    return impact_table(
        elements.to_frame(),
        question.sign * fit,
        method="ablation regression, one mask a pass",
        outcome=question.outcome.name,
        rows=evaluator.rows,
        seed=question.seed,
        details={"masks": n_masks, "examples": n, "keep": keep},
    )


def early_stopped(x: Array, y: Array, held_out: npt.NDArray[np.bool_]) -> Array:
    """Least squares by gradient flow from zero, stopped where the error on the held-out rows is least.

    Parameters
    ----------
    x, y : ndarray, shape (n, p) and (n,)
    held_out : ndarray of bool, shape (n,)

    Returns
    -------
    ndarray of float64, shape (p,)
        Coefficients: V diag((1 - exp(-t s²)) / s) U'y for centred x = U diag(s) V' and the best time t.
    """
    held = held_out if 0 < held_out.sum() < len(y) - 1 else np.arange(len(y)) == 0
    x_mean, y_mean = x[~held].mean(axis=0), y[~held].mean()
    u, s, vt = np.linalg.svd(x[~held] - x_mean, full_matrices=False)
    kept = s > 1e-9 * s.max(initial=0.0)
    u, s, vt = u[:, kept], s[kept], vt[kept]
    target = u.T @ (y[~held] - y_mean)
    filters = -np.expm1(-_TIMES[:, np.newaxis] * s**2) / s
    fits = (filters * target) @ vt
    errors = ((y[held] - y_mean - fits @ (x[held] - x_mean).T) ** 2).mean(axis=1)
    return fits[int(np.argmin(errors))]
