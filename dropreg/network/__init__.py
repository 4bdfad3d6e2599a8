"""The masked network: examples and masks to outputs and outcomes."""

from typing import TYPE_CHECKING

from .._utils import lazy_names
from ._logits import are_logits, guess_task
from ._metrics import PerExample, PerMask
from ._outcomes import (
    Accuracy,
    Divergence,
    Loss,
    Margin,
    Outcome,
    RetainedAccuracy,
    check_outcomes,
    resolve,
    resolve_all,
)

if TYPE_CHECKING:
    from ._differentiable import check_differentiable, non_differentiable
    from ._evaluate import changes, measure, run_model
    from ._evaluator import Bundle, Evaluator
    from ._masked import MaskedNetwork
    from ._merged import MergedNetwork, can_predict
    from ._padding import idle_masks, idle_slots
    from ._question import DEFAULT_ROWS, Question, ask, ask_one

__all__ = [
    "DEFAULT_ROWS",
    "Accuracy",
    "Bundle",
    "Divergence",
    "Evaluator",
    "Loss",
    "Margin",
    "MaskedNetwork",
    "MergedNetwork",
    "Outcome",
    "PerExample",
    "PerMask",
    "Question",
    "RetainedAccuracy",
    "are_logits",
    "ask",
    "ask_one",
    "can_predict",
    "changes",
    "check_differentiable",
    "check_outcomes",
    "guess_task",
    "idle_masks",
    "idle_slots",
    "measure",
    "non_differentiable",
    "resolve",
    "resolve_all",
    "run_model",
]

__getattr__ = lazy_names(
    __name__,
    {
        "DEFAULT_ROWS": "_question",
        "MaskedNetwork": "_masked",
        "MergedNetwork": "_merged",
        "Bundle": "_evaluator",
        "Evaluator": "_evaluator",
        "Question": "_question",
        "ask": "_question",
        "ask_one": "_question",
        "can_predict": "_merged",
        "changes": "_evaluate",
        "check_differentiable": "_differentiable",
        "idle_masks": "_padding",
        "idle_slots": "_padding",
        "measure": "_evaluate",
        "non_differentiable": "_differentiable",
        "run_model": "_evaluate",
    },
)
