"""Removed fraction after each of several steps."""

from typing import Literal, get_args

import numpy as np

from .._utils import check_between, positive
from ..errors import ParameterError

StepSizes = Literal["cubic", "linear"]


def fractions_by_step(fraction: float, steps: int, schedule: StepSizes = "cubic") -> list[float]:
    """Return the removed fraction after each step, ascending, the last one `fraction`.

    Parameters
    ----------
    fraction : float
        Removed fraction after the last step, strictly between 0 and 1.
    steps : int
        Number of steps, at least 1.
    schedule : {"cubic", "linear"}
        Removed share of `fraction` after step k of n: k / n for "linear"; 1 - (1 - k / n)^3 for "cubic", which removes
        most in the first steps [1]_.

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
       section 3, equation 1, with an initial sparsity of 0.

    Examples
    --------
    >>> import dropreg as dr
    >>> [round(fraction, 3) for fraction in dr.pruning.fractions_by_step(0.8, steps=4)]
    [0.463, 0.7, 0.788, 0.8]
    """
    check_between("fraction", fraction, hint="it is the fraction to remove")
    positive("steps", steps)
    if schedule not in get_args(StepSizes):
        raise ParameterError(f"`schedule` must be one of {', '.join(get_args(StepSizes))}, received {schedule!r}.")
    done = np.arange(1, steps + 1) / steps
    return [fraction * float(share) for share in (done if schedule == "linear" else 1.0 - (1.0 - done) ** 3)]
