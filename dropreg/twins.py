"""A network and the smaller one made from it, run side by side."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from .graph import Call, Graph
from .layers.base import Moments
from .mixing import Sums
from .rebuild import Rebuilt

Array = npt.NDArray[np.float64]
Batch = list[tf.Tensor]


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


class Twins:
    """The networks before and after, on the same examples.

    Parameters
    ----------
    rebuilt : Rebuilt
    inputs : sequence of ndarray
        One for each input of the networks.
    held_out : float
        Fraction of the examples, chosen at random with a fixed seed, that `fit` leaves out.
    batch_size : int
    """

    def __init__(self, rebuilt: Rebuilt, inputs: Sequence[npt.NDArray[Any]], held_out: float, batch_size: int) -> None:
        self.rebuilt, self.inputs, self.batch_size = rebuilt, inputs, batch_size
        order = np.random.default_rng(0).permutation(len(inputs[0]))
        n_held_out = min(max(round(held_out * len(order)), 1), len(order) - 1) if len(order) > 1 else 0
        self.held_out, self.fit = order[:n_held_out], order[n_held_out:]

    def batches(self, examples: npt.NDArray[np.int64]) -> Iterator[Batch]:
        """The inputs of `examples`, a batch at a time."""
        for start in range(0, len(examples), self.batch_size):
            rows = np.sort(examples[start : start + self.batch_size])
            yield [tf.convert_to_tensor(array[rows]) for array in self.inputs]

    def values(self, slots: Sequence[int]) -> Callable[[Batch], tuple[Batch, Batch]]:
        """A function of a batch that gives the values in `slots` before and after."""
        left = [self.rebuilt.plan.slot(slot) for slot in slots]
        before = _ancestors(self.rebuilt.before, slots), self.rebuilt.before.inputs, slots
        after = _ancestors(self.rebuilt.after, left), self.rebuilt.after.inputs, left

        def run(calls: list[Call], inputs: Sequence[int], wanted: Sequence[int], batch: Batch) -> Batch:
            values = dict(zip(inputs, batch, strict=True))
            with keras.StatelessScope(collect_losses=True):
                for call in calls:
                    written = call.run([values[slot] for slot in call.inputs])
                    values.update(zip(call.outputs, written, strict=True))
            return [values[slot] for slot in wanted]

        return lambda batch: (run(*before, batch), run(*after, batch))

    def sample(self, slots: Sequence[int], most_rows: int = 8192) -> npt.NDArray[np.float32]:
        """Channels of some rows (positions of examples) in `slots` of the network before, (rows, channels)."""
        batch = next(self.batches(self.fit))
        rows = np.concatenate([_flat(np.asarray(value, np.float32)) for value in self.values(slots)(batch)[0]])
        if len(rows) > most_rows:
            rows = rows[np.random.default_rng(0).choice(len(rows), most_rows, replace=False)]
        return rows

    def is_held_out(self) -> npt.NDArray[np.bool_]:
        """Whether each example, in the order of `gather`, is held out."""
        return np.arange(len(self.fit) + len(self.held_out)) >= len(self.fit)

    def gather(self, slots: Sequence[int]) -> list[tuple[Array, Array]]:
        """Values of all examples, those to fit first, before and after, for each of `slots`."""
        compiled = tf.function(self.values(slots), reduce_retracing=True)
        parts = [compiled(batch) for examples in (self.fit, self.held_out) for batch in self.batches(examples)]
        sides = [
            [np.concatenate([np.asarray(part[side][k], np.float64) for part in parts]) for k in range(len(slots))]
            for side in (0, 1)
        ]
        return list(zip(*sides, strict=True))

    def mean_maps(self, slots: Sequence[int]) -> tuple[list[Array], list[Array]]:
        """Means over all examples of the values in `slots`, before and after, without the batch axis."""
        values = self.values(slots)

        def totals(batch: Batch) -> list[list[tf.Tensor]]:
            return [[tf.reduce_sum(tf.cast(value, tf.float64), axis=0) for value in side] for side in values(batch)]

        examples = np.concatenate([self.fit, self.held_out])
        before, after = self._add_up(totals, examples)
        return [total / len(examples) for total in before], [total / len(examples) for total in after]

    def channel_moments(self, slots: Sequence[int]) -> tuple[Moments, Moments]:
        """Mean and variance of every channel over examples, positions and `slots`, before and after."""
        values = self.values(slots)

        def totals(batch: Batch) -> list[list[tf.Tensor]]:
            sides = [tf.cast(_join(side), tf.float64) for side in values(batch)]
            return [
                [tf.cast(tf.shape(x)[0], tf.float64), tf.reduce_sum(x, axis=0), tf.reduce_sum(x**2, axis=0)]
                for x in sides
            ]

        found = self._add_up(totals, np.concatenate([self.fit, self.held_out]))
        before, after = (
            Moments(total / n, np.maximum(squares / n - (total / n) ** 2, 0.0)) for n, total, squares in found
        )
        return before, after

    def sums(self, slots: Sequence[int], targets: Sequence[Target]) -> tuple[list[Sums], list[Sums]]:
        """Sums of the channels after with the targets, one for each group of channels; to fit and held out."""
        values = self.values(slots)
        bases = [(tf.constant(target.before), tf.constant(target.after)) for target in targets]

        def totals(batch: Batch) -> list[list[tf.Tensor]]:
            before, after = (tf.cast(_join(side), tf.float64) for side in values(batch))
            sides = zip(tf.split(before, len(bases), axis=1), tf.split(after, len(bases), axis=1), bases, strict=True)
            found = []
            for whole, x, (b, a) in sides:
                y = whole @ b - x @ a
                n = tf.cast(tf.shape(x)[0], tf.float64)
                products = [tf.matmul(p, q, transpose_a=True) for p, q in ((x, x), (x, y), (y, y))]
                found.append([n, tf.reduce_sum(x, axis=0), tf.reduce_sum(y, axis=0), *products])
            return found

        fit, held_out = (
            [Sums(float(n), *arrays) for n, *arrays in self._add_up(totals, part)] for part in (self.fit, self.held_out)
        )
        return fit, held_out

    def _add_up(
        self, totals: Callable[[Batch], list[list[tf.Tensor]]], examples: npt.NDArray[np.int64]
    ) -> list[list[Any]]:
        """The sum of `totals` over batches."""
        compiled = tf.function(totals, reduce_retracing=True)
        result: list[list[Any]] | None = None
        for batch in self.batches(examples):
            found = [[np.asarray(value) for value in part] for part in compiled(batch)]
            result = (
                found
                if result is None
                else [
                    [mine + more for mine, more in zip(part, other, strict=True)]
                    for part, other in zip(result, found, strict=True)
                ]
            )
        assert result is not None
        return result


def _ancestors(graph: Graph, slots: Sequence[int]) -> list[Call]:
    """Calls that must run to compute `slots`, in order."""
    wanted, needed = set(slots), list[Call]()
    for index in range(len(graph.calls) - 1, -1, -1):
        call = graph.calls[index]
        if wanted.intersection(call.outputs):
            needed.append(call)
            wanted.update(call.inputs)
    return needed[::-1]


def _flat(value: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return value.reshape(-1, value.shape[-1])


def _join(side: Batch) -> tf.Tensor:
    """Rows (positions of examples) of several tensors, (rows, channels)."""
    return tf.concat([tf.reshape(value, [-1, value.shape[-1]]) for value in side], axis=0)
