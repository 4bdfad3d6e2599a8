"""The masked network on checked examples, measured and differentiated, with a count of what was spent.

The unit of cost is the row-equivalent: a masked forward pass of one example is one, a backward pass
is two. The whole model's pass over the examples, which every method makes once, is not counted, as
in `dropreg.sample`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..data import Data, Examples, check_data
from ..designs import examples_of_rows
from ..elements import Elements
from ..errors import DataError, ModelError, ParameterError
from ..impact import ImpactTable
from ..outcomes import Outcome, PerMask, Prediction, Task, guess_from_logits, resolve

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from ..masking import MaskedNetwork

Array = npt.NDArray[np.float64]
Bundle = "list[tf.Tensor]"
"""What rows of examples are: frontier values, then the whole model's outputs, then labels."""

_PREFIX_BYTES = 2**30
_BATCH_FLOATS = 2**24
_LEAST_BATCH, _MOST_BATCH = 16, 4096


@dataclass(frozen=True)
class Question:
    """What every scorer is asked: which model, examples, elements and outcome, around which state.

    Attributes
    ----------
    model : keras.Model
    elements : Elements
    examples : Examples
        All that were given.
    outcome : Outcome
    kept : ndarray of bool, shape (n_elements,)
        Elements that are there to begin with; the others stay dropped.
    seed : int
    """

    model: "keras.Model"
    elements: Elements
    examples: Examples
    outcome: Outcome
    kept: npt.NDArray[np.bool_]
    seed: int

    @property
    def candidates(self) -> npt.NDArray[np.int64]:
        """Numbers of the elements that can still be dropped."""
        return np.flatnonzero(self.kept)

    @property
    def n_outputs(self) -> int:
        """Length of the model's output."""
        from ..graph import trace_graph

        graph = trace_graph(self.model)
        return graph.shapes[graph.outputs[0]][-1] or 1

    @property
    def sign(self) -> float:
        """What turns a change of the outcome into how much worse it gets."""
        return -1.0 if self.outcome.greater_is_better else 1.0

    def first(self, n: int) -> "Question":
        """The same on `n` random examples; larger numbers contain smaller ones."""
        if n >= len(self.examples):
            return self
        order = examples_of_rows(self.seed, 0, n, len(self.examples))
        labels = self.examples.labels
        fewer = Examples(
            tuple(array[order] for array in self.examples.inputs),
            None if labels is None else labels[order],
            self.examples.task,
        )
        return replace(self, examples=fewer)


def ask(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    outcome: str | Outcome,
    task: Task | None,
    kept: npt.ArrayLike | None,
    seed: int,
) -> Question:
    """Check what all scorers take.

    Raises
    ------
    DataError
        If the data does not fit the model, or the outcome needs labels and there are none.
    ParameterError
        If `outcome`, `task`, `kept` or `seed` is out of range.
    """
    measured = resolve(outcome)
    if isinstance(measured, PerMask):
        raise ParameterError(
            f"`outcome` must be one of single examples, received '{measured.name}', which needs several: use "
            "dropreg.sample with a design of several examples_per_mask."
        )
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
        raise ParameterError(f"`seed` must be an integer from 0 to 2**64 - 1, received {seed!r}.")
    examples = check_data(model, data, task)
    if measured.needs_labels and examples.labels is None:
        raise DataError(f"outcome '{measured.name}' must have labels, received y=None: use outcome 'divergence'.")
    return Question(model, elements, examples, measured, check_kept(kept, len(elements)), int(seed))


def check_kept(kept: npt.ArrayLike | None, n_elements: int) -> npt.NDArray[np.bool_]:
    """`kept` as booleans, shape (n_elements,); None is everything."""
    if kept is None:
        return np.ones(n_elements, dtype=bool)
    mask = np.asarray(kept)
    if mask.shape != (n_elements,) or mask.dtype != bool:
        raise ParameterError(
            f"`kept` must be {n_elements} booleans, one for each element (True = kept), received shape {mask.shape} "
            f"of {mask.dtype}."
        )
    if not mask.any():
        raise ParameterError("`kept` must keep at least one element, received none.")
    return mask.copy()


