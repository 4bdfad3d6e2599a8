"""Compensate for removed channels by refitting the layers that consume them.

`_merge` goes through the layers, `_fit_rows` fits the rows of one kernel by the regression in `_ridge`, on values that
`_side_by_side` computes in both models.
"""

from ._merge import merge_into
from ._strategies import LeastSquares, resolve_merge

__all__ = ["LeastSquares", "merge_into", "resolve_merge"]
