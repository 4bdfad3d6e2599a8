"""How much is gone after each of several steps."""

from typing import Any, Literal, get_args

import numpy as np

from .._utils import check_between
from ..errors import ParameterError

StepSizes = Literal["cubic", "linear", "one_shot"]


def fractions_by_step(fraction: float, steps: int, schedule: StepSizes = "cubic") -> list[float]:
    """Fraction that is gone after each step, ascending, the last one `fraction`.

    Parameters
    ----------
    fraction : float
        In the end, strictly between 0 and 1.
    steps : int
        At least 1.
    schedule : {"cubic", "linear", "one_shot"}
        After step k of n: "linear" k / n of it; "cubic" 1 - (1 - k / n)^3 of it, most while there is much to spare
        [1]_; "one_shot" all of it in one step, whatever `steps` is.

    Returns
    -------
    list of float

    Raises
    ------
    ParameterError
        If a parameter is out of range.

    References
    ----------
    .. [1] Zhu, Gupta (2017), "To prune, or not to prune: exploring the efficacy of pruning for model compression",
       section 3, equation 1, from no sparsity at first.
    """
    check_between("fraction", fraction, hint="it is the fraction to remove")
    _check_steps(steps)
    if schedule not in get_args(StepSizes):
        raise ParameterError(f"`schedule` must be one of {', '.join(get_args(StepSizes))}, received {schedule!r}.")
    if schedule == "one_shot":
        return [fraction]
    done = np.arange(1, steps + 1) / steps
    return [fraction * float(share) for share in (done if schedule == "linear" else 1.0 - (1.0 - done) ** 3)]


def counts_by_step(n_elements: int, fraction: float, steps: int, schedule: StepSizes) -> list[int]:
    """Elements that are gone after each step, ascending.

    Raises
    ------
    ParameterError
        As in `fractions_by_step`, or if the fraction is less than half an element.
    """
    counts = [round(share * n_elements) for share in fractions_by_step(fraction, steps, schedule)]
    if counts[-1] == 0:
        raise ParameterError(
            f"`fraction` must remove at least one of the {n_elements} elements, received {fraction:g}: pass more than "
            f"{0.5 / n_elements:.3g}."
        )
    return counts


def _check_steps(steps: Any) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        raise ParameterError(f"`steps` must be an integer of at least 1, received {steps!r}.")
