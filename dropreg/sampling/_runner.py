"""Run and measure the masked forward passes of a chunk."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from .._utils import BoolMasks, examples_of_rows
from ..errors import ModelError, ParameterError
from ..graph import rows_that_fit
from ..network import Bundle, Evaluator, MaskedNetwork, PerMask, Question, identity_of
from ._chunks import ChunkResult, GradientSums, examples_of_masks
from ._designs import Bernoulli, Design
from ._flip_cells import choose_cells
from ._flip_sums import FlipSums
from ._flips import Derivative, Flips, Terms, differentiate, shares, summed
from ._settings import RunSettings
from ._unseen_masks import Fidelity, FidelityMasks

if TYPE_CHECKING:
    import tensorflow as tf

_BATCH_FLOATS = 2**25
_MOST_BATCH, _LEAST_BATCH, _BATCHES_PER_CHUNK, _MOST_CHUNK = 16384, 32, 16, 16384
_CHUNK_MASK_BYTES, _LEAST_CHUNK_MASKS, _MOST_CHUNK_MASKS = 2**26, 4, 256
_FIDELITY_CHUNK = 2**62
"""The first of the chunk numbers that are reserved for fidelity masks; no run is that long."""


class ChunkRunner:
    """Runs and measures chunks; the results depend on the arguments of its methods alone.

    `gradients` names the outcomes whose gradients are summed; `batch_size` (rows of one forward pass) is by default
    chosen from the size of the activations.
    """

    def __init__(
        self,
        question: Question,
        design: Design,
        gradients: tuple[str, ...],
        batch_size: int | None = None,
        flips: int = 0,
    ) -> None:
        import tensorflow as tf

        self.question, self.design, self.gradients = question, design, gradients
        self._mask_outcomes = tuple(outcome for outcome in question.outcomes if isinstance(outcome, PerMask))
        network = MaskedNetwork(question.graph, question.elements, output=question.examples.output)
        self.batch_size = self._choose_batch_size(network, batch_size)
        unit, n_elements = design.rows_per_group, len(question.elements)
        fitting = min(_MOST_CHUNK, self.batch_size * _BATCHES_PER_CHUNK)
        if question.elements.one_mask_a_batch:
            masks = int(np.clip(_CHUNK_MASK_BYTES // n_elements, _LEAST_CHUNK_MASKS, _MOST_CHUNK_MASKS))
            fitting = masks * design.examples_per_mask
        self.chunk_rows = max(fitting // unit, 1) * unit
        self.evaluator = Evaluator(question, network=network, batch_size=self.batch_size)
        by_name = {outcome.name: outcome for outcome in question.outcomes}
        self._differentiated = tuple(by_name[name] for name in gradients)
        self.flips = Flips(self.evaluator, self._differentiated, flips) if flips and gradients else None
        specs = tf.TensorSpec([None, n_elements], tf.bool), tf.TensorSpec([None], tf.int64)
        self._step = self.evaluator.function(self._measure, *specs)
        self.baseline = self.evaluator.original_values()

    def __reduce__(self) -> tuple[Any, ...]:
        flips = 0 if self.flips is None else self.flips.per_row
        return ChunkRunner, (self.question, self.design, self.gradients, self.batch_size, flips)

    def _choose_batch_size(self, network: MaskedNetwork, asked: int | None) -> int:
        """Return the rows of one forward pass: all examples of a mask where one mask serves a batch."""
        n = self.design.examples_per_mask
        if self.question.elements.one_mask_a_batch:
            if asked not in (None, n):
                raise ParameterError(
                    f"`batch_size` must be the {n} examples of a mask where masks multiply weights, received {asked}: "
                    "leave it out, and choose examples_per_mask of the design."
                )
            return n
        if asked is not None:
            return asked
        floats = network.floats_per_row(len(self.question.examples))
        return 2 ** int(np.log2(rows_that_fit(floats, budget=_BATCH_FLOATS, least=_LEAST_BATCH, most=_MOST_BATCH)))

    def _measure(self, bundle: Bundle, masks: "tf.Tensor", groups: "tf.Tensor") -> "_Step":
        """Return the outcomes of a batch and, if there are flips, which share of them each cell should receive."""
        import tensorflow as tf

        kept, evaluator = tf.cast(masks, tf.float32), self.evaluator
        prediction = evaluator.prediction(evaluator.outputs(bundle.gathered, kept), bundle.counted)
        measured = evaluator.measure_all(prediction, bundle)
        if self.flips is None:
            surrogates = [evaluator.surrogate(prediction, bundle, o) for o in self._differentiated]
            gradients = [tf.gradients(surrogate, kept)[0] for surrogate in surrogates]
            return _Step(measured, prediction.outputs, self._all_sums(gradients, kept), [], [])
        found = [differentiate(evaluator, o, prediction, bundle, kept) for o in self._differentiated]
        sums = self._all_sums([None if one is None else one.gradient for one in found], kept)
        derivatives = [self._scaled(one) for one in found if one is not None]
        terms = [summed(one, groups, self.flips.slice_of_group) for one in derivatives]
        return _Step(measured, prediction.outputs, sums, terms, [shares([one.score for one in derivatives])])

    def _scaled(self, derivative: Derivative) -> Derivative:
        """Return the derivative of the mean over the examples of a mask, where one mask serves them all."""
        if not self.question.elements.one_mask_a_batch:
            return derivative
        return derivative._replace(predicted=derivative.predicted / float(self.design.examples_per_mask))

    def _all_sums(self, gradients: list[Any], kept: "tf.Tensor") -> "list[tf.Tensor]":
        return [self._gradient_sums(name, g, kept) for name, g in zip(self.gradients, gradients, strict=True)]

    def _gradient_sums(self, name: str, gradient: Any, kept: "tf.Tensor") -> "tf.Tensor":
        import tensorflow as tf

        if gradient is None:
            raise ModelError(
                f"outcome '{name}' must be differentiable with respect to the masks, received no gradient from it "
                "or from a layer of the model: pass sampling=dropreg.Sampling(gradients=False)."
            )
        if self.question.elements.one_mask_a_batch:
            gradient = gradient / float(self.design.examples_per_mask)
        dropped = 1.0 - kept
        squares = tf.square(gradient)
        products = [gradient * kept, gradient * dropped, squares * kept, squares * dropped]
        return tf.stack([tf.reduce_sum(product, axis=0) for product in products])

    def baseline_frame(self) -> pd.DataFrame:
        """Return the original model's outcomes, one row per example, one column per outcome."""
        return pd.DataFrame(self.baseline, columns=[outcome.name for outcome in self.question.row_outcomes])

    @cached_property
    def _identity(self) -> dict[str, Any]:
        return identity_of(self.question)

    @cached_property
    def _one_chunk(self) -> RunSettings:
        return self.settings(self.chunk_rows)

    def settings(self, rows: int) -> RunSettings:
        """Return the settings of a run of `rows` rows."""
        slices = self.question.examples.slices
        return RunSettings(
            rows=rows,
            seed=self.question.seed,
            design=self.design.settings(),
            outcomes=tuple(outcome.name for outcome in self.question.outcomes),
            greater_is_better=tuple(outcome.greater_is_better for outcome in self.question.outcomes),
            gradients=self.gradients,
            flips=0 if self.flips is None else self.flips.per_row,
            n_elements=len(self.question.elements),
            n_examples=len(self.question.examples),
            examples_per_mask=self.design.examples_per_mask,
            masks_per_group=self.design.masks_per_group,
            chunk_rows=self.chunk_rows,
            batch_size=self.batch_size,
            from_logits=self.evaluator.from_logits,
            by="" if slices is None else slices.by,
            slices=() if slices is None else slices.names,
            gradient_unit="mask" if self.question.elements.one_mask_a_batch else "row",
            **self._identity,
        )

    def draw(self, chunk: int, n_masks: int) -> BoolMasks:
        """Return the first `n_masks` masks of a chunk."""
        return self.design.draw(self.question.seed, chunk, n_masks, len(self.question.elements))

    def draw_ahead(self, chunks: Iterable[tuple[int, int]]) -> Iterator[tuple[int, BoolMasks]]:
        """Yield number and masks of chunks, given as (number, n_masks); a thread draws the next chunk in advance."""
        with ThreadPoolExecutor(1) as thread:
            before: tuple[int, Future[BoolMasks]] | None = None
            for chunk, n_masks in chunks:
                drawing = chunk, thread.submit(self.draw, chunk, n_masks)
                if before is not None:
                    yield before[0], before[1].result()
                before = drawing
            if before is not None:
                yield before[0], before[1].result()

    def run(self, chunk: int, masks: BoolMasks, progress: Callable[[int], Any] = lambda rows: None) -> ChunkResult:
        """Run `masks`, the first masks of a chunk."""
        n_masks = len(masks)
        examples = examples_of_masks(self._one_chunk, chunk, n_masks)
        rows = self._run_rows(masks, examples, progress, chunk)
        n = examples.shape[1]
        outcomes = self._in_order(rows.measured.reshape(n_masks, n, -1).mean(axis=1), rows.per_mask)
        changes = rows.measured - self.baseline[examples.reshape(-1)]
        effects = self._in_order(changes.reshape(n_masks, n, -1).mean(axis=1), rows.per_mask - rows.per_mask_original)
        per_mask = 1 if self.question.elements.one_mask_a_batch else n
        n_kept = masks.sum(axis=0, dtype=np.float64) * per_mask
        n_dropped = n_masks * per_mask - n_kept
        gradients = {
            name: GradientSums(*g[:4], n_kept=n_kept, n_dropped=n_dropped) for name, g in rows.gradients.items()
        }
        return ChunkResult(outcomes, effects, gradients, rows.flips)

    def run_fidelity(self, fidelity: Fidelity) -> FidelityMasks:
        """Run masks that the regression does not use, at the rates of `Fidelity.rates`."""
        n_elements, n, seed = len(self.question.elements), fidelity.examples, self.question.seed
        rates = fidelity.rates(float(1.0 - self.design.keep_probabilities(n_elements).mean()))
        n_masks = fidelity.masks * len(rates)
        packed = np.empty((n_masks, -(-n_elements // 8)), np.uint8)
        first = _FIDELITY_CHUNK // len(self.evaluator) * len(self.evaluator)
        examples = examples_of_rows(seed, first, n_masks * n, len(self.evaluator)).reshape(-1, n)
        parts = []
        step = max(min(_CHUNK_MASK_BYTES // n_elements, fidelity.masks), 1)
        for start in range(0, n_masks, step):
            chosen = range(start, min(start + step, n_masks))
            masks = np.concatenate(
                [Bernoulli(rates[k // fidelity.masks]).draw(seed, _FIDELITY_CHUNK + k, 1, n_elements) for k in chosen]
            )
            packed[chosen.start : chosen.stop] = np.packbits(masks, axis=1)
            parts.append(self._run_rows(masks, examples[chosen.start : chosen.stop], lambda rows: None))
        rows = _Rows(*(np.concatenate(arrays) for arrays in list(zip(*parts, strict=True))[:3]), gradients={}, flips={})
        changes = (rows.measured - self.baseline[examples.reshape(-1)]).reshape(n_masks, n, -1).astype(np.float64)
        unknown = np.full(rows.per_mask.shape, np.nan)
        noise = [share_of_noise(first + k * n, n, len(self.evaluator)) for k in range(n_masks)]
        return FidelityMasks(
            rates=np.repeat(rates, fidelity.masks),
            packed=packed,
            n_elements=n_elements,
            effects=self._in_order(changes.mean(axis=1), rows.per_mask - rows.per_mask_original),
            variances=self._in_order(changes.var(axis=1, ddof=1) * np.array(noise)[:, np.newaxis], unknown),
            examples=n,
        )

    def _in_order(self, by_row: npt.NDArray[Any], by_mask: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Merge the columns of row outcomes and of mask outcomes in the order of the question's outcomes."""
        rows, masks = iter(by_row.T), iter(by_mask.T)
        columns = [next(masks if isinstance(outcome, PerMask) else rows) for outcome in self.question.outcomes]
        return np.stack(columns, axis=1).astype(by_row.dtype)

    def _run_rows(
        self,
        masks: BoolMasks,
        examples: npt.NDArray[np.int64],
        progress: Callable[[int], Any],
        chunk: int | None = None,
    ) -> "_Rows":
        """Run each of `masks` (n_masks, n_elements) on its `examples` (n_masks, n); flips are those of a `chunk`."""
        n_masks, n = examples.shape
        order = examples.reshape(-1)
        measured, outputs = [], []
        gradients = {name: np.zeros((4, masks.shape[1])) for name in self.gradients}
        flips: dict[str, FlipSums] = {}
        n_batch = n if self.question.elements.one_mask_a_batch else self.batch_size
        for number, start in enumerate(range(0, n_masks * n, n_batch)):
            batch = order[start : start + n_batch]
            chosen = self._masks_of_batch(masks, start, len(batch), n)
            part = self._step(*self._arguments(batch, chosen))
            measured.append(part.measured.numpy())
            if self._mask_outcomes:
                outputs.append(part.outputs.numpy())
            for name, sums in zip(self.gradients, part.sums, strict=True):
                gradients[name] += sums.numpy()
            if self.flips is not None and chunk is not None:
                for name, sums in self._flip(part, chosen, batch, chunk, number).items():
                    flips[name] = flips[name] + sums if name in flips else sums
            progress(len(batch))
        per_mask, per_mask_original = np.zeros((n_masks, 0)), np.zeros((n_masks, 0))
        if self._mask_outcomes:
            per_mask = self._measure_masks(np.concatenate(outputs), order, n)
            per_mask_original = self._measure_masks(self.evaluator.original[order], order, n)
        return _Rows(np.concatenate(measured), per_mask, per_mask_original, gradients, flips)

    def _arguments(self, batch: npt.NDArray[np.int64], masks: BoolMasks) -> list[Any]:
        """Return the arguments of a step: a bundle, masks and the group of the example of each mask."""
        import tensorflow as tf

        groups = np.zeros(len(masks), np.int64)
        if self.flips is not None and len(self.flips.slice_of_group):
            groups = self.flips.groups.of_examples[batch]
        return [self.evaluator.bundle(batch), tf.constant(masks), tf.constant(groups)]

    def _flip(
        self, part: "_Step", masks: BoolMasks, examples: npt.NDArray[np.int64], chunk: int, batch: int
    ) -> dict[str, FlipSums]:
        """Return the sums of corrected effects of a batch, as `Flips.corrected`."""
        assert self.flips is not None
        count = self.flips.per_row * len(masks)
        cells = choose_cells(part.shares[0].numpy(), count, self.question.seed, chunk, batch)
        return self.flips.corrected(part.terms, cells, part.measured.numpy(), masks, examples)

    def _masks_of_batch(self, masks: BoolMasks, start: int, count: int, n: int) -> BoolMasks:
        """Return the masks of `count` rows from `start` on, with n rows per mask: one per row, or one for all rows."""
        if self.question.elements.one_mask_a_batch:
            return masks[start // n : start // n + 1]
        return masks[start : start + count] if n == 1 else masks[np.arange(start, start + count) // n]

    def _measure_masks(self, outputs: npt.NDArray[Any], order: npt.NDArray[np.int64], n: int) -> npt.NDArray[Any]:
        """Return the outcomes of several examples, shape (n_masks, n_mask_outcomes)."""
        given = self.evaluator.labels[order], outputs, self.evaluator.weights[order]
        by_mask = [array.reshape(len(order) // n, n, *array.shape[1:]) for array in given]
        return np.array(
            [[o.measure_mask(y, p, w) for o in self._mask_outcomes] for y, p, w in zip(*by_mask, strict=True)]
        )


class _Rows(NamedTuple):
    """Outcomes of rows (n_rows, n_row_outcomes) and of masks, those of the original model, and sums of gradients."""

    measured: npt.NDArray[np.float32]
    per_mask: npt.NDArray[np.float64]
    per_mask_original: npt.NDArray[np.float64]
    gradients: dict[str, npt.NDArray[np.float64]]
    flips: dict[str, FlipSums]


class _Step(NamedTuple):
    """Tensors of one batch: outcomes (rows, n_row_outcomes), outputs, and for each outcome with gradients their sums.

    If there are flips, `terms` holds what gradients predict, for each outcome, and `shares` one tensor.
    """

    measured: Any
    outputs: Any
    sums: list[Any]
    terms: list[Terms]
    shares: list[Any]


def share_of_noise(first: int, count: int, n_examples: int) -> float:
    """Return the sampling variance of the mean over rows `first` to ``first + count - 1`` per variance of a single row.

    It is at most 1 / count: rows use all examples once, then again (`examples_of_rows`), so that complete rounds have
    no sampling noise, and the rows of a partial round are drawn without replacement.
    """
    _, sizes = np.unique(np.arange(first, first + count) // n_examples, return_counts=True)
    return float((sizes * (1.0 - sizes / n_examples)).sum()) / count**2
