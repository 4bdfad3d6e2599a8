"""A smaller model: annealed, cut, merged and distilled."""

from functools import lru_cache
from typing import TYPE_CHECKING

from ..data import Data, Examples, check_data, read_once
from ..element import Elements, Floor, Selection, check_elements
from ..element import elements as find_elements
from ..errors import DataError, ParameterError
from ..network import can_predict
from ..recovery import Recovery, distilled, resolve_recovery
from ..surgery import LeastSquares, OnBlocked, Original, Pruned, check_can_cut, cut, resolve_merge, trace_original
from ._annealing import Build, Make, choose
from ._targets import Target

if TYPE_CHECKING:
    import keras


def prune(
    model: "keras.Model",
    selection: Selection | None = None,
    data: Data | None = None,
    *,
    fraction: float | None = None,
    target: Target | None = None,
    elements: Elements | None = None,
    floor: Floor = 1,
    merge: str | LeastSquares | None = None,
    recovery: str | Recovery | None = None,
    on_blocked: OnBlocked = "raise",
    seed: int = 0,
    progress: bool = False,
) -> Pruned:
    """Build the model without the elements that a selection drops.

    Without merging and recovery it computes what the masked network computes (`dropreg.network`), up to rounding. In
    place of a selection a fraction or a target may be given: `dropreg.anneal` then chooses, for the network as it will
    be after merging, what goes, and what is left is distilled from the whole network.

    Parameters
    ----------
    model : keras.Model
        Sequential or Functional. It is not changed.
    selection : Selection, optional
        Of the elements of this model.
    data : (x, y), optional
        Held-out examples for annealing and merging; y may be None. Of a model of several outputs, annealing measures
        the one that labels name, as in (x, {"mood": None}): what only the others need counts nothing.
    fraction : float, optional
        Of the elements to drop, strictly between 0 and 1, in place of a selection.
    target : Budget or AccuracyLimit, optional
        What to reach, in place of a selection.
    elements : Elements, optional
        From which to choose, in place of a selection; by default the model's neurons and filters.
    floor : int, float, "all" or mapping of str to one of them
        What layers keep at least, in place of a selection; see `select`.
    merge : {"least_squares", "none"} or LeastSquares, optional
        How layers that read what was removed make up for it; by default "least_squares" if there is `data`,
        else "none". See `dropreg.surgery`.
    recovery : {"distill", "none"} or Recovery, optional
        How the smaller model is then trained with `data` (the first 10,000 examples), the original one being its
        teacher: "distill" learns all outputs from it without labels (`dropreg.recovery`). By default "distill" in
        place of a selection where layers are merged by least squares and any weights are trainable, else "none". An
        accuracy limit is shown by models that were trained so.
    on_blocked : {"raise", "keep"}
        What to do where a layer cannot be cut: refuse, or keep all that it holds and say so in `Pruned.blocked`. Where
        a layer goes as a whole, "keep" also keeps those units of it that what takes its place has, and the reverse.
    seed : int
        Of annealing and distillation; a `Recovery` has its own.
    progress : bool
        Show the progress of annealing and recovery.

    Returns
    -------
    Pruned
        With `recovered` where it was trained.

    Raises
    ------
    TargetError
        If the target cannot be met.
    ModelError
        If the selection was made for another model or for this one before it changed, a layer would be empty, or a
        layer cannot be cut.
    ParameterError
        If merging or recovery lacks data, a parameter is unknown, or as in `recover`.
    DataError
        If the data do not fit the model or give activations that are not finite, or there is a single example to merge
        by least squares or to learn from.
    """
    if selection is not None and not isinstance(selection, Selection):
        raise ParameterError(
            f"`selection` must be a Selection, received {type(selection).__name__}: make one with dropreg.select; "
            "examples go to data=."
        )
    data = None if data is None else read_once(data)
    strategy = resolve_merge(merge, data is not None)
    if selection is not None and recovery is None:
        recovery = "none"
    settings = resolve_recovery(recovery, strategy, has_data=data is not None, seed=seed)

    if selection is None:
        _check_asked(data, fraction, target)
    elif fraction is not None or target is not None or elements is not None or floor != 1:
        raise ParameterError(
            "`fraction`, `target`, `elements` and `floor` must be left out where a selection is given, received both: "
            "pass one."
        )
    original = trace_original(model)
    examples = None if data is None or strategy is None else check_data(model, data, measured=False)

    def build(chosen: Selection, part: Examples | None) -> Pruned:
        return cut(original, chosen, part, merge=merge, on_blocked=on_blocked)

    def make(chosen: Selection) -> Pruned:
        smaller = build(chosen, examples)
        if settings is None or (recovery is None and not smaller.model.trainable_variables):
            return smaller
        return distilled(smaller, data, settings, progress=progress)

    if selection is None:
        return _annealed(
            *(original, data, elements, examples, build, make),
            fraction=fraction,
            target=target,
            on_blocked=on_blocked,
            floor=floor,
            seed=seed,
            progress=progress,
        )
    return make(selection)


def _check_asked(data: Data | None, fraction: float | None, target: Target | None) -> None:
    """Raise ParameterError unless there are data and one of `fraction` and `target`."""
    if data is None or (fraction is None) == (target is None):
        raise ParameterError(
            "`prune` must have a selection, or data and one of `fraction` and `target`, received "
            f"{'no data' if data is None else 'both' if target is not None else 'neither'}: pass for example "
            "prune(model, data=(x, y), fraction=0.5)."
        )


def _annealed(
    original: Original,
    data: Data,
    elements: Elements | None,
    examples: Examples | None,
    build: Build,
    make: Make,
    *,
    fraction: float | None,
    target: Target | None,
    on_blocked: OnBlocked,
    floor: Floor,
    seed: int,
    progress: bool,
) -> Pruned:
    """The smaller model by a selection for the network as it will be; for deletion where nothing can be predicted."""
    elements = find_elements(original.model) if elements is None else elements
    check_elements(elements)
    if examples is not None and len(examples) < 2:
        raise DataError(
            "`data` must hold at least two examples to merge by least squares, received one: pass more, or "
            "merge='none'."
        )
    if fraction is not None and on_blocked == "raise":
        check_can_cut(original, elements, floor)
    merged = examples is not None and can_predict(elements)
    make = lru_cache(maxsize=2)(make)  # a search hands back one of the last two that it made
    chosen = choose(
        *(original.model, data, elements),
        original=original,
        fraction=fraction,
        target=target,
        build=build,
        make=make,
        on_blocked=on_blocked,
        progress=progress,
        ablation="merged" if merged else "zero",
        floor=floor,
        seed=seed,
    )
    return make(chosen)
