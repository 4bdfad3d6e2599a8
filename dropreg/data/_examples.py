"""Examples and labels, checked against the model."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .._utils import concatenate_names
from ..errors import DataError, ParameterError
from ._inputs import as_list, blocks, check_ids, checked_input, fits, written
from ._prediction import Prediction
from ._streams import stream
from ._tasks import TASKS, Task

if TYPE_CHECKING:
    import keras

    from ..graph import Graph, Shape

Data = Any
"""(x, y), with x an array, or a list, tuple or dict of arrays for several inputs, and y the labels, or None.

Or a tf.data.Dataset, a keras.utils.PyDataset or an iterable of batches (x, y), which `dropreg.datasets.stream` writes
to disk first. Labels by name, ``{"mood": y}``, choose which of several outputs is measured; y may be None.
"""


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
    counted : ndarray of bool, shape (n_examples, ...), or None
        Positions of the output that count: those that the model's own mask, such as that of an Embedding with
        mask_zero, does not hide. None where all count.
    """

    inputs: tuple[npt.NDArray[Any], ...]
    labels: npt.NDArray[Any] | None
    task: Task
    output: int = 0
    counted: npt.NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.inputs[0])

    def part(self, rows: slice | npt.NDArray[np.int64]) -> "Examples":
        """Return some of the examples."""
        labels, counted = (None if array is None else array[rows] for array in (self.labels, self.counted))
        return replace(self, inputs=tuple(array[rows] for array in self.inputs), labels=labels, counted=counted)

    def carried(self) -> tuple[npt.NDArray[Any], npt.NDArray[np.bool_]]:
        """Return labels and `counted` for tensors: zeros (n_examples,) and an empty (n_examples, 0) for None."""
        n = len(self)
        labels = np.zeros(n, np.int64) if self.labels is None else self.labels
        return labels, np.ones((n, 0), dtype=bool) if self.counted is None else self.counted

    def predicted(self, outputs: Any, counted: Any, *, from_logits: bool) -> Prediction:
        """Return the prediction for some examples, with their part of `counted` from `carried`."""
        return Prediction(outputs, self.task, from_logits, None if self.counted is None else counted)

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

    def fingerprint(self) -> str:
        """Return a hash of all values."""
        digest = hashlib.sha256(b"" if self.labels is None else self.labels.tobytes())
        for array in self.inputs:
            for _, block in blocks(array):
                digest.update(block.tobytes() if block.dtype.kind != "O" else b"\0".join(block.ravel()))
        return digest.hexdigest()[:16]


def read_once(data: Data) -> Any:
    """Return (x, y); batches are written to disk (`stream`), because a generator can be read only once."""
    return data if isinstance(data, tuple | list) else stream(data)


def check_data(
    model: "keras.Model | Graph",
    data: Data,
    task: Task | None = None,
    output: int | str | None = None,
    *,
    measured: bool = True,
) -> Examples:
    """Check (x, y) against a model's inputs and outputs, and return them as `Examples`.

    Parameters
    ----------
    model : keras.Model or Graph
        The measured output must have shape (batch, ..., n_outputs). The axes between are positions, such as pixels or
        tokens, which count equally; those that the model's own mask hides (padded steps) do not count, as in Keras'
        losses and metrics, and may have any label.
    data : (x, y), dataset or iterable of batches
        Arrays may lie on disk (numpy.memmap); batches are written there first, see `stream`. y is a list or dict
        where the model has several outputs. Classes are integers (n, ...) or (n, ..., 1), or one-hot
        (n, ..., classes), with the output's positions; binary labels are 0 and 1 of shape (n, ...) or (n, ..., 1);
        several labels and regression targets have shape (n, ..., n_outputs). None stands for no labels.
    task : str, optional
        By default found from y: with one output, labels 0 and 1 make "binary" and other numbers "regression"; with
        several, integer or one-hot labels make "classes", other rows of 0 and 1 "multilabel", other numbers
        "regression".
    output : int or str, optional
        The output to measure, by number or name; needed where there are several, unless `y` names one.
    measured : bool
        Whether an output is measured; if not, the first is taken where none is named.

    Raises
    ------
    DataError
        If shapes, dtypes, lengths or values do not fit, or all positions of an example are hidden.
    """
    data = read_once(data)
    if len(data) != 2:
        raise DataError(f"`data` must be a pair (x, y), received {len(data)} values: pass (x, y).")
    x, y = data
    from ..graph import trace_graph
    from ..layers import rule_for
    from ._positions import counted_positions

    graph = trace_graph(model)
    names = graph.input_names
    each = zip(as_list(x, names), names, graph.inputs, graph.input_dtypes, strict=True)
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
    number = _output_of(graph, y, output, measured=measured)
    shape = graph.shapes[graph.outputs[number]]
    if len(shape) < 2 or shape[-1] is None:
        raise DataError(
            f"the model's output '{graph.output_names[number]}' must have shape (batch, ..., n_outputs), received "
            f"{shape}: pass a model whose output ends with an axis of known length."
        )
    n_outputs = shape[-1]
    y = _labels_of(y, number, graph.output_names)
    if task is not None and task not in TASKS:
        raise ParameterError(f"`task` must be one of {', '.join(TASKS)}, received {task!r}.")
    from ..layers import last_activation

    counted = counted_positions(graph, inputs, number)
    if y is None:
        return Examples(inputs, None, task or ("classes" if n_outputs > 1 else "regression"), number, counted)
    labels = _without_hidden(_numeric_labels(y, n_examples), counted)
    expected = (n_examples, *shape[1:])
    task = task or _guess_task(labels, len(expected), n_outputs, last_activation(graph, number))
    checked = _checked_classes(labels, expected) if task == "classes" else _checked_targets(labels, expected, task)
    return Examples(inputs, checked, task, number, counted)


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


