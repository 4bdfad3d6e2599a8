"""Mean and variance, updated batch by batch."""

from typing import Any

import numpy as np
import numpy.typing as npt

from ._types import Array

ROUNDING = 4 * float(np.finfo(np.float32).eps)
"""Largest change of a float32 outcome, relative to its size, that rounding can make."""


class Running:
    """Running mean, mean absolute value and variance over examples, each of shape (n_elements,)."""

    def __init__(self, n_elements: int) -> None:
        self.n = 0
        self.mean, self.mean_absolute, self._squares, self._weighted = np.zeros((4, n_elements))
        self._has_weights = False

    def add(self, rows: npt.NDArray[Any], weights: npt.NDArray[np.floating] | None = None) -> None:
        """Add a batch of values (rows, n_elements); they have been multiplied by `weights` (rows,), if given."""
        n = len(rows)
        mean = rows.mean(axis=0, dtype=np.float64)
        shift, total = mean - self.mean, self.n + n
        self._squares += np.square(rows - mean).sum(axis=0) + shift**2 * (self.n * n / total)
        self.mean_absolute += (np.abs(rows).mean(axis=0, dtype=np.float64) - self.mean_absolute) * (n / total)
        self.mean, self.n = self.mean + shift * (n / total), total

        if weights is not None:
            self._has_weights = True
            self._weighted += (rows.astype(np.float64) ** 2 / weights[:, np.newaxis]).sum(axis=0)

    @property
    def variance(self) -> Array:
        """Sample variance, with n - 1 in the denominator; zero for one example."""
        return self._squares / max(self.n - 1, 1)

    @property
    def deviation(self) -> Array:
        """Standard deviation over examples; with weights of mean 1 the weighted one of the values without them."""
        if not self._has_weights:
            return np.sqrt(self.variance)
        return np.sqrt(np.maximum(self._weighted - self.n * self.mean**2, 0.0) / max(self.n - 1, 1))
