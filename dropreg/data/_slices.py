"""Parts of the examples for which impacts are estimated apart: classes, or the values of a column."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from .._utils import concatenate_names
from ..errors import DataError, ParameterError

MOST_SLICES = 1_000
_BY = "'class' for the labels, or one value for each example"


@dataclass(frozen=True)
class Slices:
    """A division of the examples into slices.

    Attributes
    ----------
    by : str
        What divides them: "class", or the name of a column.
    names : tuple of str
        One for each slice, in ascending order of the values.
    codes : ndarray of int64, shape (n_examples,)
        Number of each example's slice.
    """

    by: str
    names: tuple[str, ...]
    codes: npt.NDArray[np.int64]

    def part(self, rows: Any) -> "Slices":
        """Return the slices of some of the examples, under the same numbers."""
        return Slices(self.by, self.names, self.codes[rows])


def slices_by_class(labels: "npt.NDArray[Any] | None", task: str) -> Slices:
    """Return a slice for each class that occurs; DataError unless each example has one class."""
    if labels is None or task not in ("classes", "binary"):
        raise DataError(f"by='class' must have labels of classes, received {_received(labels, task)}: pass {_BY}.")
    classes = labels[..., 0] if task == "binary" else labels
    if classes.ndim > 1:
        raise DataError(
            f"by='class' must have one label for each example, received labels of shape {labels.shape}: pass one value "
            "for each example."
        )
    return slices_of(pd.Series(classes.astype(np.int64), name="class"), len(labels))


def _received(labels: Any, task: str) -> str:
    return "no labels" if labels is None else f"task {task!r}"


def slices_of(values: Any, n_examples: int) -> Slices:
    """Return a slice for each value of a column with one entry for each example.

    Raises ParameterError unless there are two to 1,000 slices of at least two examples each.
    """
    if isinstance(values, str) or not np.iterable(values):
        raise ParameterError(f"`by` must be {_BY}, received {values!r}: pass the column, such as frame[{values!r}].")
    column = values if isinstance(values, pd.Series) else pd.Series(list(values))
    if len(column) != n_examples:
        raise ParameterError(
            f"`by` must have one value for each of the {n_examples:,} examples of positive weight, received "
            f"{len(column):,}."
        )
    codes, levels = pd.factorize(column, sort=True)
    if (codes < 0).any():
        raise ParameterError(
            f"`by` must have a value for every example, received {int((codes < 0).sum())} missing ones: fill them, "
            "for example with 'unknown'."
        )
    names = tuple(str(level) for level in levels)
    if not 2 <= len(names) <= MOST_SLICES:
        raise ParameterError(
            f"`by` must have 2 to {MOST_SLICES:,} different values, received {len(names):,}: "
            + ("leave it out." if len(names) < 2 else "group them, for example with pandas.cut.")
        )
    counts = np.bincount(codes)
    if single := [names[k] for k in np.flatnonzero(counts < 2)]:
        raise ParameterError(
            f"`by` must have at least two examples in each slice, received one for {concatenate_names(single, 3)}: "
            "join small slices or leave them out."
        )
    return Slices("slice" if column.name is None else str(column.name), names, codes.astype(np.int64))
