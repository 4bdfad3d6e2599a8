"""Pruning in steps: score, remove a few elements, merge, fine-tune, and repeat."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import pandas as pd
from tqdm.auto import tqdm

from .._utils import check_type, hidden
from ..data import Data, Task, check_apart, check_data, read_once
from ..element import Elements, Floor, check_elements, floors_by_layer
from ..graph import Graph, trace_graph
from ..recovery import Recovery, check_tuning, recover
from ..scorers import estimate
from ..surgery import LeastSquares, OnBlocked, Pruned, resolve_merge
from ._annealing import check_path
from ._stepwise import AnyScorer, Step, Units, Weights, begin


@dataclass(frozen=True, eq=False)
class FineTuning:
    """Fine-tuning after each step of `dropreg.prune_iteratively`.

    Parameters
    ----------
    data : (x, y)
        Training examples, other than those of the scores.
    validation : (x, y), optional
        Examples that choose the best epoch, as in `dropreg.recover`; other than `data`.
    recovery : Recovery
        How to train. With ``distill`` above 0 the teacher is the original model.

    Raises
    ------
    ParameterError
        If `recovery` is not a `Recovery`.
    DataError
        If `data` and `validation` are the same or share memory.

    Examples
    --------
    >>> import dropreg as dr
    >>> x, y = dr.datasets.fashion_mnist("estimation")
    >>> dr.FineTuning((x[:5000], y[:5000]), recovery=dr.Recovery(epochs=1)).recovery.epochs
    1
    """

    data: Data
    validation: Data | None = None
    recovery: Recovery = field(default_factory=Recovery)

    def __post_init__(self) -> None:
        check_type("recovery", self.recovery, Recovery, "pass dropreg.Recovery(distill=1.0), say")
        if self.validation is not None:
            check_apart("data", self.data, "validation", self.validation)


def prune_iteratively(
    model: keras.Model,
    data: Data,
    elements: Elements,
    *,
    fractions: Sequence[float],
    scorer: AnyScorer = estimate,
    merge: str | LeastSquares | None = None,
    tuning: FineTuning | None = None,
    floor: Floor = 1,
    on_blocked: OnBlocked = "raise",
    task: Task | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Pruned:
    """Prune in steps: score the remaining elements, remove the lowest, merge, fine-tune, and repeat.

    Units, embeddings, heads, layers and branches are removed physically in every step. Weights are set to zero and
    held there, and nothing is merged.

    Parameters
    ----------
    model : keras.Model
        Sequential or Functional. It is not changed.
    data : (x, y)
        Held-out examples for scores and for merging.
    elements : Elements
        Of `model`; weights, or any other kinds.
    fractions : sequence of float
        Fraction of the elements that is removed after each step, ascending, strictly between 0 and 1. A cubic
        schedule, which removes most at first, is ``dropreg.pruning.fractions_by_step(0.8, steps=10)``.
    scorer : Scorer or callable
        Called as ``scorer(model, data, elements, *, seed)`` with the model and the elements of that step; returns
        their `ImpactTable`. For weights all elements are passed each time, the removed ones as zeros of the model,
        and as ``kept=`` to scorers that take it. A `Scorer` with ``per_fraction`` gets ``fraction=``, of the elements
        passed; its ``draws`` are ignored.
    merge : {"least_squares", "none"} or LeastSquares, optional
        As in `prune`; "least_squares" by default.
    tuning : FineTuning, optional
        How and with what each step is fine-tuned; by default not at all.
    floor : int, float, "all" or mapping of str to one of them
        Fewest elements that every layer keeps, as in `select`; a share is of the original model's elements.
    on_blocked : {"raise", "keep"}
        As in `prune`.
    task : str, optional
        As in `sample`; also of scorers that take ``task=`` and whose settings do not hold it.
    seed : int
        Passed to the scorer, increased by one for each step after the first.
    progress : bool, optional
        Show a bar with the removed fraction; by default on a terminal only.

    Returns
    -------
    Pruned
        Its `original`, `selection` and `report` are those of `model`; `merged` and `blocked` are of all steps, the
        former with a column ``step``, None for weights. `history` has one row for each step: step (from 1), fraction
        (removed so far), params (not held at zero), epochs (of the weights kept), loss_before and loss_after
        (held-out, around fine-tuning; NaN without).

    Raises
    ------
    ParameterError
        If a parameter is out of range.
    DataError
        If data do not fit the model, or two sets of examples are the same or share memory.
    ModelError
        If the elements are not the model's, cannot be cut, or cannot be listed again after a step.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> x, y = dr.datasets.fashion_mnist("estimation")
    >>> small = dr.prune_iteratively(
    ...     model, (x[:500], y[:500]), dr.elements(model), fractions=(0.3, 0.6), scorer=dr.scorers.taylor
    ... )
    >>> small.history["fraction"].round(2).tolist()
    [0.3, 0.6]
    """
    check_elements(elements)
    check_path(elements, fractions, floor)
    floor = floor if isinstance(floor, int) else floors_by_layer(elements, floor)
    strategy, graph = resolve_merge(merge, has_data=True), trace_graph(model)
    if tuning is not None:
        check_type("tuning", tuning, FineTuning, "pass dropreg.FineTuning((x, y))")
        check_apart("data", data, "tuning.data", tuning.data)
    data = read_once(data)
    examples = check_data(graph, data, task)
    tuning = None if tuning is None else _checked(tuning, graph, task)
    state = begin(graph, elements)
    counts = sorted({round(fraction * len(elements)) for fraction in fractions})
    step, log = Step(scorer, data, examples, task, merge, floor, on_blocked), []
    with tqdm(counts, unit="steps", disable=hidden(progress)) as bar:
        for number, n_removed in enumerate(bar):
            state.drop(step, n_removed, seed + number)
            found = _fine_tune(state, model, tuning, task)
            row = {"step": number + 1, "fraction": float(1.0 - state.kept.mean()), "params": state.params}
            log.append(row | found)
            bar.set_postfix(removed=f"{row['fraction']:.1%}", refresh=False)
            if number + 1 < len(counts):
                state.find_again()
    return state.finish("none" if strategy is None else strategy.name, on_blocked, pd.DataFrame(log))


def _checked(tuning: FineTuning, graph: Graph, task: Task | None) -> FineTuning:
    """Return `tuning` with its batches read once; DataError if the examples do not fit the model."""
    sets = [None if given is None else read_once(given) for given in (tuning.data, tuning.validation)]
    for name, given in zip(("tuning.data", "tuning.validation"), sets, strict=True):
        if given is not None:
            check_tuning(graph, given, task, name, tuning.recovery)
    return FineTuning(sets[0], sets[1], tuning.recovery)


def _fine_tune(
    state: Units | Weights, model: keras.Model, tuning: FineTuning | None, task: Task | None
) -> dict[str, Any]:
    """Fine-tune the model of a step with the original one as teacher; returns the entries of its history."""
    if tuning is None:
        return {"epochs": 0, "loss_before": float("nan"), "loss_after": float("nan")}
    recovery = tuning.recovery
    teacher = model if recovery.distill > 0 else None
    more: dict[str, Any] = {"validation": tuning.validation, "recovery": recovery, "task": task}
    found = recover(state.model, tuning.data, teacher=teacher, progress=False, **more)
    state.model = found.model
    return {"epochs": found.best_epoch, "loss_before": found.loss_before, "loss_after": found.loss_after}
