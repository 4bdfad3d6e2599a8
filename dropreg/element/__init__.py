"""Elements: the parts of a model that can be masked, and selections of them."""

from typing import TYPE_CHECKING

from .._utils import lazy_names
from ._gates import Columns, Gate, InnerGate
from ._groups import Block

if TYPE_CHECKING:
    from ._cost import cost_of, total_macs
    from ._find import elements
    from ._selection import (
        Floor,
        Scores,
        Selection,
        balanced,
        check_fractions,
        finite_numbers,
        floors_by_layer,
        is_allowed,
        keep_best,
        largest_fraction,
    )
    from ._table import KINDS, Elements, check_elements, check_fits, take
    from ._units import KINDS_OF_UNITS, trace_channels

__all__ = [
    "KINDS",
    "KINDS_OF_UNITS",
    "Block",
    "Columns",
    "Elements",
    "Floor",
    "Gate",
    "InnerGate",
    "Scores",
    "Selection",
    "balanced",
    "check_elements",
    "check_fits",
    "check_fractions",
    "cost_of",
    "elements",
    "finite_numbers",
    "floors_by_layer",
    "is_allowed",
    "keep_best",
    "largest_fraction",
    "take",
    "total_macs",
    "trace_channels",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Elements": "_table",
        "Floor": "_selection",
        "KINDS": "_table",
        "KINDS_OF_UNITS": "_units",
        "Scores": "_selection",
        "Selection": "_selection",
        "balanced": "_selection",
        "check_elements": "_table",
        "check_fits": "_table",
        "check_fractions": "_selection",
        "cost_of": "_cost",
        "elements": "_find",
        "finite_numbers": "_selection",
        "floors_by_layer": "_selection",
        "is_allowed": "_selection",
        "keep_best": "_selection",
        "largest_fraction": "_selection",
        "take": "_table",
        "total_macs": "_cost",
        "trace_channels": "_units",
    },
)
