"""The state of one annealing run: logits that change from round to round, in one or more stages."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from ..._utils import Array, check_type
from ...data import Data, Examples, Task, check_data
from ...element import Elements, Floor, Selection, finite_numbers
from ...errors import DataError, ModelError, ParameterError
from ...graph import Graph, trace_graph
from ...network import Evaluator, Question, RetainedAccuracy, ask_one, non_differentiable
from ...regression import ImpactTable
from ...scorers import magnitude
from .._path import SelectionPath
from .._select import select
from .._stepwise import Units, begin
from ._local_search import Swapper, exchange
from ._logits import bounded, keep_probabilities
from ._options import Annealing
from ._round import Round
from ._schedule import MOST, Schedule, is_averaged, ramped

if TYPE_CHECKING:
    import keras

    from ...network import MaskedNetwork

Ablation = Literal["zero", "merged"]
_ROWS, _SMALL, _MERGED = 2048, 256, 512
_POSITIONS = 4
"""Examples without positions that one with positions, such as pixels, replaces where examples share a mask."""
_WEIGHTS = Schedule(learning_rate=0.03, sharpness=15.0)


class _Run(NamedTuple):
    """Logits after the rounds of a run, their means that decide, the selection, and one row of history a round."""

    logits: Array
    scores: Array
    kept: npt.NDArray[np.bool_]
    history: list[dict[str, Any]]


class Annealer:
    """Anneal a model's elements in stages, each of which removes more than the one before.

    Parameters
    ----------
    question : Question
        The model, the elements and the outcome to preserve.
    options : Annealing
    ablation : {"zero", "merged"}
    floor : int, float, "all" or mapping of str to one of them

    Attributes
    ----------
    start : ndarray of float64, shape (n_elements,)
        The first logits.
    """

    def __init__(self, question: Question, options: Annealing, ablation: Ablation, floor: Floor) -> None:
        elements, gradients = question.elements, options.gradients
        self.question, self.elements, self.floor, self.gradients = question, elements, floor, gradients
        self.ablation, self.rounds = ablation, options.rounds
        self.schedule = options.schedule or (_WEIGHTS if elements.one_mask_a_batch else Schedule())
        if gradients and not question.outcome.differentiable:
            raise ParameterError(
                f"`outcome` must have a gradient or a surrogate with one, received '{question.outcome.name}': "
                "pass gradients=False, or outcome='divergence'."
            )
        self._weight = _POSITIONS if ablation == "merged" and self.question.has_positions else 1
        group = _examples_per_mask(elements, ablation, options.examples_per_mask, self._weight)
        rows = _rows_per_round(elements, gradients, ablation, group, options.rows_per_round, self._weight)
        if rows % group or rows < 2 * group:
            raise ParameterError(
                f"`rows_per_round` must be a multiple of {group}, the examples of a mask, and suffice for at least "
                f"two masks, received {rows}: pass {max(rows // group, 2) * group}."
            )
        self.start = self._logits = _start(question, options.start)
        self._deletes_units = ablation == "zero" and not elements.one_mask_a_batch
        self._group, self._rows, self._spent = group, rows, 0
        evaluator = Evaluator(self.question, network=_merged(self.question, group) if ablation == "merged" else None)
        if isinstance(self.question.outcome, RetainedAccuracy) and not evaluator.original_values().any():
            raise DataError(
                "`data` must hold examples that the model classifies correctly, received none among "
                f"{len(evaluator):,}: check that labels number the classes as the model's output does, or pass "
                "outcome='divergence' to dropreg.anneal."
            )
        layer = non_differentiable(evaluator) if gradients else None
        if layer is not None:
            raise ModelError(
                f"every layer between the elements and the output must have a gradient, received layer {layer} "
                "without: pass gradients=False."
            )
        self._units = _units(question) if ablation == "zero" else None
        self._dropped, self._number = 0.0, 0
        self._selections: list[Selection] = []
        self._decided: list[Array] = []
        self._history: list[dict[str, Any]] = []
        self._use(evaluator)

    def _use(self, evaluator: Evaluator) -> None:
        """Measure with an evaluator, whose network has all elements or those of `kept`."""
        n = len(self.elements)
        columns = np.arange(n) if evaluator.n_elements == n else np.flatnonzero(self.kept)
        self._evaluator = evaluator
        self._round = Round(
            *(evaluator, self.gradients, self._group, self._rows, columns, n), second_order=self.schedule.second_order
        )
        self._swap = Swapper(self._round, self.elements, self.floor)

    def _narrow(self) -> None:
        """Continue with a network without the removed elements, if it can be cut: it computes the same faster."""
        if self._units is None:
            return
        try:
            chosen = Selection(self._units.left, self.kept[self._round.columns])
            self._units.cut(chosen, self.question.examples, merge="none")
            self._units.find_again()
        except ModelError:
            self._units = None
            return
        self._spent += self._evaluator.rows
        left, graph = self._units.left, trace_graph(self._units.model)
        question = replace(self.question, graph=graph, elements=left, kept=np.ones(len(left), dtype=bool))
        self._use(Evaluator(question, original=self._evaluator.original))

    def begin_at(self, scores: Array) -> None:
        """Start from the standardized `scores` (n_elements,), higher = more likely kept."""
        self.start = self._logits = bounded(scores, np.inf)

    @property
    def n_stages(self) -> int:
        """Number of finished stages."""
        return len(self._selections)

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        """The kept elements after these stages, shape (n_elements,)."""
        return self._selections[-1].kept if self._selections else np.ones(len(self.elements), dtype=bool)

    @property
    def scores(self) -> Array:
        """The mean logits that decided the last stage, NaN for elements removed before, shape (n_elements,)."""
        return self._decided[-1]

    def rounds_of(self, usual: int) -> int:
        """Return the rounds of a stage: those of the options, or with gradients the rows of `usual` rounds of 2,048."""
        if self.rounds is not None:
            return self.rounds
        return max(usual * _ROWS // (self._rows * self._weight), 1) if self.gradients else usual

    def n_rounds(self, rounds: int, n_stages: int) -> int:
        """Return the rounds of the first `n_stages` stages where every run has `rounds`."""
        return rounds * (2 * n_stages - 1 if self._deletes_units else n_stages)

    def stage(self, fraction: float, rounds: int, bar: Any) -> Selection:
        """Run a stage, until `fraction` of all elements is removed, and show its rounds on a tqdm bar.

        Where units are deleted, every stage but the first makes a second run, from the first logits. The run whose
        selection has the better outcome on all examples is taken, and improved by local search, in at most twice the
        row-equivalents of the runs.
        """
        alive = self.kept
        if self._evaluator.n_elements > alive.sum():
            self._narrow()
        starts = [self._carried_logits(alive)]
        if self._deletes_units and self.n_stages:
            starts.append(self.start)
        before = self._evaluator.rows
        runs = [self._run(fraction, rounds, alive, start.copy(), bar) for start in starts]
        if not self._round.changed and not self._evaluator.network.is_idle:
            raise ParameterError(
                f"outcome '{self.question.outcome.name}' must change with the masks, received no change in any row: "
                "pass Annealing(outcome=...) with another, such as 'divergence' or 'loss', or more examples."
            )
        taken = self._best(runs)
        self._logits, scores, kept, _ = runs[taken]
        for number, run in enumerate(runs):
            marks = {"stage": self.n_stages, "run": number, "taken": number == taken}
            self._history += [{**marks, **row} for row in run.history]
        if self._deletes_units:
            kept, pairs = self._swap(kept, alive, scores, most_rows=2 * (self._evaluator.rows - before))
            for values in (scores, self._logits):
                exchange(values, pairs)
        self._selections.append(Selection(self.elements, kept))
        self._decided.append(scores)
        self._dropped = fraction
        return self._selections[-1]

    def _carried_logits(self, alive: npt.NDArray[np.bool_]) -> Array:
        """Return the logits of the stage before; with second derivatives rescaled, so that they decide less."""
        logits = self._logits.copy()
        if self._round.curved and self.n_stages:
            logits[alive] = self.schedule.carried * bounded(logits[alive], np.inf)
        return logits

    def _run(self, fraction: float, rounds: int, alive: npt.NDArray[np.bool_], logits: Array, bar: Any) -> _Run:
        """Run rounds, which change `logits` and the weights of the last layer, and select."""
        n, schedule, history = len(alive), self.schedule, []
        decided, n_decided = np.zeros(n), 0
        for number in range(rounds):
            dropped = self._dropped + (fraction - self._dropped) * ramped(number, rounds)
            share = max(1.0 - (1.0 - dropped) * n / alive.sum(), 0.0)  # of the elements that are alive
            p = np.zeros(n)
            p[alive] = keep_probabilities(schedule.factor(number, rounds) * logits[alive], share)
            explored = schedule.explored(number, rounds)
            impact, outcome = self._round(self._number, alive, p, interactions=schedule.interactions, explored=explored)
            self._number += 1
            logits[alive] += schedule.learning_rate * bounded(impact[alive], MOST)
            if is_averaged(number, rounds):
                decided, n_decided = decided + logits, n_decided + 1
            certain = float(((p[alive] < 0.1) | (p[alive] > 0.9)).mean())
            history.append({"round": number, "dropped": dropped, "outcome": outcome, "decided": certain})
            bar.set_postfix(dropped=f"{dropped:.1%}", outcome=f"{outcome:.4g}", refresh=False)
            bar.update()
        scores = np.where(alive, decided / n_decided, np.nan)
        lowest = scores[alive].min() - 1.0
        ranked = np.where(alive, scores, lowest)
        kept = select(self.elements, ranked, fraction=fraction, floor=self.floor).kept
        return _Run(logits, scores, kept, history)

    def _best(self, runs: list[_Run]) -> int:
        """Return the number of the run whose selection has the best outcome on all examples, the first of equals."""
        if len(runs) == 1:
            return 0
        everything = np.arange(len(self._evaluator))
        outcomes = [self._round.means(run.kept[np.newaxis], everything)[0] for run in runs]
        return int((-self.question.sign * np.array(outcomes)).argmax())

    def path(self) -> SelectionPath:
        """Return the finished stages."""
        return SelectionPath(
            tuple(self._selections),
            np.array(self._decided),
            pd.DataFrame(self._history),
            self.question.outcome.name,
            f"annealed {'with gradients' if self.gradients else 'forward only'}, ablation {self.ablation}",
            self._spent + self._evaluator.rows,
            self.question.seed,
        )


def _units(question: Question) -> Units | None:
    """Return the state that cuts the model from stage to stage; None if the elements cannot be cut."""
    try:
        state = begin(question.graph, question.elements)
    except ModelError:
        return None
    return state if isinstance(state, Units) else None


def ask_annealing(
    model: "keras.Model | Graph",
    data: Data | Examples,
    elements: Elements,
    *,
    ablation: Ablation,
    options: Annealing,
    task: Task | None,
    seed: int,
) -> Question:
    """Check the arguments of annealing and return its question; the default outcome depends on them."""
    check_type("annealing", options, Annealing, "pass dropreg.Annealing(rounds=...)")
    if ablation not in get_args(Ablation):
        raise ParameterError(f"`ablation` must be one of {', '.join(get_args(Ablation))}, received {ablation!r}.")
    graph, outcome = trace_graph(model), options.outcome
    examples = data if isinstance(data, Examples) else check_data(graph, data, task)
    if outcome is None:
        outcome = "loss" if examples.task == "regression" else "retained"
        if examples.labels is None or ablation == "merged" or elements.one_mask_a_batch:
            outcome = "divergence"
    return ask_one(graph, examples, elements, outcome=outcome, task=task, seed=seed)


def _examples_per_mask(elements: Elements, ablation: Ablation, asked: int | None, weight: int) -> int:
    if asked is not None and asked != 1 and ablation == "zero" and not elements.one_mask_a_batch:
        raise ParameterError(
            f"`examples_per_mask` must be 1 where every row can have a mask of its own, received {asked}: leave it out."
        )
    if asked is not None:
        return asked
    return 256 if elements.one_mask_a_batch else 64 // weight if ablation == "merged" else 1


def _rows_per_round(
    elements: Elements, gradients: bool, ablation: Ablation, group: int, asked: int | None, weight: int
) -> int:
    if asked is not None:
        return asked
    if gradients:
        usual = _MERGED // weight if ablation == "merged" else _SMALL
        return 2 * group if elements.one_mask_a_batch else max(usual // group, 8) * group
    return -(-max(8 * len(elements), 8192) // group) * group


def _start(question: Question, start: Any) -> Array:
    """Return the first logits."""
    elements = question.elements
    if start is None:
        if not elements.one_mask_a_batch:
            return np.zeros(len(elements))
        if elements.gates or any(gate.where != "kernel" for gate in elements.inner_gates):
            kinds = ", ".join(sorted(set(elements.kinds)))
            raise ParameterError(
                f"`elements` must not mix weights with other kinds, received {kinds}: anneal one kind after the other."
            )
        start = magnitude(question.model, None, elements)
    values = start.impact if isinstance(start, ImpactTable) else start
    return bounded(finite_numbers("start", values, elements), np.inf)


def _merged(question: Question, group: int) -> "MaskedNetwork":
    from ...network import MergedNetwork

    return MergedNetwork(question.graph, question.elements, question.examples, group=group)
