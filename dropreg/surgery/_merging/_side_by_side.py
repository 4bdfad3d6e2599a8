"""Run the original model and the smaller one side by side, batch by batch."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import chain, islice
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ..._utils import Array
from ...errors import DataError
from ...graph import (
    Call,
    Graph,
    at_positions,
    by_row,
    counted_steps,
    packed,
    row_weights,
    traced,
    unpacked,
    weights_of,
    with_position_weights,
    with_row_weights,
)
from ...layers import Moments
from ...network import idle_masks, idle_slots
from .._rebuild import Rebuilt
from ._ridge import Sums

Flags = npt.NDArray[np.bool_]
Batch = list[tf.Tensor]
Values = dict[int, tf.Tensor]
"""By slot."""
Packed = dict[int, list[tf.Tensor]]
"""Values, by slot, with their masks of steps (`packed`)."""


class Joined(NamedTuple):
    """Channels before and after, each (rows, channels), and the weights (rows,) of rows, None if all are equal."""

    before: tf.Tensor
    after: tf.Tensor
    weights: tf.Tensor | None

    def weighted(self, values: tf.Tensor) -> tf.Tensor:
        """Return values (rows, k) times the weights of their rows."""
        return values if self.weights is None else values * tf.cast(self.weights, values.dtype)[:, tf.newaxis]

    def total_weight(self) -> tf.Tensor:
        """Return the number of rows, or the sum of their weights, in float64."""
        return tf.cast(tf.shape(self.before)[0], tf.float64) if self.weights is None else _total(self.weights)


Rows = Callable[[Batch, Batch], Joined]
"""Gives the consumed channels before and after from the values of some slots in both models."""


@dataclass(frozen=True)
class Target:
    """The regression target x @ before - x' @ after of a group of channels, x before and x' after."""

    before: Array  # (channels, t)
    after: Array  # (kept channels, t)


class Side:
    """One of the two models, with the number of its first calls whose weights no longer change."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.n_final = graph, 0

    @property
    def frontier(self) -> list[int]:
        """Slots that are inputs or outputs of final calls and that later calls consume."""
        return sorted(self.graph.frontier(range(self.n_final, len(self.graph.calls)), self.graph.outputs))

    @property
    def _final(self) -> set[int]:
        return {slot for call in self.graph.calls[: self.n_final] for slot in call.outputs}.union(self.graph.inputs)

    def reaches(self, slots: Sequence[int]) -> bool:
        """Return whether `slots` can be computed from the frontier."""
        return self._final.intersection(slots).issubset(self.frontier)

    def run(self, start: Packed, slots: Sequence[int]) -> Values:
        """Return the values of `slots` and of the frontier, computed from an earlier frontier or from the inputs."""
        values: Values = {slot: unpacked(parts) for slot, parts in start.items()}
        needed, order = {*slots, *self.frontier}, list[tuple[Call, set[int]]]()
        for number in reversed(self.graph.upstream(needed, start)):
            call = self.graph.calls[number]
            order.append((call, set(call.inputs) - needed))  # slots that no later call consumes
            needed.update(call.inputs)
        with keras.StatelessScope(collect_losses=True):
            for call, last_used in reversed(order):
                outputs = call.run([values[slot] for slot in call.inputs])
                values.update(zip(call.outputs, outputs, strict=True))
                for slot in last_used:
                    del values[slot]
        return values


