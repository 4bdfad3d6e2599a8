"""The masked model as a cooperative game, for other estimators of set functions."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .._utils import Array, positive
from ..data import Data, Task
from ..element import Elements
from ..network import Evaluator, OutcomeLike, ask_one

if TYPE_CHECKING:
    import keras


class MaskedGame:
    """A cooperative game: the players are elements, the value of a coalition is the outcome when only they are kept.

    Made by `masked_game`. It is callable on coalitions, an array of bool of shape (n_coalitions, n_elements) with
    True = kept, and returns their values of shape (n_coalitions,), larger = better, as the estimators of the package
    shapiq expect. All calls are recorded.

    Attributes
    ----------
    n_players : int
        Number of elements.
    masks : list of ndarray of bool, each of shape (n_coalitions, n_elements)
        The coalitions of each call.
    values : list of ndarray of float64, each of shape (n_coalitions,)
        The values that each call returned.

    Examples
    --------
    See `masked_game`.
    """

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self.n_players: int = evaluator.n_elements
        self.masks: list[npt.NDArray[np.bool_]] = []
        self.values: list[Array] = []

    @property
    def rows(self) -> int:
        """Number of masked forward passes so far."""
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
    outcome: OutcomeLike = "loss",
    task: Task | None = None,
    seed: int = 0,
) -> MaskedGame:
    """Return the masked model as a cooperative game, for shapiq [1]_ or any other estimator of set functions.

    Parameters
    ----------
    model, data, elements, task
        As in `taylor`.
    examples : int, optional
        Number of random examples that the value of a coalition is averaged over; by default all.
    outcome : str or Outcome
        As in `leave_one_out`.
    seed : int
        Chooses the examples.

    Returns
    -------
    MaskedGame
        Callable on coalitions, an array of bool (n_coalitions, n_elements) with True = kept; returns their values, the
        mean outcome, or minus it for outcomes of which less is better (the loss). All calls are recorded.

    Raises
    ------
    ParameterError, DataError, ModelError
        If an argument is out of range, or the data or the elements do not fit the model.

    References
    ----------
    .. [1] Muschalik et al. (2024), "shapiq: Shapley interactions for machine learning".

    Examples
    --------
    >>> import numpy as np
    >>> import dropreg as dr
    >>> model, data = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
    >>> elements = dr.elements(model, include=["dense_2"])
    >>> game = dr.scorers.masked_game(model, data, elements, examples=50, outcome="accuracy")
    >>> everything, nothing = game(np.array([[True] * 100, [False] * 100]))
    >>> bool(everything > nothing), game.rows
    (True, 100)
    """
    question = ask_one(model, data, elements, outcome=outcome, task=task, kept=None, seed=seed)
    if examples is not None:
        question = question.first(positive("examples", examples))
    return MaskedGame(Evaluator(question))
