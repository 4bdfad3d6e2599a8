"""Labels, checked against the shape of a model's output, and the task that they mean."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .._utils import concatenate_names
from ..errors import DataError
from ._inputs import fits, written
from ._tasks import Task

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


def guess_task(labels: npt.NDArray[Any], rank: int, n_outputs: int, activation: str | None) -> Task:
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
