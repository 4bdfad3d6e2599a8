"""Pruning in small steps: annealed dropout regression.

Every element has a logit. Each round draws masks from the keep-probabilities that belong to the logits, estimates what
dropping each element costs at these very masks, and moves the logits by a bounded step; the expected fraction that is
dropped rises on a schedule. In the end the elements with the highest logits stay. Where units are deleted and not
merged, a few of them are exchanged for others as long as that helps (`dropreg.pruning`), and as logits of one stage are
prejudices in the next, which drops more, a second run without them is made as well. With F(p) the expected outcome
under independent keep-probabilities p, a round estimates the gradient of F: by the coefficients of a regression on the
masks, which equal it, or by the trapezoid rule from derivatives with respect to the masks at both ends of the step. One
round at equal probabilities is plain dropout regression.

Where what is dropped is merged, the outcome is the divergence from the whole model, which is nearly a square of what
is dropped. Its second derivatives by single masks (Gauss-Newton) are averages of squares, far less noisy than
differences between masks that keep an element and masks that drop it. With them every mask tells of both ends of the
step, what an element costs by itself is told from its interactions, and how early a stage decides can be set
(`dropreg.Annealing`: `interactions`, `exploration`, `carried`).
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
from ...surgery import OnBlocked, Original, Pruned, check_can_cut, cut, trace_original
from .._path import SelectionPath
from .._targets import AccuracyLimit, Budget, Target
from ._annealer import Ablation, Annealer, ask_annealing
from ._logits import normal_scores
from ._options import Annealing
from ._search import Build, Make, down_to, within

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
    """Select the kept elements in small steps, by annealed keep-probabilities.

    With a fraction, this is the selection of `anneal_path` for that fraction alone. With a target, smaller models for
    rising fractions are built (merged with `data` where `ablation` is "merged") and measured.

    For a budget the fractions rise until one model meets it; the number of elements is then found by bisection.

    For an accuracy limit a twentieth of the elements is added at a time until one model fails. Nothing is tried after
    a failure, so the limit's confidence level holds for the result, however many models were measured. With labels,
    models that are built with one half of `data` and measured on the other half tell where to begin: at the last
    that keeps to the limit. If this first one fails, the search begins again at the first twentieth, with a tenth of
    the error probability.

    Parameters
    ----------
    model : keras.Model
        It is not changed.
    data : (x, y)
        Held-out examples, as in `sample`; y may be None where the outcome needs no labels.
    elements : Elements
    fraction : float, optional
        Fraction of the elements to remove, strictly between 0 and 1.
    target : Budget or AccuracyLimit, optional
        Instead of a fraction: a size or latency to reach, or a limit on the loss of accuracy.
    ablation : {"zero", "merged"}
        Replacement for removed activations while masks are drawn: zeros, for selections that will be deleted; or
        their least-squares prediction from the kept ones, for selections that will be merged (the last layer is
        refitted jointly; heads and whole layers are still replaced by zeros).
    annealing : Annealing, optional
        Rounds, rows, the outcome and the other options of the search.
    floor : int, float, "all" or mapping of str to one of them
        Fewest elements that every layer keeps, as in `select`; ``{"name": "all"}`` protects a layer.
    task : str, optional
        As in `sample`.
    seed : int
        Decides the masks and the order of examples.
    progress : bool, optional
        Show a bar with the removed fraction and the outcome; by default on a terminal only.

    Returns
    -------
    Selection
        The same for the same arguments.

    Raises
    ------
    TargetError
        If the target cannot be met; the error's `best` is the selection that came closest.
    ParameterError
        If not exactly one of `fraction` and `target` is given, or an argument is out of range.
    DataError
        If the data do not fit the model or the outcome, or an accuracy limit is of a regression or shares examples
        with `data`.
    ModelError
        If a layer has no gradient where gradients are used, derivatives are not finite, or there is a target and the
        elements cannot be cut.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> data = dr.datasets.fashion_mnist("estimation")
    >>> selection = dr.anneal(model, data, dr.elements(model), fraction=0.5, annealing=dr.Annealing(rounds=5))
    >>> len(selection.dropped)
    200
    """
    check_goal(elements, fraction, target, floor)
    data, graph = read_once(data), trace_graph(model)
    options = Annealing() if annealing is None else annealing
    question = ask_annealing(graph, data, elements, ablation=ablation, options=options, task=task, seed=seed)
    original = None if target is None else trace_original(graph)

    def build(selection: Selection, part: Examples | None) -> Pruned:
        assert original is not None
        return cut(original, selection, part if ablation == "merged" else None)

    return choose(
        *(question, options, ablation, floor),
        goal=target if fraction is None else float(fraction),
        data=data,
        original=original,
        build=build,
        make=lambda selection: build(selection, question.examples),
        progress=progress,
    )


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

    Where units are deleted and not merged, every stage but the first makes a second run of as many rounds, which
    starts from the first logits instead of those of the stage before; the selection with the better outcome on all
    examples is taken. Every stage then ends with a local search: up to ten sweeps that exchange elements, each with
    forward passes over 1,000 examples for up to 96 selections, and over all examples for 7.

    Parameters
    ----------
    model, data, elements, ablation, annealing, floor, task, seed, progress
        As in `anneal`.
    fractions : sequence of float
        Fractions of the elements to remove, ascending, strictly between 0 and 1. Each is a stage that continues from
        the one before; what a stage removes stays removed.

    Returns
    -------
    SelectionPath
        The same for the same arguments.

    Raises
    ------
    ParameterError
        If an argument is out of range, or a fraction leaves less than the floors ask for.
    DataError, ModelError
        As in `anneal`.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> data = dr.datasets.fashion_mnist("estimation")
    >>> path = dr.anneal_path(model, data, dr.elements(model), fractions=(0.3, 0.6), annealing=dr.Annealing(rounds=3))
    >>> [selection.fraction for selection in path.selections]
    [0.3, 0.6]
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
    original: Original | None,
    build: Build,
    make: Make,
    on_blocked: OnBlocked = "raise",
    progress: bool | None,
) -> Selection:
    """Select for a checked goal: a fraction, a budget, or an accuracy limit.

    `make` builds the models that an accuracy limit measures, `build` those that tell where its search begins.
    """
    if isinstance(goal, float):
        run = Annealer(question, options, ablation, floor)
        n_rounds = run.rounds_of(100)
        with tqdm(total=n_rounds, unit="rounds", disable=hidden(progress)) as bar:
            return run.stage(goal, n_rounds, bar)
    assert original is not None
    if on_blocked == "raise":
        check_can_cut(original, question.elements, floor)
    shown = goal.check(question.graph, data) if isinstance(goal, AccuracyLimit) else None
    run = Annealer(question, options, ablation, floor)
    graph, examples, elements = question.graph, question.examples, question.elements
    if options.start is None and ablation == "merged" and options.gradients and examples.labels is not None:
        traced: Any = graph  # scorers take a traced model as well, which is not traced again
        run.begin_at(normal_scores(spread(traced, examples, elements, seed=question.seed).impact))
    if shown is None:
        assert isinstance(goal, Budget)
        return down_to(run, original, goal, on_blocked=on_blocked, progress=progress)
    return within(
        *(run, make, goal, shown),
        pilot=lambda selection: goal.guess(graph, examples, partial(build, selection)),
        progress=progress,
    )


def check_path(elements: Elements, fractions: Sequence[float], floor: Floor, name: str = "fractions") -> None:
    """Raise ParameterError unless fractions ascend within (0, 1) and leave what the floors ask for."""
    check_elements(elements)
    check_several("fractions", fractions)
    if not len(fractions):
        raise ParameterError("`fractions` must hold at least one fraction, received none.")
    for fraction in fractions:
        check_between(name, fraction, hint="it is the fraction to remove")
        if round(fraction * len(elements)) < 1:
            raise ParameterError(
                f"`{name}` must drop at least one of the {len(elements)} elements, received {fraction!r}: pass "
                f"more than {0.5 / len(elements):.2g}."
            )
    if any(b <= a for a, b in pairwise(fractions)):
        raise ParameterError(f"`fractions` must ascend, received {tuple(fractions)}.")
    check_fractions(elements, fractions, floor)
