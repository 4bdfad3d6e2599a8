"""The checked arguments that sampling and all scorers share.

Costs are counted in row-equivalents: a masked forward pass of one example costs 1, a backward pass 2. The original
model's pass over the examples, which every method needs once, is not counted.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .._utils import check_seed, examples_of_rows
from ..data import Data, Examples, Task, check_data
from ..element import Elements, check_elements, check_fits
from ..errors import ParameterError
from ..graph import Graph, trace_graph
from ._metrics import PerMask
from ._outcomes import Outcome
from ._resolve import OutcomeLike, check_outcomes, resolve, resolve_all

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Question:
    """The model, elements, examples and outcomes to measure, and the elements that are kept.

    Attributes
    ----------
    graph : Graph
        The traced model.
    elements : Elements
    examples : Examples
        All examples of the data.
    outcomes : tuple of Outcome
        Scorers measure the first one only.
    kept : ndarray of bool, shape (n_elements,)
        Elements that are kept at first; the others are dropped in every mask.
    seed : int
    """

    graph: Graph
    elements: Elements
    examples: Examples
    outcomes: tuple[Outcome, ...]
    kept: npt.NDArray[np.bool_]
    seed: int

    def __reduce__(self) -> tuple[Any, ...]:
        arguments = (self.elements, self.examples, self.outcomes, self.kept, self.seed)
        return _traced_question, (self.graph.model, *arguments)

    @property
    def model(self) -> "keras.Model":
        """The model, unchanged."""
        return self.graph.model

    @property
    def outcome(self) -> Outcome:
        """The first outcome."""
        return self.outcomes[0]

    @property
    def row_outcomes(self) -> tuple[Outcome, ...]:
        """The outcomes of single rows."""
        return tuple(outcome for outcome in self.outcomes if not isinstance(outcome, PerMask))

    @property
    def candidates(self) -> npt.NDArray[np.int64]:
        """Numbers of the elements that are kept, which can still be dropped."""
        return np.flatnonzero(self.kept)

    @property
    def n_outputs(self) -> int:
        """Size of the model's output for one example, over all positions."""
        from ._evaluate import run_model

        return math.prod(run_model(self.graph, self.first(1).examples).shape[1:])

    @property
    def has_positions(self) -> bool:
        """Whether the output has positions, such as pixels or tokens."""
        graph = self.graph
        return len(graph.shapes[graph.outputs[self.examples.output]]) > 2

    @property
    def sign(self) -> float:
        """1 if a greater outcome is worse, -1 if it is better: a change times `sign` is an impact."""
        return -1.0 if self.outcome.greater_is_better else 1.0

    def first(self, n: int) -> "Question":
        """Return the question on `n` random examples; they include those of any smaller `n`."""
        if n >= len(self.examples):
            return self
        order = examples_of_rows(self.seed, 0, n, len(self.examples))
        return replace(self, examples=self.examples.part(order))


def _traced_question(model: "keras.Model", *arguments: Any) -> Question:
    """Rebuild a pickled question, for example in another process."""
    return Question(trace_graph(model), *arguments)


def ask(
    model: "keras.Model | Graph",
    data: Data | Examples,
    elements: Elements,
    *,
    outcome: OutcomeLike | Sequence[OutcomeLike],
    task: Task | None,
    output: int | str | None = None,
    kept: npt.ArrayLike | None = None,
    seed: int,
) -> Question:
    """Return the question for these arguments of a public function; they are checked here, once.

    Raises DataError if the data does not fit the model or the outcome, ModelError if the elements belong to another
    model or everything kept does not give the model's own outputs, and ParameterError if another argument is invalid.
    """
    from ._agreement import check_agreement

    check_elements(elements)
    outcomes, seed = resolve_all(outcome), check_seed(seed)
    graph = trace_graph(model)
    check_fits(elements, graph, graph.model.name)
    examples = data if isinstance(data, Examples) else check_data(graph, data, task, output)
    check_outcomes(outcomes, examples)
    check_agreement(graph, elements, examples)
    return Question(graph, elements, examples, outcomes, _check_kept(kept, len(elements)), seed)


def ask_one(*args: Any, outcome: OutcomeLike, **options: Any) -> Question:
    """Return `ask` for one outcome, as scorers need it; ParameterError if the outcome needs several examples."""
    measured = resolve(outcome)
    if isinstance(measured, PerMask):
        raise ParameterError(
            f"`outcome` must be one of single examples, received '{measured.name}', which needs several: use "
            "dropreg.sample with a design of several examples_per_mask."
        )
    return ask(*args, outcome=measured, **options)


def _check_kept(kept: npt.ArrayLike | None, n_elements: int) -> npt.NDArray[np.bool_]:
    """Return `kept` as booleans, shape (n_elements,); None keeps all elements."""
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
