"""Options of annealing."""

from dataclasses import dataclass

import numpy.typing as npt

from ..._utils import check_type, positive
from ...errors import ParameterError
from ...network import Outcome
from ...regression import ImpactTable
from ._schedule import Schedule


@dataclass(frozen=True, eq=False)
class Annealing:
    """How `dropreg.anneal` and `dropreg.anneal_path` search.

    Parameters
    ----------
    rounds : int, optional
        Rounds of each stage of `anneal_path`. By default as many as make 102,400 rows with gradients (25,600 for
        "merged" where outputs have positions), 50 without; `anneal` takes twice as many, and two fifths of that for
        each step towards a target. More rounds find slightly better selections for "merged".
    rows_per_round : int, optional
        Masked forward passes of one example in a round, a multiple of `examples_per_mask`. By default 256 with
        gradients; 512 for "merged", 128 where outputs have positions; two masks where masks multiply weights; without
        gradients eight for each element and at least 8,192.
    examples_per_mask : int, optional
        Consecutive rows that share a mask. By default 1; 64 for "merged", where every mask takes a matrix inverse, 16
        where outputs have positions; 256 where masks multiply weights.
    outcome : str or Outcome, optional
        What the search keeps as good as possible. By default "retained", the accuracy on what the model classifies
        right (`RetainedAccuracy`), or the loss of a regression; the divergence from the original model without
        labels, for single weights, and for "merged".
    gradients : bool
        Use gradients with respect to the masks; False takes forward passes alone, which work with any model.
    start : ImpactTable or array of float, shape (n_elements,), optional
        Scores whose standardized values are the first logits. By default zero; for weights their magnitude; for a
        target with labels, gradients and "merged" the normal scores of the ranks by `dropreg.scorers.spread`.
    schedule : dropreg.pruning.Schedule, optional
        How logits move.

    Raises
    ------
    ParameterError
        If a value is out of range.

    Examples
    --------
    >>> import dropreg as dr
    >>> dr.Annealing(rounds=20, gradients=False).rounds
    20
    """

    rounds: int | None = None
    rows_per_round: int | None = None
    examples_per_mask: int | None = None
    outcome: str | Outcome | None = None
    gradients: bool = True
    start: ImpactTable | npt.ArrayLike | None = None
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        for name in ("rounds", "rows_per_round", "examples_per_mask"):
            if getattr(self, name) is not None:
                positive(name, getattr(self, name))
        if not isinstance(self.gradients, bool):
            raise ParameterError(f"`gradients` must be True or False, received {self.gradients!r}.")
        if self.schedule is not None:
            check_type("schedule", self.schedule, Schedule, "pass dropreg.pruning.Schedule(...)")
