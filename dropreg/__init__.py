"""Which parts of a trained network matter, and how sure one can be.

Data flows one way: elements, masks, outcomes, regression, impacts.

>>> import dropreg as dr  # doctest: +SKIP
>>> elements = dr.elements(model, "neurons")  # doctest: +SKIP
>>> impact = dr.estimate(model, (x, y), elements)  # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

from . import examples
from .designs import Balanced, Bernoulli, Design, FixedSize, Paired
from .elements import Elements, elements
from .errors import DataError, DropregError, ModelError, ParameterError, RecordError
from .estimate import estimate, regress, to_statsmodels
from .fidelity import Fidelity
from .groups import Block
from .impact import ImpactTable
from .interactions import Interactions
from .merges import LeastSquares, MeanShift
from .outcomes import Accuracy, Divergence, Loss, Margin, Outcome, PerExample, PerMask
from .record import Record, load_record
from .sampler import sample
from .selection import Selection, select
from .stopping import Precision, Separated, StableOrder, StopRule
from .streams import stream

if TYPE_CHECKING:
    from . import layers
    from .latency import measure_latency
    from .surgery import Pruned, prune
    from .zeros import hold_zeros

__version__ = "0.1.0"

__all__ = [
    "Accuracy",
    "Balanced",
    "Bernoulli",
    "Block",
    "DataError",
    "Design",
    "Divergence",
    "DropregError",
    "Elements",
    "Fidelity",
    "FixedSize",
    "ImpactTable",
    "Interactions",
    "LeastSquares",
    "Loss",
    "Margin",
    "MeanShift",
    "ModelError",
    "Outcome",
    "Paired",
    "ParameterError",
    "PerExample",
    "PerMask",
    "Precision",
    "Pruned",
    "Record",
    "RecordError",
    "Selection",
    "Separated",
    "StableOrder",
    "StopRule",
    "__version__",
    "elements",
    "estimate",
    "examples",
    "hold_zeros",
    "layers",
    "load_record",
    "measure_latency",
    "prune",
    "regress",
    "sample",
    "select",
    "stream",
    "to_statsmodels",
]


_LAZY = {"prune": "surgery", "Pruned": "surgery", "hold_zeros": "zeros", "measure_latency": "latency"}


def __getattr__(name: str) -> Any:
    """Import on first use what loads TensorFlow, which tables and records do without."""
    import importlib

    if name == "layers":
        return importlib.import_module(".layers", __name__)
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module 'dropreg' has no attribute {name!r}")
