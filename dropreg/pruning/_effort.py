"""What pruning costs, and how a budget or a large model makes it do less.

Costs are estimated from multiply-adds, sizes of activations and, for a mask, cubes of numbers of channels (a mask of
merged channels needs an inverse of correlations). At a nominal speed this gives seconds, so that the default is decided
by the model and the number of examples, not by the clock. Only `Minutes` measures the machine's speed.
"""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from tqdm.auto import tqdm

from .._utils import check_positive, hidden, spread_rows
from ..data import Examples
from ..errors import ParameterError
from ..graph import Graph, call_model, floats_per_row, size_of, traced
from ..layers import rule_for
from ..network import Question
from ..recovery import Recovery
from ._annealing import Annealing

_MACS, _FLOATS = 4e10, 1e9
"""Nominal multiply-adds, and floats of activations, in a second: those of two cores."""
_CALL_SECONDS = 0.4
"""Nominal seconds for building the graphs of one call of a layer, in all stages."""
_MOST_SECONDS, _TOO_LONG = 600.0, 1_100.0
"""Nominal seconds that the default takes at most, where the usual work takes longer than the second."""
_CUBES = 3.0
"""Multiply-adds for a mask in cubes of channels."""
_PASSES = 10
"""Forward passes over all examples for correlations and merging."""
_PASS_SHARE = 0.2
"""Largest share of the cost for these passes where fewer examples are used."""
_LEAST_EXAMPLES, _MOST_DISTILLED = 500, 10_000
_MASKS, _GROUP, _LEAST_ROUNDS = 2, 64, 4
"""Masks of a coarse round, examples of each, and fewest rounds."""
_BACKWARD, _STEP = 5, 4
"""Row-equivalents of a row of annealing (with two gradients), and at most of a row of distillation."""
_SMALLER_STEP = 4.0
"""Passes of the original that take as long as a row of distillation, of a model with half of the channels."""
_TRIAL_EXAMPLES, _TRIALS = 64, 3


@dataclass(frozen=True)
class Minutes:
    """A budget of time for `dropreg.prune`.

    `prune` decides what to do from a few forward passes that it measures first, and records it in `Pruned.effort`. Time
    is not watched afterwards, so the budget is kept approximately.

    Parameters
    ----------
    minutes : float
        Positive.

    Raises
    ------
    ParameterError
        If it is not a positive number.

    Examples
    --------
    >>> import dropreg as dr
    >>> dr.pruning.Minutes(10)
    Minutes(minutes=10)
    """

    minutes: float

    def __post_init__(self) -> None:
        check_positive("minutes", self.minutes)


@dataclass(frozen=True)
class Effort:
    """What `dropreg.prune` does for a fraction: pass it as ``budget=`` to do the same again.

    Attributes
    ----------
    rounds, rows_per_round, examples_per_mask : int
        Of annealing, as in `Annealing`.
    epochs : int
        Of distillation; 0 without.
    examples : int
        Examples that are used, drawn evenly.
    reduced : bool
        Whether this is less than usual.
    rows : int
        Largest number of row-equivalents of annealing and distillation: one for the forward pass of one example, two
        more for a backward pass. The smaller model's passes count as those of the original.
    minutes, gigabytes : float
        Expected time and memory.
    """

    rounds: int
    rows_per_round: int
    examples_per_mask: int
    epochs: int
    examples: int
    reduced: bool
    rows: int
    minutes: float
    gigabytes: float

    def annealing(self) -> Annealing:
        """Return the options of annealing.

        Returns
        -------
        Annealing
        """
        return Annealing(self.rounds, self.rows_per_round, self.examples_per_mask) if self.reduced else Annealing()

    def recovery(self, usual: Recovery | None) -> Recovery | None:
        """Return the settings of distillation: with fewer epochs there are fewer and shorter trials.

        Returns
        -------
        Recovery or None
        """
        return usual if usual is None or not self.reduced else _shorter(usual, self.epochs)

    def describe(self) -> str:
        """Return one line about the work and its expected cost.

        Returns
        -------
        str
        """
        less = "reduced to " if self.reduced else ""
        return (
            f"pruning: {less}{self.rounds} rounds of {self.rows_per_round} rows, {self.epochs} epochs, "
            f"{self.examples:,} examples; about {self.minutes:.3g} minutes and {self.gigabytes:.2g} GB"
        )


