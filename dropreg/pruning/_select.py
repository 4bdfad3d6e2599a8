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
    """Select the kept elements: those of lowest impact are removed.

    Parameters
    ----------
    elements : Elements
    impact : ImpactTable or array of float, shape (n_elements,)
        Impacts of these elements, positive = removing the element hurts.
    fraction : float
        Fraction of the elements to remove, in [0, 1).
    by : {"impact", "absolute"}
        Remove the lowest impacts first, negative ones included; or those closest to zero.
    floor : int, float, "all" or mapping of str to one of them
        Fewest elements that every layer keeps, because an empty layer cannot be built; whole layers and branches
        have no floor. An int is a number of elements (all, where a layer has fewer), a float strictly between 0 and
        1 a share of the layer's elements, "all" protects the layer. With 0 the impacts alone decide. A mapping gives
        floors by layer, and 1 for the layers that it does not name.
    round_to : int
        Round the number of kept elements of each layer to a multiple of this number, for hardware that requires such
        widths. Layers that lose no element or have fewer than this remain unchanged.

    Returns
    -------
    Selection
        Of equal impacts the first element is kept. Two layers that must keep equally many elements
        (`Elements.equal`) together keep the number that the impacts determine, or one more.

    Raises
    ------
    ParameterError
        If a parameter is out of range, a layer would be emptied, or `impact` belongs to other elements.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> elements = dr.elements(model)
    >>> selection = dr.select(elements, dr.scorers.magnitude(model, None, elements), fraction=0.25)
    >>> len(selection.dropped) / len(elements)
    0.25
    """
    check_elements(elements)
    return Selection(elements, keep_best(elements, _scores(elements, impact, by), fraction, floor, round_to))


def _scores(elements: Elements, impact: Any, by: str) -> Scores:
    """Return the score of each element, higher = more likely kept."""
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
    scores = finite_numbers("impact", impact, elements)
    return np.abs(scores) if by == "absolute" else scores
