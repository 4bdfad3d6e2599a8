"""Select elements by annealing keep-probabilities."""

from ._anneal import anneal, anneal_path, check_goal, check_path, choose
from ._annealer import ask_annealing
from ._options import Annealing
from ._schedule import Schedule
from ._search import Models

__all__ = [
    "Annealing",
    "Models",
    "Schedule",
    "anneal",
    "anneal_path",
    "ask_annealing",
    "check_goal",
    "check_path",
    "choose",
]
