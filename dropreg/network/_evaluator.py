"""The masked network on the examples of a question, measured and differentiated, with a count of what was spent."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._utils import Array
from ..data import Prediction, in_float32
from ..errors import ModelError
from ..graph import compiled
from ._logits import are_logits
from ._question import Question

if TYPE_CHECKING:
    import tensorflow as tf

    from ._masked import MaskedNetwork

_PREFIX_BYTES = 2**30
_BATCH_FLOATS = 2**24
_LEAST_BATCH, _MOST_BATCH = 16, 4096
_TRIAL_ROWS = 3


class Bundle(NamedTuple):
    """What rows need.

    Attributes
    ----------
    gathered : list of Tensor, shape (rows, ...)
        Values at the network's frontier, or its inputs.
    whole : Tensor of float32, shape (rows, ..., n_outputs)
        Outputs that outcomes compare with.
    labels, counted : Tensor
        As `Examples.carried` gives them.
    """

    gathered: list[Any]
    whole: Any
    labels: Any
    counted: Any


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
    whole : ndarray of float32, shape (n_examples, ...)
        Outputs that outcomes compare with: those of the question's model, unless others are given.
    """

    def __init__(
        self,
        question: Question,
        *,
        batch_size: int | None = None,
        network: "MaskedNetwork | None" = None,
        whole: npt.NDArray[np.float32] | None = None,
    ) -> None:
        import tensorflow as tf

        from ._masked import MaskedNetwork

        self.question = question
        if network is None:
            network = MaskedNetwork(question.model, question.elements, output=question.examples.output)
        self.network: MaskedNetwork = network
        self.rows: int = 0
        self._compiled: dict[str, Callable[..., Any]] = {}
        self.one_mask: bool = question.elements.one_mask_a_batch
        self.n_elements: int = len(question.elements)
        self._base = tf.Variable(tf.constant(question.kept, tf.float32), trainable=False)
        fitting = _BATCH_FLOATS // max(self.network.floats_per_row(), 1)
        self.batch_size: int = int(np.clip(fitting, _LEAST_BATCH, _MOST_BATCH)) if batch_size is None else batch_size
        examples = question.examples
        cache = self._run_prefix()
        self._cached = cache is not None
        self._source: list[Any] = list(examples.inputs) if cache is None else cache
        self.whole: npt.NDArray[np.float32] = self._run_whole() if whole is None else whole
        self._labels, self._counted = examples.carried()
        self.from_logits: bool = are_logits(question.model, examples.output, examples.task, self.whole)
        self._check_metric()

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
        return self.question.examples.check_outputs(np.concatenate(parts), self.question.model.name)

    def _outputs(self, gathered: Sequence[Any], masks: "tf.Tensor | None") -> "tf.Tensor":
        frontier = list(gathered) if self._cached else self.network.prefix(list(gathered))
        return in_float32(self.network.suffix(frontier, masks))

    def _check_metric(self) -> None:
        """Raise unless the outcome gives a number for each row; judged by shapes, nothing is run."""
        import tensorflow as tf

        def measured(outputs: Any, labels: Any, counted: Any) -> Any:
            prediction = self._prediction(outputs, counted)
            return self.question.outcome.measure(prediction, labels, prediction)

        carried = self.whole, self._labels, self._counted
        specs = [tf.TensorSpec([_TRIAL_ROWS, *x.shape[1:]], x.dtype) for x in carried]
        compiled(measured, specs).get_concrete_function()

    def _prediction(self, outputs: Any, counted: Any) -> Prediction:
        return self.question.examples.predicted(outputs, counted, from_logits=self.from_logits)

    def bundle(self, examples: npt.NDArray[np.int64]) -> Bundle:
        """What the rows `examples` (their numbers) need."""
        import tensorflow as tf

        gathered = [tf.gather(x, examples) if self._cached else tf.constant(x[examples]) for x in self._source]
        return Bundle(gathered, *(tf.constant(x[examples]) for x in (self.whole, self._labels, self._counted)))

    def predict(self, bundle: Bundle, masks: "tf.Tensor") -> Prediction:
        """The network's prediction under masks (rows, n_elements) or, for all rows, (1, n_elements)."""
        import tensorflow as tf

        kept = masks * self._base
        if not self.one_mask and not self.network.takes_groups:
            kept = tf.broadcast_to(kept, [tf.shape(bundle.whole)[0], self.n_elements])
        return self._prediction(self._outputs(bundle.gathered, kept), bundle.counted)

    def predicted_whole(self, bundle: Bundle) -> Prediction:
        """The prediction that outcomes compare with."""
        return self._prediction(bundle.whole, bundle.counted)

    def measure(self, prediction: Prediction, bundle: Bundle) -> "tf.Tensor":
        """The outcome of each row, shape (rows,)."""
        return self.question.outcome.measure(prediction, bundle.labels, self.predicted_whole(bundle))

    def surrogate(self, prediction: Prediction, bundle: Bundle) -> "tf.Tensor":
        """What is differentiated in its place, shape (rows,)."""
        return self.question.outcome.surrogate(prediction, bundle.labels, self.predicted_whole(bundle))

    def of_whole(self) -> Array:
        """The outcome of every example (n_examples,) under the whole model, which is known and costs nothing."""
        import tensorflow as tf

        whole = self._prediction(tf.constant(self.whole), tf.constant(self._counted))
        return self.question.outcome.measure(whole, tf.constant(self._labels), whole).numpy().astype(np.float64)

    def value(self, bundle: Bundle, masks: "tf.Tensor") -> "tf.Tensor":
        """The outcome of each row under its mask, shape (rows,)."""
        return self.measure(self.predict(bundle, masks), bundle)

    def function(self, body: Callable[..., Any], *specs: Any) -> Callable[..., Any]:
        """`body` (bundle, *arguments) compiled for any number of rows."""
        import tensorflow as tf

        arrays = Bundle(list(self._source), self.whole, self._labels, self._counted)
        bundle = tf.nest.map_structure(lambda x: tf.TensorSpec([None, *x.shape[1:]], x.dtype), arrays)
        return compiled(body, [bundle, *specs]).get_concrete_function()

    def by_row(self, body: Callable[..., Any]) -> Callable[..., Any]:
        """`body` with a mask of its own for every row, also where the network takes one a batch."""
        import tensorflow as tf

        if not self.one_mask:
            return body

        def vectorized(bundle: Any, *arguments: Any) -> Any:
            def one(row: Any) -> Any:
                single, *more = tf.nest.map_structure(lambda tensor: tensor[tf.newaxis], row)
                return tf.nest.map_structure(lambda result: result[0], body(single, *more))

            return tf.vectorized_map(one, (bundle, *arguments), fallback_to_while_loop=True)

        return vectorized

    def blocks(self, n: int, size: int | None = None) -> Iterator[npt.NDArray[np.int64]]:
        """The numbers 0 to n - 1 in blocks of at most `size` (the batch size by default)."""
        size = self.batch_size if size is None else max(size, 1)
        for start in range(0, n, size):
            yield np.arange(start, min(start + size, n))

    def measured_under(self) -> "Callable[..., npt.NDArray[np.float32]]":
        """`value`, compiled once."""
        import tensorflow as tf

        return self.once("value", self.value, tf.TensorSpec([None, self.n_elements], tf.float32))

    def once(self, name: str, body: Callable[..., Any], *specs: Any) -> "Callable[..., npt.NDArray[np.float32]]":
        """`function` of outcomes, as arrays that are finite; compiled at the first call for this name and kept."""
        if name not in self._compiled:
            self._compiled[name] = self.function(body, *specs)
        compiled = self._compiled[name]
        return lambda *arguments: self.finite(compiled(*arguments).numpy())

    def finite(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """`values` of the outcome, or ModelError unless all are finite."""
        if not np.isfinite(values).all():
            raise ModelError(
                f"outcome '{self.question.outcome.name}' must be finite, received NaN or infinity: check it, and the "
                "model's weights and activations."
            )
        return values

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
            return np.array([self.values_of_one(mask, row).mean() for mask, row in zip(masks, examples, strict=True)])
        means = [np.zeros(0)]
        for block in self.blocks(len(masks), self.batch_size // n):
            kept = tf.repeat(tf.constant(masks[block], tf.float32), n, axis=0)
            values = measure(self.bundle(examples[block].reshape(-1)), kept)
            means.append(values.reshape(len(block), n).mean(axis=1, dtype=np.float64))
        return np.concatenate(means)

    def values_of_one(self, mask: npt.NDArray[np.bool_], examples: npt.NDArray[np.int64]) -> Array:
        """Outcome of each of `examples` (n,) under one mask (n_elements,); the caller counts the cost."""
        import tensorflow as tf

        measure, kept = self.measured_under(), tf.constant(mask[np.newaxis], tf.float32)
        parts = [measure(self.bundle(examples[block]), kept) for block in self.blocks(len(examples))]
        return np.concatenate(parts).astype(np.float64)
