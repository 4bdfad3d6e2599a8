"""From impacts to a smaller model: select, anneal, search for a target, prune, compare.

`_prune` has the verbs `prune` and `remove`; `_annealing` selects in small steps and searches for `_targets`;
`_stepwise` keeps the state of pruning in steps (`_iterative`).
"""

from ._annealing import Annealing, Schedule, anneal, anneal_path
from ._compare import compare
from ._compress import Compressed, compress
from ._effort import Effort, Minutes
from ._iterative import FineTuning, prune_iteratively
from ._limits import AccuracyLimit, OutcomeLimit
from ._path import SelectionPath
from ._prune import prune, remove
from ._select import select
from ._step_sizes import fractions_by_step
from ._targets import Budget, Quantity

__all__ = [
    "AccuracyLimit",
    "Annealing",
    "Budget",
    "Compressed",
    "Effort",
    "FineTuning",
    "Minutes",
    "OutcomeLimit",
    "Quantity",
    "Schedule",
    "SelectionPath",
    "anneal",
    "anneal_path",
    "compare",
    "compress",
    "fractions_by_step",
    "prune",
    "prune_iteratively",
    "remove",
    "select",
]
