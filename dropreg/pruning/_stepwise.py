"""State between the steps of iterative pruning: the current model and the original elements that remain."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from .._utils import concatenate_names
from ..data import Data, Examples, Task
from ..element import KINDS_OF_UNITS, Elements, Floor, Selection, check_fits, take
from ..element import elements as find_elements
from ..errors import ModelError, ParameterError
from ..graph import Graph, all_layers
from ..regression import ImpactTable
from ..scorers import Scorer
from ..surgery import (
    LeastSquares,
    OnBlocked,
    Original,
    Pruned,
    compile_like,
    copy_model,
    cut,
    hold_at,
    kernel_masks,
    trace_original,
)
from ._select import select

AnyScorer = Scorer | Callable[..., ImpactTable]
Numbers = npt.NDArray[np.int64]
Kept = npt.NDArray[np.bool_]
_FINDERS = {kind: name for name, kinds in KINDS_OF_UNITS.items() for kind in kinds}
_FINDERS |= {"head": "heads", "key/value group": "heads", "layer": "layers", "branch": "branches"}


def score(
    step: "Step", model: keras.Model, elements: Elements, *, fraction: float, kept: Kept, seed: int
) -> ImpactTable:
    """Call a step's scorer; pass `fraction` if it asks for it, and `kept` if it takes it and elements were removed.

    Raises
    ------
    ParameterError
        If it does not return an impact table of these elements.
    """
    chosen = resolve_scorer(step.scorer)
    more: dict[str, Any] = {"fraction": fraction} if chosen.per_fraction else {}
    if not kept.all() and "kept" in inspect.signature(chosen.function).parameters:
        more["kept"] = kept
    settings = {**chosen.settings_with(step.task), **more}
    table = chosen.function(model, step.data, elements, seed=seed, **settings)
    if not isinstance(table, ImpactTable) or tuple(table.frame["element"]) != elements.names:
        raise ParameterError(
            f"`scorer` must return an ImpactTable of the {len(elements)} elements it is called with, received "
            f"{type(table).__name__}: pass dropreg.scorers.taylor, or a function that ends in dropreg.estimate."
        )
    return table


def resolve_scorer(scorer: AnyScorer) -> Scorer:
    """Return a `Scorer`; ParameterError if it cannot be called."""
    chosen = scorer if isinstance(scorer, Scorer) else Scorer(scorer)
    if not callable(chosen.function):
        raise ParameterError(
            f"`scorer` must be a Scorer or callable, received {scorer!r}: pass dropreg.scorers.taylor."
        )
    return chosen


def select_remaining(elements: Elements, table: ImpactTable, kept: Kept, fraction: float, floor: Floor) -> Selection:
    """Return the selection that removes a fraction of all elements, including those that are removed already."""
    lowest = table.impact[kept].min() - 1.0
    return select(elements, np.where(kept, table.impact, lowest), fraction=fraction, floor=floor)


class Step(NamedTuple):
    """What every step of iterative pruning uses."""

    scorer: AnyScorer
    data: Data
    examples: Examples
    task: Task | None
    merge: str | LeastSquares | None
    floor: Floor
    on_blocked: OnBlocked


class Units:
    """A model from which units, embeddings, heads, layers or branches are removed step by step.

    Attributes
    ----------
    model : keras.Model
        The model after the last step.
    kept : ndarray of bool, shape (n_elements,)
        The original elements that remain.
    """

    def __init__(self, original: Original, elements: Elements) -> None:
        self.model, self.kept = original.model, np.ones(len(elements), dtype=bool)
        self._original, self._elements = original, elements
        self._kinds: Any = list(dict.fromkeys(_FINDERS[kind] for kind in elements.kinds))
        self._all = find_elements(original.graph, self._kinds)  # also those that are not in `elements`
        self._mine = _places(_labels(elements), _labels(self._all))
        self._steps: list[Pruned] = []

    def drop(self, step: Step, n_removed: int, seed: int) -> None:
        """Score the remaining elements, and remove the lowest until `n_removed` of the original ones are removed."""
        left, everything = self.left, np.ones(int(self.kept.sum()), dtype=bool)
        fraction = 1.0 - (len(self._elements) - n_removed) / len(left)
        table = score(step, self.model, left, fraction=fraction, kept=everything, seed=seed)
        chosen = select(left, table, fraction=fraction, floor=step.floor)
        self.cut(chosen, step.examples, merge=step.merge, on_blocked=step.on_blocked)

    @property
    def left(self) -> Elements:
        """The elements of the current model."""
        return take(self._all, self._mine)

    def cut(
        self,
        chosen: Selection,
        examples: Examples | None = None,
        *,
        merge: str | LeastSquares | None = None,
        on_blocked: OnBlocked = "raise",
    ) -> None:
        """Remove the elements that a selection of `left` drops."""
        model = trace_original(self.model) if self._steps else self._original
        pruned = cut(model, chosen, examples, merge=merge, on_blocked=on_blocked)
        self._steps.append(pruned)
        self.model = pruned.model
        self.kept[np.flatnonzero(self.kept)] = pruned.selection.kept

    def find_again(self) -> None:
        """List the elements of the smaller model; ModelError unless they are those that the last step kept."""
        kept = self._steps[-1].selection.kept
        remaining = np.setdiff1d(np.arange(len(self._all)), self._mine[~kept])
        expected = [_labels(self._all)[j][:2] for j in remaining]
        try:
            found = find_elements(self.model, self._kinds)
            received = [label[:2] for label in _labels(found)]
        except ModelError as error:
            raise ModelError(self._lost(len(remaining), str(error).rstrip("."))) from error
        if received != expected:
            layers = concatenate_names(list(dict.fromkeys(found.layers)))
            raise ModelError(self._lost(len(remaining), f"{len(found)} in {layers}"))
        self._all, self._mine = found, np.searchsorted(remaining, self._mine[kept])

    def _lost(self, expected: int, received: str) -> str:
        return (
            f"after step {len(self._steps)} the smaller model must have the {expected} remaining elements, layer by "
            f"layer, received {received}: a removed layer or branch contained other elements, or nested models have "
            "layers of the same name. Prune one kind after the other, rename layers, or pass a single fraction."
        )

    @property
    def params(self) -> int:
        """Number of parameters of the model."""
        return int(self.model.count_params())

    def finish(self, merge: str, on_blocked: OnBlocked, history: pd.DataFrame) -> Pruned:
        """Return the result, compared with the original model."""
        selection = Selection(self._elements, self.kept)
        at_once = cut(self._original, selection, on_blocked=on_blocked)
        if [tuple(weight.shape) for weight in at_once.model.weights] != [tuple(w.shape) for w in self.model.weights]:
            raise ModelError(
                f"the model of the last step must have the shapes of '{self._original.model.name}' without the removed "
                "elements, received others: pass a single fraction."
            )
        tables = [step.merged.assign(step=k) for k, step in enumerate(self._steps, 1) if step.merged is not None]
        blocked = dict(entry for step in self._steps for entry in step.blocked)
        return Pruned(
            model=self.model,
            original=self._original.model,
            selection=selection,
            merge=merge,
            merged=pd.concat(tables, ignore_index=True) if tables else None,
            blocked=tuple(blocked.items()),
            report=replace(at_once.report, models=(self._original.model, self.model)),
            history=history,
        )


class Weights:
    """As `Units`, for single weights: a copy of a model in which more weights are set to zero in every step."""

    def __init__(self, model: keras.Model, elements: Elements) -> None:
        self.model, self.kept = copy_model(model), np.ones(len(elements), dtype=bool)
        self._original, self._elements = model, elements

    def drop(self, step: Step, n_removed: int, seed: int) -> None:
        """Score all elements, and set the lowest remaining ones to zero; nothing is merged or blocked."""
        fraction = n_removed / len(self._elements)
        elements, kept = self._elements, self.kept
        table = score(step, self.model, elements, fraction=fraction, kept=kept, seed=seed)
        chosen = select_remaining(elements, table, kept, fraction, step.floor)
        for variable, mask in kernel_masks(all_layers(self.model), chosen):
            hold_at(variable, mask)
        self.kept = chosen.kept

    def find_again(self) -> None:
        """Do nothing: kernels keep their shapes."""

    @property
    def params(self) -> int:
        """Number of parameters that are not held at zero."""
        return int(self.model.count_params() - self._elements.params[~self.kept].sum())

    def finish(self, merge: str, on_blocked: OnBlocked, history: pd.DataFrame) -> Pruned:
        """Return the result, compared with the original model."""
        selection = Selection(self._elements, self.kept)
        pruned = cut(trace_original(self.model), selection, on_blocked=on_blocked)
        compile_like(pruned.model, self._original)
        before = cut(trace_original(self._original), selection, on_blocked=on_blocked).report.layers["nonzero_before"]
        layers = pruned.report.layers.assign(nonzero_before=before)
        report = replace(pruned.report, layers=layers, models=(self._original, pruned.model))
        return replace(pruned, original=self._original, merge=merge, report=report, history=history)


def begin(model: keras.Model | Graph, elements: Elements) -> Units | Weights:
    """Return the state of pruning in steps, for a model or its graph.

    Raises
    ------
    ModelError
        If the elements are not the model's, the model is a subclassed one, or weights are mixed with other kinds.
    """
    original = trace_original(model)
    check_fits(elements, original.graph, original.model.name)
    if not elements.one_mask_a_batch:
        return Units(original, elements)
    kernel_masks(all_layers(original.model), Selection(elements, np.ones(len(elements), dtype=bool)))
    return Weights(original.model, elements)


def _labels(elements: Elements) -> list[tuple[str, tuple[str, ...], int]]:
    """Return kind, layers and first index of every element."""
    layers = (tuple(layer for layer, _ in tied) for tied in elements.members)
    return list(zip(elements.kinds, layers, elements.indices.tolist(), strict=True))


def _places(labels: list[Any], among: list[Any]) -> Numbers:
    """Return the positions of `labels` in the longer list, in the same order."""
    places, rest = [], iter(enumerate(among))
    for label in labels:
        place = next((number for number, other in rest if other == label), None)
        if place is None:
            raise ModelError(
                f"the elements must be those of the model, in order, received one of layer '{label[1][0]}' that the "
                "model does not have: call dropreg.elements(model) again."
            )
        places.append(place)
    return np.array(places, dtype=np.int64)
