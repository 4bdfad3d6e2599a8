"""Types of arrays."""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
BoolMasks = npt.NDArray[np.bool_]
"""Masks (rows, n_elements), True = kept."""
