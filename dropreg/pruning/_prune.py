"""Make a model smaller: select, remove, merge and distill."""

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from .._utils import check_type
from ..data import Data, Examples, Task, check_data, read_once
from ..element import Elements, Floor, Selection
from ..element import elements as find_elements
from ..errors import DataError, ParameterError
from ..network import Question, can_predict
from ..recovery import Recovery, distilled, resolve_recovery
from ..surgery import LeastSquares, OnBlocked, Pruned, check_can_cut, cut, resolve_merge, trace_original
from ._annealing import Annealing, Models, ask_annealing, check_goal, choose
from ._effort import Budgeted, check_budget, decide, part_of, say
from ._limits import Limit, held_out_examples
from ._targets import Target

if TYPE_CHECKING:
    import keras


def prune(
    model: "keras.Model",
    data: Data,
    *,
    fraction: float | None = None,
    target: Target | None = None,
    elements: Elements | None = None,
    floor: Floor = 1,
    merge: str | LeastSquares | None = None,
    recovery: str | Recovery | None = None,
    on_blocked: OnBlocked = "raise",
    budget: Budgeted | None = None,
    task: Task | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Pruned:
    """Make a model smaller: select elements by annealing, remove them, merge, and distill.

    The selection is annealed for the model as it will be after merging (`anneal` with ``ablation="merged"``). The
    layers that consume removed elements are refitted by least squares, and the smaller model then learns the original
    model's predictions. `remove` does the same for a selection of your own.

    Parameters
    ----------
    model : keras.Model
        Sequential or Functional. It is not changed.
    data : (x, y)
        Held-out examples for annealing, merging and distillation; y may be None. Of a model with several outputs the
        one that the labels name is measured, as in (x, {"mood": None}).
    fraction : float, optional
        Fraction of the elements to remove, strictly between 0 and 1.
    target : Budget, AccuracyLimit or OutcomeLimit, optional
        Size or latency to reach, or largest loss of accuracy or of another outcome, instead of a fraction.
    elements : Elements, optional
        Candidates for removal, by default the model's neurons and filters.
    floor : int, float, "all" or mapping of str to one of them
        Fewest elements that every layer keeps; see `select`.
    merge : {"least_squares", "none"} or LeastSquares, optional
        How layers that consume removed elements are refitted, by default "least_squares"; see `dropreg.merging`.
    recovery : {"distill", "none"} or Recovery, optional
        How the smaller model is then trained on `data` (10,000 examples drawn evenly) with the original model as
        teacher. "distill" learns all outputs from the teacher without labels; it is the default where layers are
        merged and weights are trainable. An accuracy limit holds for the trained model.
    on_blocked : {"raise", "keep"}
        What to do where a layer cannot be cut: raise an error, or keep all its elements and list it in
        `Pruned.blocked`.
    budget : int, dropreg.pruning.Minutes or dropreg.pruning.Effort, optional
        What merged units and a fraction may cost: row-equivalents (one for the forward pass of one example, two more
        for a backward pass), minutes, or the `Pruned.effort` of an earlier result, to do the same again. It is kept by
        fewer and coarser rounds, epochs and examples; a `Recovery` is not part of it. By default large models and data
        get fewer of them, to take about 15 minutes at most on two free cores, and small ones the usual work.
    task : str, optional
        As in `sample`.
    seed : int
        Seed of annealing and distillation; a `Recovery` has a seed of its own.
    progress : bool, optional
        Show bars for annealing and recovery; by default on a terminal only.

    Returns
    -------
    Pruned
        Its `recovered` describes the training, if there was any.

    Raises
    ------
    TargetError
        If the target cannot be met.
    ModelError
        If a layer would be empty or cannot be cut.
    ParameterError
        If not exactly one of `fraction` and `target` is given, a parameter is out of range, or a budget is too small
        or given where it has no effect.
    DataError
        If the data do not fit the model or give activations that are not finite, or hold a single example.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> x, y = dr.datasets.fashion_mnist("estimation")
    >>> small = dr.prune(model, (x[:500], y[:500]), fraction=0.9, recovery="none")
    >>> small.model.count_params() < 0.2 * model.count_params()
    True
    """
    if isinstance(data, Selection):
        raise ParameterError("`data` must be examples, received a Selection: call dropreg.remove(model, selection).")
    check_budget(budget)
    data, original = read_once(data), trace_original(model)
    elements = find_elements(original.graph) if elements is None else elements
    check_goal(elements, fraction, target, floor)
    strategy = resolve_merge(merge, has_data=True)
    settings = resolve_recovery(recovery, strategy, has_data=True, seed=seed)
    examples, held_out = check_data(original.graph, data, task), None
    if isinstance(target, Limit):
        examples, held_out = held_out_examples(target, original.graph, data, examples, seed)
    if strategy is not None and len(examples) < 2:
        raise DataError(
            "`data` must hold at least two examples to merge by least squares, received one: pass more, or "
            "merge='none'."
        )
    if fraction is not None and on_blocked == "raise":
        check_can_cut(original, elements, floor)
    ablation = "merged" if strategy is not None and can_predict(elements) else "zero"
    options, graph, effort = Annealing(), original.graph, None

    def ask() -> Question:
        return ask_annealing(graph, examples, elements, ablation=ablation, options=options, task=task, seed=seed)

    question = ask()
    if fraction is not None and ablation == "merged":
        usual = None if isinstance(recovery, Recovery) else settings
        effort = decide(question, usual, budget)
        say(effort, progress)
        if effort.reduced:
            examples, options = part_of(examples, effort), effort.annealing()
            question, settings = ask(), effort.recovery(usual) or settings
    elif budget is not None:
        raise ParameterError(
            f"`budget` must go with a fraction and with merged units, received {budget!r} with "
            f"{'a target' if fraction is None else 'elements or a `merge` that replace nothing'}: leave it out."
        )

    def build(selection: Selection, part: Examples) -> Pruned:
        return cut(original, selection, part, merge=merge, on_blocked=on_blocked)

    @lru_cache(maxsize=2)  # a search returns one of the last two models that it built
    def make(selection: Selection) -> Pruned:
        smaller = build(selection, examples)
        if settings is None or (recovery is None and not smaller.model.trainable_variables):
            return smaller
        return distilled(smaller, original.graph, examples, settings, progress=progress)

    goal, models = target if fraction is None else float(fraction), Models(original, build, make, on_blocked)
    given = {"held_out": held_out, "models": models, "progress": progress}
    return replace(make(choose(question, options, ablation, floor, goal=goal, **given)), effort=effort)


def remove(
    model: "keras.Model",
    selection: Selection,
    *,
    data: Data | None = None,
    merge: str | LeastSquares | None = None,
    recovery: str | Recovery = "none",
    on_blocked: OnBlocked = "raise",
    task: Task | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Pruned:
    """Build the model without the elements that a selection removes.

    Without merging and recovery its outputs are those of the masked model, up to rounding.

    Parameters
    ----------
    model : keras.Model
        Sequential or Functional. It is not changed.
    selection : Selection
        Selection of this model's elements.
    data : (x, y), optional
        Held-out examples for merging and recovery; y may be None.
    merge : {"least_squares", "none"} or LeastSquares, optional
        By default "least_squares" with `data`, else "none"; see `prune`.
    recovery : {"distill", "none"} or Recovery
        How the smaller model is then trained with `data`; see `prune`.
    on_blocked : {"raise", "keep"}
        What to do where a layer cannot be cut; see `prune`. If a whole layer is removed, "keep" keeps a unit in the
        layer and in its replacement alike.
    task : str, optional
        As in `sample`.
    seed : int
        Seed of distillation; a `Recovery` has a seed of its own.
    progress : bool, optional
        Show a bar for recovery; by default on a terminal only.

    Returns
    -------
    Pruned

    Raises
    ------
    ModelError
        If the selection was made for another model or for this one before it changed, a layer would be empty, or a
        layer cannot be cut.
    ParameterError
        If data for merging or recovery are missing, or an option is unknown.
    DataError
        If the data do not fit the model or give activations that are not finite, or hold a single example.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> selection = dr.Selection.random(dr.elements(model), 0.5)
    >>> dr.remove(model, selection).model.count_params() < model.count_params()
    True
    """
    check_type(
        "selection",
        selection,
        Selection,
        "make one with dropreg.select, or call dropreg.prune with data and a fraction",
    )
    strategy = resolve_merge(merge, data is not None)
    settings = resolve_recovery(recovery, strategy, has_data=data is not None, seed=seed)
    original = trace_original(model)
    examples = None
    if data is not None:
        measured = settings is not None and settings.distill < 1
        examples = check_data(original.graph, data, task, measured=measured)
    smaller = cut(original, selection, examples, merge=merge, on_blocked=on_blocked)
    if examples is None or settings is None:
        return smaller
    return distilled(smaller, original.graph, examples, settings, progress=progress)
