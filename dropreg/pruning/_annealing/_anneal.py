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

import numpy.typing as npt
from tqdm.auto import tqdm

from ..._utils import check_between, check_several, positive
from ...data import Data, Examples, Task, check_data, read_once
from ...element import Elements, Floor, Selection, check_elements, check_fractions
from ...errors import ParameterError
from ...network import Outcome
from ...regression import ImpactTable
from ...scorers import spread
from ...surgery import OnBlocked, Original, Pruned, check_can_cut, cut, trace_original
from .._path import SelectionPath
from .._targets import AccuracyLimit, Budget, Target
from ._annealer import Ablation, Annealer
from ._logits import normal_scores
from ._schedule import Annealing
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
    rounds: int | None = None,
    rows_per_round: int | None = None,
    outcome: str | Outcome | None = None,
    gradients: bool = True,
    ablation: Ablation = "zero",
    schedule: Annealing | None = None,
    examples_per_mask: int | None = None,
    start: ImpactTable | npt.ArrayLike | None = None,
    floor: Floor = 1,
    task: Task | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Selection:
    """Choose which elements stay, in small steps.

    With a fraction, the selection of `anneal_path` with this fraction alone. With a target, a path of rising
    fractions whose smaller models are built (merged with `data` where `ablation` is "merged") and measured. For a
    budget, until one keeps to it; the number of elements is then found by bisection. For an accuracy limit, a twentieth
    of the elements after the other until one fails: as nothing is tried after a failure, the limit's level holds for
    what is handed back, however many were measured. With labels, smaller models that are made with one half of `data`
    and measured on the other half, what they set right counting nothing, tell what may be left out: the search begins
    with the last that keeps to the limit and goes on in steps of a quarter of its loss. Should it fail at once, it
    begins anew with the first twentieth, and a tenth of the probability to err.

    Parameters
    ----------
    fraction : float, optional
        Of the elements to drop, strictly between 0 and 1.
    target : Budget or AccuracyLimit, optional
        In its place: a size or latency to come down to, or the loss of accuracy to stay under.
    rounds : int, optional
        By default as many as spend twice what a stage of `anneal_path` does; for a target, two fifths of that for each
        step of its path.
    start : ImpactTable or array of float, shape (n_elements,), optional
        As in `anneal_path`; where a target is searched for with labels, gradients and "merged", by default the normal
        scores of the ranks by `spread`: a search begins where little goes, and what masks tell of elements that hardly
        matter is mostly noise.
    model, data, elements, rows_per_round, outcome, gradients, ablation, schedule, examples_per_mask, floor, task, \
seed, progress
        As in `anneal_path`.

    Returns
    -------
    Selection

    Raises
    ------
    TargetError
        If the target cannot be met; the error's `best` is the selection that came closest.
    ParameterError
        If not exactly one of `fraction` and `target` is given, or as in `anneal_path`.
    DataError
        As in `anneal_path`, or if an accuracy limit is of a regression or shares examples with `data`.
    ModelError
        As in `anneal_path`, or if there is a target and the elements cannot be cut.
    """
    data = read_once(data)

    original = None if target is None else trace_original(model)
    examples = check_data(model, data, measured=False) if target is not None and ablation == "merged" else None

    def build(selection: Selection, part: Examples | None) -> Pruned:
        assert original is not None
        return cut(original, selection, part if ablation == "merged" else None)

    return choose(
        *(model, data, elements),
        fraction=fraction,
        target=target,
        rounds=rounds,
        build=build,
        make=lambda selection: build(selection, examples),
        original=original,
        progress=progress,
        rows_per_round=rows_per_round,
        outcome=outcome,
        gradients=gradients,
        ablation=ablation,
        schedule=schedule,
        examples_per_mask=examples_per_mask,
        start=start,
        floor=floor,
        task=task,
        seed=seed,
    )


