"""Examples and labels, checked against the model."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._utils import concatenate_names
from ..errors import DataError, ParameterError
from ._inputs import as_list, blocks, check_ids, checked_input
from ._labels import checked_classes, checked_targets, find_task, numeric_labels, of_output, without_hidden
from ._losses import compiled_loss
from ._prediction import Prediction
from ._slices import Slices, slices_by_class, slices_of
from ._streams import stream
from ._tasks import TASKS, Task
from ._weights import checked_weights, shares, without_zeros

if TYPE_CHECKING:
    import keras

    from ..graph import Graph

Data = Any
"""(x, y), with x an array, or a list, tuple or dict of arrays for several inputs, and y the labels, or None.

Or (x, y, w) with the weights of examples (n,), or of the positions of their outputs (n, ...), as in Keras: means are
weighted means, and examples of weight 0 are left out. Or a tf.data.Dataset, a keras.utils.PyDataset or an iterable of
batches of these, which `dropreg.datasets.stream` writes to disk first. Labels by name, ``{"mood": y}``, choose which of
several outputs is measured; y may be None.
"""


class Carried(NamedTuple):
    """Arrays for tensors, one entry for each example, which stand in for None, too.

    Labels are zeros (n_examples,) in place of None, `counted` and `weights` are empty, (n_examples, 0).
    """

    labels: npt.NDArray[Any]
    counted: npt.NDArray[Any]
    weights: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Examples:
    """Checked examples.

    Attributes
    ----------
    inputs : tuple of ndarray, each of shape (n_examples, ...)
        One array for each input of the model, in its dtype; text as bytes objects.
    labels : ndarray or None
        Classes as int64 of shape (n_examples, ...), axes after the first being positions such as pixels or
        tokens; float32 of shape (n_examples, ..., n_outputs) for the other tasks; None if there are none.
    task : str
        "classes", "binary", "multilabel" or "regression".
    output : int
        Number of the measured output of the model.
    counted : ndarray of bool or float32, shape (n_examples, ...), or None
        Positions of the output that count: those that the model's own mask, such as that of an Embedding with
        mask_zero, does not hide. Their weights, in float32, where the data has weights of positions. None where all
        count equally.
    weights : ndarray of float32, shape (n_examples,), or None
        Weights of the examples. The mean over all examples of the data is 1. None where all are equal.
    slices : Slices or None
        Parts of the examples for which impacts are estimated apart.
    """

    inputs: tuple[npt.NDArray[Any], ...]
    labels: npt.NDArray[Any] | None
    task: Task
    output: int = 0
    counted: npt.NDArray[Any] | None = None
    weights: npt.NDArray[np.float32] | None = None
    slices: Slices | None = None

    def __len__(self) -> int:
        return len(self.inputs[0])

    def part(self, rows: slice | npt.NDArray[np.int64]) -> "Examples":
        """Return some of the examples; their weights do not change."""
        given = self.labels, self.counted, self.weights
        labels, counted, weights = (None if array is None else array[rows] for array in given)
        inputs = tuple(array[rows] for array in self.inputs)
        slices = None if self.slices is None else self.slices.part(rows)
        return replace(self, inputs=inputs, labels=labels, counted=counted, weights=weights, slices=slices)

    def sliced(self, by: Any) -> "Examples":
        """Return the examples with slices by "class" or by a column of values; errors as in `slices_of`."""
        if isinstance(by, str) and by == "class":
            return replace(self, slices=slices_by_class(self.labels, self.task))
        return replace(self, slices=slices_of(by, len(self)))

    @property
    def has_position_weights(self) -> bool:
        """Whether the data has weights of positions."""
        return self.counted is not None and self.counted.dtype != bool

    @property
    def position_weights(self) -> npt.NDArray[np.float32] | None:
        """Weights of positions, shape (n_examples, ...), with mean 1 in every example; None if the data has none."""
        if self.counted is None or not self.has_position_weights:
            return None
        axes = tuple(range(1, self.counted.ndim))
        return np.asarray(self.counted / self.counted.mean(axis=axes, keepdims=True), np.float32)

    def carried(self) -> Carried:
        """Return labels, `counted` and `weights` for tensors."""
        n = len(self)
        return Carried(
            np.zeros(n, np.int64) if self.labels is None else self.labels,
            np.ones((n, 0), dtype=bool) if self.counted is None else self.counted,
            np.ones((n, 0), np.float32) if self.weights is None else self.weights,
        )

    def predicted(self, outputs: Any, counted: Any, *, from_logits: bool) -> Prediction:
        """Return the prediction for some examples, with their part of `counted` from `carried`."""
        return Prediction(outputs, self.task, from_logits, None if self.counted is None else counted)

    def weighted(self, values: Any, weights: Any) -> Any:
        """Return values (rows,) times the weights of their examples, a part of `weights` from `carried`."""
        return values if self.weights is None else values * weights

    def check_outputs(self, outputs: npt.NDArray[np.float32], name: str) -> npt.NDArray[np.float32]:
        """Return the outputs (n_examples, ..., n_outputs) of model `name`; raise DataError if they do not fit."""
        bad = np.flatnonzero(~np.isfinite(outputs).reshape(len(outputs), -1).all(axis=1))
        if len(bad):
            raise DataError(
                f"model '{name}' must give finite outputs, received NaN or infinity for {len(bad)} examples (examples "
                f"{concatenate_names(bad.tolist())}): check its weights and the scale of the inputs."
            )
        shape = outputs.shape[: None if self.task != "classes" else -1]
        if self.labels is not None and self.labels.shape != shape:
            raise DataError(f"`y` must have shape {shape}, as the model's output, received {self.labels.shape}.")
        return outputs

    def fingerprints(self) -> dict[str, str]:
        """Return a hash of the values of each field that holds arrays, by its name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        arrays = {name: value if isinstance(value, tuple) else (value,) for name, value in values.items()}
        slices = {} if self.slices is None else {"slices": (self.slices.codes,)}
        arrays = {name: each for name, each in arrays.items() if all(isinstance(a, np.ndarray) for a in each)} | slices
        return {name: _hash(each) for name, each in arrays.items()}


