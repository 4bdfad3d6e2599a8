"""What every scorer is asked, and what it may spend.

The unit of cost is the row-equivalent: a masked forward pass of one example is one, a backward pass
is two. The whole model's pass over the examples, which every method makes once, is not counted, as
in `dropreg.sample`.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from .._utils import examples_of_rows
from ..data import Data, Examples, Task, check_data
from ..element import Elements
from ..errors import ParameterError
from ._metrics import PerMask
from ._outcomes import Outcome, check_outcomes, resolve

if TYPE_CHECKING:
    import keras

DEFAULT_ROWS = 600_000
"""Budget of scorers that could spend any number of rows, where none was given."""


@dataclass(frozen=True)
class Question:
    """What every scorer is asked: which model, examples, elements and outcome, around which state.

    Attributes
    ----------
    model : keras.Model
    elements : Elements
    examples : Examples
        All that were given.
    outcome : Outcome
    kept : ndarray of bool, shape (n_elements,)
        Elements that are there to begin with; the others stay dropped.
    seed : int
    """

    model: "keras.Model"
    elements: Elements
    examples: Examples
    outcome: Outcome
    kept: npt.NDArray[np.bool_]
    seed: int

    @property
    def candidates(self) -> npt.NDArray[np.int64]:
        """Numbers of the elements that can still be dropped."""
        return np.flatnonzero(self.kept)

    @property
    def n_outputs(self) -> int:
        """Numbers that the model gives for an example, over all positions of its output."""
        from ._evaluate import run_model

        return math.prod(run_model(self.model, self.first(1).examples).shape[1:])

    @property
    def has_positions(self) -> bool:
        """Whether the output has positions, such as pixels or tokens."""
        from ..graph import trace_graph

        graph = trace_graph(self.model)
        return len(graph.shapes[graph.outputs[self.examples.output]]) > 2

    @property
    def sign(self) -> float:
        """What turns a change of the outcome into how much worse it gets."""
        return -1.0 if self.outcome.greater_is_better else 1.0

    def first(self, n: int) -> "Question":
        """The same on `n` random examples; larger numbers contain smaller ones."""
        if n >= len(self.examples):
            return self
        order = examples_of_rows(self.seed, 0, n, len(self.examples))
        return replace(self, examples=self.examples.part(order))


def ask(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    outcome: str | Outcome,
    task: Task | None,
    kept: npt.ArrayLike | None,
    seed: int,
) -> Question:
    """Check what all scorers take.

    Raises
    ------
    DataError
        If the data does not fit the model, or the outcome needs labels and there are none.
    ParameterError
        If `outcome`, `task`, `kept` or `seed` is out of range.
    """
    measured = resolve(outcome)
    if isinstance(measured, PerMask):
        raise ParameterError(
            f"`outcome` must be one of single examples, received '{measured.name}', which needs several: use "
            "dropreg.sample with a design of several examples_per_mask."
        )
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
        raise ParameterError(f"`seed` must be an integer from 0 to 2**64 - 1, received {seed!r}.")
    examples = check_data(model, data, task)
    check_outcomes([measured], examples.labels, examples.task)
    return Question(model, elements, examples, measured, check_kept(kept, len(elements)), int(seed))


def check_kept(kept: npt.ArrayLike | None, n_elements: int) -> npt.NDArray[np.bool_]:
    """`kept` as booleans, shape (n_elements,); None is everything."""
    if kept is None:
        return np.ones(n_elements, dtype=bool)
    mask = np.asarray(kept)
    if mask.shape != (n_elements,) or mask.dtype != bool:
        raise ParameterError(
            f"`kept` must be {n_elements} booleans, one for each element (True = kept), received shape {mask.shape} "
            f"of {mask.dtype}."
        )
    if not mask.any():
        raise ParameterError("`kept` must keep at least one element, received none.")
    return mask.copy()
