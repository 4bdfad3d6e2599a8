"""What `prune` does in the end: all weights of the smaller model learn together what the whole one predicts.

Merging fits layers one by one, each to what the layer computed before, and the last one to the predictions. What is
left to gain lies in all of them together: knowledge distillation (Hinton et al. 2015) on the examples that merging
has, which needs no labels, and few examples, as every one of them tells the probabilities of all classes (Li et al.
2020, "Few Sample Knowledge Distillation for Efficient Network Compression"). Half of the examples are mixed with
others (`dropreg.recovery`), so that few are not learned by heart in many epochs.
"""

from dataclasses import replace

from ..data import Examples
from ..errors import DataError, ParameterError
from ..graph import BATCH, Graph, trace_graph
from ..network import guess_task, run_model
from ..surgery import LeastSquares, Pruned
from ._recover import check_labels, split, train
from ._settings import Recovery

DISTILLATION = Recovery(
    epochs=40,
    learning_rate=(3e-3, 1e-3, 3e-4, 1e-4),
    bold_rate=1e-2,
    patience=None,
    distill=1.0,
    mixup=0.5,
    temperature=2.0,
)
"""What ``recovery="distill"`` stands for."""
_MOST_EXAMPLES = 10_000


def resolve_recovery(
    recovery: str | Recovery | None, strategy: LeastSquares | None, *, has_data: bool, seed: int
) -> Recovery | None:
    """The recovery that is named, with this seed, or given, with its own; None for none.

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
    """Train the smaller model on the first 10,000 of the checked examples; the original model is the teacher.

    Without labels, outputs that are no probabilities may be logits or a regression: their squared error is learned.

    Raises
    ------
    DataError
        If there is a single example, or as in `recover`.
    """
    if len(examples) < 2:
        raise DataError(
            "`data` must hold at least two examples to learn from, one of them to be held out, received one: pass "
            "more, or recovery='none'."
        )
    examples = examples.part(slice(_MOST_EXAMPLES))
    if examples.labels is None:
        task = guess_task(run_model(original, examples.part(slice(BATCH))))
        examples = replace(examples, task=task)
    student = trace_graph(pruned.model)
    check_labels(student, examples, "data", recovery)
    teacher = original if recovery.distill > 0 else None
    found = train(student, teacher, split(examples, recovery), recovery, progress=progress)
    return replace(pruned, model=found.model, recovered=found)
