"""From impacts to a smaller model: select, anneal, search for a target, prune, compare."""

from ._annealing import Annealing, anneal, anneal_path
from ._callback import PruningCallback
from ._compare import compare
from ._iterative import prune_iteratively
from ._path import SelectionPath
from ._prune import prune
from ._select import select
from ._targets import AccuracyLimit, Budget, Quantity

__all__ = [
    "AccuracyLimit",
    "Annealing",
    "Budget",
    "PruningCallback",
    "Quantity",
    "SelectionPath",
    "anneal",
    "anneal_path",
    "compare",
    "prune",
    "prune_iteratively",
    "select",
]
