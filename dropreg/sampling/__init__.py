"""Sample random masks and record the outcomes: designs, chunks, records, executors."""

from typing import TYPE_CHECKING

from .._utils import lazy_names
from ._chunks import GradientSums
from ._designs import Bernoulli, Design, Paired
from ._options import Sampling
from ._record import Record
from ._stop import StopRule
from ._unseen_masks import Fidelity, FidelityMasks

if TYPE_CHECKING:
    from ._sample import default_design, sample
    from ._storage import load_record

__all__ = [
    "Bernoulli",
    "Design",
    "Fidelity",
    "FidelityMasks",
    "GradientSums",
    "Paired",
    "Record",
    "Sampling",
    "StopRule",
    "default_design",
    "load_record",
    "sample",
]

__getattr__ = lazy_names(
    __name__,
    {
        "default_design": "_sample",
        "load_record": "_storage",
        "sample": "_sample",
    },
)
