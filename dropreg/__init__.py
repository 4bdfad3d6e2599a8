"""Which parts of a trained network matter, and how sure one can be.

Data flows one way: elements, masks, outcomes, regression, impacts.

>>> import dropreg as dr  # doctest: +SKIP
>>> elements = dr.elements(model, "neurons")  # doctest: +SKIP
>>> impact = dr.estimate(model, (x, y), elements)  # doctest: +SKIP
"""

from typing import TYPE_CHECKING, Any

from . import examples
from .annealing import Annealing
from .baselines import (
    Curvature,
    Exact,
    GaussNewton,
    HardConcrete,
    MaskedGame,
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
from .designs import Bernoulli, Design, Paired
from .elements import Elements, elements
from .errors import DataError, DropregError, ModelError, ParameterError, RecordError, TargetError
from .estimate import estimate
from .fidelity import Fidelity
from .groups import Block
from .impact import ImpactTable
from .interactions import Interactions
from .merges import LeastSquares
from .metrics import PerExample, PerMask
from .outcomes import Accuracy, Divergence, Loss, Margin, Outcome, RetainedAccuracy
from .path import SelectionPath
from .plotting import plot_comparison
from .record import Record
from .record_folder import load_record
from .regress import regress, to_statsmodels
from .sampler import sample
from .selection import Selection, select
from .stopping import Precision, StopRule
from .streams import stream
from .targets import AccuracyLimit, Budget

if TYPE_CHECKING:
    from . import layers
    from .callback import PruningCallback
    from .choosing import anneal, anneal_path
    from .iterative import prune_iteratively
    from .latency import measure_latency
    from .pruning import prune
    from .recovery import Recovered, Recovery, recover
    from .surgery import Pruned
    from .zeros import hold_zeros

__version__ = "0.1.0"

__all__ = [
    "Accuracy",
    "AccuracyLimit",
    "Annealing",
    "Bernoulli",
    "Block",
    "Budget",
    "Curvature",
    "DataError",
    "Design",
    "Divergence",
    "DropregError",
    "Elements",
    "Exact",
    "Fidelity",
    "GaussNewton",
    "HardConcrete",
    "ImpactTable",
    "Interactions",
    "LeastSquares",
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
    "Pruned",
    "PruningCallback",
    "Record",
    "RecordError",
    "Recovered",
    "Recovery",
    "RetainedAccuracy",
    "Scorer",
    "Selection",
    "SelectionPath",
    "StopRule",
    "TargetError",
    "__version__",
    "activation",
    "anneal",
    "anneal_path",
    "compare",
    "default_scorers",
    "elements",
    "estimate",
    "examples",
    "gates",
    "greedy",
    "hold_zeros",
    "layers",
    "leave_one_out",
    "load_record",
    "magnitude",
    "masked_game",
    "measure_latency",
    "obd",
    "plot_comparison",
    "prune",
    "prune_iteratively",
    "random",
    "recover",
    "regress",
    "sample",
    "select",
    "shapiq_scores",
    "shapley",
    "spread",
    "stream",
    "taylor",
    "to_statsmodels",
    "weight_activation",
]


_LAZY = {
    "Pruned": "surgery",
    "PruningCallback": "callback",
    "Recovered": "recovery",
    "Recovery": "recovery",
    "anneal": "choosing",
    "anneal_path": "choosing",
    "hold_zeros": "zeros",
    "measure_latency": "latency",
    "prune": "pruning",
    "prune_iteratively": "iterative",
    "recover": "recovery",
}


def __getattr__(name: str) -> Any:
    """Import on first use what loads TensorFlow, which tables and records do without."""
    import importlib

    if name == "layers":
        return importlib.import_module(".layers", __name__)
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module 'dropreg' has no attribute {name!r}")