def _labels_of(y: Any, number: int, names: Sequence[str]) -> Any:
    """Return the labels of one output, where `y` holds those of several."""
    if isinstance(y, Mapping):
        if names[number] not in y:
            raise DataError(
                f"`y` must have labels of output '{names[number]}', one of the model's ({', '.join(names)}), received "
                f"those of {', '.join(map(str, y))}."
            )
        return y[names[number]]
    if isinstance(y, tuple | list) and len(names) > 1:
        if len(y) != len(names):
            raise DataError(f"`y` must hold labels of {len(names)} outputs ({', '.join(names)}), received {len(y)}.")
        return y[number]
    return y


def _numeric_labels(y: Any, n_examples: int) -> npt.NDArray[Any]:
    """Return labels as an array of numbers, one entry for each example."""
    try:
        labels = np.asarray(y)
    except ValueError as error:
        raise DataError("`y` must be one array, received rows of different lengths.") from error
    if labels.ndim == 0 or len(labels) != n_examples:
        received = "a single value" if labels.ndim == 0 else f"{len(labels)} labels"
        raise DataError(f"`y` must have one label for each of {n_examples} examples, received {received}.")
    if labels.dtype.kind not in "fiub":
        raise DataError(f"`y` must be integer classes or one-hot rows, received dtype {labels.dtype}.")
    return labels


def _without_hidden(labels: npt.NDArray[Any], counted: npt.NDArray[np.bool_] | None) -> npt.NDArray[Any]:
    """Return labels with class 0, or its one-hot row, at positions that do not count."""
    if counted is None or labels.shape[: counted.ndim] != counted.shape:
        return labels
    labels = labels.copy()
    labels[~counted] = 0
    if labels.ndim > counted.ndim and labels.shape[-1] > 1:
        labels[~counted, ..., 0] = 1
    return labels


def _guess_task(labels: npt.NDArray[Any], rank: int, n_outputs: int, activation: str | None) -> Task:
    """Guess the task from labels for an output of a rank, with a last axis of length `n_outputs` and an activation."""
    zero_one, sigmoid = bool(((labels == 0) | (labels == 1)).all()), activation == "sigmoid"
    if n_outputs == 1:
        if sigmoid and not zero_one:
            values = concatenate_names([f"{value:g}" for value in np.unique(labels)], 3)
            raise DataError(
                f"`y` must be 0 or 1 for an output with a sigmoid activation, received {values}: relabel "
                "them, or pass task='regression'."
            )
        return "binary" if zero_one else "regression"
    if labels.ndim != rank or labels.shape[-1] != n_outputs:
        if sigmoid:
            raise DataError(
                f"`y` must have {n_outputs} labels of 0 or 1 for each example where outputs have a sigmoid activation, "
                f"received shape {labels.shape}: pass such labels, or task='classes' if one class is right."
            )
        return "classes"
    if not zero_one:
        return "regression"
    return "classes" if not sigmoid and (labels.sum(axis=-1) == 1).all() else "multilabel"


def _checked_targets(labels: npt.NDArray[Any], expected: "Shape", task: Task) -> npt.NDArray[np.float32]:
    """Return targets of a binary, multi-label or regression task in the shape of the output."""
    targets = labels[..., np.newaxis] if labels.ndim == len(expected) - 1 else labels
    if not fits(targets, expected):
        raise DataError(f"`y` must have shape {written(expected)} for task '{task}', received {labels.shape}.")
    if not np.isfinite(targets).all():
        raise DataError(f"`y` must be finite, received {int((~np.isfinite(targets)).sum())} NaN or infinite values.")
    if task != "regression" and not ((targets == 0) | (targets == 1)).all():
        raise DataError(f"`y` must be 0 or 1 for task '{task}', received other values: pass task='regression'?")
    return targets.astype(np.float32)


def _checked_classes(labels: npt.NDArray[Any], expected: "Shape") -> npt.NDArray[np.int64]:
    """Return classes as integers in the shape of the output without its last axis."""
    n_classes = expected[-1] or 0
    if n_classes < 2:
        raise DataError("the model's output must have at least two classes for task 'classes', received one.")
    if fits(labels, expected):
        one_hot = ((labels == 0) | (labels == 1)).all() and (labels.sum(axis=-1) == 1).all()
        if not one_hot:
            raise DataError(f"`y` of shape {labels.shape} must be one-hot, received rows that are not.")
        return labels.argmax(axis=-1).astype(np.int64)
    received = labels.shape
    labels = labels[..., 0] if labels.ndim == len(expected) and labels.shape[-1] == 1 else labels
    if not fits(labels, expected[:-1]):
        raise DataError(f"`y` must have shape {written(expected[:-1])} or {written(expected)}, received {received}.")
    wrong = ~np.isfinite(labels) | (labels != np.round(labels)) | (labels < 0) | (labels >= n_classes)
    if wrong.any():
        first = int(np.argwhere(wrong)[0][0])
        raise DataError(
            f"`y` must be classes 0 to {n_classes - 1}, received {labels[wrong].flat[0]!s} at example {first} "
            f"({int(wrong.sum())} such labels): renumber the classes from 0."
        )
    return labels.astype(np.int64)
