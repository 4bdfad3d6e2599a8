"""Pruning in steps: score, remove a few, make up for them, fine-tune, and again."""

from typing import Any

import keras
import pandas as pd
from tqdm.auto import tqdm

from .._utils import check_type
from ..data import Data, Examples, check_apart, check_data, read_once
from ..element import Elements, Floor, check_elements, check_fractions, floors_by_layer
from ..errors import ParameterError
from ..recovery import Recovery, check_tuning, recover
from ..scorers import estimate
from ..surgery import LeastSquares, OnBlocked, Pruned, resolve_merge
from ._step_sizes import Schedule, counts_by_step
from ._stepwise import AnyScorer, Units, Weights, begin


def prune_iteratively(
    model: keras.Model,
    data: Data,
    elements: Elements,
    *,
    fraction: float,
    scorer: AnyScorer = estimate,
    steps: int = 10,
    schedule: Schedule = "cubic",
    merge: str | LeastSquares | None = None,
    recovery: Recovery | None = None,
    tuning: Data | None = None,
    validation: Data | None = None,
    floor: Floor = 1,
    on_blocked: OnBlocked = "raise",
    seed: int = 0,
    progress: bool = False,
) -> Pruned:
    """Remove elements in steps; in each, score what is left, remove the lowest, merge, and fine-tune.

    Units, embeddings, heads, layers and branches go physically in every step. Weights are set to zero and held
    there, and merging does nothing for them.

    Parameters
    ----------
    model : keras.Model
        Sequential or Functional. It is not changed.
    data : (x, y)
        Held-out examples for scores and for merging.
    elements : Elements
        Of `model`; weights, or any other kinds.
    fraction : float
        Of the elements that are gone in the end, strictly between 0 and 1.
    scorer : Scorer or callable
        Called as ``scorer(model, data, elements, *, seed)`` with the model and the elements of that step, gives
        their `ImpactTable`. For weights all elements are passed each time, those that are gone as zeros of the
        model, and as ``kept=`` to scorers that take it. A `Scorer` with ``per_fraction`` gets ``fraction=``, of the
        elements passed. Its ``draws`` do not matter here.
    steps : int
        Those that would remove nothing are left out.
    schedule : {"cubic", "linear", "one_shot"}
        Fraction that is gone after step k; see `fractions_by_step`.
    merge : {"least_squares", "none"} or LeastSquares, optional
        As in `prune`; "least_squares" by default.
    recovery : Recovery, optional
        How each step is fine-tuned; None leaves that out. With ``distill`` the teacher is `model`.
    tuning : (x, y), optional
        Examples for fine-tuning, others than `data`.
    validation : (x, y), optional
        As in `recover`, others than `tuning`.
    floor : int, float, "all" or mapping of str to one of them
        Fewest elements that every layer keeps, as in `select`; a share is of the original model's elements.
    on_blocked : {"raise", "keep"}
        As in `prune`.
    seed : int
        Scorers get it, plus one for each step after the first.
    progress : bool
        Show a bar with the fraction that is gone.

    Returns
    -------
    Pruned
        Its `original`, `selection` and `report` are those of `model`; `merged` and `blocked` are of all steps, the
        former with a column ``step``, None for weights. `history` has one row a step: step (from 1), fraction (gone
        so far), params (that are not held at zero), epochs (of the weights kept), loss_before and loss_after
        (held-out, around fine-tuning; NaN without).

    Raises
    ------
    ParameterError
        If a parameter is out of range, or `recovery`, `tuning` and `validation` do not go together.
    DataError
        If data do not fit the model, or two sets of examples are the same or share memory.
    ModelError
        If the elements are not the model's, cannot be cut, or cannot be listed again after a step.
    """
    check_elements(elements)
    if recovery is not None:
        check_type("recovery", recovery, Recovery, "pass dropreg.Recovery(distill=1.0), say")
    counts = sorted(set(counts_by_step(len(elements), fraction, steps, schedule)) - {0})
    check_fractions(elements, [fraction], floor)
    floor = floor if isinstance(floor, int) else floors_by_layer(elements, floor)
    strategy = resolve_merge(merge, has_data=True)
    data, examples, tuning, validation = _checked_data(model, data, tuning, validation, recovery)
    state = begin(model, elements)
    log = []
    with tqdm(counts, unit="steps", disable=not progress) as bar:
        for number, gone in enumerate(bar):
            state.drop(
                scorer, data, examples, gone, merge=merge, floor=floor, on_blocked=on_blocked, seed=seed + number
            )
            found = _fine_tune(state, model, recovery, tuning, validation)
            row = {"step": number + 1, "fraction": float(1.0 - state.kept.mean()), "params": state.params}
            log.append(row | found)
            bar.set_postfix(gone=f"{row['fraction']:.1%}", refresh=False)
            if number + 1 < len(counts):
                state.find_again()
    return state.finish("none" if strategy is None else strategy.name, on_blocked, pd.DataFrame(log))


def _checked_data(
    model: keras.Model, data: Data, tuning: Data | None, validation: Data | None, recovery: Recovery | None
) -> tuple[Data, Examples, Data | None, Data | None]:
    """The sets of examples, in memory or on disk, that fit the model and differ from one another."""
    sets = {"data": data, "tuning": tuning, "validation": validation}
    for name in ("tuning", "validation"):
        if recovery is None and sets[name] is not None:
            raise ParameterError(
                f"`{name}` must go with `recovery`, received recovery=None: pass recovery=dropreg.Recovery(), or leave "
                f"`{name}` out."
            )
    if recovery is not None and tuning is None:
        raise ParameterError(
            "`recovery` must have examples to train on, received tuning=None: pass tuning=(x, y), others than `data`."
        )
    for one, other in (("data", "tuning"), ("tuning", "validation")):
        if sets[one] is not None and sets[other] is not None:
            check_apart(one, sets[one], other, sets[other])
    sets = {name: None if given is None else read_once(given) for name, given in sets.items()}
    examples = check_data(model, sets["data"])
    for name in ("tuning", "validation"):
        if recovery is not None and sets[name] is not None:
            check_tuning(model, sets[name], None, name, recovery)
    return sets["data"], examples, sets["tuning"], sets["validation"]


def _fine_tune(
    state: Units | Weights, model: keras.Model, recovery: Recovery | None, tuning: Data, validation: Data
) -> dict[str, Any]:
    """Fine-tune the model of a step, with the original one as teacher; what the history says about it."""
    if recovery is None:
        return {"epochs": 0, "loss_before": float("nan"), "loss_after": float("nan")}
    teacher = model if recovery.distill > 0 else None
    found = recover(state.model, tuning, teacher=teacher, validation=validation, recovery=recovery)
    state.model = found.model
    return {"epochs": found.best_epoch, "loss_before": found.loss_before, "loss_after": found.loss_after}
