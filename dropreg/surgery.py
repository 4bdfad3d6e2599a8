"""The physically smaller model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from .channels import Channels, Labels
from .data import Data, check_data
from .elements import Elements, check_fits, concatenate_names
from .elements import elements as find_elements
from .errors import ModelError, ParameterError
from .finders.units import trace_channels
from .graph import Graph, trace_graph
from .latency import measure_latency
from .layers.base import rule_for
from .merged import can_predict
from .merges import LeastSquares, Merge, resolve_merge
from .merging import merge_into
from .plan import columns_of_labels, keep_by_slot, make_plan
from .pruning import anneal
from .rebuild import rebuild
from .selection import Selection
from .sizes import Sizes, compare_sizes
from .targets import Target
from .zeros import drop_weights

OnBlocked = Literal["raise", "keep"]


@dataclass(frozen=True, repr=False, eq=False)
class Pruned:
    """A smaller model and how it came about.

    Attributes
    ----------
    model : keras.Model
        A plain Keras model with smaller layers, not compiled. It saves to ``.keras``, reloads without dropreg and
        trains on.
    original : keras.Model
        The caller's, unchanged.
    selection : Selection
        What stays; with ``on_blocked="keep"`` more than was asked for.
    merge : str
        How the rest was merged into it.
    merged : DataFrame or None
        What merging found in each layer; see `dropreg.merging.merge_into`.
    blocked : tuple of (str, str)
        Layers that were kept whole although the selection drops some of their units, and why.
    report : Sizes
        Parameters, multiply-adds and bytes before and after.
    history : DataFrame or None
        One row a step of `dropreg.prune_iteratively`, None of `dropreg.prune`.
    """

    model: keras.Model
    original: keras.Model
    selection: Selection
    merge: str
    merged: pd.DataFrame | None
    blocked: tuple[tuple[str, str], ...]
    report: Sizes
    history: pd.DataFrame | None = None

    def measure_latency(
        self, batch_sizes: Sequence[int] = (1, 64), *, threads: int = 1, repeats: int = 100, warm_up: int = 10
    ) -> pd.DataFrame:
        """Seconds a forward pass takes before and after; see `dropreg.latency.measure_latency`."""
        models = {"before": self.original, "after": self.model}
        return measure_latency(models, batch_sizes, threads=threads, repeats=repeats, warm_up=warm_up)

    def __repr__(self) -> str:
        lines = [f"Pruned model '{self.model.name}', merge: {self.merge}", repr(self.report)]
        lines += [f"kept whole: '{layer}': {reason}" for layer, reason in self.blocked]
        return "\n".join(lines)


def prune(
    model: keras.Model,
    selection: Selection | None = None,
    data: Data | None = None,
    *,
    fraction: float | None = None,
    target: Target | None = None,
    elements: Elements | None = None,
    merge: str | Merge | None = None,
    on_blocked: OnBlocked = "raise",
    seed: int = 0,
    progress: bool = False,
) -> Pruned:
    """Build the model without the elements that a selection drops.

    Without merging it computes what the masked network computes (`dropreg.masking`), up to rounding. In place of a
    selection a fraction or a target may be given: `dropreg.anneal` then chooses, for the network as it will be after
    merging, what goes.

    Parameters
    ----------
    model : keras.Model
        Sequential or Functional. It is not changed.
    selection : Selection, optional
        Of the elements of this model.
    data : (x, y), optional
        Held-out examples for annealing and merging; y may be None.
    fraction : float, optional
        Of the elements to drop, strictly between 0 and 1, in place of a selection.
    target : Budget or AccuracyLimit, optional
        What to reach, in place of a selection.
    elements : Elements, optional
        From which to choose, in place of a selection; by default the model's neurons and filters.
    merge : {"least_squares", "mean", "none"} or Merge, optional
        How layers that read what was removed make up for it; by default "least_squares" if there is `data`,
        else "none". See `dropreg.merging`.
    on_blocked : {"raise", "keep"}
        What to do where a layer cannot be cut: refuse, or keep all that it holds and say so in `Pruned.blocked`.
    seed : int
        Of annealing.
    progress : bool
        Show its progress.

    Returns
    -------
    Pruned

    Raises
    ------
    TargetError
        If the target cannot be met.
    ModelError
        If the selection was made for another model or for this one before it changed, a layer would be empty, or a
        layer cannot be cut.
    ParameterError
        If merging lacks data, or a parameter is unknown.
    DataError
        If the data do not fit the model.
    """
    strategy = resolve_merge(merge, data is not None)
    if selection is None:
        selection = _annealed(model, data, fraction, target, elements, strategy, seed=seed, progress=progress)
    elif fraction is not None or target is not None or elements is not None:
        raise ParameterError(
            "`fraction`, `target` and `elements` must be left out where a selection is given, received both: pass one."
        )
    if not isinstance(selection, Selection):
        raise ParameterError(
            f"`selection` must be a Selection, received {type(selection).__name__}: make one with dropreg.select or "
            "Selection.dropping."
        )
    if on_blocked not in ("raise", "keep"):
        raise ParameterError(f"`on_blocked` must be one of raise, keep, received {on_blocked!r}.")
    graph = trace_graph(model)
    check_fits(selection.elements, graph, model.name, "`selection` was made for elements")
    if graph.inside is not None:
        raise ModelError(
            f"model '{model.name}' ({type(model).__name__}) is a subclassed model, whose graph lies in Python code: it "
            "cannot be made smaller. Rebuild it as keras.Model(inputs, outputs)."
        )
    examples = None if data is None or strategy is None else check_data(model, data)
    channels = trace_channels(graph)
    columns = columns_of_labels(channels, selection.elements)
    selection, blocked = _settle(graph, channels, columns, selection, on_blocked)
    plan = make_plan(model, graph, channels, columns, selection)
    rebuilt = rebuild(model, graph, plan)
    drop_weights(model, rebuilt, selection)
    merged = None
    if strategy is not None and examples is not None:
        classes = examples.labels is not None and examples.task == "classes"
        merged = merge_into(rebuilt, selection.elements.names, examples.inputs, strategy, classes=classes)
    name = "none" if strategy is None else strategy.name
    return Pruned(rebuilt.model, model, selection, name, merged, blocked, compare_sizes(model, rebuilt))


def _annealed(
    model: keras.Model,
    data: Data | None,
    fraction: float | None,
    target: Target | None,
    elements: Elements | None,
    strategy: Merge | None,
    *,
    seed: int,
    progress: bool,
) -> Selection:
    """A selection for the network as it will be; units that cannot be predicted from others are deleted."""
    if data is None or (fraction is None) == (target is None):
        raise ParameterError(
            "`prune` must have a selection, or data and one of `fraction` and `target`, received "
            f"{'no data' if data is None else 'both' if target is not None else 'neither'}: pass for example "
            "prune(model, data=(x, y), fraction=0.5)."
        )
    elements = find_elements(model) if elements is None else elements
    merged = isinstance(strategy, LeastSquares) and can_predict(elements)
    return anneal(
        *(model, data, elements),
        fraction=fraction,
        target=target,
        ablation="merged" if merged else "zero",
        seed=seed,
        progress=progress,
    )


def _settle(
    graph: Graph, channels: Channels, columns: npt.NDArray[np.int64], selection: Selection, on_blocked: OnBlocked
) -> tuple[Selection, tuple[tuple[str, str], ...]]:
    """The selection that can be done, and the layers that had to be kept whole for it."""
    blocked: dict[str, str] = {}
    kept = selection.kept.copy()
    for call in graph.calls:
        slots = (*call.inputs, *call.outputs)
        touched = np.unique(np.concatenate([_columns_at(channels, columns, slot) for slot in slots]))
        losing = touched[~kept[touched]]
        by_slot = keep_by_slot(channels, columns, kept) if len(losing) else {}
        stay = [by_slot[slot] for slot in call.outputs] if len(losing) else []
        reason = rule_for(call.layer).blocked(call, stay) if len(losing) else None
        if reason is None:
            continue
        if on_blocked == "raise":
            names = concatenate_names([selection.elements.names[j] for j in losing], 3)
            raise ModelError(
                f"layer '{call.name}' ({call.kind}) must be cut to drop {names}, but {reason}. Keep those elements, or "
                "pass on_blocked='keep'."
            )
        blocked.setdefault(call.name, reason)
        kept[touched] = True
    return replace(selection, kept=kept), tuple(blocked.items())


def _columns_at(channels: Channels, columns: npt.NDArray[np.int64], slot: int) -> Labels:
    found = columns[channels.slots[slot]]
    return found[found >= 0]
