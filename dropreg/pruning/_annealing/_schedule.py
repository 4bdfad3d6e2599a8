"""The schedule of annealing: step sizes, and when masks become certain."""

from dataclasses import dataclass

from ..._utils import is_number
from ...errors import ParameterError

RAMP = 0.5
"""Fraction of a stage's rounds over which the removed fraction rises to its target."""
AVERAGED = 0.25
"""Fraction of a stage's rounds, the last ones, whose mean logits decide the selection."""
MOST = 4.0
"""Estimated impacts are clipped to this many root mean squares."""


@dataclass(frozen=True)
class Schedule:
    """How logits change from round to round.

    Parameters
    ----------
    learning_rate : float
        Change of a logit for an impact of one root mean square.
    sharpness : float
        Factor that multiplies the logits at the end of a stage, at least 1. It rises from 1 over the second half of
        the rounds, so that masks come closer to the selection.
    second_order : bool
        Estimate second derivatives in each round. Only used with gradients, ``ablation="merged"`` and the outcome
        "divergence", as are the parameters below.
    interactions : float
        Factor, in [0, 1], for the estimated interactions with other removed elements. They are means of effects of
        both signs, which are estimated less precisely than an element's own effect.
    exploration : float
        Multiple of its second derivative that a removed element gains, and a kept one loses, in the first round of a
        stage. It falls linearly to 0 in the last round and delays decisions. At least 0.
    carried : float
        Standard deviation to which a stage rescales the logits of the stage before, so that they do not decide it.

    Raises
    ------
    ParameterError
        If a parameter is out of range.

    Examples
    --------
    >>> import dropreg as dr
    >>> dr.Annealing(schedule=dr.pruning.Schedule(learning_rate=0.1)).schedule.learning_rate
    0.1
    """

    learning_rate: float = 0.3
    sharpness: float = 1.0
    second_order: bool = True
    interactions: float = 0.7
    exploration: float = 1.0
    carried: float = 3.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "second_order" and not is_number(value):
                raise ParameterError(f"`{name}` must be a number, received {value!r}.")
        for name in ("learning_rate", "carried"):
            if not getattr(self, name) > 0:
                raise ParameterError(f"`{name}` must be positive, received {getattr(self, name)}.")
        if not 0 <= self.interactions <= 1:
            raise ParameterError(f"`interactions` must lie in [0, 1], received {self.interactions}.")
        for name, least in (("exploration", 0), ("sharpness", 1)):
            if not getattr(self, name) >= least:
                raise ParameterError(f"`{name}` must be at least {least}, received {getattr(self, name)}.")

    def factor(self, number: int, rounds: int) -> float:
        """Return the factor of the logits in round `number` of a stage, from 1 to `sharpness`."""
        late = max(0.0, (number + 1 - RAMP * rounds) / ((1.0 - RAMP) * rounds))
        return 1.0 + (self.sharpness - 1.0) * late

    def explored(self, number: int, rounds: int) -> float:
        """Return the exploration in round `number` of a stage, from `exploration` to 0."""
        return self.exploration * (1.0 - number / max(rounds - 1, 1))


def ramped(number: int, rounds: int) -> float:
    """Return the share, in (0, 1], of a stage's rise of the removed fraction that a round has reached."""
    return min(1.0, (number + 1) / (RAMP * rounds))


def is_averaged(number: int, rounds: int) -> bool:
    """Return whether the logits of a round are averaged for the selection: those of the last quarter, at least one."""
    return number == rounds - 1 or number >= rounds - round(AVERAGED * rounds)
