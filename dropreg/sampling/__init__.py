"""Sample random masks and record the outcomes of the masked forward passes.

`_sample` runs the chunks of a `_runner`, here or on `_executors`; `_designs` draw masks, `_stop_rule` is what may end a
run early, `_record` keeps the results and `_storage` their folder.
"""

# ruff: noqa: F401 (some names are for other packages)

from typing import TYPE_CHECKING

from .._utils import lazy_names
from ._chunks import GradientSums
from ._designs import Bernoulli, Design, Paired
from ._options import Sampling
from ._record import Record
from ._settings import RunSettings
from ._stop_rule import StopRule
from ._unseen_masks import Fidelity, FidelityMasks

if TYPE_CHECKING:
    from ._sample import default_design, sample

__all__ = ["Bernoulli", "Design", "Fidelity", "Paired", "Record", "Sampling", "StopRule", "sample"]

__getattr__ = lazy_names(__name__, {"default_design": "_sample", "sample": "_sample"})
"""Running a model loads TensorFlow; masks and records do not."""
