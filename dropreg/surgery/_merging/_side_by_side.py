"""A network and the smaller one made from it, run side by side."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import chain, islice
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ..._utils import Array
from ...errors import DataError
from ...graph import Call, Graph, at_positions, counted_steps, packed, traced, unpacked, weights_of, with_counted
from ...layers import Moments
from ...network import idle_masks, idle_slots
from .._rebuild import Rebuilt
from ._ridge import Sums

Flags = npt.NDArray[np.bool_]
Batch = list[tf.Tensor]
Values = dict[int, tf.Tensor]
"""By slot."""
Packed = dict[int, list[tf.Tensor]]
"""Values with their masks of steps (`packed`)."""
Rows = Callable[[Batch, Batch], tuple[tf.Tensor, tf.Tensor]]
"""Channels that are read, before and after, (rows, channels), of the values in some slots of the two networks."""


@dataclass(frozen=True)
class Target:
    """What a layer with kernel rows W should read from a group of channels, in a basis of few columns.

    Attributes
    ----------
    before, after : ndarray, shapes (channels, t) and (kept channels, t)
        The target of a row is x before - x' after, with x and x' its channels in the two networks.
    """

    before: Array
    after: Array


class Side:
    """One of the two networks, of which the first calls do not change any more.

    Parameters
    ----------
    graph : Graph

    Attributes
    ----------
    n_settled : int
        So many calls are final.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph, self.n_settled = graph, 0

    @property
    def frontier(self) -> list[int]:
        """Slots that final calls or the inputs fill and others read."""
        return sorted(self.graph.frontier(range(self.n_settled, len(self.graph.calls)), self.graph.outputs))

    @property
    def _final(self) -> set[int]:
        written = {slot for call in self.graph.calls[: self.n_settled] for slot in call.outputs}
        return written.union(self.graph.inputs)

    def reaches(self, slots: Sequence[int]) -> bool:
        """Whether `slots` follow from the frontier."""
        return self._final.intersection(slots).issubset(self.frontier)

    def run(self, start: Packed, slots: Sequence[int]) -> Values:
        """The values of `slots` and of the frontier, from those of an earlier frontier or of the inputs."""
        values: Values = {slot: unpacked(parts) for slot, parts in start.items()}
        needed, order = {*slots, *self.frontier}, list[tuple[Call, set[int]]]()
        for number in reversed(self.graph.upstream(needed, start)):
            call = self.graph.calls[number]
            order.append((call, set(call.inputs) - needed))  # slots that no later call consumes
            needed.update(call.inputs)
        with keras.StatelessScope(collect_losses=True):
            for call, last_read in reversed(order):
                written = call.run([values[slot] for slot in call.inputs])
                values.update(zip(call.outputs, written, strict=True))
                for slot in last_read:
                    del values[slot]
        return values


