"""Which parts of a trained network matter, how sure one can be, and a smaller network.

Data flows one way: elements, masks, outcomes, regression, impacts, selection, smaller model.

>>> import dropreg as dr
>>> model = dr.datasets.load_model("mlp")
>>> dr.elements(model).to_frame().columns.tolist()[:2]
['element', 'layer']
"""

from typing import TYPE_CHECKING

from ._utils import lazy_names

if TYPE_CHECKING:
    from . import datasets, designs, errors, layers, merging, outcomes, scorers
    from .element import Block, Clustered, Elements, Quantized, Selection, elements
    from .pruning import (
        AccuracyLimit,
        Annealing,
        Budget,
        FineTuning,
        OutcomeLimit,
        SelectionPath,
        anneal,
        anneal_path,
        compare,
        compress,
        prune,
        prune_iteratively,
        remove,
        select,
    )
    from .recovery import Recovered, Recovery, recover
    from .regression import ImpactTable, Precision, SliceTable, regress
    from .sampling import Record, Sampling, sample
    from .scorers import Plan, estimate, plan
    from .surgery import Pruned, export, factorize, hold_zeros, measure_latency, pack, quantize, unpack

__version__ = "0.2.0"

__all__ = [
    "AccuracyLimit",
    "Annealing",
    "Block",
    "Budget",
    "Clustered",
    "Elements",
    "FineTuning",
    "ImpactTable",
    "OutcomeLimit",
    "Plan",
    "Precision",
    "Pruned",
    "Quantized",
    "Record",
    "Recovered",
    "Recovery",
    "Sampling",
    "Selection",
    "SelectionPath",
    "SliceTable",
    "anneal",
    "anneal_path",
    "compare",
    "compress",
    "datasets",
    "designs",
    "elements",
    "errors",
    "estimate",
    "export",
    "factorize",
    "hold_zeros",
    "layers",
    "measure_latency",
    "merging",
    "outcomes",
    "pack",
    "plan",
    "prune",
    "prune_iteratively",
    "quantize",
    "recover",
    "regress",
    "remove",
    "sample",
    "scorers",
    "select",
    "unpack",
]

_PACKAGES = {
    "element": ("Block", "Clustered", "Elements", "Quantized", "Selection", "elements"),
    "pruning": (
        "AccuracyLimit",
        "Annealing",
        "Budget",
        "FineTuning",
        "OutcomeLimit",
        "SelectionPath",
        "anneal",
        "anneal_path",
        "compare",
        "compress",
        "prune",
        "prune_iteratively",
        "remove",
        "select",
    ),
    "recovery": ("Recovered", "Recovery", "recover"),
    "regression": ("ImpactTable", "Precision", "SliceTable", "regress"),
    "sampling": ("Record", "Sampling", "sample"),
    "scorers": ("Plan", "estimate", "plan"),
    "surgery": ("Pruned", "export", "factorize", "hold_zeros", "measure_latency", "pack", "quantize", "unpack"),
}


__getattr__ = lazy_names(__name__, {name: package for package, names in _PACKAGES.items() for name in names})
"""Names are imported on first use, so that ``import dropreg`` does not load TensorFlow."""


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
