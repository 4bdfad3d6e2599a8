"""Compensate for removed channels by refitting the layers that consume them."""

from ._merge import merge_into
from ._strategies import LeastSquares, resolve_merge

__all__ = ["LeastSquares", "merge_into", "resolve_merge"]
