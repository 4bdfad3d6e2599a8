"""Labels, checked against the shape of a model's output, and the task that they mean."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .._utils import concatenate_names
from ..errors import DataError
from ._inputs import fits, written
from ._losses import CompiledLoss
from ._tasks import TASKS, Task

if TYPE_CHECKING:
    from ..graph import Shape


def of_output(values: Any, number: int, names: Sequence[str], what: str = "y", noun: str = "labels") -> Any:
    """Return the labels, or the weights, of one output, where `values` holds those of several."""
    if isinstance(values, Mapping):
        if names[number] not in values:
            raise DataError(
                f"`{what}` must have {noun} of output '{names[number]}', one of the model's ({', '.join(names)}), "
                f"received those of {', '.join(map(str, values))}."
            )
        return values[names[number]]
    if isinstance(values, tuple | list) and len(names) > 1:
        if len(values) != len(names):
            raise DataError(
                f"`{what}` must hold {noun} of {len(names)} outputs ({', '.join(names)}), received {len(values)}."
            )
        return values[number]
    return values


def numeric_labels(y: Any, n_examples: int) -> npt.NDArray[Any]:
    """Return labels as an array of numbers, one entry for each example."""
    try:
        labels = np.asarray(y)
    except ValueError as error:
        raise DataError("`y` must be one array, received rows of different lengths.") from error
    if labels.ndim == 0 or len(labels) != n_examples:
        received = "a single value" if labels.ndim == 0 else f"{len(labels)} labels"
        raise DataError(f"`y` must have one label for each of {n_examples} examples, received {received}.")
    if labels.dtype.kind not in "fiub":
        raise DataError(f"`y` must be integer classes or one-hot rows, received dtype {labels.dtype}.{_hint(labels)}")
    return labels


def _hint(labels: npt.NDArray[Any]) -> str:
    """Return how to number classes that are given by name; empty for other labels."""
    first: Any = labels.reshape(-1)[:1].tolist()[0] if labels.size else None
    if not isinstance(first, str | bytes):
        return ""
    return (
        f" Number the names, such as {first!r}, in the order of the model's outputs: "
        "y = np.array([names.index(name) for name in y]), or names, y = np.unique(y, return_inverse=True) if the "
        "outputs are in alphabetical order."
    )


def without_hidden(labels: npt.NDArray[Any], counted: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    """Return labels with class 0, or its one-hot row, at positions that do not count."""
    if counted is None or labels.shape[: counted.ndim] != counted.shape:
        return labels
    labels = labels.copy()
    labels[counted == 0] = 0
    if labels.ndim > counted.ndim and labels.shape[-1] > 1:
        labels[counted == 0, ..., 0] = 1
    return labels


def find_task(labels: npt.NDArray[Any] | None, expected: "Shape", activation: str | None, loss: CompiledLoss) -> Task:
    """Return the task that labels, the last activation and the compiled loss agree on.

    Parameters
    ----------
    labels : ndarray, optional
    expected : tuple of int
        Shape of the outputs of all examples.
    activation : str, optional
        Name of the last activation, if it is known.
    loss : CompiledLoss

    Raises
    ------
    DataError
        If they contradict each other or do not say enough.
    """
    several, of_labels = (expected[-1] or 0) > 1, _tasks_of(labels, expected)
    finite = labels is None or bool(np.isfinite(labels).all())
    if labels is not None and (not finite or (of_labels == ("classes",) and loss.tasks == ("regression",))):
        return of_labels[0] if not finite else "regression"  # labels that are not of this task are refused
    zero_one = labels is not None and len(of_labels) > 1
    of_outputs: tuple[Task, ...] = ("classes", "multilabel", "regression") if several else ("binary", "regression")
    if activation == "softmax" and several:
        of_outputs = ("classes",)
    elif activation == "sigmoid" and (zero_one or loss.tasks != ("regression",)):
        of_outputs = ("multilabel",) if several else ("binary",)
    if labels is None:
        unlabelled: list[Task] = [task for task in of_outputs if task in loss.tasks] or list(of_outputs)
        return unlabelled[0] if several else unlabelled[-1]
    possible: list[Task] = [task for task in of_outputs if task in of_labels and task in loss.tasks]
    values = np.unique(labels)
    unsure = loss.name is None and possible == ["regression"] and len(values) == 2 < labels.size
    if possible and not unsure:
        return possible[0]
    ending = f" with a {activation} activation" if activation in ("sigmoid", "softmax") else ""
    trained = f"compiled with {loss.name}" if loss.name else "that is not compiled with a loss of Keras"
    raise DataError(
        f"`y` must agree with the last activation and the compiled loss on a task, received "
        f"{concatenate_names([f'{value:g}' for value in values], 3)} in shape {labels.shape} for outputs{ending} of a "
        f"model {trained}: {'' if zero_one else 'relabel them, or '}pass task="
        f"{' or '.join(repr(task) for task in of_labels)}."
    )


def _tasks_of(labels: npt.NDArray[Any] | None, expected: "Shape") -> tuple[Task, ...]:
    """Return the tasks that labels can be for, several only if all are 0 or 1."""
    if labels is None:
        return TASKS
    zero_one = bool(((labels == 0) | (labels == 1)).all())
    if expected[-1] == 1:
        return ("binary", "regression") if zero_one else ("regression",)
    if labels.ndim != len(expected) or labels.shape[-1] != expected[-1]:
        return ("classes",)
    if not zero_one:
        return ("regression",)
    one_hot = bool((labels.sum(axis=-1) == 1).all())
    return ("classes", "multilabel", "regression") if one_hot else ("multilabel", "regression")


def checked_targets(labels: npt.NDArray[Any], expected: "Shape", task: Task) -> npt.NDArray[np.float32]:
    """Return targets of a binary, multi-label or regression task in the shape of the output."""
    targets = labels[..., np.newaxis] if labels.ndim == len(expected) - 1 else labels
    if not fits(targets, expected):
        raise DataError(f"`y` must have shape {written(expected)} for task '{task}', received {labels.shape}.")
    if not np.isfinite(targets).all():
        raise DataError(f"`y` must be finite, received {int((~np.isfinite(targets)).sum())} NaN or infinite values.")
    if task != "regression" and not ((targets == 0) | (targets == 1)).all():
        raise DataError(f"`y` must be 0 or 1 for task '{task}', received other values: pass task='regression'?")
    return targets.astype(np.float32)


def checked_classes(labels: npt.NDArray[Any], expected: "Shape") -> npt.NDArray[np.int64]:
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
