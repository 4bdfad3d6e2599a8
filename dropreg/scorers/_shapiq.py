"""A bridge to shapiq's estimators of Shapley values and interactions (optional extra)."""

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .._utils import Array
from ..data import Data, Task
from ..element import Elements
from ..errors import ParameterError
from ..network import DEFAULT_ROWS, Evaluator, Outcome, ask_one
from ..regression import ImpactTable, impact_table
from ._scorer import affordable

if TYPE_CHECKING:
    import keras


class MaskedGame:
    """The masked network as a cooperative game: which elements are kept, to how good the outcome is.

    Callable on coalitions, ndarray of bool of shape (n_coalitions, n_elements) with True = kept, giving
    values of shape (n_coalitions,), larger = better, as every estimator of shapiq expects. What was asked
    is recorded.

    Attributes
    ----------
    n_players : int
    masks : list of ndarray of bool, each of shape (n_coalitions, n_elements)
        All coalitions so far, in the order of the calls.
    values : list of ndarray of float64, each of shape (n_coalitions,)
        What they gave.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self.n_players: int = evaluator.n_elements
        self.masks: list[npt.NDArray[np.bool_]] = []
        self.values: list[Array] = []

    @property
    def rows(self) -> int:
        """Masked forward passes so far."""
        return self._evaluator.rows

    def __call__(self, coalitions: npt.ArrayLike) -> Array:
        masks = np.atleast_2d(np.asarray(coalitions, dtype=bool))
        values = -self._evaluator.question.sign * self._evaluator.means(masks, np.arange(len(self._evaluator)))
        self.masks.append(masks.copy())
        self.values.append(values)
        return values


def masked_game(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    examples: int | None = None,
    outcome: str | Outcome = "loss",
    task: Task | None = None,
    seed: int = 0,
) -> MaskedGame:
    """The masked network as a game for shapiq or any other estimator of set functions.

    Parameters
    ----------
    model, data, elements, outcome, task
        As in `leave_one_out`.
    examples : int, optional
        Random examples that every coalition is measured on; all by default.
    seed : int
        Chooses them.

    Returns
    -------
    MaskedGame

    Raises
    ------
    ParameterError, DataError, ModelError
        If the arguments do not fit together.
    """
    question = ask_one(model, data, elements, outcome=outcome, task=task, kept=None, seed=seed)
    if examples is not None:
        question = question.first(affordable(examples, 1, len(question.examples), "example"))
    return MaskedGame(Evaluator(question))


def shapiq_scores(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    estimator: Callable[..., Any] | None = None,
    examples: int = 100,
    outcome: str | Outcome = "loss",
    rows: int | None = None,
    task: Task | None = None,
    seed: int = 0,
) -> ImpactTable:
    """Let an estimator of shapiq choose coalitions of elements, and take its first-order values as impacts.

    Parameters
    ----------
    model, data, elements, outcome, task
        As in `leave_one_out`.
    estimator : callable, optional
        A class of ``shapiq.approximator``, called with ``n`` and ``random_state``; ``KernelSHAP`` by default.
    examples : int
        Random examples that every coalition is measured on.
    rows : int, optional
        Budget in rows, 600,000 by default; a coalition costs one for every example.
    seed : int

    Returns
    -------
    ImpactTable
        In the outcome's unit; without standard errors.

    Raises
    ------
    ParameterError
        If shapiq is not installed, or `rows` pays for no coalition.
    DataError, ModelError
        If the arguments do not fit together.

    References
    ----------
    .. [1] Muschalik et al. (2024), "shapiq: Shapley interactions for machine learning".
    """
    chosen = _kernel_shap() if estimator is None else estimator
    game = masked_game(model, data, elements, examples=examples, outcome=outcome, task=task, seed=seed)
    n = min(examples, len(game._evaluator))
    budget = affordable(DEFAULT_ROWS if rows is None else rows, n, 2**62, f"coalition on {n} examples")
    found = chosen(n=len(elements), random_state=seed).approximate(budget, game)
    return impact_table(
        elements.to_frame(),
        np.array([float(found[(element,)]) for element in range(len(elements))]),
        method=f"shapiq {getattr(chosen, '__name__', chosen)}",
        outcome=game._evaluator.question.outcome.name,
        rows=game.rows,
        seed=seed,
        details={"coalitions": sum(map(len, game.masks)), "examples": n},
    )


def _kernel_shap() -> Callable[..., Any]:
    try:
        return importlib.import_module("shapiq.approximator").KernelSHAP
    except ImportError as error:
        raise ParameterError(
            "`shapiq_scores` must have the package shapiq, received an installation without: install the extra, "
            "python -m pip install 'dropreg[shapiq]'."
        ) from error
