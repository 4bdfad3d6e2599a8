"""Train a smaller model: fine-tuning on labels, distillation from the original model.

`_settings` are the options of both, `_distill` those of ``recovery="distill"``, `_trainer` runs the epochs.
"""

from ._distill import distilled, resolve_recovery
from ._recover import Recovered, check_tuning, recover, train
from ._settings import Recovery
from ._trainer import Part

__all__ = ["Part", "Recovered", "Recovery", "check_tuning", "distilled", "recover", "resolve_recovery", "train"]