Budgeted = int | Minutes | Effort


class _Costs(NamedTuple):
    """Costs of a row, of a row of distillation and of a mask, and of what no choice changes, in seconds or rows."""

    row: float
    step: float
    mask: float = 0.0
    fixed: float = 0.0
    n_passes: int = 0


_ROWS = _Costs(1.0, float(_STEP))
"""Costs in row-equivalents."""


def check_budget(budget: Budgeted | None) -> None:
    """Raise ParameterError unless it is None, positive row-equivalents, `Minutes` or an `Effort`."""
    if budget is None or isinstance(budget, Minutes | Effort):
        return
    if isinstance(budget, bool) or not isinstance(budget, int | np.integer) or budget < 1:
        raise ParameterError(
            f"`budget` must be a positive whole number of row-equivalents, dropreg.pruning.Minutes or an Effort, "
            f"received {budget!r}: pass 500_000, or dropreg.pruning.Minutes(10)."
        )


def decide(question: Question, recovery: Recovery | None, budget: Budgeted | None) -> Effort:
    """Return what to do for merging units of a question: the usual if it costs less than the budget or default limit.

    Raises
    ------
    ParameterError
        If not even the least work is within the budget.
    """
    if isinstance(budget, Effort):
        return budget
    graph, n_examples = question.graph, len(question.examples)
    seconds, gigabytes = _seconds(question), _gigabytes(question)
    speed = _relative_speed(graph, question.examples, seconds.row) if isinstance(budget, Minutes) else 1.0
    most, enough, costs = _MOST_SECONDS, _TOO_LONG, seconds
    if isinstance(budget, Minutes):
        most = enough = 60.0 * budget.minutes * speed
    elif budget is not None:
        most, enough, costs = float(budget), float(budget), _ROWS
    usual = _usual(question, recovery)
    found = usual if _cost(usual, costs, recovery) <= enough else _reduced(n_examples, recovery, costs, most)
    if budget is not None and _cost(found, costs, recovery) > most:
        unit = f"{int(_cost(found, costs, recovery)):,} row-equivalents"
        if isinstance(budget, Minutes):
            unit = f"Minutes({math.ceil(_cost(found, costs, recovery) / 6.0 / speed) / 10:g})"
        raise ParameterError(f"`budget` must allow the least work, received {budget!r}: pass at least {unit}.")
    rows = int(_cost(found, _ROWS, recovery))
    minutes = _cost(found, seconds, recovery) / 60.0 / speed
    return replace(found, rows=rows, minutes=float(f"{minutes:.3g}"), gigabytes=float(f"{gigabytes:.3g}"))


def say(effort: Effort, progress: bool | None) -> None:
    """Write one line about the coming work where progress is shown."""
    disabled = hidden(progress)
    if disabled is False or (disabled is None and sys.stderr.isatty()):
        tqdm.write(effort.describe(), file=sys.stderr)


def part_of(examples: Examples, effort: Effort) -> Examples:
    """Return the examples that are used."""
    return examples if effort.examples >= len(examples) else examples.part(spread_rows(len(examples), effort.examples))


