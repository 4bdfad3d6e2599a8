"""Making up for what is removed: layers that read it learn to do with what stays.

A layer reads channels x through the rows W of its kernel; afterwards it reads x', the channels that stay, as the
smaller network computes them. `LeastSquares` gives it the rows V that minimise

    E |(x - Ex) W - (x' - Ex') V|^2 + ridge |V - P W|^2

where P W are the rows that deletion leaves, and its bias takes the change of the mean. Convolutions mix channels:
the same matrix at every tap. Layers are treated in order, each against the activations of the network that is
smaller already, so a layer also makes up for errors before it; up to 1 GiB of what later layers read is kept
meanwhile. A recurrent layer also reads its own states, by another kernel: x are then the states of the whole network
and x' those that stay, so that errors are not fed back while it is fitted (a GRU with ``reset_after=False``, which
multiplies states before it mixes them, is left as deletion leaves it). Neuron merging [1]_ mixes by the similarity of
incoming weights instead; reconstructing what the next layer reads is ThiNet's view [2]_.

References
----------
.. [1] Kim, Kim, Kim, Lim, Sim (2020), "Neuron Merging: Compensating for Pruned Neurons", NeurIPS, section 3.
.. [2] Luo, Wu, Lin (2017), "ThiNet: A Filter Level Pruning Method", ICCV, section 3.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf
from scipy.special import log_softmax

from .errors import DataError
from .graph import Call
from .layers.base import Carry, Kept, LinearReader, readout, rule_for
from .merges import RIDGES, LeastSquares, Merge
from .mixing import Array, copies, fit_predictions, from_partners, solve
from .rebuild import Rebuilt
from .twins import Batch, Rows, Target, Twins, joined

PENALTIES = (1e-2, 1e-3, 1e-4, 1e-5)
"""On squared changes of the last layer's kernel for standardized activations, in nats."""

_MOST_ROWS = 10_000
"""Positions of outputs that the last layer is fitted to."""


def merge_into(
    rebuilt: Rebuilt, names: tuple[str, ...], inputs: Sequence[npt.NDArray[Any]], strategy: Merge, *, classes: bool
) -> pd.DataFrame:
    """Change the weights of the new model so that its layers make up for what is removed.

    Parameters
    ----------
    rebuilt : Rebuilt
    names : tuple of str
        Of the elements.
    inputs : sequence of ndarray
        Examples, one array for each input of the network.
    strategy : Merge
    classes : bool
        Whether the network tells classes apart, so that outputs which are no probabilities are their scores.

    Returns
    -------
    DataFrame
        One row a layer that was merged into, in order: layer, ridge (the largest over its groups), unexplained
        (squared error of what it reads, on held-out examples, as a fraction of that of deletion with the mean
        made up for).

    Raises
    ------
    DataError
        If there is a single example to merge with by least squares.
    """
    examples = [array[: strategy.most_examples] for array in inputs]
    if len(examples[0]) < 2 and isinstance(strategy, LeastSquares):
        raise DataError(
            "`data` must hold at least two examples to merge by least squares, one of them to be held out, received "
            "one: pass more, or merge='mean'."
        )
    twins = Twins(rebuilt, examples, strategy.held_out, strategy.batch_size)
    plan = rebuilt.plan
    altered = set(plan.aliases)
    done: set[int] = set()
    rows = []
    last = None
    for index, (old, new) in enumerate(rebuilt.pairs):
        rule = rule_for(old.layer)
        losing = not all(plan.kept[slot].all() for slot in old.inputs)
        arriving = bool(altered.intersection(old.inputs))
        patient = Patient(rebuilt, twins, index, names)
        forgetting = not all(stay.all() for stay in patient.states_kept)
        if (losing or arriving or forgetting) and id(old.layer) not in done:
            done.add(id(old.layer))
            twins.settle(index)
            if isinstance(rule, LinearReader):
                last = patient
                rows += [_merge_reader(patient, rule, strategy)] if losing or arriving else []
                rows += _merge_states(patient, rule, strategy) if forgetting else []
            elif rule.matches_moments and arriving:
                _match_moments(patient)
        inside = id(old.layer) in plan.heads or len(old.inputs) != len(new.inputs) or forgetting
        if arriving or inside or (losing and not isinstance(rule, Carry)):
            altered.update(old.outputs)
    if last is not None and isinstance(strategy, LeastSquares) and strategy.predictions:
        _match_predictions(last, classes=classes)
    return pd.DataFrame(rows, columns=["layer", "ridge", "unexplained"])


