"""Masks that the regression does not use, to judge how well impacts predict outcomes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .._utils import positive
from ._parquet import mask_column, packed_masks, read_table, write_table


@dataclass(frozen=True)
class FidelityMasks:
    """Masks that the regression does not use, and the changes of the outcomes under them.

    Attributes
    ----------
    rates : ndarray of float64, shape (n_masks,)
        Drop rate that each mask was drawn with.
    packed : ndarray of uint8, shape (n_masks, ceil(n_elements / 8))
        Masks as bits, 1 = kept.
    n_elements : int
    effects : ndarray of float64, shape (n_masks, n_outcomes)
        Mean change of each outcome over the examples of a mask.
    variances : ndarray of float64, shape (n_masks, n_outcomes)
        Sampling variance of these means.
    examples : int
        Examples that each mask was run on.
    """

    rates: npt.NDArray[np.float64]
    packed: npt.NDArray[np.uint8]
    n_elements: int
    effects: npt.NDArray[np.float64]
    variances: npt.NDArray[np.float64]
    examples: int

    def predict(self, coefficients: npt.NDArray[np.float64], intercept: float) -> npt.NDArray[np.float64]:
        """Return the predicted change of an outcome for each mask, shape (n_masks,), unpacking one mask at a time."""
        return np.array(
            [intercept + coefficients[np.unpackbits(bits, count=self.n_elements) == 0].sum() for bits in self.packed]
        )

    def write(self, path: Path, outcomes: tuple[str, ...], run: str) -> None:
        """Write to a Parquet file of a run."""
        columns = {
            "rate": pa.array(self.rates),
            "examples": pa.array(np.full(len(self.rates), self.examples)),
            "mask": mask_column(self.packed),
        }
        for j, name in enumerate(outcomes):
            columns[f"{name}_change"] = pa.array(self.effects[:, j])
            columns[f"{name}_variance"] = pa.array(self.variances[:, j])
        write_table(pa.table(columns), path, run, 0)

    @classmethod
    def read(cls, path: Path, outcomes: tuple[str, ...], n_elements: int, run: str) -> "FidelityMasks":
        """Return what `write` has written; RecordError if the file cannot be read."""
        columns = [f"{name}_{suffix}" for name in outcomes for suffix in ("change", "variance")]
        table = read_table(path, [*columns, "rate", "mask", "examples"], run)
        effects, variances = (
            np.stack([table[f"{name}_{suffix}"].to_numpy() for name in outcomes], axis=1)
            for suffix in ("change", "variance")
        )
        packed = packed_masks(table["mask"].combine_chunks())
        examples = int(table["examples"][0].as_py())
        return cls(table["rate"].to_numpy(), packed, n_elements, effects, variances, examples)


@dataclass(frozen=True)
class Fidelity:
    """How many additional masks a run draws to judge predictions on.

    They are Bernoulli masks that the regression does not use, at three rates: half the design's mean drop rate, this
    rate, and twice this rate (at most half-way from it to 1). Their rows are not part of the run's `rows`.

    Parameters
    ----------
    masks : int
        Masks at each of the three rates.
    examples : int
        Examples that each mask runs on.

    Raises
    ------
    ParameterError
        If there are fewer than 3 masks or 2 examples.

    Examples
    --------
    >>> import dropreg as dr
    >>> fidelity = dr.designs.Fidelity(masks=20, examples=50)
    >>> [round(rate, 2) for rate in fidelity.rates(0.3)]
    [0.15, 0.3, 0.6]
    """

    masks: int = 50
    examples: int = 100

    def __post_init__(self) -> None:
        positive("masks", self.masks, least=3)
        positive("examples", self.examples, least=2)

    def rates(self, rate: float) -> tuple[float, float, float]:
        """Return the three drop rates for a design of mean drop `rate`: half of it, itself, and twice it.

        The third is at most half-way from `rate` to 1.
        """
        return rate / 2, rate, min(2 * rate, (1 + rate) / 2)