def _hash(arrays: Sequence[npt.NDArray[Any]]) -> str:
    """Return a hash of shapes, types and values; arrays on disk are read block by block."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype} {array.shape}".encode())
        for _, block in blocks(array):
            digest.update(block.tobytes() if block.dtype.kind != "O" else b"\0".join(block.ravel()))
    return digest.hexdigest()[:16]


def read_once(data: Data) -> Any:
    """Return (x, y) or (x, y, w); batches are written to disk (`stream`), because a generator can be read only once."""
    return data if isinstance(data, tuple | list) else stream(data)


def check_data(
    model: "keras.Model | Graph",
    data: Data,
    task: Task | None = None,
    output: int | str | None = None,
    *,
    measured: bool = True,
) -> Examples:
    """Check (x, y), or (x, y, w), against a model's inputs and outputs, and return them as `Examples`.

    Parameters
    ----------
    model : keras.Model or Graph
        The measured output must have shape (batch, ..., n_outputs). The axes between are positions, such as pixels or
        tokens, which count equally; those that the model's own mask hides (padded steps) do not count, as in Keras'
        losses and metrics, and may have any label.
    data : (x, y), (x, y, w), dataset or iterable of batches
        Arrays may lie on disk (numpy.memmap); batches are written there first, see `stream`. y is a list or dict
        where the model has several outputs. Classes are integers (n, ...) or (n, ..., 1), or one-hot
        (n, ..., classes), with the output's positions; binary labels are 0 and 1 of shape (n, ...) or (n, ..., 1);
        several labels and regression targets have shape (n, ..., n_outputs). None stands for no labels. w holds
        weights of at least 0, of shape (n,), or (n, ...) with the output's positions; a list or dict where y is one.
        Examples of weight 0 are left out before anything else is checked.
    task : str, optional
        By default found from y, the last activation and the compiled loss, which must agree. Where these leave a
        choice: with one output, labels 0 and 1 make "binary" and other numbers "regression"; with several, integer or
        one-hot labels make "classes", other rows of 0 and 1 "multilabel", other numbers "regression".
    output : int or str, optional
        The output to measure, by number or name; needed where there are several, unless `y` names one.
    measured : bool
        Whether an output is measured; if not, the first is taken where none is named.

    Raises
    ------
    DataError
        If shapes, dtypes, lengths or values do not fit, or all positions of an example are hidden.
    """
    from ..graph import trace_graph
    from ..layers import last_activation, rule_for
    from ._positions import counted_positions

    x, y, w = _three(read_once(data))
    graph = trace_graph(model)
    names = graph.input_names
    arrays = as_list(x, names)
    number = _output_of(graph, y, output, measured=measured)
    shape = graph.shapes[graph.outputs[number]]
    y, w = of_output(y, number, graph.output_names), of_output(w, number, graph.output_names, "w", "weights")
    if w is not None:
        w = checked_weights(w, shape[1:-1])
        arrays, y, w = without_zeros(arrays, y, w)
    each = zip(arrays, names, graph.inputs, graph.input_dtypes, strict=True)
    inputs = tuple(checked_input(array, name, graph.shapes[slot], dtype) for array, name, slot, dtype in each)
    for call in graph.calls:
        size = rule_for(call.layer).vocabulary(call.layer)
        for array, name, slot in zip(inputs, names, graph.inputs, strict=True):
            if size is not None and slot in call.inputs:
                check_ids(array, name, size)
    n_examples = len(inputs[0])
    for array, name in zip(inputs, names, strict=True):
        if len(array) != n_examples:
            raise DataError(
                f"all inputs must have the same number of examples, received {n_examples} for "
                f"'{names[0]}' and {len(array)} for '{name}'."
            )
    if n_examples == 0:
        raise DataError("`data` must hold at least one example, received none.")
    if len(shape) < 2 or shape[-1] is None:
        raise DataError(
            f"the model's output '{graph.output_names[number]}' must have shape (batch, ..., n_outputs), received "
            f"{shape}: pass a model whose output ends with an axis of known length."
        )
    if task is not None and task not in TASKS:
        raise ParameterError(f"`task` must be one of {', '.join(TASKS)}, received {task!r}.")
    weights, counted = shares(w, counted_positions(graph, inputs, number))
    labels = None if y is None else without_hidden(numeric_labels(y, n_examples), counted)
    expected = (n_examples, *shape[1:])
    task = task or find_task(labels, expected, last_activation(graph, number), compiled_loss(graph, number))
    if labels is None:
        return Examples(inputs, None, task, number, counted, weights)
    checked = checked_classes(labels, expected) if task == "classes" else checked_targets(labels, expected, task)
    return Examples(inputs, checked, task, number, counted, weights)


def _three(data: Any) -> tuple[Any, Any, Any]:
    """Return (x, y, w), with None for no weights."""
    if len(data) not in (2, 3):
        raise DataError(
            f"`data` must be a pair (x, y), or (x, y, w) with weights, received {len(data)} values: pass (x, y)."
        )
    x, y, *more = data
    return x, y, more[0] if more else None


def check_apart(name: str, data: Data, other_name: str, other: Data) -> None:
    """Raise DataError if two sets of examples, with the names of their parameters, are the same or share memory."""
    same = data is other
    if not same and isinstance(data, tuple | list) and isinstance(other, tuple | list):
        same = any(_overlap(a, b) for a in _leaves(data[0]) for b in _leaves(other[0]))
    if same:
        raise DataError(
            f"`{name}` and `{other_name}` must be different examples, received the same ones or arrays that share "
            f"memory: split them, such as {name}=(x[n:], y[n:]) and {other_name}=(x[:n], y[:n])."
        )


def _leaves(x: Any) -> list[Any]:
    """Return the arrays of all inputs."""
    return list(x.values()) if isinstance(x, Mapping) else list(x) if isinstance(x, tuple | list) else [x]


def _overlap(a: Any, b: Any) -> bool:
    """Whether two arrays are the same or share memory."""
    return a is b or (isinstance(a, np.ndarray) and isinstance(b, np.ndarray) and np.shares_memory(a, b))


def _output_of(graph: "Graph", y: Any, output: int | str | None, *, measured: bool) -> int:
    """Return the number of the output that is asked for or that labels name; the first if none is measured."""
    names = graph.output_names
    if output is not None:
        return graph.output_number(output)
    named = [name for name in names if name in y] if isinstance(y, Mapping) else []
    if len(named) == 1:
        return names.index(named[0])
    if len(names) > 1 and measured:
        received = f"of {', '.join(map(str, y))}" if isinstance(y, Mapping) else "without a name"
        raise DataError(
            f"`data` must name one of the model's outputs to measure ({', '.join(names)}), received labels {received}: "
            f"pass (x, {{{names[0]!r}: y}}), where y may be None; on the command line, --output {names[0]}."
        )
    return 0
