"""Random scores, the baseline that any other has to beat."""

from typing import TYPE_CHECKING

import numpy as np

from .._utils import check_seed
from ..data import Data
from ..element import Elements
from ..regression import ImpactTable, impact_table

if TYPE_CHECKING:
    import keras


def random(model: "keras.Model", data: Data | None, elements: Elements, *, seed: int = 0) -> ImpactTable:
    """Independent uniform scores: removing the lowest removes random elements.

    Parameters
    ----------
    model, data
        Not used; there to be called like the other scorers.
    elements : Elements
    seed : int
        Another one is another draw; a comparison needs several.

    Returns
    -------
    ImpactTable
        Impacts in [0, 1), which mean nothing; no rows spent.

    Raises
    ------
    ParameterError
        If `seed` is no integer of at least 0.
    """
    check_seed(seed)
    scores = np.random.default_rng(seed).random(len(elements))
    return impact_table(elements.to_frame(), scores, method="random", outcome="nothing", rows=0, seed=seed)
