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

PREFIX_BYTES = 2**30
"""Most memory for values that are computed once for each example and reused in every row."""
_BATCH_FLOATS = 2**24
_LEAST_BATCH, _MOST_BATCH = 16, 4096
_TRIAL_ROWS = 3


class Bundle(NamedTuple):
    """Everything that some rows need besides their masks.

    Attributes
    ----------
    gathered : list of Tensor, shape (rows, ...)
        Values at the network's frontier, or its inputs.
    original : Tensor of float32, shape (rows, ..., n_outputs)
        Outputs of the original model, with which outcomes compare.
    labels, counted : Tensor
        As `Examples.carried` gives them.
    """

    gathered: list[Any]
    original: Any
    labels: Any
    counted: Any


class Evaluator:
    """Runs masks on the examples of a question: outputs, outcomes, gradients, and the row-equivalents spent.

    What no mask can reach is computed once for each example, and so are the outputs of the original model.

    Parameters
    ----------
    question : Question
    network : MaskedNetwork, optional
        By default one that replaces removed elements by zeros.
    batch_size : int, optional
        Rows of one forward pass, by default chosen from the size of the activations.
    original : ndarray of float32, shape (n_examples, ...), optional
        Outputs with which outcomes compare, by default those of the question's model.

    Attributes
    ----------
    rows : int
        Row-equivalents spent so far.
    one_mask : bool
        Whether one mask serves a whole batch (weights), so that rows with masks of their own run one by one.
    from_logits : bool
        Whether the outputs are logits.
    """

    def __init__(
        self,
        question: Question,
        *,
        network: "MaskedNetwork | None" = None,
        batch_size: int | None = None,
        original: npt.NDArray[np.float32] | None = None,
    ) -> None:
        import tensorflow as tf

        from ._masked import MaskedNetwork

        self.question, examples = question, question.examples
        if network is None:
            network = MaskedNetwork(question.graph, question.elements, output=examples.output)
        self.network: MaskedNetwork = network
        self.rows: int = 0
        self._functions: dict[str, Callable[..., Any]] = {}
        self.one_mask: bool = question.elements.one_mask_a_batch
        self.n_elements: int = len(question.elements)
        self._base = tf.Variable(tf.constant(question.kept, tf.float32), trainable=False)
        fitting = fitting_batch(network.floats_per_row(), _BATCH_FLOATS, _LEAST_BATCH, _MOST_BATCH)
        self.batch_size: int = fitting if batch_size is None else batch_size
        cache = network.cached_prefix(examples, self.batch_size, PREFIX_BYTES)
        self._cached = cache is not None
        self._source: list[Any] = list(examples.inputs) if cache is None else cache
        self.original: npt.NDArray[np.float32] = self._run_original() if original is None else original
        self.labels, self.counted = examples.carried()
        self.from_logits: bool = are_logits(question.graph, examples.output, examples.task, self.original)
        self._check_metrics()

    def __len__(self) -> int:
        return len(self.question.examples)

    def keep(self, kept: npt.NDArray[np.bool_]) -> None:
        """Go on from another state: only `kept` (n_elements,) are there."""
        self._base.assign(kept.astype(np.float32))

    def _run_original(self) -> npt.NDArray[np.float32]:
        """The original model's outputs for all examples."""
        import tensorflow as tf

        specs = [tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in self._source]
        forward = compiled(lambda *source: self.outputs(source, None), specs)
        parts = [
            forward(*(tf.convert_to_tensor(x[block[0] : block[-1] + 1]) for x in self._source)).numpy()
            for block in self.blocks(len(self))
        ]
        return self.question.examples.check_outputs(np.concatenate(parts), self.question.model.name)

    def outputs(self, gathered: Sequence[Any], masks: "tf.Tensor | None") -> "tf.Tensor":
        """The network's outputs (rows, ...) in float32 under masks (rows, n_elements); None keeps everything."""
        frontier = list(gathered) if self._cached else self.network.prefix(list(gathered))
        return in_float32(self.network.suffix(frontier, masks))

    def _check_metrics(self) -> None:
        """Raise unless every outcome gives a number for each row; judged by shapes, nothing is run."""
        import tensorflow as tf

        def measured(outputs: Any, labels: Any, counted: Any) -> Any:
            prediction = self.prediction(outputs, counted)
            return [o.measure(prediction, labels, prediction) for o in self.question.row_outcomes]

        carried = self.original, self.labels, self.counted
        specs = [tf.TensorSpec([_TRIAL_ROWS, *x.shape[1:]], x.dtype) for x in carried]
        compiled(measured, specs).get_concrete_function()

    def prediction(self, outputs: Any, counted: Any) -> Prediction:
        """What outputs of some rows mean, with their part of `counted`."""
        return self.question.examples.predicted(outputs, counted, from_logits=self.from_logits)

    def bundle(self, examples: npt.NDArray[np.int64]) -> Bundle:
        """What the rows `examples` (their numbers) need."""
        import tensorflow as tf

        gathered = [tf.gather(x, examples) if self._cached else tf.constant(x[examples]) for x in self._source]
        return Bundle(gathered, *(tf.constant(x[examples]) for x in (self.original, self.labels, self.counted)))

    def predict(self, bundle: Bundle, masks: "tf.Tensor") -> Prediction:
        """The network's prediction under masks (rows, n_elements) or, for all rows, (1, n_elements)."""
        import tensorflow as tf

        kept = masks * self._base
        if not self.one_mask and not self.network.takes_groups:
            kept = tf.broadcast_to(kept, [tf.shape(bundle.original)[0], self.n_elements])
        return self.prediction(self.outputs(bundle.gathered, kept), bundle.counted)

    def original_prediction(self, bundle: Bundle) -> Prediction:
        """The prediction that outcomes compare with."""
        return self.prediction(bundle.original, bundle.counted)

    def measure(self, prediction: Prediction, bundle: Bundle) -> "tf.Tensor":
        """The outcome of each row, shape (rows,)."""
        return self.question.outcome.measure(prediction, bundle.labels, self.original_prediction(bundle))

    def surrogate(self, prediction: Prediction, bundle: Bundle) -> "tf.Tensor":
        """What is differentiated in its place, shape (rows,)."""
        return self.question.outcome.surrogate(prediction, bundle.labels, self.original_prediction(bundle))

    def original_values(self) -> Array:
        """The outcome of every example (n_examples,) of the original model, which is known and costs nothing."""
        import tensorflow as tf

        prediction = self.prediction(tf.constant(self.original), tf.constant(self.counted))
        return (
            self.question.outcome.measure(prediction, tf.constant(self.labels), prediction).numpy().astype(np.float64)
        )

    def value(self, bundle: Bundle, masks: "tf.Tensor") -> "tf.Tensor":
        """The outcome of each row under its mask, shape (rows,)."""
        return self.measure(self.predict(bundle, masks), bundle)

    def function(self, body: Callable[..., Any], *specs: Any) -> Callable[..., Any]:
        """`body` (bundle, *arguments) compiled for any number of rows."""
        import tensorflow as tf

        arrays = Bundle(list(self._source), self.original, self.labels, self.counted)
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
        if name not in self._functions:
            self._functions[name] = self.function(body, *specs)
        compiled = self._functions[name]
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


def fitting_batch(floats_per_row: int, floats: int, least: int, most: int) -> int:
    """Rows of a batch whose activations hold at most so many numbers, between `least` and `most`."""
    return int(np.clip(floats // max(floats_per_row, 1), least, most))
