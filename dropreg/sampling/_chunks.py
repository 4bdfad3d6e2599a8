"""The parts of a record: chunks of masks and outcomes, and sums of gradients."""

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from .._utils import BoolMasks, examples_of_rows
from ._flip_sums import FlipSums
from ._settings import RunSettings


@dataclass(frozen=True)
class GradientSums:
    """Sums over rows of the gradients of one outcome's surrogate.

    Attributes
    ----------
    kept, dropped : ndarray of float64, shape (n_elements,)
        Derivatives with respect to an element's mask value, summed over the rows that keep the element and over the
        rows that drop it.
    kept_squares, dropped_squares : ndarray of float64, shape (n_elements,)
        Sums of the squared derivatives.
    n_kept, n_dropped : ndarray of float64, shape (n_elements,)
        Numbers of these rows.
    """

    kept: npt.NDArray[np.float64]
    dropped: npt.NDArray[np.float64]
    kept_squares: npt.NDArray[np.float64]
    dropped_squares: npt.NDArray[np.float64]
    n_kept: npt.NDArray[np.float64]
    n_dropped: npt.NDArray[np.float64]

    def __add__(self, other: "GradientSums") -> "GradientSums":
        return GradientSums(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class ChunkResult:
    """Measurements of one chunk, as `ChunkRunner` returns them.

    `outcomes` and `effects` are as in `Chunk`, in float32; `gradients` and `flips` hold the sums for each outcome by
    name.
    """

    outcomes: npt.NDArray[np.float32]
    effects: npt.NDArray[np.float32]
    gradients: dict[str, GradientSums]
    flips: dict[str, FlipSums]


@dataclass(frozen=True)
class Chunk:
    """Consecutive masks of a record.

    Attributes
    ----------
    masks : ndarray of bool, shape (n_masks, n_elements)
        True = kept.
    examples : ndarray of int64, shape (n_masks, examples_per_mask)
        Numbers of the examples that each mask was run on.
    outcomes : ndarray of float64, shape (n_masks, n_outcomes)
        Mean outcome over the examples of each mask.
    effects : ndarray of float64, shape (n_masks, n_outcomes)
        `outcomes` minus the original model's outcome on the same examples.
    """

    masks: BoolMasks
    examples: npt.NDArray[np.int64]
    outcomes: npt.NDArray[np.float64]
    effects: npt.NDArray[np.float64]


def examples_of_masks(settings: RunSettings, chunk: int, n_masks: int) -> npt.NDArray[np.int64]:
    """Return the examples of the first `n_masks` masks of a chunk, shape (n_masks, examples_per_mask)."""
    n, group = settings.examples_per_mask, settings.masks_per_group
    first = chunk * settings.chunk_rows // group
    order = examples_of_rows(settings.seed, first, n_masks // group * n, settings.n_examples)
    return order.reshape(-1, n).repeat(group, axis=0)
