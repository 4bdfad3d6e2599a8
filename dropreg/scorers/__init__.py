"""All ways to score elements, each returning an impact table: regression, Taylor, leave-one-out and others."""

# ruff: noqa: F401 (Curvature is for type hints)

from ._activation import activation, weight_activation
from ._defaults import default_scorers
from ._derivatives import Curvature, Exact, GaussNewton
from ._estimate import estimate
from ._game import MaskedGame, masked_game
from ._greedy import greedy
from ._leave_one_out import leave_one_out
from ._magnitude import magnitude
from ._plan import Plan, plan
from ._random import random
from ._scorer import Scorer, spent
from ._taylor import obd, spread, taylor

__all__ = [
    "Exact",
    "GaussNewton",
    "MaskedGame",
    "Plan",
    "Scorer",
    "activation",
    "default_scorers",
    "estimate",
    "greedy",
    "leave_one_out",
    "magnitude",
    "masked_game",
    "obd",
    "plan",
    "random",
    "spent",
    "spread",
    "taylor",
    "weight_activation",
]
