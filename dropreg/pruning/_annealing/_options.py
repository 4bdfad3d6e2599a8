"""Options of selecting by annealing."""

from dataclasses import dataclass

import numpy.typing as npt

from ..._utils import check_type, positive
from ...errors import ParameterError
from ...network import OutcomeLike
from ...regression import ImpactTable
from ._schedule import Schedule


@dataclass(frozen=True, eq=False)
class Annealing:
    """Options of `dropreg.anneal` and `dropreg.anneal_path`.

    Parameters
    ----------
    rounds : int, optional
        Rounds of each stage of `anneal_path`. By default the number that makes 102,400 rows with gradients (25,600 for
        "merged" where outputs have positions), 50 without gradients. `anneal` runs twice as many, and two fifths as
        many for each step towards a target. More rounds find slightly better selections for "merged".
    rows_per_round : int, optional
        Masked forward passes of one example in a round, a multiple of `examples_per_mask`. By default 256 with
        gradients (512 for "merged", 128 where outputs have positions); for single weights those of two masks; without
        gradients eight for each element and at least 8,192.
    examples_per_mask : int, optional
        Consecutive rows that share a mask. By default 1; 64 for "merged", where every mask requires a matrix inverse,
        16 where outputs have positions; 256 for single weights.
    outcome : str or Outcome, optional
        The outcome to preserve. By default "retained" (accuracy on the examples that the model classifies correctly,
        see `RetainedAccuracy`) or the loss of a regression; for data without labels, for single weights and for
        "merged" the divergence from the original model.
    gradients : bool
        Use gradients by the masks; False uses forward passes only, which work with any model.
    start : ImpactTable or array of float, shape (n_elements,), optional
        Scores whose standardized values are the first logits. By default zero; for weights their magnitude; for a
        target with labels, gradients and "merged" the normal scores of the ranks by `dropreg.scorers.spread`.
    schedule : dropreg.pruning.Schedule, optional
        How logits change from round to round.

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
    outcome: OutcomeLike | None = None
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
