"""Elements, the parts of a model that can be masked, and selections of them.

`_find` looks for elements, with one file for each kind (`_units`, `_heads`, `_blocks`, `_weights`, `_subclassed`).
`_table` is the table of elements, `_keep` decides which are kept by score and floor.
"""

from typing import TYPE_CHECKING

from .._utils import lazy_names
from ._files import as_kept, load_selections, save_selections
from ._gates import Columns, Gate, InnerGate
from ._groups import Block
from ._keep import (
    Floor,
    Scores,
    balanced,
    check_fractions,
    finite_numbers,
    floors_by_layer,
    is_allowed,
    keep_best,
    largest_fraction,
)
from ._replacements import Clustered, Quantized, Replacement, check_replacement, short
from ._selection import Selection
from ._table import KINDS, Elements, check_elements, check_fits, take

if TYPE_CHECKING:
    from ._cost import cost_of, total_macs
    from ._find import elements
    from ._units import KINDS_OF_UNITS, trace_channels

__all__ = [
    "KINDS",
    "KINDS_OF_UNITS",
    "Block",
    "Clustered",
    "Columns",
    "Elements",
    "Floor",
    "Gate",
    "InnerGate",
    "Quantized",
    "Replacement",
    "Scores",
    "Selection",
    "as_kept",
    "balanced",
    "check_elements",
    "check_fits",
    "check_fractions",
    "check_replacement",
    "cost_of",
    "elements",
    "finite_numbers",
    "floors_by_layer",
    "is_allowed",
    "keep_best",
    "largest_fraction",
    "load_selections",
    "save_selections",
    "short",
    "take",
    "total_macs",
    "trace_channels",
]

_MODULES = {"_cost": ("cost_of", "total_macs"), "_find": ("elements",), "_units": ("KINDS_OF_UNITS", "trace_channels")}

__getattr__ = lazy_names(__name__, {name: module for module, names in _MODULES.items() for name in names})
"""These modules load TensorFlow, so they are imported on first use."""
