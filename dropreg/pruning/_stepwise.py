"""What stays the same between steps of pruning: which of the original's elements are left, and in which model."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from .._utils import concatenate_names
from ..data import Data, Examples
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
_FINDERS |= {"head": "heads", "layer": "layers", "branch": "branches"}


def score(
    scorer: AnyScorer, model: keras.Model, data: Data, elements: Elements, *, fraction: float, kept: Kept, seed: int
) -> ImpactTable:
    """Call a scorer, with `fraction` where it asks for it and `kept` where it takes it and some are gone.

    Raises
    ------
    ParameterError
        If it does not return an impact table of these elements.
    """
    chosen = resolve_scorer(scorer)
    more: dict[str, Any] = {"fraction": fraction} if chosen.per_fraction else {}
    if not kept.all() and "kept" in inspect.signature(chosen.function).parameters:
        more["kept"] = kept
    table = chosen.function(model, data, elements, seed=seed, **{**chosen.settings, **more})
    if not isinstance(table, ImpactTable) or tuple(table.frame["element"]) != elements.names:
        raise ParameterError(
            f"`scorer` must return an ImpactTable of the {len(elements)} elements it is called with, received "
            f"{type(table).__name__}: pass dropreg.scorers.taylor, or a function that ends in dropreg.estimate."
        )
    return table


def resolve_scorer(scorer: AnyScorer) -> Scorer:
    """The scorer, or ParameterError if it cannot be called."""
    chosen = scorer if isinstance(scorer, Scorer) else Scorer(scorer)
    if not callable(chosen.function):
        raise ParameterError(
            f"`scorer` must be a Scorer or callable, received {scorer!r}: pass dropreg.scorers.taylor."
        )
    return chosen


def select_left(elements: Elements, table: ImpactTable, kept: Kept, fraction: float, floor: Floor) -> Selection:
    """The selection that drops a fraction of all elements, those that are gone already among them."""
    lowest = table.impact[kept].min() - 1.0
    return select(elements, np.where(kept, table.impact, lowest), fraction=fraction, floor=floor)


class Units:
    """A model that becomes smaller with every step, and the elements that are left in it.

    Parameters
    ----------
    original : Original
    elements : Elements
        Units, embeddings, heads, layers or branches.

    Attributes
    ----------
    model : keras.Model
        That of the last step.
    kept : ndarray of bool, shape (n_elements,)
        Which of the original's elements are left.

    Raises
    ------
    ModelError
        If the elements are not found in the model again.
    """

    def __init__(self, original: Original, elements: Elements) -> None:
        self.model, self.kept = original.model, np.ones(len(elements), dtype=bool)
        self._original, self._whole = original, elements
        self._kinds: Any = list(dict.fromkeys(_FINDERS[kind] for kind in elements.kinds))
        self._all = find_elements(original.graph, self._kinds)  # with those that were not asked for
        self._mine = _places(_labels(elements), _labels(self._all))
        self._steps: list[Pruned] = []

    def drop(
        self,
        scorer: AnyScorer,
        data: Data,
        examples: Examples,
        gone: int,
        *,
        merge: str | LeastSquares | None,
        floor: Floor,
        on_blocked: OnBlocked,
        seed: int,
    ) -> None:
        """Score what is left, and remove the lowest until `gone` of the original's elements are gone."""
        left = self.left
        fraction = 1.0 - (len(self._whole) - gone) / len(left)
        table = score(scorer, self.model, data, left, fraction=fraction, kept=np.ones(len(left), dtype=bool), seed=seed)
        self.cut(select(left, table, fraction=fraction, floor=floor), examples, merge=merge, on_blocked=on_blocked)

    @property
    def left(self) -> Elements:
        """The elements of the model at hand."""
        return take(self._all, self._mine)

    def cut(
        self,
        chosen: Selection,
        examples: Examples | None = None,
        *,
        merge: str | LeastSquares | None = None,
        on_blocked: OnBlocked = "raise",
    ) -> None:
        """Remove what a selection of `left` drops."""
        model = trace_original(self.model) if self._steps else self._original
        pruned = cut(model, chosen, examples, merge=merge, on_blocked=on_blocked)
        self._steps.append(pruned)
        self.model = pruned.model
        self.kept[np.flatnonzero(self.kept)] = pruned.selection.kept

    def find_again(self) -> None:
        """List the elements of the smaller model: one to one, in order, those that the last step kept.

        Raises
        ------
        ModelError
            If they are others.
        """
        kept = self._steps[-1].selection.kept
        stay = np.setdiff1d(np.arange(len(self._all)), self._mine[~kept])
        expected = [_labels(self._all)[j][:2] for j in stay]
        try:
            found = find_elements(self.model, self._kinds)
            received = [label[:2] for label in _labels(found)]
        except ModelError as error:
            raise ModelError(self._lost(len(stay), str(error).rstrip("."))) from error
        if received != expected:
            layers = concatenate_names(list(dict.fromkeys(found.layers)))
            raise ModelError(self._lost(len(stay), f"{len(found)} in {layers}"))
        self._all, self._mine = found, np.searchsorted(stay, self._mine[kept])

    def _lost(self, expected: int, received: str) -> str:
        return (
            f"after step {len(self._steps)} the smaller model must have the {expected} elements that are left, layer "
            f"by layer, received {received}: a layer or branch that went took elements with it, or nested models have "
            "layers of the same name. Prune one kind after the other, rename layers, or pass steps=1."
        )

    @property
    def params(self) -> int:
        """Parameters of the model."""
        return int(self.model.count_params())

    def finish(self, merge: str, on_blocked: OnBlocked, history: pd.DataFrame) -> Pruned:
        """The result, told from the original model."""
        selection = Selection(self._whole, self.kept)
        whole = cut(self._original, selection, on_blocked=on_blocked)
        if [tuple(weight.shape) for weight in whole.model.weights] != [tuple(w.shape) for w in self.model.weights]:
            raise ModelError(
                f"the model of the last step must have the shapes of '{self._original.model.name}' without what went, "
                "received others: pass steps=1."
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
            report=replace(whole.report, models=(self._original.model, self.model)),
            history=history,
        )