class Twins:
    """The networks before and after, on the same examples.

    Layers are worked at in order, and what comes before one of them does not change any more: `settle` says so. The
    values that final calls leave to others are kept from then on, instead of being computed from the inputs again.

    Parameters
    ----------
    rebuilt : Rebuilt
    inputs : sequence of ndarray
        One for each input of the networks.
    held_out : float
        Fraction of the examples, chosen at random with a fixed seed, that `fit` leaves out.
    batch_size : int
    memory : int
        Bytes of values that are kept at most; batches beyond start from the inputs.
    """

    def __init__(
        self,
        rebuilt: Rebuilt,
        inputs: Sequence[npt.NDArray[Any]],
        held_out: float,
        batch_size: int,
        memory: int = 1 << 30,
    ) -> None:
        self.rebuilt, self.inputs, self.batch_size, self.memory = rebuilt, inputs, batch_size, memory
        order = np.random.default_rng(0).permutation(len(inputs[0]))
        n_held_out = min(max(round(held_out * len(order)), 1), len(order) - 1)
        parts = order[n_held_out:], order[:n_held_out]
        batches = [[part[k : k + batch_size] for k in range(0, len(part), batch_size)] for part in parts]
        self.n_examples, self.n_fit, self.n_fit_batches = len(order), len(parts[0]), len(batches[0])
        self.batches = [np.sort(batch) for batch in (*batches[0], *batches[1])]
        self._sides = Side(rebuilt.before), Side(rebuilt.after)
        self._kept: dict[int, tuple[Packed, Packed]] = {}
        self._masks: list[Values] | None = None

    def settle(self, index: int) -> None:
        """Calls before those of pair `index` do not change any more."""
        before, after = self._sides
        old = self.rebuilt.pairs[index][0]
        before.n_settled = next(k for k, call in enumerate(before.graph.calls) if call is old)
        after.n_settled = index

    def each(self, slots: Sequence[int], function: Callable[[Batch, Batch], Any]) -> Iterator[Any]:
        """`function` of the values in `slots` before and after, for each batch, those to fit first."""
        wanted = slots, [self.rebuilt.plan.slot(slot) for slot in slots]
        frontiers = [side.frontier for side in self._sides]
        keeping = all(side.reaches(mine) for side, mine in zip(self._sides, wanted, strict=True))

        def run(starts: tuple[Packed, Packed], masks: Values) -> tuple[Any, Any]:
            values = [side.run(start, mine) for side, start, mine in zip(self._sides, starts, wanted, strict=True)]
            found = [
                [with_counted(v[s], masks[old]) if old in masks else v[s] for old, s in zip(slots, mine, strict=True)]
                for v, mine in zip(values, wanted, strict=True)
            ]
            kept = [
                {slot: packed(filled[slot]) for slot in mine} for filled, mine in zip(values, frontiers, strict=True)
            ]
            return function(*found), kept

        compiled: dict[Any, Callable[..., Any]] = {}
        for number in range(len(self.batches)):
            kept = self._kept.pop(number, None) if keeping else None
            starts = kept or self._starts(number)
            known = tuple(tuple(values) for values in starts)
            masks = {slot: mask for slot, mask in self._counted(number).items() if slot in slots}
            if known not in compiled:
                compiled[known] = traced(run, starts, masks, runs=len(self.batches))
            found, (before, after) = compiled[known](starts, masks)
            if keeping and _size(before, after) + _size(*chain(*self._kept.values())) <= self.memory:
                self._kept[number] = before, after
            yield found

    def _counted(self, number: int) -> Values:
        """Steps that count of the values in slots of the network before, where not all do, for a batch."""
        if self._masks is None:
            self._masks = []
            if idle_slots(self.rebuilt.before):
                inputs, numbers = list(self.inputs), range(len(self.batches))
                masks_of = traced(lambda batch: idle_masks(self.rebuilt.before, batch), inputs, runs=len(numbers))
                self._masks = [masks_of(self._batch(number)) for number in numbers]
        return self._masks[number] if self._masks else {}

    def _batch(self, number: int) -> Batch:
        return [tf.convert_to_tensor(array[self.batches[number]]) for array in self.inputs]

    def _starts(self, number: int) -> tuple[Packed, Packed]:
        batch = [[tensor] for tensor in self._batch(number)]
        before, after = (dict(zip(side.graph.inputs, batch, strict=True)) for side in self._sides)
        return before, after

    def sample(self, slots: Sequence[int], read: Rows, most_rows: int = 8192) -> npt.NDArray[np.float32]:
        """Some rows of what is read of `slots` in the network before, (rows, channels)."""
        rows = np.asarray(next(self.each(slots, lambda *sides: read(*sides)[0])), np.float32)
        if len(rows) > most_rows:
            rows = rows[np.random.default_rng(0).choice(len(rows), most_rows, replace=False)]
        return rows

    def gather(self, slots: Sequence[int], most_rows: int) -> tuple[list[tuple[Array, Array]], Flags] | None:
        """Rows of channels before and after, for each of `slots`, and whether each row's example is held out.

        Of each example so many of its positions, drawn at random, that there are about `most_rows` at most, none that
        does not count in the first of `slots`. None where the slots do not have the same positions.
        """
        rng, most = np.random.default_rng(0), max(most_rows // self.n_examples, 1)
        parts: list[list[Array]] = []
        held_out: list[Flags] = []
        for number, (sides, counted) in enumerate(
            self.each(slots, lambda b, a: ((*b, *a), at_positions(b[0], counted_steps(b[0]))))
        ):
            values = [np.asarray(value) for value in sides]
            if len({value.shape[:-1] for value in values}) > 1:
                return None
            values = [value.reshape(len(value), -1, value.shape[-1]) for value in values]
            n, n_positions = values[0].shape[:2]
            order = rng.permuted(np.tile(np.arange(n_positions), (n, 1)), axis=1)
            there = np.take_along_axis(np.asarray(counted).reshape(n, -1), order, axis=1)
            first = np.argsort(~there, axis=1, kind="stable")[:, :most]  # those that count before the others
            drawn, there = (np.take_along_axis(of, first, axis=1) for of in (order, there))
            parts.append([np.take_along_axis(v, drawn[:, :, np.newaxis], axis=1)[there].astype(float) for v in values])
            held_out.append(np.full(len(parts[-1][0]), number >= self.n_fit_batches))
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        pairs = list(zip(columns[: len(slots)], columns[len(slots) :], strict=True))
        return pairs, np.concatenate(held_out)

    def mean_maps(self, slots: Sequence[int]) -> tuple[list[Array], list[Array]]:
        """Means over all examples of the values in `slots`, before and after, without the batch axis.

        Where some steps do not count, at every position the mean over those that do.
        """

        def totals(*sides: Batch) -> list[list[tf.Tensor]]:
            return [[_sum(value) for value in side] for side in sides]

        before, after = _add_up(self.each(slots, totals))
        return [total / self.n_examples for total in before], [total / self.n_examples for total in after]

    def channel_moments(self, slots: Sequence[int]) -> tuple[Moments, Moments]:
        """Mean and variance of every channel over examples, positions and `slots`, before and after."""

        def totals(*sides: Batch) -> list[list[tf.Tensor]]:
            rows = [tf.cast(part, tf.float64) for part in joined(*sides)]
            return [
                [tf.cast(tf.shape(x)[0], tf.float64), tf.reduce_sum(x, axis=0), tf.reduce_sum(x**2, axis=0)]
                for x in rows
            ]

        before, after = (
            Moments(total / n, np.maximum(squares / n - (total / n) ** 2, 0.0))
            for n, total, squares in _add_up(self.each(slots, totals))
        )
        return before, after

    def sums(self, slots: Sequence[int], read: Rows, targets: Sequence[Target]) -> tuple[list[Sums], list[Sums]]:
        """Sums of the channels after with the targets, one for each group of channels; to fit and held out.

        DataError where they are not finite.
        """
        bases = [(tf.constant(target.before), tf.constant(target.after)) for target in targets]

        def totals(*sides: Batch) -> list[list[tf.Tensor]]:
            before, after = (tf.cast(part, tf.float64) for part in read(*sides))
            groups = zip(tf.split(before, len(bases), axis=1), tf.split(after, len(bases), axis=1), bases, strict=True)
            found = []
            for whole, x, (b, a) in groups:
                y = whole @ b - x @ a
                n = tf.cast(tf.shape(x)[0], tf.float64)
                products = [tf.matmul(p, q, transpose_a=True) for p, q in ((x, x), (x, y), (y, y))]
                found.append([n, tf.reduce_sum(x, axis=0), tf.reduce_sum(y, axis=0), *products])
            return found

        found = self.each(slots, totals)
        fit, held_out = (
            [Sums(float(n), *arrays) for n, *arrays in _add_up(part)]
            for part in (islice(found, self.n_fit_batches), found)
        )
        if not all(np.isfinite(one.xx).all() and np.isfinite(one.yy).all() for one in (*fit, *held_out)):
            raise DataError(
                "`data` must give finite activations to merge with, received NaN or infinity: leave out the examples "
                "that the model has no finite output for, such as sequences of padding alone."
            )
        return fit, held_out


def _add_up(parts: Iterable[list[list[tf.Tensor]]]) -> list[list[Any]]:
    """The sum over batches."""
    arrays = ([[np.asarray(value) for value in group] for group in part] for part in parts)
    return reduce(
        lambda one, other: [[a + b for a, b in zip(*groups, strict=True)] for groups in zip(one, other, strict=True)],
        arrays,
    )


def _size(*sides: Packed) -> int:
    """Bytes."""
    return sum(np.asarray(value).nbytes for side in sides for parts in side.values() for value in parts)


def joined(before: Batch, after: Batch) -> tuple[tf.Tensor, tf.Tensor]:
    """All positions of examples in several tensors as rows, without those that do not count."""
    counted = None
    if any(counted_steps(value) is not None for value in before):
        counted = tf.concat([tf.reshape(at_positions(v, counted_steps(v)), [-1]) for v in before], axis=0)
    rows = [_join(side) for side in (before, after)]
    one, other = rows if counted is None else [tf.boolean_mask(x, counted) for x in rows]
    return one, other


def _sum(value: tf.Tensor) -> tf.Tensor:
    """Sum over rows; where some steps do not count so many times the mean of those that do, at every position."""
    weights, total = weights_of(value), tf.reduce_sum(tf.cast(value, tf.float64), axis=0)
    if weights is None:
        return total
    axes, n = list(range(len(value.shape) - 1)), tf.cast(tf.shape(value)[0], tf.float64)
    mean = tf.reduce_sum(tf.cast(value, tf.float64) * tf.cast(weights, tf.float64), axis=axes)
    return tf.zeros_like(total) + n * mean


def _join(side: Batch) -> tf.Tensor:
    """Rows (positions of examples) of several tensors, (rows, channels)."""
    return tf.concat([tf.reshape(value, [-1, value.shape[-1]]) for value in side], axis=0)
