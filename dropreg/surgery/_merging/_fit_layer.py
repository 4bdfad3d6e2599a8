"""Kernel rows of the smaller network, fitted to what the layer read in the network before."""

from dataclasses import dataclass

import numpy as np

from ..._utils import Array
from ._merged_layer import Channels, Patient
from ._ridge import copies, solve
from ._side_by_side import Target
from ._strategies import LeastSquares


@dataclass(frozen=True)
class Mixed:
    """Kernel rows of the smaller layer, for each group of channels, and how well they do.

    Attributes
    ----------
    rows : list of ndarray
    shifts : list of ndarray
        What a bias must be larger by, for each column of the rows.
    row : dict
        Ridge and unexplained fraction.
    """

    rows: list[Array]
    shifts: list[Array]
    row: dict[str, float]


def mix(patient: Patient, read: Channels, rows: list[Array], strategy: LeastSquares, *, centre: bool) -> Mixed:
    """Kernel rows that make up for what goes of the channels that are read."""
    targets, readouts, bases = [], [], []
    for prior, weights in zip(_priors(patient, read, len(rows)), rows, strict=True):
        kernel = weights.astype(np.float64)
        few = kernel.shape[1] < kernel.shape[0]  # targets are what is read, or else the channels themselves
        basis, readout = (kernel, np.eye(kernel.shape[1])) if few else (np.eye(len(kernel)), kernel)
        targets.append(Target(basis, prior @ basis))
        readouts.append(readout)
        bases.append(prior @ basis)
    fit, held_out = patient.twins.sums(read.slots, read.rows, targets)
    mixings = [
        solve(a, b, readout @ readout.T, strategy.ridges, centre=centre)
        for a, b, readout in zip(fit, held_out, readouts, strict=True)
    ]
    parts = list(zip(bases, mixings, readouts, strict=True))
    mixed = [(basis + mixing.coefficients) @ readout for basis, mixing, readout in parts]
    means = [((one + other).y, (one + other).x, (one + other).n) for one, other in zip(fit, held_out, strict=True)]
    shifts = [
        (y - x @ mixing.coefficients) / n @ readout
        for (y, x, n), (_, mixing, readout) in zip(means, parts, strict=True)
    ]
    without = sum(mixing.error_without for mixing in mixings)
    unexplained = sum(mixing.error for mixing in mixings) / without if without > 0 else 1.0
    return Mixed(mixed, shifts, {"ridge": max(mixing.ridge for mixing in mixings), "unexplained": unexplained})


def _priors(patient: Patient, read: Channels, n_groups: int) -> list[Array]:
    """What the channels of each group that stay give of all of them from the start, (kept channels, channels)."""
    kept = np.split(read.kept, n_groups)
    if read.kept.all():
        return [np.eye(len(stay))[stay] for stay in kept]
    sample = np.split(patient.twins.sample(read.slots, read.rows), n_groups, axis=1)
    return [copies(x, stay) for stay, x in zip(kept, sample, strict=True)]