class Weights:
    """A copy of a model with more of its weights at zero after every step; as `Units`, for weights."""

    def __init__(self, model: keras.Model, elements: Elements) -> None:
        self.model, self.kept = copy_model(model), np.ones(len(elements), dtype=bool)
        self._original, self._whole = model, elements

    def drop(
        self,
        scorer: AnyScorer,
        data: Data,
        examples: Examples,
        gone: int,
        *,
        merge: str | LeastSquares | None,
        floor: Floor,
        on_blocked: OnBlocked,
        seed: int,
    ) -> None:
        """Score all, and set the lowest that are left to zero until `gone` are; nothing is merged or blocked."""
        fraction = gone / len(self._whole)
        table = score(scorer, self.model, data, self._whole, fraction=fraction, kept=self.kept, seed=seed)
        chosen = select_left(self._whole, table, self.kept, fraction, floor)
        for variable, mask in kernel_masks(all_layers(self.model), chosen):
            hold_at(variable, mask)
        self.kept = chosen.kept

    def find_again(self) -> None:
        """Nothing to do: kernels keep their shapes."""

    @property
    def params(self) -> int:
        """Parameters that are not held at zero."""
        return int(self.model.count_params() - self._whole.params[~self.kept].sum())

    def finish(self, merge: str, on_blocked: OnBlocked, history: pd.DataFrame) -> Pruned:
        """The result, told from the original model."""
        pruned = cut(trace_original(self.model), Selection(self._whole, self.kept), on_blocked=on_blocked)
        report = replace(pruned.report, models=(self._original, pruned.model))
        return replace(pruned, original=self._original, merge=merge, report=report, history=history)


def begin(model: keras.Model | Graph, elements: Elements) -> Units | Weights:
    """State of pruning in steps, for a model or its graph.

    Raises
    ------
    ModelError
        If the elements are not the model's, it is a subclassed one, or weights are mixed with other kinds.
    """
    original = trace_original(model)
    check_fits(elements, original.graph, original.model.name)
    if not elements.one_mask_a_batch:
        return Units(original, elements)
    kernel_masks(all_layers(original.model), Selection(elements, np.ones(len(elements), dtype=bool)))
    return Weights(original.model, elements)


def _labels(elements: Elements) -> list[tuple[str, tuple[str, ...], int]]:
    """Kind, layers of the units and first index of every element."""
    layers = (tuple(layer for layer, _ in tied) for tied in elements.members)
    return list(zip(elements.kinds, layers, elements.indices.tolist(), strict=True))


def _places(labels: list[Any], among: list[Any]) -> Numbers:
    """Where `labels` are in the longer list, in the same order."""
    places, rest = [], iter(enumerate(among))
    for label in labels:
        place = next((number for number, other in rest if other == label), None)
        if place is None:
            raise ModelError(
                f"the elements must be found in the model again, in order, received one of layer '{label[1][0]}' that "
                "is not: call dropreg.elements(model) again."
            )
        places.append(place)
    return np.array(places, dtype=np.int64)
