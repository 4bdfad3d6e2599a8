"""Select elements in small steps: annealed keep-probabilities."""

from ._anneal import anneal, anneal_path, choose
from ._schedule import Annealing
from ._search import Build, Make

__all__ = [
    "Annealing",
    "Build",
    "Make",
    "anneal",
    "anneal_path",
    "choose",
]
