"""Select the kept elements by their impacts."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .._utils import concatenate_names
from ..element import Elements, Floor, Scores, Selection, check_elements, finite_numbers, keep_best
from ..errors import ParameterError
from ..regression import ImpactTable


def select(
    elements: Elements,
    impact: ImpactTable | Sequence[float] | npt.NDArray[Any],
    *,
    fraction: float,
    by: Literal["impact", "absolute"] = "impact",
    floor: Floor = 1,
    round_to: int = 1,
) -> Selection:
    """Drop the elements of lowest impact.

    Parameters
    ----------
    elements : Elements
    impact : ImpactTable or array of float, shape (n_elements,)
        Of these elements, positive = it hurts to lose it.
    fraction : float
        Of the elements to drop, in [0, 1).
    by : {"impact", "absolute"}
        Whether an element whose loss would improve the outcome goes first, or the one that changes it least.
    floor : int, float, "all" or mapping of str to one of them
        Fewest elements that every layer keeps, because an empty layer cannot be built; whole layers and branches
        have no floor. An int is a number of elements (all, where a layer has fewer), a float strictly between 0 and
        1 a share of the layer's elements, "all" protects the layer. 0 lets the impacts alone decide. A mapping gives
        it by layer, and 1 for the layers that it does not name.
    round_to : int
        The number of elements that stay in a layer is rounded to a multiple of it, for hardware that likes
        such widths; layers that lose nothing and layers smaller than it stay as they are.

    Returns
    -------
    Selection
        Ties go to the element that comes first. Of two layers of which as many must stay (`Elements.equal`), together
        as many do as the impacts say, or one more.

    Raises
    ------
    ParameterError
        If a parameter is out of range, a layer would be emptied, or `impact` belongs to other elements.
    """
    check_elements(elements)
    return Selection(elements, keep_best(elements, _scores(elements, impact, by), fraction, floor, round_to))


def _scores(elements: Elements, impact: Any, by: str) -> Scores:
    """The score of each element, the highest to be kept."""
    if by not in ("impact", "absolute"):
        raise ParameterError(f"`by` must be one of impact, absolute, received {by!r}.")
    if isinstance(impact, ImpactTable):
        names = tuple(impact.frame["element"])
        if names != elements.names:
            other = [name for name in names if name not in set(elements.names)]
            detail = f", such as {concatenate_names(other, 3)}" if other else ""
            raise ParameterError(
                f"`impact` must be of the {len(elements)} elements given, received a table of {len(names)} "
                f"others{detail}: pass the elements that it was estimated for."
            )
        impact = impact.impact
    scores = finite_numbers("impact", impact, len(elements))
    return np.abs(scores) if by == "absolute" else scores
