"""Run the masked network: examples and masks in, outputs and outcomes out.

`_outcomes`, `_metrics` and `_keras_outcomes` say what is measured, `_resolve` which of them a name means, `_masked` and
`_merged` run a model under masks, `_evaluator` measures many masks on the examples of a `_question`, `_agreement`
checks that everything kept gives the model's own outputs.
"""

# ruff: noqa: F401 (some names are for other packages)

from typing import TYPE_CHECKING

from .._utils import lazy_names
from ._metrics import PerExample, PerMask
from ._outcomes import Accuracy, Divergence, Loss, Margin, Outcome, RetainedAccuracy
from ._resolve import NAMES, OutcomeLike, check_outcomes, resolve, resolve_all

if TYPE_CHECKING:
    from ._agreement import as_numbers, check_agreement, difference, few_inputs, tolerance
    from ._differentiable import check_differentiable, non_differentiable
    from ._evaluate import changes, measure, run_model
    from ._evaluator import Bundle, Evaluator
    from ._identity import differences, identity_of
    from ._logits import are_logits, guess_task
    from ._masked import MaskedNetwork
    from ._merged import MergedNetwork, can_predict
    from ._padding import idle_masks, idle_slots
    from ._question import Question, ask, ask_one

__all__ = ["Accuracy", "Divergence", "Loss", "Margin", "Outcome", "PerExample", "PerMask", "RetainedAccuracy"]

_MODULES = {
    "_agreement": ("as_numbers", "check_agreement", "difference", "few_inputs", "tolerance"),
    "_differentiable": ("check_differentiable", "non_differentiable"),
    "_evaluate": ("changes", "measure", "run_model"),
    "_evaluator": ("Bundle", "Evaluator"),
    "_identity": ("differences", "identity_of"),
    "_logits": ("are_logits", "guess_task"),
    "_masked": ("MaskedNetwork",),
    "_merged": ("MergedNetwork", "can_predict"),
    "_padding": ("idle_masks", "idle_slots"),
    "_question": ("Question", "ask", "ask_one"),
}

__getattr__ = lazy_names(__name__, {name: module for module, names in _MODULES.items() for name in names})
"""These names load TensorFlow, so they are imported on first use."""
