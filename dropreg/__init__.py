"""Which parts of a trained network matter, and how sure one can be.

Data flows one way: elements, masks, outcomes, regression, impacts.

>>> import dropreg as dr  # doctest: +SKIP
>>> elements = dr.elements(model, "neurons")  # doctest: +SKIP
>>> impact = dr.estimate(model, (x, y), elements)  # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

from . import examples
from .baselines import (
    Curvature,
    Exact,
    GaussNewton,
    HardConcrete,
    Hutchinson,
    MaskedGame,
    ablation_regression,
    activation,
    gates,
    greedy,
    leave_one_out,
    magnitude,
    masked_game,
    obd,
    random,
    shapiq_scores,
    shapley,
    spread,
    taylor,
    weight_activation,
)
from .compare import Scorer, compare, default_scorers
from .designs import Balanced, Bernoulli, Design, FixedSize, Paired
from .elements import Elements, elements
from .errors import DataError, DropregError, ModelError, ParameterError, RecordError
from .estimate import estimate, regress, to_statsmodels
from .fidelity import Fidelity
from .groups import Block
from .impact import ImpactTable
from .interactions import Interactions
from .keeping import keep_top
from .outcomes import Accuracy, Divergence, Loss, Margin, Outcome, PerExample, PerMask
from .plotting import plot_comparison
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
    "Curvature",
    "DataError",
    "Design",
    "Divergence",
    "DropregError",
    "Elements",
    "Exact",
    "Fidelity",
    "FixedSize",
    "GaussNewton",
    "HardConcrete",
    "Hutchinson",
    "ImpactTable",
    "Interactions",
    "Loss",
    "Margin",
    "MaskedGame",
    "ModelError",
    "Outcome",
    "Paired",
    "ParameterError",
    "PerExample",
    "PerMask",
    "Precision",
    "Record",
    "RecordError",
    "Scorer",
    "Separated",
    "StableOrder",
    "StopRule",
    "__version__",
    "ablation_regression",
    "activation",
    "compare",
    "default_scorers",
    "elements",
    "estimate",
    "examples",
    "gates",
    "greedy",
    "keep_top",
    "layers",
    "leave_one_out",
    "load_record",
    "magnitude",
    "masked_game",
    "obd",
    "plot_comparison",
    "random",
    "regress",
    "sample",
    "shapiq_scores",
    "shapley",
    "spread",
    "stream",
    "taylor",
    "to_statsmodels",
    "weight_activation",
]


def __getattr__(name: str) -> Any:
    """Import `dropreg.layers` on first use: it loads TensorFlow, which tables and records do without."""
    if name == "layers":
        import importlib

        return importlib.import_module(".layers", __name__)
    raise AttributeError(f"module 'dropreg' has no attribute {name!r}")
