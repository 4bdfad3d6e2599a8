"""Unseen masks: drawn beside a run, to judge how well impacts predict."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from .._utils import BoolMasks, positive
from ._parquet import packed_masks, read_table, write_table


@dataclass(frozen=True)
class FidelityMasks:
    """Masks that no regression has seen, and what the network did on them.

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
        Sampling variance of those means.
    examples : int
        Examples of each mask.
    """

    rates: npt.NDArray[np.float64]
    packed: npt.NDArray[np.uint8]
    n_elements: int
    effects: npt.NDArray[np.float64]
    variances: npt.NDArray[np.float64]
    examples: int

    @property
    def masks(self) -> BoolMasks:
        """All masks, shape (n_masks, n_elements), True = kept."""
        return np.unpackbits(self.packed, axis=1, count=self.n_elements).view(np.bool_)

    def predict(self, coefficients: npt.NDArray[np.float64], intercept: float) -> npt.NDArray[np.float64]:
        """Predicted change of an outcome for each mask, shape (n_masks,); one mask in memory at a time."""
        return np.array(
            [intercept + coefficients[np.unpackbits(bits, count=self.n_elements) == 0].sum() for bits in self.packed]
        )

    def write(self, path: Path, outcomes: tuple[str, ...]) -> None:
        """Write as Parquet."""
        packed = self.packed
        buffer = pa.py_buffer(packed.tobytes())
        columns = {
            "rate": pa.array(self.rates),
            "examples": pa.array(np.full(len(self.rates), self.examples)),
            "mask": pa.Array.from_buffers(pa.binary(packed.shape[1]), len(packed), [None, buffer]),
        }
        for j, name in enumerate(outcomes):
            columns[f"{name}_change"] = pa.array(self.effects[:, j])
            columns[f"{name}_variance"] = pa.array(self.variances[:, j])
        write_table(pa.table(columns), path, 0)

    @classmethod
    def read(cls, path: Path, outcomes: tuple[str, ...], n_elements: int) -> "FidelityMasks":
        """Read what `write` wrote, or raise RecordError."""
        columns = [f"{name}_{suffix}" for name in outcomes for suffix in ("change", "variance")]
        table = read_table(path, [*columns, "rate", "mask", "examples"])
        effects, variances = (
            np.stack([table[f"{name}_{suffix}"].to_numpy() for name in outcomes], axis=1)
            for suffix in ("change", "variance")
        )
        packed = packed_masks(table["mask"].combine_chunks())
        examples = int(table["examples"][0].as_py())
        return cls(table["rate"].to_numpy(), packed, n_elements, effects, variances, examples)


@dataclass(frozen=True)
class Fidelity:
    """Unseen masks that a run sets aside to judge predictions on.

    They are Bernoulli masks at half the design's mean drop rate, at it, and at twice it (at most
    half-way from it to 1). Their rows come on top of the rows asked for.

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
    """

    masks: int = 50
    examples: int = 100

    def __post_init__(self) -> None:
        positive("masks", self.masks, least=3)
        positive("examples", self.examples, least=2)

    def rates(self, rate: float) -> tuple[float, float, float]:
        """The three drop rates.

        Parameters
        ----------
        rate : float
            The design's mean drop rate, strictly between 0 and 1.

        Returns
        -------
        tuple of float
            Half of it, itself, and twice it or half-way from it to 1, whichever is less.
        """
        return rate / 2, rate, min(2 * rate, (1 + rate) / 2)
