"""Run the masked network on the examples of a question."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from .._utils import Array
from ..data import Prediction, in_float32
from ..errors import ModelError
from ..graph import compiled, rows_that_fit
from ._logits import are_logits
from ._masked import MaskedNetwork
from ._outcomes import Outcome
from ._question import Question
from ._resolve import check_logits

_BATCH_FLOATS = 2**24
_LEAST_BATCH, _MOST_BATCH = 16, 4096
_TRIAL_ROWS = 3


class Bundle(NamedTuple):
    """All that some rows need besides their masks.

    `gathered` holds values (rows, ...) at the network's frontier or its inputs, `original` the outputs (rows, ...,
    n_outputs) of the original model; `labels`, `counted` and `weights` are parts of `Examples.carried`.
    """

    gathered: list[Any]
    original: Any
    labels: Any
    counted: Any
    weights: Any


class Evaluator:
    """Computes outputs, outcomes and gradients under masks, and counts the row-equivalents spent.

    The outcome of a row is multiplied by the weight of its example, so that means over rows estimate weighted means.

    Values that no mask can change and the outputs of the original model are computed once per example.

    Parameters
    ----------
    question : Question
    network : MaskedNetwork, optional
        By default a network that replaces removed elements by zeros.
    batch_size : int, optional
        Rows of one forward pass, by default chosen from the size of the activations.
    original : ndarray of float32, shape (n_examples, ...), optional
        Outputs which outcomes compare with, by default those of the question's model.

    Attributes
    ----------
    rows : int
        Row-equivalents spent so far.
    one_mask : bool
        Whether one mask serves a whole batch (weights), so that rows with masks of their own are run one by one.
    from_logits : bool
        Whether the outputs are logits.
    """

    def __init__(
        self,
        question: Question,
        *,
        network: MaskedNetwork | None = None,
        batch_size: int | None = None,
        original: npt.NDArray[np.float32] | None = None,
    ) -> None:
        self.question, examples = question, question.examples
        if network is None:
            network = MaskedNetwork(question.graph, question.elements, output=examples.output)
        self.network: MaskedNetwork = network
        self.rows: int = 0
        self._functions: dict[str, Callable[..., Any]] = {}
        self.one_mask: bool = question.elements.one_mask_a_batch
        self.n_elements: int = len(question.elements)
        self._base = tf.Variable(tf.constant(question.kept, tf.float32), trainable=False)
        if batch_size is None:
            floats = network.floats_per_row(len(examples))
            batch_size = rows_that_fit(floats, budget=_BATCH_FLOATS, least=_LEAST_BATCH, most=_MOST_BATCH)
        self.batch_size: int = batch_size
        cache = network.cached_prefix(examples, self.batch_size)
        self._cached = cache is not None
        self._source: list[Any] = list(examples.inputs) if cache is None else cache
        self.original: npt.NDArray[np.float32] = self._run_original() if original is None else original
        self.labels, self.counted, self.weights = examples.carried()
        self.from_logits: bool = are_logits(question.graph, examples.output, examples.task, self.original)
        self._check_metrics()

    def __len__(self) -> int:
        return len(self.question.examples)

    def weights_of(self, examples: npt.NDArray[np.int64]) -> npt.NDArray[np.float32] | None:
        """Return the weights of some examples (their numbers), None if those of all are equal."""
        return None if self.question.examples.weights is None else self.weights[examples]

    def keep(self, kept: npt.NDArray[np.bool_]) -> None:
        """Drop all elements but `kept` (n_elements,) in every mask from now on."""
        self._base.assign(kept.astype(np.float32))

    def _run_original(self) -> npt.NDArray[np.float32]:
        """Return the original model's outputs for all examples."""
        specs = [tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in self._source]
        forward = compiled(lambda *source: self.outputs(source, None), specs).get_concrete_function()
        parts = [
            forward(*(tf.convert_to_tensor(x[block[0] : block[-1] + 1]) for x in self._source)).numpy()
            for block in self.blocks(len(self))
        ]
        return self.question.examples.check_outputs(np.concatenate(parts), self.question.model.name)

    def outputs(self, gathered: Sequence[Any], masks: tf.Tensor | None) -> tf.Tensor:
        """Return the network's outputs (rows, ...) in float32 under masks (rows, n_elements); None keeps all."""
        frontier = list(gathered) if self._cached else self.network.prefix(list(gathered))
        return in_float32(self.network.suffix(frontier, masks))

    def _check_metrics(self) -> None:
        """Raise ParameterError unless every row outcome returns one number per row; only traces, runs nothing."""
        check_logits(self.question.outcomes, self.prediction(self.original, self.counted))
        specs = [tf.TensorSpec([_TRIAL_ROWS, *x.shape[1:]], x.dtype) for x in self._carried]
        compiled(self._measured_original, specs).get_concrete_function()

    @property
    def _carried(self) -> tuple[npt.NDArray[Any], ...]:
        """The arrays of a `Bundle` besides `gathered`."""
        return self.original, self.labels, self.counted, self.weights

    def _measured_original(self, *carried: Any) -> Any:
        """Return all row outcomes of the original model for parts of `_carried`."""
        bundle = Bundle([], *carried)
        return self.measure_all(self.original_prediction(bundle), bundle)

    def prediction(self, outputs: Any, counted: Any) -> Prediction:
        """Return the prediction of some rows from their outputs and their part of `counted`."""
        return self.question.examples.predicted(outputs, counted, from_logits=self.from_logits)

    def bundle(self, examples: npt.NDArray[np.int64]) -> Bundle:
        """Return the bundle of rows that use `examples` (their numbers)."""
        gathered = [tf.gather(x, examples) if self._cached else tf.constant(x[examples]) for x in self._source]
        return Bundle(gathered, *(tf.constant(x[examples]) for x in self._carried))

    def predict(self, bundle: Bundle, masks: tf.Tensor) -> Prediction:
        """Return the network's prediction under masks (rows, n_elements), or (1, n_elements) for all rows."""
        kept = masks * self._base
        if not self.one_mask and not self.network.takes_groups:
            kept = tf.broadcast_to(kept, [tf.shape(bundle.original)[0], self.n_elements])
        return self.prediction(self.outputs(bundle.gathered, kept), bundle.counted)

    def original_prediction(self, bundle: Bundle) -> Prediction:
        """Return the prediction that outcomes compare with."""
        return self.prediction(bundle.original, bundle.counted)

    def measure(self, prediction: Prediction, bundle: Bundle) -> tf.Tensor:
        """Return the outcome of each row, shape (rows,)."""
        return self.measure_one(self.question.outcome, prediction, bundle)

    def measure_one(self, outcome: Outcome, prediction: Prediction, bundle: Bundle) -> tf.Tensor:
        """Return an outcome of each row times the weight of its example, shape (rows,)."""
        values = outcome.measure(prediction, bundle.labels, self.original_prediction(bundle))
        return self.question.examples.weighted(values, bundle.weights)

    def measure_all(self, prediction: Prediction, bundle: Bundle) -> tf.Tensor:
        """Return all row outcomes of the question, shape (rows, n_row_outcomes)."""
        outcomes = self.question.row_outcomes
        if not outcomes:
            return tf.zeros([tf.shape(prediction.outputs)[0], 0])
        return tf.stack([self.measure_one(outcome, prediction, bundle) for outcome in outcomes], axis=1)

    def surrogate(self, prediction: Prediction, bundle: Bundle, outcome: Outcome | None = None) -> tf.Tensor:
        """Return the differentiable surrogate of each row's (first) outcome, shape (rows,)."""
        outcome = self.question.outcome if outcome is None else outcome
        values = outcome.surrogate(prediction, bundle.labels, self.original_prediction(bundle))
        return self.question.examples.weighted(values, bundle.weights)

    def decision(self, outcome: Outcome, prediction: Prediction, bundle: Bundle) -> tuple[tf.Tensor, tf.Tensor] | None:
        """Return `Outcome.decision` with weights times those of the examples."""
        found = outcome.decision(prediction, bundle.labels, self.original_prediction(bundle))
        return None if found is None else (found[0], self.question.examples.weighted(found[1], bundle.weights))

    def original_values(self) -> npt.NDArray[np.float32]:
        """Return the row outcomes of the original model, shape (n_examples, n_row_outcomes); costs no rows."""
        return self._measured_original(*(tf.constant(x) for x in self._carried)).numpy()

    def value(self, bundle: Bundle, masks: tf.Tensor) -> tf.Tensor:
        """Return the outcome of each row under its mask, shape (rows,)."""
        return self.measure(self.predict(bundle, masks), bundle)

    def function(self, body: Callable[..., Any], *specs: Any) -> Callable[..., Any]:
        """Compile `body` (bundle, *arguments) for any number of rows; `specs` describe the arguments."""
        arrays = Bundle(list(self._source), *self._carried)
        bundle = tf.nest.map_structure(lambda x: tf.TensorSpec([None, *x.shape[1:]], x.dtype), arrays)
        return compiled(body, [bundle, *specs]).get_concrete_function()

    def by_row(self, body: Callable[..., Any]) -> Callable[..., Any]:
        """Return `body` with a mask of its own for every row, even if the network takes one mask per batch."""
        if not self.one_mask:
            return body

        def vectorized(bundle: Any, *arguments: Any) -> Any:
            def one(row: Any) -> Any:
                single, *more = tf.nest.map_structure(lambda tensor: tensor[tf.newaxis], row)
                return tf.nest.map_structure(lambda result: result[0], body(single, *more))

            return tf.vectorized_map(one, (bundle, *arguments), fallback_to_while_loop=True)

        return vectorized

    def blocks(self, n: int, size: int | None = None) -> Iterator[npt.NDArray[np.int64]]:
        """Yield the numbers 0 to n - 1 in blocks of at most `size` (the batch size by default)."""
        size = self.batch_size if size is None else max(size, 1)
        for start in range(0, n, size):
            yield np.arange(start, min(start + size, n))

    def measured_under(self) -> Callable[..., npt.NDArray[np.float32]]:
        """Return `value`, compiled at the first call."""
        return self.once("value", self.value, tf.TensorSpec([None, self.n_elements], tf.float32))

    def once(self, name: str, body: Callable[..., Any], *specs: Any) -> Callable[..., npt.NDArray[np.float32]]:
        """Compile `body` at the first call with this `name`; its result is returned as an array and must be finite."""
        if name not in self._functions:
            self._functions[name] = self.function(body, *specs)
        function = self._functions[name]
        return lambda *arguments: self.finite(function(*arguments).numpy())

    def finite(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return `values` of the outcome; ModelError unless all are finite."""
        if not np.isfinite(values).all():
            raise ModelError(
                f"outcome '{self.question.outcome.name}' must be finite, received NaN or infinity: check it, and the "
                "model's weights and activations."
            )
        return values

    def means(self, masks: npt.NDArray[np.bool_], examples: npt.NDArray[np.int64]) -> Array:
        """Return the mean outcome of each mask, shape (n_masks,).

        Parameters
        ----------
        masks : ndarray of bool, shape (n_masks, n_elements)
            True = kept.
        examples : ndarray of int64, shape (n,) or (n_masks, n)
            Numbers of the examples that each mask is run on.
        """
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
        """Return the outcome of each of `examples` (n,) under one mask (n_elements,), without counting the cost."""
        measure, kept = self.measured_under(), tf.constant(mask[np.newaxis], tf.float32)
        parts = [measure(self.bundle(examples[block]), kept) for block in self.blocks(len(examples))]
        return np.concatenate(parts).astype(np.float64)
