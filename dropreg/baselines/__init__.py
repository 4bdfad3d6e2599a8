"""The other ways to score elements, one file each, behind one interface.

Every scorer takes ``(model, data, elements)`` and keyword arguments, returns an `ImpactTable` (positive
= it hurts to lose the element) and says in its ``rows`` how many row-equivalents it spent: a masked
forward pass of one example is one, a backward pass is two. Arguments that only some scorers have come
first; ``outcome`` ("loss" by default), ``rows`` (a budget), ``task``, ``kept`` and ``seed`` follow in
this order, and all have defaults.
"""

from .activation import activation
from .derivatives import Curvature, Exact, GaussNewton
from .gates import HardConcrete, gates
from .greedy import greedy
from .leave_one_out import leave_one_out
from .magnitude import magnitude
from .random_scores import random
from .shapiq_bridge import MaskedGame, masked_game, shapiq_scores
from .shapley import shapley
from .taylor import obd, spread, taylor
from .weight_activation import weight_activation

__all__ = [
    "Curvature",
    "Exact",
    "GaussNewton",
    "HardConcrete",
    "MaskedGame",
    "activation",
    "gates",
    "greedy",
    "leave_one_out",
    "magnitude",
    "masked_game",
    "obd",
    "random",
    "shapiq_scores",
    "shapley",
    "spread",
    "taylor",
    "weight_activation",
]
