"""Distillation after merging: all weights of the smaller model jointly learn the original model's predictions.

Merging fits layers one by one to the activations of the original model. Knowledge distillation (Hinton et al. 2015)
then trains all layers together on the same examples. It requires no labels and few examples, because the teacher gives
the probabilities of all classes for each (Li et al. 2020, "Few Sample Knowledge Distillation for Efficient Network
Compression"). Half of the examples are mixed with others (mixup), so that many epochs do not memorize them.
"""

from dataclasses import replace

from .._utils import spread_rows
from ..data import Examples
from ..errors import DataError, ParameterError
from ..graph import BATCH, Graph, trace_graph
from ..network import guess_task, run_model
from ..surgery import LeastSquares, Pruned
from ._recover import check_labels, split, train
from ._settings import Recovery

DISTILLATION = Recovery(
    epochs=40,
    batch_size=64,
    learning_rate=(3e-3, 1e-3, 3e-4, 1e-4),
    bold_rate=1e-2,
    patience=None,
    distill=1.0,
    mixup=0.5,
    temperature=2.0,
)
"""The settings of ``recovery="distill"``."""
_MOST_EXAMPLES = 10_000


def resolve_recovery(
    recovery: str | Recovery | None, strategy: LeastSquares | None, *, has_data: bool, seed: int
) -> Recovery | None:
    """Return the `Recovery` for an argument ``recovery=``; None for no training.

    Raises
    ------
    ParameterError
        If the name is unknown, or there are no data to learn from.
    """
    if recovery == "none" or (recovery is None and strategy is None):
        return None
    if not has_data:
        raise ParameterError(
            "`recovery` must have examples to learn from, received none: pass data=(x, y), or recovery='none'."
        )
    if isinstance(recovery, Recovery):
        return recovery
    if recovery in (None, "distill"):
        return replace(DISTILLATION, seed=seed)
    raise ParameterError(f"`recovery` must be one of distill, none or a Recovery, received {recovery!r}.")


def distilled(
    pruned: Pruned, original: Graph, examples: Examples, recovery: Recovery, *, progress: bool | None
) -> Pruned:
    """Train the smaller model on 10,000 of the checked examples, drawn at random; the original model is the teacher.

    Without labels the task is guessed; outputs that are not probabilities are learned by their squared error.

    Raises
    ------
    DataError
        If there is a single example, or for the reasons of `recover`.
    """
    if len(examples) < 2:
        raise DataError(
            "`data` must hold at least two examples to learn from, one of them to be held out, received one: pass "
            "more, or recovery='none'."
        )
    examples = examples.part(spread_rows(len(examples), _MOST_EXAMPLES))
    if examples.labels is None:
        task = guess_task(run_model(original, examples.part(slice(BATCH))))
        examples = replace(examples, task=task)
    student = trace_graph(pruned.model)
    check_labels(student, examples, "data", recovery)
    teacher = original if recovery.distill > 0 else None
    found = train(student, teacher, split(examples, recovery), recovery, progress=progress)
    return replace(pruned, model=found.model, recovered=found)