def affordable(rows: int | None, cost: int, most: int, unit: str, *, limit: int | None = None) -> int:
    """How many units of `cost` row-equivalents a budget of `rows` pays for, at most `most`.

    Raises
    ------
    ParameterError
        If it pays for none, or, where no budget was given, `most` units would cost over `limit`.
    """
    if rows is None:
        if limit is not None and cost * most > limit:
            raise ParameterError(
                f"{most:,} times {unit} would cost {cost * most:,} row-equivalents: pass rows=, for example "
                f"rows={max(limit, cost):,}, to pay for fewer."
            )
        return most
    if isinstance(rows, bool) or not isinstance(rows, int | np.integer) or rows < 1:
        raise ParameterError(f"`rows` must be an integer of at least 1, received {rows!r}.")
    if rows < cost:
        raise ParameterError(
            f"`rows` must pay for at least one {unit}, {cost:,} row-equivalents, received {rows:,}: pass "
            f"rows={cost:,} or more."
        )
    return int(min(rows // cost, most))


def spent(table: ImpactTable) -> int:
    """Row-equivalents that an impact table cost, whichever scorer made it."""
    return int(table.details.get("row equivalents", table.rows))


class Probe:
    """Measures masks on the examples of a question.

    Attributes
    ----------
    question : Question
    network : MaskedNetwork
    rows : int
        Row-equivalents spent so far.
    one_mask : bool
        Whether one mask serves a whole batch (weights), so that rows with masks of their own have to
        be run one by one.
    """

    def __init__(
        self, question: Question, *, batch_size: int | None = None, network: "MaskedNetwork | None" = None
    ) -> None:
        import tensorflow as tf

        from ..masking import MaskedNetwork

        self.question = question
        self.network = MaskedNetwork(question.model, question.elements) if network is None else network
        self.rows = 0
        self._compiled: dict[str, Callable[..., Any]] = {}
        self.one_mask = question.elements.one_mask_a_batch
        self.n_elements = len(question.elements)
        self._base = tf.Variable(tf.constant(question.kept, tf.float32), trainable=False)
        fitting = _BATCH_FLOATS // max(self.network.floats_per_row(), 1)
        self.batch_size = int(np.clip(fitting, _LEAST_BATCH, _MOST_BATCH)) if batch_size is None else batch_size
        examples = question.examples
        cache = self._run_prefix()
        self._cached = cache is not None
        self._source: list[Any] = list(examples.inputs) if cache is None else cache
        labels = np.zeros(len(examples), np.int64) if examples.labels is None else examples.labels
        self._whole, self._labels = self._run_whole(), labels
        self.from_logits = guess_from_logits(examples.task, self._whole)

    def __len__(self) -> int:
        return len(self.question.examples)

    def keep(self, kept: npt.NDArray[np.bool_]) -> None:
        """Go on from another state: only `kept` (n_elements,) are there."""
        self._base.assign(kept.astype(np.float32))

    def _run_prefix(self) -> "list[tf.Tensor] | None":
        """Frontier values of all examples, or None where they would take too much memory."""
        import tensorflow as tf

        inputs, parts = self.question.examples.inputs, []
        for start in range(0, len(self), self.batch_size):
            part = self.network.prefix([tf.convert_to_tensor(x[start : start + self.batch_size]) for x in inputs])
            bytes_used = sum(value.shape.num_elements() * value.dtype.size for value in part)
            if bytes_used / len(part[0]) * len(self) > _PREFIX_BYTES:
                return None
            parts.append(part)
        return [tf.concat(values, axis=0) for values in zip(*parts, strict=True)]

    def _run_whole(self) -> npt.NDArray[np.float32]:
        import tensorflow as tf

        parts = []
        for start in range(0, len(self), self.batch_size):
            part = [tf.convert_to_tensor(x[start : start + self.batch_size]) for x in self._source]
            parts.append(self._outputs(part, None).numpy())
        outputs = np.concatenate(parts)
        if not np.isfinite(outputs).all():
            bad = int((~np.isfinite(outputs).all(axis=1)).sum())
            raise DataError(
                f"model '{self.question.model.name}' must give finite outputs, received NaN or infinity for {bad} "
                "examples: check its weights and the scale of the inputs."
            )
        return outputs

    def _outputs(self, gathered: Sequence[Any], masks: "tf.Tensor | None") -> "tf.Tensor":
        import tensorflow as tf

        frontier = list(gathered) if self._cached else self.network.prefix(list(gathered))
        return tf.cast(self.network.suffix(frontier, masks), tf.float32)

    def bundle(self, examples: npt.NDArray[np.int64]) -> "list[tf.Tensor]":
        """What the rows `examples` (their numbers) need."""
        import tensorflow as tf

        gathered = [tf.gather(x, examples) if self._cached else tf.constant(x[examples]) for x in self._source]
        return [*gathered, tf.constant(self._whole[examples]), tf.constant(self._labels[examples])]

    def predict(self, bundle: "Sequence[tf.Tensor]", masks: "tf.Tensor") -> Prediction:
        """The network's prediction under masks (rows, n_elements) or, for all rows, (1, n_elements)."""
        import tensorflow as tf

        kept = masks * self._base
        if not self.one_mask and not self.network.takes_groups:
            kept = tf.broadcast_to(kept, [tf.shape(bundle[0])[0], self.n_elements])
        return Prediction(self._outputs(bundle[:-2], kept), self.question.examples.task, self.from_logits)

    def measure(self, prediction: Prediction, bundle: "Sequence[tf.Tensor]") -> "tf.Tensor":
        """The outcome of each row, shape (rows,)."""
        whole = Prediction(bundle[-2], prediction.task, self.from_logits)
        return self.question.outcome.measure(prediction, bundle[-1], whole)

    def surrogate(self, prediction: Prediction, bundle: "Sequence[tf.Tensor]") -> "tf.Tensor":
        """What is differentiated in its place, shape (rows,)."""
        whole = Prediction(bundle[-2], prediction.task, self.from_logits)
        return self.question.outcome.surrogate(prediction, bundle[-1], whole)

    def value(self, bundle: "Sequence[tf.Tensor]", masks: "tf.Tensor") -> "tf.Tensor":
        """The outcome of each row under its mask, shape (rows,)."""
        return self.measure(self.predict(bundle, masks), bundle)

    def function(self, body: Callable[..., Any], *specs: Any) -> Callable[..., Any]:
        """`body` (bundle, *arguments) compiled for any number of rows."""
        import tensorflow as tf

        arrays = [*self._source, self._whole, self._labels]
        bundle = [tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in arrays]
        return tf.function(body, input_signature=[bundle, *specs]).get_concrete_function()

    def by_row(self, body: Callable[..., Any]) -> Callable[..., Any]:
        """`body` with a mask of its own for every row, also where the network takes one a batch."""
        import tensorflow as tf

        if not self.one_mask:
            return body

        def vectorized(bundle: Any, *arguments: Any) -> Any:
            def one(row: Any) -> Any:
                single, *more = tf.nest.map_structure(lambda tensor: tensor[tf.newaxis], row)
                return tf.nest.map_structure(lambda result: result[0], body(single, *more))

            return tf.vectorized_map(one, (list(bundle), *arguments), fallback_to_while_loop=True)

        return vectorized

    def blocks(self, n: int, size: int | None = None) -> Iterator[npt.NDArray[np.int64]]:
        """The numbers 0 to n - 1 in blocks of at most `size` (the batch size by default)."""
        size = self.batch_size if size is None else max(size, 1)
        for start in range(0, n, size):
            yield np.arange(start, min(start + size, n))

    def measured_under(self) -> Callable[..., Any]:
        """`value`, compiled once."""
        import tensorflow as tf

        return self.once("value", self.value, tf.TensorSpec([None, self.n_elements], tf.float32))

    def once(self, name: str, body: Callable[..., Any], *specs: Any) -> Callable[..., Any]:
        """`function`, compiled at the first call for this name and kept."""
        if name not in self._compiled:
            self._compiled[name] = self.function(body, *specs)
        return self._compiled[name]

    def means(self, masks: npt.NDArray[np.bool_], examples: npt.NDArray[np.int64]) -> Array:
        """Mean outcome of each mask.

        Parameters
        ----------
        masks : ndarray of bool, shape (n_masks, n_elements)
            True = kept.
        examples : ndarray of int64, shape (n,) or (n_masks, n)
            Examples that each mask is measured on.

        Returns
        -------
        ndarray of float64, shape (n_masks,)
        """
        import tensorflow as tf

        measure = self.measured_under()
        examples = np.broadcast_to(examples, (len(masks), examples.shape[-1]))
        n = examples.shape[1]
        self.rows += len(masks) * n
        if self.one_mask or n >= self.batch_size:
            return np.array([self._mean_of_one(mask, row) for mask, row in zip(masks, examples, strict=True)])
        means = []
        for block in self.blocks(len(masks), self.batch_size // n):
            kept = tf.repeat(tf.constant(masks[block], tf.float32), n, axis=0)
            values = measure(self.bundle(examples[block].reshape(-1)), kept).numpy()
            means.append(values.reshape(len(block), n).mean(axis=1, dtype=np.float64))
        return np.concatenate(means)

    def _mean_of_one(self, mask: npt.NDArray[np.bool_], examples: npt.NDArray[np.int64]) -> float:
        import tensorflow as tf

        kept, total = tf.constant(mask[np.newaxis], tf.float32), 0.0
        for block in self.blocks(len(examples)):
            total += float(self.measured_under()(self.bundle(examples[block]), kept).numpy().sum(dtype=np.float64))
        return total / len(examples)


def non_differentiable(probe: Probe) -> str | None:
    """The first layer between masks and outputs that has no gradient, or None if all have one."""
    import keras
    import tensorflow as tf

    graph, network = probe.network.graph, probe.network
    reached = _behind(graph.calls, [network.output], network.frontier)
    inputs = [tf.convert_to_tensor(x[:2]) for x in probe.question.examples.inputs]
    values: dict[int, Any] = dict(zip(graph.inputs, inputs, strict=True))
    with keras.StatelessScope(collect_losses=True):
        for number, call in enumerate(graph.calls):
            read = [tf.convert_to_tensor(values[slot]) for slot in call.inputs]
            with tf.GradientTape() as tape:
                tape.watch([value for value in read if value.dtype.is_floating])
                written = call.run(read)
            values.update(zip(call.outputs, written, strict=True))
            sources = [value for value in read if value.dtype.is_floating]
            if number in reached and sources and all(g is None for g in tape.gradient(written, sources)):
                return f"'{call.name}' ({call.kind})"
    return None


def _behind(calls: Sequence[Any], outputs: Sequence[int], frontier: Sequence[int]) -> set[int]:
    """Numbers of the calls between the frontier and the outputs."""
    writer = {slot: number for number, call in enumerate(calls) for slot in call.outputs}
    waiting, found = list(outputs), set()
    while waiting:
        slot = waiting.pop()
        if slot not in frontier and slot in writer and writer[slot] not in found:
            found.add(writer[slot])
            waiting.extend(calls[writer[slot]].inputs)
    return found


def check_differentiable(probe: Probe, what: str) -> None:
    """Raise unless the outcome itself has a derivative with respect to the masks, all the way.

    Raises
    ------
    ParameterError
        If the outcome is a step function or declared not differentiable.
    ModelError
        If a layer on the way has no gradient.
    """
    outcome = probe.question.outcome
    if not outcome.differentiable or type(outcome).surrogate is not Outcome.surrogate:
        raise ParameterError(
            f"`outcome` must be differentiable for {what}, received '{outcome.name}': pass outcome='loss', 'margin' "
            "or 'divergence', or use a scorer of forward passes, such as leave_one_out."
        )
    layer = non_differentiable(probe)
    if layer is not None:
        raise ModelError(
            f"every layer between the elements and the output must have a gradient for {what}, received layer {layer} "
            "without: use a scorer of forward passes, such as leave_one_out, or dropreg.estimate with gradients=False."
        )
