"""Select elements by annealing keep-probabilities.

1. Every element has a logit, from which its keep-probability follows.
2. Each round draws random masks from these probabilities and estimates the impact of every element at these masks.
3. Each logit changes by a bounded step in the direction of the impact. The probabilities are shifted so that the
   expected removed fraction follows a schedule, which rises to the requested fraction.
4. After the last round the elements with the highest logits, averaged over the last quarter of the rounds, are kept.

With F(p) the expected outcome under independent keep-probabilities p, a round estimates the gradient of F in one of
three ways:

- without gradients, by the coefficients of a regression on the masks, whose expectation is the gradient;
- with gradients, by the trapezoid rule from the derivatives by the masks at both ends of the step, kept and removed;
- for "merged", where the outcome is the divergence from the original model, also by second derivatives (Gauss-Newton).
  The divergence is nearly quadratic in the masks, and its second derivatives are averages of squares, far less noisy
  than differences between masks that keep and masks that remove an element. They make every mask informative about
  both ends and separate an element's own effect from its interactions (`Schedule.interactions`, `exploration`).

A single round at equal probabilities is plain dropout regression.

A search for several fractions or for a target runs in stages, each of which continues from the one before. Where units
are deleted and not merged, a stage also runs a second time from the first logits, because the logits of the stage
before favour its selection. The better selection is then improved by local search.
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from ..._utils import check_between, check_several, hidden
from ...data import Data, Examples, Task, read_once
from ...element import Elements, Floor, Selection, check_elements, check_fractions
from ...errors import ParameterError
from ...graph import trace_graph
from ...network import Question
from ...scorers import spread
from ...surgery import Original, Pruned, check_can_cut, cut, trace_original
from .._path import SelectionPath
from .._targets import AccuracyLimit, Budget, Target, check_limit, cross_measured
from ._annealer import Ablation, Annealer, ask_annealing
from ._logits import normal_scores
from ._options import Annealing
from ._search import Models, down_to, within

if TYPE_CHECKING:
    import keras


def anneal(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    fraction: float | None = None,
    target: Target | None = None,
    ablation: Ablation = "zero",
    annealing: Annealing | None = None,
    floor: Floor = 1,
    task: Task | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Selection:
    """Select the kept elements by annealing keep-probabilities.

    With a fraction, the result is the selection of `anneal_path` for that fraction alone. With a target, the removed
    fraction rises in stages, and the smaller models are built (merged with `data` for ``ablation="merged"``) and
    measured.

    For a budget the search ends at the first stage whose model meets it; the number of elements is then found by
    bisection.

    For an accuracy limit a twentieth of the elements is added at a time until a model fails. Nothing is tested after
    a failure, so the confidence level holds for the result, however many models were measured. With labels, the first
    test is at the last selection that meets the limit when models are built with one half of `data` and measured on
    the other. If this test fails, earlier selections are tested with a tenth of the error probability.

    Parameters
    ----------
    model : keras.Model
        It is not changed.
    data : (x, y)
        Held-out examples, as in `sample`; y may be None if the outcome requires no labels.
    elements : Elements
    fraction : float, optional
        Fraction of the elements to remove, strictly between 0 and 1.
    target : Budget or AccuracyLimit, optional
        Instead of a fraction: a size or latency to reach, or a limit on the loss of accuracy.
    ablation : {"zero", "merged"}
        Replacement of removed activations under random masks: zeros, for selections that will be deleted; or their
        least-squares prediction from the kept ones, for selections that will be merged (the last layer is refitted
        jointly; heads and whole layers are replaced by zeros).
    annealing : Annealing, optional
        Rounds, rows, the outcome and the other options of the search.
    floor : int, float, "all" or mapping of str to one of them
        Fewest elements that every layer keeps, as in `select`; ``{"name": "all"}`` protects a layer.
    task : str, optional
        As in `sample`.
    seed : int
        Seed of the masks and of the order of examples.
    progress : bool, optional
        Show a bar with the removed fraction and the outcome; by default on a terminal only.

    Returns
    -------
    Selection
        Equal arguments give equal selections.

    Raises
    ------
    TargetError
        If the target cannot be met; the error's `best` is the closest selection.
    ParameterError
        If not exactly one of `fraction` and `target` is given, or an argument is out of range.
    DataError
        If the data do not fit the model or the outcome, or an accuracy limit is used for a regression or shares
        examples with `data`.
    ModelError
        If a layer has no gradient where gradients are used, derivatives are not finite, or there is a target and the
        elements cannot be cut.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> x, y = dr.datasets.fashion_mnist("estimation")
    >>> data, elements = (x[:500], y[:500]), dr.elements(model, include="dense_2")
    >>> selection = dr.anneal(model, data, elements, fraction=0.5, annealing=dr.Annealing(rounds=5))
    >>> len(selection.dropped)
    50
    """
    check_goal(elements, fraction, target, floor)
    data, graph = read_once(data), trace_graph(model)
    options = Annealing() if annealing is None else annealing
    question = ask_annealing(graph, data, elements, ablation=ablation, options=options, task=task, seed=seed)
    models = None if target is None else _models(trace_original(graph), question.examples, ablation)
    goal = target if fraction is None else float(fraction)
    return choose(question, options, ablation, floor, goal=goal, data=data, models=models, progress=progress)


def _models(original: Original, examples: Examples, ablation: Ablation) -> Models:
    """Return how a search builds models: without recovery, and merged for ``ablation="merged"``."""

    def build(selection: Selection, part: Examples) -> Pruned:
        return cut(original, selection, part, merge=None if ablation == "merged" else "none")

    return Models(original, build, lambda selection: build(selection, examples))


def anneal_path(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    fractions: Sequence[float] = (0.5, 0.7, 0.8, 0.9),
    ablation: Ablation = "zero",
    annealing: Annealing | None = None,
    floor: Floor = 1,
    task: Task | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> SelectionPath:
    """Select the kept elements for several fractions in one run; each selection is a subset of the one before.

    Where units are deleted and not merged, every stage but the first makes a second run of as many rounds, from the
    first logits. The selection with the better outcome on all examples is taken and improved by local search: up to
    ten sweeps, each of which measures up to 96 selections on 1,000 examples and 7 on all examples.

    Parameters
    ----------
    model, data, elements, ablation, annealing, floor, task, seed, progress
        As in `anneal`.
    fractions : sequence of float
        Fractions of the elements to remove, ascending, strictly between 0 and 1. Each is a stage that continues from
        the one before; elements removed in a stage remain removed.

    Returns
    -------
    SelectionPath
        Equal arguments give equal paths.

    Raises
    ------
    ParameterError
        If an argument is out of range, or a fraction leaves fewer elements than the floors require.
    DataError, ModelError
        As in `anneal`.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> x, y = dr.datasets.fashion_mnist("estimation")
    >>> data, elements = (x[:500], y[:500]), dr.elements(model, include="dense_2")
    >>> path = dr.anneal_path(model, data, elements, fractions=(0.3, 0.6), annealing=dr.Annealing(rounds=3))
    >>> [len(selection.dropped) for selection in path.selections]
    [30, 60]
    """
    check_path(elements, fractions, floor)
    options = Annealing() if annealing is None else annealing
    question = ask_annealing(model, read_once(data), elements, ablation=ablation, options=options, task=task, seed=seed)
    run = Annealer(question, options, ablation, floor)
    n_rounds = run.rounds_of(50)
    with tqdm(total=run.n_rounds(n_rounds, len(fractions)), unit="rounds", disable=hidden(progress)) as bar:
        for fraction in fractions:
            run.stage(fraction, n_rounds, bar)
    return run.path()


def check_goal(elements: Elements, fraction: float | None, target: Any, floor: Floor) -> None:
    """Raise ParameterError unless exactly one of a valid fraction and a valid target is given."""
    check_elements(elements)
    if (fraction is None) == (target is None):
        raise ParameterError(
            f"exactly one of `fraction` and `target` must be given, received {'none' if fraction is None else 'both'}: "
            "pass fraction=0.8, target=Budget('params', 0.2) or target=AccuracyLimit(0.005, (x, y))."
        )
    if fraction is not None:
        check_path(elements, (fraction,), floor, "fraction")
    elif not isinstance(target, Target):
        raise ParameterError(
            f"`target` must be a Budget or an AccuracyLimit, received {target!r}: pass fraction= for a fraction of the "
            "elements."
        )
    elif elements.one_mask_a_batch and isinstance(target, Budget):
        raise ParameterError(
            "`target` must be an accuracy limit where single weights are removed, whose zeros do not change sizes, "
            f"received a budget of {target.quantity}: pass fraction=..., or elements of another kind."
        )


def choose(
    question: Question,
    options: Annealing,
    ablation: Ablation,
    floor: Floor,
    *,
    goal: Any,
    data: Data,
    models: Models | None,
    progress: bool | None,
) -> Selection:
    """Return the selection for a checked goal: a fraction (float), or a target for which `models` are built."""
    if isinstance(goal, float):
        run = Annealer(question, options, ablation, floor)
        n_rounds = run.rounds_of(100)
        with tqdm(total=n_rounds, unit="rounds", disable=hidden(progress)) as bar:
            return run.stage(goal, n_rounds, bar)
    assert models is not None
    graph, examples, elements = question.graph, question.examples, question.elements
    if models.on_blocked == "raise":
        check_can_cut(models.original, elements, floor)
    held_out = check_limit(goal, graph, data, examples.task) if isinstance(goal, AccuracyLimit) else None
    run = Annealer(question, options, ablation, floor)
    if options.start is None and ablation == "merged" and options.gradients and examples.labels is not None:
        traced: Any = graph  # scorers accept a traced model, too
        run.begin_at(normal_scores(spread(traced, examples, elements, seed=question.seed).impact))
    if isinstance(goal, Budget):
        return down_to(run, models, goal, progress=progress)
    assert held_out is not None

    def pilot(selection: Selection) -> float:
        return cross_measured(goal, graph, examples, partial(models.build, selection))

    return within(run, models.make, goal, held_out, pilot=pilot, progress=progress)


def check_path(elements: Elements, fractions: Sequence[float], floor: Floor, name: str = "fractions") -> None:
    """Raise ParameterError unless fractions ascend within (0, 1) and leave the elements that floors require."""
    check_elements(elements)
    check_several("fractions", fractions)
    if not len(fractions):
        raise ParameterError("`fractions` must hold at least one fraction, received none.")
    for fraction in fractions:
        check_between(name, fraction, hint="it is the fraction to remove")
        if round(fraction * len(elements)) < 1:
            raise ParameterError(
                f"`{name}` must remove at least one of the {len(elements)} elements, received {fraction!r}: pass "
                f"more than {0.5 / len(elements):.2g}."
            )
    if any(b <= a for a, b in pairwise(fractions)):
        raise ParameterError(f"`fractions` must ascend, received {tuple(fractions)}.")
    check_fractions(elements, fractions, floor)
