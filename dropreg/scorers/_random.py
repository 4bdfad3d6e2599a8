"""Random scores."""

from typing import TYPE_CHECKING

import numpy as np

from .._utils import check_seed
from ..data import Data
from ..element import Elements
from ..regression import ImpactTable, impact_table

if TYPE_CHECKING:
    import keras


def random(model: "keras.Model", data: Data | None, elements: Elements, *, seed: int = 0) -> ImpactTable:
    """Draw independent uniform scores, the baseline that any other scorer has to beat.

    Parameters
    ----------
    model, data
        Not used: all scorers are called alike. `data` may be None.
    elements : Elements
        Of any kind.
    seed : int
        Each seed gives another draw; a comparison needs several.

    Returns
    -------
    ImpactTable
        Impacts in [0, 1) without meaning. No standard errors; no rows are spent.

    Raises
    ------
    ParameterError
        If `seed` is not an integer from 0 to 2**64 - 1.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> table = dr.scorers.random(model, None, dr.elements(model), seed=1)
    >>> bool(((table.impact >= 0) & (table.impact < 1)).all()), table.rows
    (True, 0)
    """
    check_seed(seed)
    scores = np.random.default_rng(seed).random(len(elements))
    return impact_table(
        elements.to_frame(), scores, method="random", outcome="nothing", unit="random number", rows=0, seed=seed
    )
