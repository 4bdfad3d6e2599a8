"""Mean and variance, updated batch by batch."""

from typing import Any

import numpy as np
import numpy.typing as npt

from ._types import Array


class Running:
    """Running mean, mean absolute value and variance over examples, each of shape (n_elements,)."""

    def __init__(self, n_elements: int) -> None:
        self.n = 0
        self.mean, self.mean_absolute, self._squares = np.zeros((3, n_elements))

    def add(self, rows: npt.NDArray[Any]) -> None:
        """Add a batch of values (rows, n_elements)."""
        n = len(rows)
        mean = rows.mean(axis=0, dtype=np.float64)
        shift, total = mean - self.mean, self.n + n
        self._squares += np.square(rows - mean).sum(axis=0) + shift**2 * (self.n * n / total)
        self.mean_absolute += (np.abs(rows).mean(axis=0, dtype=np.float64) - self.mean_absolute) * (n / total)
        self.mean, self.n = self.mean + shift * (n / total), total

    @property
    def variance(self) -> Array:
        """Sample variance, with n - 1 in the denominator; zero for one example."""
        return self._squares / max(self.n - 1, 1)