def anneal_path(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    fractions: Sequence[float] = (0.5, 0.7, 0.8, 0.9),
    rounds: int | None = None,
    rows_per_round: int | None = None,
    outcome: str | Outcome | None = None,
    gradients: bool = True,
    ablation: Ablation = "zero",
    schedule: Annealing | None = None,
    examples_per_mask: int | None = None,
    start: ImpactTable | npt.ArrayLike | None = None,
    floor: Floor = 1,
    task: Task | None = None,
    seed: int = 0,
    progress: bool = False,
) -> SelectionPath:
    """Nested selections for several fractions, in small steps.

    Where units are deleted and not merged, every stage but the first makes a second run of as many rounds, which starts
    from the first logits again in place of those of the stage before; the selection that has the better outcome on all
    examples is taken. Every stage ends with up to ten sweeps of swaps (`dropreg.pruning`), each of which needs forward
    passes over 1,000 examples for up to 96 selections, and over all for 7. Neither helps where what is dropped is
    merged (``experiments/results/anneal``).

    Parameters
    ----------
    model : keras.Model
        It is not changed.
    data : (x, y)
        Held-out examples, as in `sample`; y may be None where the outcome needs no labels.
    elements : Elements
    fractions : sequence of float
        Of the elements to drop, ascending, strictly between 0 and 1. Each is a stage of the run, which goes on from
        the one before and drops more; what a stage drops is gone for good.
    rounds : int, optional
        Of each stage; by default as many as make 102,400 rows with gradients (25,600 for "merged" where outputs have
        positions), 50 without. For "merged" more find selections that are a little better.
    rows_per_round : int, optional
        Masked forward passes of one example in a round, a multiple of `examples_per_mask`. By default 256 with
        gradients, many small rounds being better than few large ones; 512 for "merged", 128 where outputs have
        positions; two masks where masks multiply weights; without gradients eight for each element and at least 8,192.
    outcome : str or Outcome, optional
        What must not get worse. By default "retained", the accuracy on what the model decides right
        (`RetainedAccuracy`; its surrogate where derivatives help), or the loss of a regression; the divergence from
        the whole model without labels, for single weights, and where what is dropped is merged.
    gradients : bool
        Whether derivatives with respect to the masks help. Forward passes alone do with anything that can be called.
    ablation : {"zero", "merged"}
        What a layer reads in place of what is dropped: nothing, or its least-squares prediction from what stays
        (`dropreg.network`; heads and whole layers beside units are deleted), while the last layer learns along as
        merging will fit it (`dropreg.network`). Choose "merged" for selections that will be merged, "zero" for plain
        deletion.
    schedule : Annealing, optional
        How logits move; for single weights the default is a learning rate of .03, sharpened by 15. For "merged" it
        also says whether second derivatives are estimated, and what is made of them.
    examples_per_mask : int, optional
        Consecutive rows that share a mask. By default 1; 64 for "merged", whose every mask takes a matrix inverse,
        16 where outputs have positions; 256 where masks multiply weights.
    start : ImpactTable or array of float, shape (n_elements,), optional
        Scores whose standardized values the logits start from (an array may hold the logits of another run); zero
        by default, for weights their magnitude.
    floor : int, float, "all" or mapping of str to one of them
        Fewest elements that every layer keeps, as in `select`; ``{"name": "all"}`` protects a layer.
    task : str, optional
        As in `sample`.
    seed : int
        Chooses masks and the order of examples.
    progress : bool
        Show a bar with the dropped fraction and the outcome.

    Returns
    -------
    SelectionPath
        The same for the same arguments.

    Raises
    ------
    ParameterError
        If an argument is out of range, or a fraction leaves less than the floors ask for.
    ModelError
        If `gradients` and a layer has none, or derivatives are not finite.
    DataError
        If the data do not fit the model or the outcome.
    """
    check_path(elements, fractions, floor)
    data = read_once(data)
    run = Annealer(
        *(model, data, elements),
        rows_per_round=rows_per_round,
        outcome=outcome,
        gradients=gradients,
        ablation=ablation,
        schedule=schedule,
        examples_per_mask=examples_per_mask,
        start=start,
        floor=floor,
        task=task,
        seed=seed,
    )
    n_rounds = run.default_rounds(50) if rounds is None else positive("rounds", rounds)
    with tqdm(total=run.n_rounds(n_rounds, len(fractions)), unit="rounds", disable=not progress) as bar:
        for fraction in fractions:
            run.stage(fraction, n_rounds, bar)
    return run.path()


def choose(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    fraction: float | None,
    target: Target | None,
    build: Build,
    make: Make,
    original: Original | None,
    rounds: int | None = None,
    on_blocked: OnBlocked = "raise",
    progress: bool,
    **options: Any,
) -> Selection:
    """What `anneal` does; `make` gives the models that an accuracy limit measures, `build` those of its pilot."""
    if (fraction is None) == (target is None):
        raise ParameterError(
            f"exactly one of `fraction` and `target` must be given, received {'none' if fraction is None else 'both'}: "
            "pass fraction=0.8, target=Budget('params', 0.2) or target=AccuracyLimit(0.005, (x, y))."
        )
    if target is not None and not isinstance(target, Target):
        raise ParameterError(
            f"`target` must be a Budget or an AccuracyLimit, received {target!r}: pass fraction= for a fraction of the "
            "elements."
        )
    floor = options["floor"]
    if fraction is not None:
        check_path(elements, (fraction,), floor, "fraction")
    elif elements.one_mask_a_batch and isinstance(target, Budget):
        raise ParameterError(
            "`target` must be an accuracy limit where single weights go, whose zeros leave sizes as they are, received "
            f"a budget of {target.quantity}: pass fraction=..., or elements of another kind."
        )
    else:
        if on_blocked == "raise":
            assert original is not None
            check_can_cut(original, elements, floor)
        if isinstance(target, AccuracyLimit):
            target.check(model, data)
    run = Annealer(model, data, elements, **options)
    if target is None:
        assert fraction is not None
        n_rounds = run.default_rounds(100) if rounds is None else positive("rounds", rounds)
        with tqdm(total=n_rounds, unit="rounds", disable=not progress) as bar:
            return run.stage(fraction, n_rounds, bar)
    helped = run.ablation == "merged" and run.gradients and run.question.examples.labels is not None
    if options.get("start") is None and helped:
        task, seed = options.get("task"), options["seed"]
        run.begin_at(normal_scores(spread(model, data, elements, task=task, seed=seed).impact))
    if isinstance(target, AccuracyLimit):
        limit, examples = target, run.question.examples
        return within(
            *(run, make, limit, rounds),
            pilot=lambda selection: limit.guess(model, examples, partial(build, selection)),
            progress=progress,
        )
    assert original is not None
    return down_to(run, original, target, rounds, on_blocked=on_blocked, progress=progress)


def check_path(elements: Elements, fractions: Sequence[float], floor: Floor, name: str = "fractions") -> None:
    """Raise ParameterError unless fractions ascend within (0, 1) and leave what the floors ask for."""
    check_elements(elements)
    check_several("fractions", fractions)
    if not len(fractions):
        raise ParameterError("`fractions` must hold at least one fraction, received none.")
    for fraction in fractions:
        check_between(name, fraction, hint="it is the fraction that goes")
        if round(fraction * len(elements)) < 1:
            raise ParameterError(
                f"`{name}` must drop at least one of the {len(elements)} elements, received {fraction!r}: pass "
                f"more than {0.5 / len(elements):.2g}."
            )
    if any(b <= a for a, b in pairwise(fractions)):
        raise ParameterError(f"`fractions` must ascend, received {tuple(fractions)}.")
    check_fractions(elements, fractions, floor)