class SideBySide:
    """The original and the smaller model, run on the same examples.

    Layers are refitted in order, so the calls before the present one are final (`finalize`). The values that later
    calls consume of them are cached, up to `memory` bytes, instead of being computed from the inputs every time. A
    fraction `held_out` of the examples, drawn with a fixed seed, is held out. All sums over examples are weighted by
    `weights` (n_examples,) of mean 1, and those over as many positions as the output has by `position_weights`
    (n_examples, ...), of mean 1 in every example; None if all are equal.
    """

    def __init__(
        self,
        rebuilt: Rebuilt,
        inputs: Sequence[npt.NDArray[Any]],
        held_out: float,
        batch_size: int,
        memory: int = 1 << 30,
        *,
        weights: npt.NDArray[np.float32] | None = None,
        position_weights: npt.NDArray[np.float32] | None = None,
    ) -> None:
        self.rebuilt, self.inputs, self.memory, self.weights = rebuilt, inputs, memory, weights
        self._weights = weights, position_weights
        order = np.random.default_rng(0).permutation(len(inputs[0]))
        n_held_out = min(max(round(held_out * len(order)), 1), len(order) - 1)
        parts = order[n_held_out:], order[:n_held_out]
        batches = [[part[k : k + batch_size] for k in range(0, len(part), batch_size)] for part in parts]
        self.n_examples, self.n_fit_batches = len(order), len(batches[0])
        self.batches = [np.sort(batch) for batch in (*batches[0], *batches[1])]
        self._sides = Side(rebuilt.before), Side(rebuilt.after)
        self._cache: dict[int, tuple[Packed, Packed]] = {}
        self._masks: list[Values] | None = None

    def finalize(self, index: int) -> None:
        """Declare that the calls before those of pair `index` no longer change."""
        before, after = self._sides
        old = self.rebuilt.pairs[index][0]
        before.n_final = next(k for k, call in enumerate(before.graph.calls) if call is old)
        after.n_final = index

    def each(self, slots: Sequence[int], function: Callable[[Batch, Batch], Any]) -> Iterator[Any]:
        """Yield `function` of the values of `slots` before and after, for each batch; held-out batches come last."""
        wanted = slots, [self.rebuilt.plan.slot(slot) for slot in slots]
        frontiers = [side.frontier for side in self._sides]
        caching = all(side.reaches(own) for side, own in zip(self._sides, wanted, strict=True))

        def run(starts: tuple[Packed, Packed], masks: Values, weights: Batch) -> tuple[Any, Any]:
            values = [side.run(start, own) for side, start, own in zip(self._sides, starts, wanted, strict=True)]
            given = iter(weights)
            of_rows, of_positions = (None if each is None else next(given) for each in self._weights)

            def measured(value: tf.Tensor, mask: Any) -> tf.Tensor:
                return with_row_weights(with_position_weights(value, mask, of_positions), of_rows)

            found = [
                [measured(v[s], masks.get(old)) for old, s in zip(slots, own, strict=True)]
                for v, own in zip(values, wanted, strict=True)
            ]
            ends = [{slot: packed(v[slot]) for slot in own} for v, own in zip(values, frontiers, strict=True)]
            return function(*found), ends

        compiled: dict[Any, Callable[..., Any]] = {}
        for number in range(len(self.batches)):
            cached = self._cache.pop(number, None) if caching else None
            starts = cached or self._starts(number)
            known = tuple(tuple(values) for values in starts)
            masks = {slot: mask for slot, mask in self._counted(number).items() if slot in slots}
            weights = [tf.convert_to_tensor(w[self.batches[number]]) for w in self._weights if w is not None]
            if known not in compiled:
                compiled[known] = traced(run, starts, masks, weights, runs=len(self.batches))
            found, (before, after) = compiled[known](starts, masks, weights)
            if caching and _n_bytes(before, after) + _n_bytes(*chain(*self._cache.values())) <= self.memory:
                self._cache[number] = before, after
            yield found

    def _counted(self, number: int) -> Values:
        """Return, for a batch, the mask of counted steps of the original model's slots that have uncounted ones."""
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

    def sample(self, slots: Sequence[int], consumed: Rows, most_rows: int) -> npt.NDArray[np.float32]:
        """Return at most `most_rows` rows of channels of the original model, (rows, channels)."""
        rows = np.asarray(next(self.each(slots, lambda *sides: consumed(*sides).before)), np.float32)
        if len(rows) > most_rows:
            rows = rows[np.random.default_rng(0).choice(len(rows), most_rows, replace=False)]
        return rows

    def gather(self, slots: Sequence[int], most_rows: int) -> "Gathered | None":
        """Return rows of channels before and after, for each of `slots`.

        Of each example, random positions are taken, about `most_rows` in all, and none that is not counted in the
        first of `slots`. None if the slots have different positions.
        """
        rng, most = np.random.default_rng(0), max(most_rows // self.n_examples, 1)
        parts: list[list[Array]] = []
        held_out: list[Flags] = []
        weights: list[Array] = []
        for number, (sides, counted) in enumerate(
            self.each(slots, lambda b, a: ((*b, *a), at_positions(b[0], counted_steps(b[0]))))
        ):
            values = [np.asarray(value) for value in sides]
            if len({value.shape[:-1] for value in values}) > 1:
                return None
            values = [value.reshape(len(value), -1, value.shape[-1]) for value in values]
            n, n_positions = values[0].shape[:2]
            order = rng.permuted(np.tile(np.arange(n_positions), (n, 1)), axis=1)
            share = np.take_along_axis(np.asarray(counted).reshape(n, -1), order, axis=1)
            first = np.argsort(share == 0, axis=1, kind="stable")[:, :most]  # counted positions before the others
            drawn, share = (np.take_along_axis(of, first, axis=1) for of in (order, share))
            there = share > 0
            parts.append([np.take_along_axis(v, drawn[:, :, np.newaxis], axis=1)[there].astype(float) for v in values])
            held_out.append(np.full(len(parts[-1][0]), number >= self.n_fit_batches))
            of_rows = np.ones(n) if self.weights is None else self.weights[self.batches[number]].astype(float)
            weights.append((of_rows[:, np.newaxis] * share)[there])
        columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
        pairs = list(zip(columns[: len(slots)], columns[len(slots) :], strict=True))
        found = np.concatenate(weights)
        return Gathered(pairs, np.concatenate(held_out), None if (found == found[0]).all() else found)

    def mean_maps(self, slots: Sequence[int]) -> tuple[list[Array], list[Array]]:
        """Return the means over examples of the values of `slots`, before and after, without the batch axis.

        If some steps are not counted, every position gets the mean over the counted ones.
        """

        def totals(*sides: Batch) -> list[list[tf.Tensor]]:
            return [[_sum(value) for value in side] for side in sides]

        before, after = _add_up(self.each(slots, totals))
        return [total / self.n_examples for total in before], [total / self.n_examples for total in after]

    def channel_moments(self, slots: Sequence[int]) -> tuple[Moments, Moments]:
        """Return the moments of every channel over examples, positions and `slots`, before and after."""

        def totals(*sides: Batch) -> list[list[tf.Tensor]]:
            found = joined(*sides)
            rows = [tf.cast(part, tf.float64) for part in (found.before, found.after)]
            sums = [[tf.reduce_sum(found.weighted(values), axis=0) for values in (x, x**2)] for x in rows]
            return [[found.total_weight(), *of_side] for of_side in sums]

        before, after = (
            Moments(total / n, np.maximum(squares / n - (total / n) ** 2, 0.0))
            for n, total, squares in _add_up(self.each(slots, totals))
        )
        return before, after

    def sums(self, slots: Sequence[int], consumed: Rows, targets: Sequence[Target]) -> tuple[list[Sums], list[Sums]]:
        """Return the sums over examples to fit, and over held-out ones, for the target of each group of channels.

        The predictors are the group's channels after. Raises DataError if the sums are not finite.
        """
        bases = [(tf.constant(target.before), tf.constant(target.after)) for target in targets]

        def totals(*sides: Batch) -> list[list[tf.Tensor]]:
            rows, found = consumed(*sides), []
            groups = [tf.split(tf.cast(part, tf.float64), len(bases), axis=1) for part in (rows.before, rows.after)]
            for x_before, x, (b, a) in zip(*groups, bases, strict=True):
                y = x_before @ b - x @ a
                w_x, w_y = rows.weighted(x), rows.weighted(y)
                products = [tf.matmul(p, q, transpose_a=True) for p, q in ((w_x, x), (w_x, y), (w_y, y))]
                found.append([rows.total_weight(), tf.reduce_sum(w_x, axis=0), tf.reduce_sum(w_y, axis=0), *products])
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
    """Return the sums over batches."""
    arrays = ([[np.asarray(value) for value in group] for group in part] for part in parts)
    return reduce(
        lambda one, other: [[a + b for a, b in zip(*groups, strict=True)] for groups in zip(one, other, strict=True)],
        arrays,
    )


def _n_bytes(*sides: Packed) -> int:
    return sum(np.asarray(value).nbytes for side in sides for parts in side.values() for value in parts)


class Gathered(NamedTuple):
    """Rows of channels (rows, channels) before and after, for each slot; whether rows are held out; their weights."""

    pairs: list[tuple[Array, Array]]
    held_out: Flags
    weights: Array | None


def joined(before: Batch, after: Batch) -> Joined:
    """Return the positions of examples in several tensors as rows, without uncounted steps."""
    one, other = (tf.concat([tf.reshape(v, [-1, v.shape[-1]]) for v in side], axis=0) for side in (before, after))
    weights = None
    if row_weights(before[0]) is not None:
        n_positions = [tf.size(v) // (tf.shape(v)[0] * (v.shape[-1] or 1)) for v in before]
        weights = tf.concat([tf.repeat(row_weights(v), n) for v, n in zip(before, n_positions, strict=True)], axis=0)
    if any(counted_steps(value) is not None for value in before):
        shares = [at_positions(v, counted_steps(v)) for v in before]
        if any(share.dtype == tf.float32 for share in shares):
            share = tf.concat([tf.reshape(tf.cast(each, tf.float32), [-1]) for each in shares], axis=0)
            weights, counted = (share if weights is None else share * weights), share > 0
        else:
            counted = tf.concat([tf.reshape(each, [-1]) for each in shares], axis=0)
        one, other = (tf.boolean_mask(x, counted) for x in (one, other))
        weights = None if weights is None else tf.boolean_mask(weights, counted)
    return Joined(one, other, weights)


def _total(weights: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(weights, tf.float64))


def _sum(value: tf.Tensor) -> tf.Tensor:
    """Return the weighted sum over rows; if some steps are not counted, that of the mean of the counted ones."""
    rows, x = row_weights(value), tf.cast(value, tf.float64)
    total = tf.reduce_sum(x if rows is None else x * tf.cast(by_row(rows, x), tf.float64), axis=0)
    weights = None if counted_steps(value) is None else weights_of(value)
    if weights is None:
        return total
    n = tf.cast(tf.shape(value)[0], tf.float64) if rows is None else _total(rows)
    mean = tf.reduce_sum(x * tf.cast(weights, tf.float64), axis=list(range(len(value.shape) - 1)))
    return tf.zeros_like(total) + n * mean