def _usual(question: Question, recovery: Recovery | None) -> Effort:
    """Return the effort of a small model, as `Annealing` decides it for merging."""
    weight = 4 if question.has_positions else 1
    group = 64 // weight
    rows = max(512 // weight // group, 8) * group
    rounds = max(100 * 2048 // (rows * weight), 1)
    epochs = 0 if recovery is None else recovery.epochs
    return Effort(rounds, rows, group, epochs, len(question.examples), False, 0, 0.0, 0.0)


def _reduced(n_examples: int, recovery: Recovery | None, costs: _Costs, most: float) -> Effort:
    """Return coarse rounds and few epochs that cost at most `most`, half of it each; the least work if none does."""
    used = n_examples
    if costs.n_passes:
        passes = int(_PASS_SHARE * most / (costs.n_passes * costs.row))
        used = min(n_examples, max(passes, _LEAST_EXAMPLES))
    rows = _MASKS * _GROUP
    left = most - costs.fixed - costs.n_passes * used * costs.row
    of_round = _MASKS * costs.mask + rows * _BACKWARD * costs.row
    share, epochs = left, 0
    if recovery is not None:
        of_epoch = costs.step * min(used, _MOST_DISTILLED)
        one = _shorter(recovery, 1)
        most_epochs = int(min(left / 2, left - _LEAST_ROUNDS * of_round) / of_epoch) - _trial_epochs(one)
        epochs = min(max(most_epochs, 1), recovery.epochs)
        share = left - (epochs + _trial_epochs(one)) * of_epoch
    return Effort(max(int(share / of_round), _LEAST_ROUNDS), rows, _GROUP, epochs, used, True, 0, 0.0, 0.0)


def _shorter(usual: Recovery, epochs: int) -> Recovery:
    """Return settings with fewer epochs, and with two learning rates that are tried for one epoch each."""
    rates = usual.rates if len(usual.rates) < 2 else (usual.rates[0], usual.rates[len(usual.rates) // 2])
    return replace(usual, epochs=epochs, learning_rate=rates, bold_rate=None, trial_epochs=1)


def _trial_epochs(recovery: Recovery) -> int:
    """Return the largest number of epochs of the trials of learning rates."""
    n_rates, each = len(recovery.rates), recovery.trial_epochs
    return max(n_rates * each if n_rates > 1 else 0, 0 if recovery.bold_rate is None else (2 + 4) * each)


def _cost(effort: Effort, costs: _Costs, recovery: Recovery | None) -> float:
    masks = effort.rows_per_round // effort.examples_per_mask
    total = costs.fixed + costs.n_passes * effort.examples * costs.row
    total += effort.rounds * (masks * costs.mask + effort.rows_per_round * _BACKWARD * costs.row)
    settings = effort.recovery(recovery)
    if settings is not None:
        n_epochs = effort.epochs + _trial_epochs(settings)
        total += n_epochs * min(effort.examples, _MOST_DISTILLED) * costs.step
    return total


def _channels(question: Question) -> list[int]:
    """Return the numbers of channels whose correlations masks invert, one for each place."""
    return [len(np.unique(gate.columns)) for gate in question.elements.gates]


def _seconds(question: Question) -> _Costs:
    """Return nominal seconds."""
    graph = question.graph
    macs = float(np.nansum([rule_for(call.layer).macs(call) for call in graph.calls]))
    row = macs / _MACS + floats_per_row(graph, range(len(graph.calls))) / _FLOATS
    mask = _CUBES * sum(float(n) ** 3 for n in _channels(question)) / _MACS
    return _Costs(row, _SMALLER_STEP * row, mask, _CALL_SECONDS * len(graph.calls), _PASSES)


def _gigabytes(question: Question) -> float:
    """Return an estimate of the largest memory: activations with gradients, correlations, examples, and a cache."""
    graph = question.graph
    inputs = 8 * len(question.examples) * sum(size_of(graph.shapes[slot]) for slot in graph.inputs)
    activations = 12 * _GROUP * floats_per_row(graph, range(len(graph.calls)))
    squares = 40 * sum(n**2 for n in _channels(question))
    return 1.0 + (inputs + max(activations, 2**30) + squares) / 1e9


def _relative_speed(
    graph: Graph, examples: Examples, nominal: float, clock: Callable[[], float] | None = None
) -> float:
    """Return the measured speed of forward passes in units of the nominal one, at most 2."""
    now, inputs = time.perf_counter if clock is None else clock, examples.part(slice(_TRIAL_EXAMPLES)).inputs
    run = traced(lambda *batch: call_model(graph, list(batch), training=False), *inputs)
    run(*inputs)  # fills caches
    seconds = []
    for _ in range(_TRIALS):
        start = now()
        run(*inputs)
        seconds.append(now() - start)
    return min(nominal * len(inputs[0]) / max(min(seconds), 1e-9), 2.0)