@dataclass(frozen=True)
class Patient:
    """One layer of the new model that is merged into: that of pair `index` of calls."""

    rebuilt: Rebuilt
    twins: Twins
    index: int
    names: tuple[str, ...]

    @property
    def old(self) -> Call:
        return self.rebuilt.pairs[self.index][0]

    @property
    def new(self) -> Call:
        return self.rebuilt.pairs[self.index][1]

    @property
    def rule(self) -> Any:
        return rule_for(self.old.layer)

    @property
    def calls(self) -> list[Call]:
        """Every call of the layer."""
        return [old for old, _ in self.rebuilt.pairs if old.layer is self.old.layer]

    @property
    def slots(self) -> list[int]:
        """The first input of every call of the layer."""
        return [call.inputs[0] for call in self.calls]

    @property
    def read(self) -> "Channels":
        """What the layer reads of its first input."""
        plan, slot = self.rebuilt.plan, self.old.inputs[0]
        return Channels(self.slots, joined, plan.kept[slot], plan.columns[slot])

    @property
    def states_kept(self) -> list[Kept]:
        """What stays of what it reads of its own states."""
        return self.rule.of_states(self.old, [self.rebuilt.plan.kept[slot] for slot in self.old.outputs])

    def states(self) -> list["Channels"]:
        """What it reads of its own states; those of the network before, with and without what goes."""
        rule, calls, kept = self.rule, self.calls, self.states_kept
        columns = rule.of_states(self.old, [self.rebuilt.plan.columns[slot] for slot in self.old.outputs])
        slots = [slot for call in calls for slot in call.inputs]

        def rows(number: int, before: Batch, _: Batch) -> tuple[tf.Tensor, tf.Tensor]:
            values, parts = iter(before), []
            for call in calls:
                found = rule.states(call, list(islice(values, len(call.inputs))))[number]
                parts.append(tf.reshape(found, [-1, found.shape[-1]]))
            whole = tf.concat(parts, axis=0)
            return whole, tf.gather(whole, np.flatnonzero(kept[number]), axis=1)

        return [Channels(slots, partial(rows, k), kept[k], columns[k]) for k in range(len(kept))]

    def unexplained(self, ridges: Sequence[float]) -> float:
        """Squared error of what the layer gave in the network before, predicted from what it gives now (held out)."""
        kept = self.rebuilt.plan.kept[self.old.outputs[0]]
        target = Target(np.eye(len(kept)), np.zeros((int(kept.sum()), len(kept))))
        fit, held_out = self.twins.sums([old.outputs[0] for old in self.calls], joined, [target])
        return solve(fit[0], held_out[0], np.eye(len(kept)), tuple(ridges), centre=True).error


@dataclass(frozen=True)
class Channels:
    """Channels that a kernel reads.

    Attributes
    ----------
    slots : list of int
        What `rows` takes the values of.
    rows : callable
        Rows of channels, before and after.
    kept : Kept
        Which of the channels before stay.
    columns : ndarray of int64
        Element of each of them, -1 for none.
    """

    slots: list[int]
    rows: Rows
    kept: Kept
    columns: npt.NDArray[np.int64]


def _merge_reader(patient: Patient, rule: LinearReader, strategy: Merge) -> dict[str, Any]:
    """Mix what the layer of a call reads, if the strategy says so, and shift its biases."""
    old, new, slots, kept = patient.old, patient.new, patient.slots, patient.rebuilt.plan.kept
    whole = rule.cut(old, [np.ones_like(kept[slot]) for slot in old.inputs], [kept[slot] for slot in old.outputs])
    row = {"layer": old.name, "ridge": np.inf, "unexplained": 1.0}
    rows = None if _is_constrained(old.layer, "kernel") else rule.kernel_rows(old, whole.weights)
    if isinstance(strategy, LeastSquares) and rows is not None:
        centre = rule.has_bias(old) or _feeds_matched(patient)
        mixed = _mix(patient, patient.read, rows, strategy, centre=centre)
        new.layer.set_weights(rule.with_kernel_rows(new, new.layer.get_weights(), mixed.rows))
        row |= mixed.row
    if rule.has_bias(old):
        before, after = patient.twins.mean_maps(slots)
        shift = np.mean(
            [
                _mean_response(rule, old, whole.config, whole.weights, b)
                - _mean_response(rule, new, new.layer.get_config(), new.layer.get_weights(), a)
                for b, a in zip(before, after, strict=True)
            ],
            axis=0,
        )
        new.layer.set_weights(rule.shifted(new, new.layer.get_weights(), shift))
    return row


