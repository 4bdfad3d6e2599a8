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
from .outcomes import Accuracy, Divergence, Loss, Margin, Outcome, PerExample, PerMask
from .record import Record, load_record
from .sampler import sample
from .stopping import Precision, Separated, StableOrder, StopRule
from .streams import stream

if TYPE_CHECKING:
    from . import layers

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
    "Loss",
    "Margin",
    "ModelError",
    "Outcome",
    "Paired",
    "ParameterError",
    "PerExample",
    "PerMask",
    "Precision",
    "Record",
    "RecordError",
    "Separated",
    "StableOrder",
    "StopRule",
    "__version__",
    "elements",
    "estimate",
    "examples",
    "layers",
    "load_record",
    "regress",
    "sample",
    "stream",
    "to_statsmodels",
]


def __getattr__(name: str) -> Any:
    """Import `dropreg.layers` on first use: it loads TensorFlow, which tables and records do without."""
    if name == "layers":
        import importlib

        return importlib.import_module(".layers", __name__)
    raise AttributeError(f"module 'dropreg' has no attribute {name!r}")
