"""Fit kernel rows of the smaller model to the original layer's response."""

from dataclasses import dataclass

import numpy as np

from ..._utils import Array
from ._merged_layer import Consumed, MergedLayer
from ._ridge import copies, solve
from ._side_by_side import Target
from ._strategies import LeastSquares

_SAMPLED_ROWS = 8192
"""Rows in which copies of channels are looked for."""


@dataclass(frozen=True)
class FittedRows:
    """Refitted kernel rows."""

    rows: list[Array]  # for each group of channels, (kept channels, columns)
    shifts: list[Array]  # increase of the bias by each group, (columns,)
    row: dict[str, float]  # "ridge", the largest over the groups, and "unexplained" as in `Pruned.merged`


def fit_rows(
    layer: MergedLayer, consumed: Consumed, kernels: list[Array], strategy: LeastSquares, *, centre: bool
) -> FittedRows:
    """Fit the rows of kept channels to the response of all; `kernels` has the original rows of each group."""
    targets, readouts = [], []
    for prior, weights in zip(_priors(layer, consumed, len(kernels)), kernels, strict=True):
        kernel = weights.astype(np.float64)
        # The targets are the response or, if these are fewer, the channels themselves.
        few = kernel.shape[1] < kernel.shape[0]
        basis, readout = (kernel, np.eye(kernel.shape[1])) if few else (np.eye(len(kernel)), kernel)
        targets.append(Target(basis, prior @ basis))
        readouts.append(readout)
    fit, held_out = layer.models.sums(consumed.slots, consumed.rows, targets)
    rows, shifts, fits = [], [], []
    for one, other, target, readout in zip(fit, held_out, targets, readouts, strict=True):
        found = solve(one, other, readout @ readout.T, strategy.ridges, centre=centre)
        total = one + other
        rows.append((target.after + found.coefficients) @ readout)
        shifts.append((total.y - total.x @ found.coefficients) / total.n @ readout)
        fits.append(found)
    without = sum(found.error_without for found in fits)
    unexplained = sum(found.error for found in fits) / without if without > 0 else 1.0
    return FittedRows(rows, shifts, {"ridge": max(found.ridge for found in fits), "unexplained": unexplained})


def _priors(layer: MergedLayer, consumed: Consumed, n_groups: int) -> list[Array]:
    """Return, for each group, the matrix P (kept channels, channels): the identity and copies of kept channels."""
    kept = np.split(consumed.kept, n_groups)
    if consumed.kept.all():
        return [np.eye(len(group))[group] for group in kept]
    sample = np.split(layer.models.sample(consumed.slots, consumed.rows, _SAMPLED_ROWS), n_groups, axis=1)
    return [copies(x, group) for group, x in zip(kept, sample, strict=True)]
