"""Sample weights: how much each example, or each position of its output, counts in a mean."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from .._utils import Array, concatenate_names, is_number
from ..errors import DataError, ParameterError
from ._inputs import fits, written
from ._streams import as_array

if TYPE_CHECKING:
    from ..graph import Shape


def checked_weights(w: Any, positions: "Shape") -> Array:
    """Return weights (n,), or (n, *positions) where the output has positions, whose lengths may be None for any."""
    try:
        weights = as_array(w)
    except ValueError as error:
        raise DataError("`w` must be one array, received rows of different lengths.") from error
    if weights.dtype.kind not in "fiub":
        raise DataError(f"`w` must be weights, numbers of at least 0, received dtype {weights.dtype}.")
    if weights.ndim == 2 and weights.shape[1] == 1:
        weights = weights[:, 0]
    by_position = bool(positions) and fits(weights, (None, *positions))
    if weights.ndim != 1 and not by_position:
        allowed = "(n,)" + (f" or {written((None, *positions))}".replace("(any", "(n") if positions else "")
        raise DataError(
            f"`w` must have a weight for each example{' or position' if positions else ''}, shape {allowed}, received "
            f"{weights.shape}."
        )
    if not np.isfinite(weights).all() or (weights < 0).any():
        wrong = ~np.isfinite(weights) | (weights < 0)
        raise DataError(
            f"`w` must be finite and at least 0, received {weights[wrong].flat[0]:g} at example "
            f"{int(np.argwhere(wrong)[0][0])} ({int(wrong.sum())} such weights): a weight of 0 leaves an example out."
        )
    if weights.size and not (weights > 0).any():
        raise DataError("`w` must have weights above 0, received zeros alone: every example would be left out.")
    return weights.astype(np.float64)


def without_zeros(arrays: list[Any], y: Any, weights: Array) -> tuple[list[Any], Any, Array]:
    """Return inputs, labels and weights without the examples of weight 0, which have no influence of any kind."""
    for n in {_length(values) for values in (*arrays, y)} - {None, len(weights)}:
        raise DataError(f"`w` must have one weight for each of {n} examples, received {len(weights)} weights.")
    rows = np.flatnonzero(weights.reshape(len(weights), -1).any(axis=1))
    if len(rows) == len(weights):
        return arrays, y, weights
    return [as_array(array)[rows] for array in arrays], None if y is None else as_array(y)[rows], weights[rows]


def _length(values: Any) -> int | None:
    """Return the number of examples, None where there are no values or a single number, which is refused elsewhere."""
    return len(values) if hasattr(values, "__len__") else None


def shares(
    weights: Array | None, counted: npt.NDArray[np.bool_] | None
) -> tuple[npt.NDArray[np.float32] | None, npt.NDArray[Any] | None]:
    """Return the weights of examples and of their positions, as `Examples.weights` and `Examples.counted`.

    With w_ep the weight of position p of example e and P_e the number of its positions that the model does not mask
    (`counted`), the example's weight is the sum over these of w_ep / P_e, divided by its mean over examples. The mean
    of a value over examples, and within each over positions by w_ep, is then the mean over all positions weighted by
    w_ep / P_e.
    """
    if weights is None or (weights == weights.flat[0]).all():
        return None, counted
    if weights.ndim == 1:
        return (weights / weights.mean()).astype(np.float32), counted
    if counted is not None and counted.shape != weights.shape:
        raise DataError(f"`w` must have shape {counted.shape}, as the model's output, received {weights.shape}.")
    flat = (weights if counted is None else np.where(counted, weights, 0.0)).reshape(len(weights), -1)
    n_counted = flat.shape[1] if counted is None else counted.reshape(len(weights), -1).sum(axis=1)
    total, largest = flat.sum(axis=1) / n_counted, flat.max(axis=1, keepdims=True)
    if empty := np.flatnonzero(total == 0).tolist():
        raise DataError(
            f"`w` must be above 0 at a step that the model does not mask, received weights at masked steps alone for "
            f"examples {concatenate_names(empty)}: leave them out, by weights of 0."
        )
    by_example = None if (total == total[0]).all() else (total / total.mean()).astype(np.float32)
    return by_example, (flat / largest).reshape(weights.shape).astype(np.float32)


def class_weights(y: npt.ArrayLike, weights: Mapping[int, float] | Literal["balanced"]) -> npt.NDArray[np.float32]:
    """Return the weight of every label from weights of classes, as the third part of ``data=(x, y, w)``.

    Parameters
    ----------
    y : array of int, shape (n, ...)
        Classes of examples, or of the positions of their outputs. Of one-hot rows pass ``y.argmax(axis=-1)``.
    weights : dict of int to float, or "balanced"
        Weight of each class, at least 0; classes that are not named have weight 1, and those of weight 0 are left out.
        "balanced" gives all classes that occur the same total weight.

    Returns
    -------
    ndarray of float32, shape (n, ...)

    Raises
    ------
    DataError
        If labels are not integers.
    ParameterError
        If a weight is negative or not finite.

    Examples
    --------
    >>> import dropreg as dr
    >>> dr.datasets.class_weights([0, 1, 1, 2], {1: 0.5, 2: 3.0}).tolist()
    [1.0, 0.5, 0.5, 3.0]
    >>> dr.datasets.class_weights([0, 1, 1], "balanced").tolist()
    [1.5, 0.75, 0.75]
    """
    labels = np.asarray(y)
    if labels.dtype.kind not in "iub":
        raise DataError(f"`y` must be integers, the classes, received dtype {labels.dtype}: convert or number them.")
    names, counts = np.unique(labels, return_counts=True)
    if isinstance(weights, str) and weights == "balanced":
        by_class = dict(zip(names.tolist(), labels.size / (len(names) * counts), strict=True))
    elif isinstance(weights, Mapping):
        by_class = dict(weights)
    else:
        raise ParameterError(
            f"`weights` must be 'balanced' or a dict of classes to weights, such as {{0: 1.0, 1: 2.0}}, received "
            f"{weights!r}."
        )
    for name, weight in by_class.items():
        if not is_number(weight) or not 0 <= weight < np.inf:
            raise ParameterError(f"`weights` must be numbers of at least 0, received {weight!r} for class {name!r}.")
    found = np.ones(labels.shape, np.float32)
    for name, weight in by_class.items():
        found[labels == name] = weight
    return found
