"""Which cells (row, element) of a batch are measured by a flip."""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .._utils import examples_of_rows, random_words

MOST_GROUPS = 200
"""Groups of examples whose sums are recorded, for standard errors by example."""
_LEAST_GROUPS = 10
"""Groups of a slice."""
_FLIP_STREAM = 2
"""Streams of random numbers from here on belong to the batches of a chunk."""
_UNIFORM_SHARE = 0.1
"""Share of the flips that all cells receive alike."""
_RESCALED = 3
"""How often probabilities are scaled up again because some reached 1."""


class Cells(NamedTuple):
    """Cells that are measured: numbers of rows and elements, and probabilities of measuring them, each (n,)."""

    rows: npt.NDArray[np.int64]
    elements: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]


def choose_cells(shares: npt.NDArray[np.float32], count: int, seed: int, chunk: int, batch: int) -> Cells:
    """Choose at most `count` cells of a batch, each with a known probability.

    Systematic sampling [1]_: cells lie one after the other on a line, each as long as its probability, and every point
    of a grid with a random start chooses the cell that it falls into. The cells of each row begin at a random element,
    so that equal rows choose different elements.

    References
    ----------
    .. [1] Madow (1949), "On the theory of systematic sampling, II", Annals of Mathematical Statistics 20.
    """
    n_rows, n_elements = shares.shape
    count = min(count, shares.size)
    wanted = (1.0 - _UNIFORM_SHARE) * shares + np.float32(_UNIFORM_SHARE / shares.size)
    lengths = np.minimum(wanted * np.float32(count), np.float32(1.0))
    for _ in range(_RESCALED):
        lengths = np.minimum(
            lengths * np.float32(count / max(float(lengths.sum(dtype=np.float64)), 1.0)), np.float32(1.0)
        )
    ends = np.cumsum(lengths, dtype=np.float64)
    rows_end = ends[n_elements - 1 :: n_elements]
    rows_start = np.concatenate([[0.0], rows_end[:-1]])
    words = random_words(seed, chunk, _FLIP_STREAM + batch, n_rows + 1)
    points = np.arange(count) + words[0] / 2.0**32
    points = points[points < ends[-1]]
    rows = np.minimum(np.searchsorted(rows_end, points, side="right"), n_rows - 1)
    first = (words[1:].astype(np.uint64) * np.uint64(n_elements) >> np.uint64(32)).astype(np.int64)[rows]
    base = rows * n_elements
    turned = points + np.where(first > 0, ends[base + first - 1], rows_start[rows]) - rows_start[rows]
    turned = np.where(turned >= rows_end[rows], turned - (rows_end - rows_start)[rows], turned)
    cells = np.clip(np.searchsorted(ends, turned, side="right"), base, base + n_elements - 1)
    cells = np.unique(cells)
    return Cells(cells // n_elements, cells % n_elements, lengths.reshape(-1)[cells].astype(np.float64))


class Groups(NamedTuple):
    """Random groups of the examples of each slice, for sums that give standard errors by example.

    `of_examples` holds the number of each example's group (n_examples,). The groups of slice k are numbered from
    ``bounds[k]`` to ``bounds[k + 1] - 1``; without slices there is one slice.
    """

    of_examples: npt.NDArray[np.int64]
    bounds: npt.NDArray[np.int64]

    @property
    def slice_of_group(self) -> npt.NDArray[np.int64]:
        """Slice of each group, shape (n_groups,)."""
        return np.repeat(np.arange(len(self.bounds) - 1), np.diff(self.bounds))


def groups_of_examples(seed: int, n_examples: int, slices: npt.NDArray[np.int64] | None = None) -> Groups:
    """Return the groups of examples; those of a slice have equal sizes up to one.

    `slices` are the numbers of their slices, shape (n_examples,). Slices share 200 groups by their numbers of examples,
    with at least ten for each slice if it has as many examples.
    """
    slices = np.zeros(n_examples, np.int64) if slices is None else slices
    sizes = np.bincount(slices)
    shares = np.maximum(np.round(MOST_GROUPS * sizes / n_examples).astype(np.int64), _LEAST_GROUPS)
    bounds = np.concatenate([[0], np.cumsum(np.minimum(shares, sizes))])
    groups = np.empty(n_examples, np.int64)
    order = examples_of_rows(seed, 0, n_examples, n_examples)
    for k, (first, end) in enumerate(pairwise(bounds)):
        members = order[slices[order] == k]
        groups[members] = first + np.arange(len(members)) % (end - first)
    return Groups(groups, bounds)