def _merge_states(patient: Patient, rule: LinearReader, strategy: Merge) -> list[dict[str, Any]]:
    """The same for what a layer reads of its own states, unless its outputs then tell less of those before.

    Errors are fed back, and can do harm where few states are left.
    """
    old, new = patient.old, patient.new
    mixed = []
    if _is_constrained(old.layer, "recurrent"):
        return []
    for read, kernel in zip(patient.states(), rule.state_rows(old, old.layer.get_weights()), strict=False):
        columns = np.tile(read.kept, kernel.shape[1] // len(read.kept))  # gates by units
        mixed.append(_mix(patient, read, [kernel[:, columns]], strategy, centre=rule.has_bias(old)))
    if not mixed:
        return []
    row: dict[str, Any] = {"layer": f"{old.name} (state)"}
    deleted, without = new.layer.get_weights(), patient.unexplained(RIDGES)
    rows, shifts = [m.rows[0] for m in mixed], [m.shifts[0] for m in mixed]
    new.layer.set_weights(rule.with_state_rows(new, deleted, rows, shifts))
    if isinstance(strategy, LeastSquares) and patient.unexplained(RIDGES) >= without:
        new.layer.set_weights(deleted)
        return [{**row, "ridge": np.inf, "unexplained": 1.0} for _ in mixed]
    return [{**row, **m.row} for m in mixed]


def _is_constrained(layer: Any, kernel: str) -> bool:
    """Whether a kernel is bound to something, such as positive weights, which mixing it would break."""
    return getattr(layer, f"{kernel}_constraint", None) is not None


def _feeds_matched(patient: Patient) -> bool:
    """Whether all that reads the layer's output has its statistics matched, which takes care of means."""
    written = set(patient.old.outputs)
    readers = [reader for reader, _ in patient.rebuilt.pairs if written.intersection(reader.inputs)]
    return bool(readers) and all(rule_for(reader.layer).matches_moments for reader in readers)


@dataclass(frozen=True)
class Mixed:
    """Kernel rows of the smaller layer, for each group of channels, and how well they do.

    Attributes
    ----------
    rows : list of ndarray
    shifts : list of ndarray
        What a bias must be larger by, for each column of the rows.
    row : dict
        Ridge and unexplained fraction.
    """

    rows: list[Array]
    shifts: list[Array]
    row: dict[str, float]


def _mix(patient: Patient, read: Channels, rows: list[Array], strategy: Merge, *, centre: bool) -> Mixed:
    """Kernel rows that make up for what goes of the channels that are read; as they are by other strategies."""
    kept = np.split(read.kept, len(rows))
    sample = np.split(patient.twins.sample(read.slots, read.rows), len(rows), axis=1)
    squares = isinstance(strategy, LeastSquares)
    partners = _partners(patient, read, strategy.pairs if squares else None)
    targets, readouts, bases = [], [], []
    for group, (stay, x, weights) in enumerate(zip(kept, sample, rows, strict=True)):
        kernel = weights.astype(np.float64)
        prior = np.eye(len(stay))[stay]
        if squares:
            prior = from_partners(x, stay, _within(partners, group, len(stay)), copies(x, stay))
        few = kernel.shape[1] < kernel.shape[0]  # targets are what is read, or else the channels themselves
        basis, readout = (kernel, np.eye(kernel.shape[1])) if few else (np.eye(len(kernel)), kernel)
        targets.append(Target(basis, prior @ basis))
        readouts.append(readout)
        bases.append(prior @ basis)
    fit, held_out = patient.twins.sums(read.slots, read.rows, targets)
    ridges = strategy.ridges if squares else ()
    mixings = [
        solve(a, b, readout @ readout.T, ridges, centre=centre)
        for a, b, readout in zip(fit, held_out, readouts, strict=True)
    ]
    parts = list(zip(bases, mixings, readouts, strict=True))
    mixed = [(basis + mixing.coefficients) @ readout for basis, mixing, readout in parts]
    means = [((one + other).y, (one + other).x, (one + other).n) for one, other in zip(fit, held_out, strict=True)]
    shifts = [
        (y - x @ mixing.coefficients) / n @ readout
        for (y, x, n), (_, mixing, readout) in zip(means, parts, strict=True)
    ]
    without = sum(mixing.error_without for mixing in mixings)
    unexplained = sum(mixing.error for mixing in mixings) / without if without > 0 else 1.0
    return Mixed(mixed, shifts, {"ridge": max(mixing.ridge for mixing in mixings), "unexplained": unexplained})


def _partners(patient: Patient, read: Channels, pairs: pd.DataFrame | None) -> dict[int, list[int]]:
    """Channels that stay, by the removed channels that they are in a redundant pair with."""
    if pairs is None:
        return {}
    numbers = {name: number for number, name in enumerate(patient.names)}
    of_column: dict[int, list[int]] = {}
    for channel, column in enumerate(read.columns.tolist()):
        of_column.setdefault(column, []).append(channel)
    found: dict[int, list[int]] = {}
    for both in zip(pairs["element"], pairs["other"], strict=True):
        for one, other in (both, both[::-1]):
            gone, stay = of_column.get(numbers.get(one, -2), []), of_column.get(numbers.get(other, -2), [])
            if gone and stay and not read.kept[gone[0]] and read.kept[stay[0]]:
                same = len(gone) == len(stay)  # position by position where both are flattened or grouped
                for place, channel in enumerate(gone):
                    found.setdefault(channel, []).extend([stay[place]] if same else stay)
    return found


def _within(partners: dict[int, list[int]], group: int, size: int) -> dict[int, list[int]]:
    """Partners of the channels of one group, counted from its first channel."""
    first = group * size
    mine = {gone: [c for c in stay if first <= c < first + size] for gone, stay in partners.items()}
    return {
        gone - first: [channel - first for channel in stay]
        for gone, stay in mine.items()
        if first <= gone < first + size and stay
    }


def _mean_response(
    rule: LinearReader, call: Call, config: dict[str, Any], weights: list[Array], mean_map: Array
) -> npt.NDArray[np.float64]:
    """What a layer computes before its activation for the mean of its inputs, averaged over positions."""
    response = rule.respond(call, config, weights, mean_map[np.newaxis])
    return response.reshape(-1, response.shape[-1]).mean(axis=0)


def _match_moments(patient: Patient) -> None:
    """Set the statistics of a normalization so that its output keeps mean and variance."""
    new, kept = patient.new, patient.read.kept
    rule = rule_for(patient.old.layer)
    before, after = patient.twins.channel_moments(patient.slots)
    before = type(before)(before.mean[kept], before.variance[kept])
    new.layer.set_weights(rule.with_moments(new, new.layer.get_weights(), before, after))


def _match_predictions(patient: Patient, *, classes: bool) -> None:
    """Fit the last layer to the whole network's probabilities, if what it computes are their logarithms."""
    old, new, rule = patient.old, patient.new, patient.rule
    if _is_constrained(old.layer, "kernel"):
        return
    outputs, twins = patient.rebuilt.before.outputs, patient.twins
    rows = [readout(rule, call) for call in (old, new)]
    if len(outputs) != 1 or len(patient.slots) != 1 or rows[0] is None or rows[1] is None:
        return
    if len(patient.rebuilt.before.shapes[outputs[0]]) != len(old.input_shapes[0]):
        return
    found = twins.gather([outputs[0], old.inputs[0]], _MOST_ROWS)
    if found is None:
        return
    (whole, _), (x_before, x_after) = found
    scores = x_before @ rows[0][0] + rows[0][1]
    log_p = log_softmax(scores, axis=1)
    if scores.shape != whole.shape or scores.shape[1] < 2:
        return
    shown = [np.exp(log_p), scores] if classes else [np.exp(log_p)]
    if not any(np.allclose(values, whole, rtol=1e-3, atol=1e-3) for values in shown):
        return
    held_out = np.repeat(twins.is_held_out(), len(whole) // twins.n_examples)
    kernel, bias = fit_predictions(x_after, log_p, held_out, rows[1], PENALTIES)
    weights = rule.with_kernel_rows(new, new.layer.get_weights(), [kernel])
    new.layer.set_weights(rule.shifted(new, weights, bias - rows[1][1]))
