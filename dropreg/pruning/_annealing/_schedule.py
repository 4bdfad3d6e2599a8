"""The schedule of annealing: how logits move and when masks become certain."""

from dataclasses import dataclass

from ..._utils import is_number
from ...errors import ParameterError


@dataclass(frozen=True)
class Schedule:
    """How logits move.

    Parameters
    ----------
    learning_rate : float
        Step of the logits for an estimate at one root mean square.
    ramp : float
        Fraction of a stage's rounds over which the dropped fraction rises to its target, in (0, 1].
    sharpness : float
        Logits are multiplied by a factor that rises from 1 to this over the rounds after the ramp, so that masks
        come closer to the selection; at least 1.
    averaging : float
        Fraction of a stage's rounds, the last ones, whose mean logits decide, in [0, 1]; 0 takes the last logits.
    most : float
        Estimates are clipped to this many root mean squares.
    second_order : bool
        Whether a round estimates second derivatives as well (`expanded`), where they are at hand: by the divergence,
        with gradients, for "merged". What follows applies then only.
    interactions : float
        What the estimated interactions with other dropped elements are multiplied by, in [0, 1]. They are means of
        effects of either sign, which few examples tell less well than what an element does by itself.
    exploration : float
        How much of its second derivative an element that is dropped gains at the start of a stage, and loses if it is
        kept, so that nothing is decided early; it falls to 0 in a straight line. At least 0.
    carried : float
        Standard deviation of the logits that a stage takes over from the one before: larger ones would decide it
        before it has begun.

    Raises
    ------
    ParameterError
        If a parameter is out of range.
    """

    learning_rate: float = 0.3
    ramp: float = 0.5
    sharpness: float = 1.0
    averaging: float = 0.25
    most: float = 4.0
    second_order: bool = True
    interactions: float = 0.7
    exploration: float = 1.0
    carried: float = 3.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name != "second_order" and not is_number(value):
                raise ParameterError(f"`{name}` must be a number, received {value!r}.")
        for name in ("learning_rate", "most", "carried"):
            if not getattr(self, name) > 0:
                raise ParameterError(f"`{name}` must be positive, received {getattr(self, name)}.")
        if not 0 < self.ramp <= 1:
            raise ParameterError(f"`ramp` must lie in (0, 1], received {self.ramp}.")
        for name in ("averaging", "interactions"):
            if not 0 <= getattr(self, name) <= 1:
                raise ParameterError(f"`{name}` must lie in [0, 1], received {getattr(self, name)}.")
        if not self.exploration >= 0:
            raise ParameterError(f"`exploration` must be at least 0, received {self.exploration}.")
        if not self.sharpness >= 1:
            raise ParameterError(f"`sharpness` must be at least 1, received {self.sharpness}.")

    def progress(self, number: int, rounds: int) -> float:
        """How far a round has raised the dropped fraction.

        Parameters
        ----------
        number : int
            Of the round, from 0.
        rounds : int
            Of the stage.

        Returns
        -------
        float
            In (0, 1].
        """
        return min(1.0, (number + 1) / (self.ramp * rounds))

    def factor(self, number: int, rounds: int) -> float:
        """What logits are multiplied by in a round.

        Parameters
        ----------
        number, rounds : int
            As in `progress`.

        Returns
        -------
        float
            From 1 to `sharpness`.
        """
        after = (1.0 - self.ramp) * rounds
        late = 0.0 if after <= 0 else max(0.0, (number + 1 - self.ramp * rounds) / after)
        return 1.0 + (self.sharpness - 1.0) * late

    def explored(self, number: int, rounds: int) -> float:
        """The exploration of a round.

        Parameters
        ----------
        number, rounds : int
            As in `progress`.

        Returns
        -------
        float
            From `exploration` to 0.
        """
        return self.exploration * (1.0 - number / max(rounds - 1, 1))

    def counts(self, number: int, rounds: int) -> bool:
        """Whether the logits of a round are among those that are averaged.

        Parameters
        ----------
        number, rounds : int
            As in `progress`.

        Returns
        -------
        bool
        """
        return number == rounds - 1 or number >= rounds - round(self.averaging * rounds)
