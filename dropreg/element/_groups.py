"""How the weights of a kernel go together."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import ParameterError


@dataclass(frozen=True)
class Block:
    """Blocks of a kernel seen as a matrix, its trailing axis the outputs and all others the inputs.

    ``Block(4, 1)`` holds four consecutive inputs of one output, the groups of 2:4 sparsity. Blocks at
    the edge are smaller where the sizes do not divide.

    Parameters
    ----------
    rows, columns : int
        Inputs and outputs of a block.
    """

    rows: int
    columns: int

    def __post_init__(self) -> None:
        for name, value in (("rows", self.rows), ("columns", self.columns)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise ParameterError(f"`{name}` of a Block must be an integer of at least 1, received {value!r}.")


Groups = Literal["rows", "columns"] | Block | Mapping[str, Any]


def check_groups(groups: Any) -> None:
    """Raise ParameterError unless `groups` is one of the ways to group weights."""
    if groups is None or isinstance(groups, Block | Mapping) or groups in ("rows", "columns"):
        return
    raise ParameterError(
        "`groups` must be 'rows', 'columns', a dropreg.Block, or a mapping of layer names to arrays, received "
        f"{groups!r}."
    )


def group_numbers(groups: "Groups | None", layer: str, shape: tuple[int, ...]) -> tuple[str, npt.NDArray[np.int64]]:
    """Kind of element, and the number of each scalar's group in its kernel.

    Parameters
    ----------
    groups : see `dropreg.elements`
    layer : str
    shape : tuple of int
        Of the kernel.

    Returns
    -------
    kind : str
    numbers : ndarray of int64, shape (scalars,)
        From 0 on, -1 for always kept.

    Raises
    ------
    ParameterError
        If an array of groups has another shape than the kernel, or groups overlap.
    """
    size, columns = int(np.prod(shape)), shape[-1]
    scalar = np.arange(size)
    if groups is None:
        return "weight", scalar
    row, column = np.divmod(scalar, columns)
    if isinstance(groups, str):
        return ("row", row) if groups == "rows" else ("column", column)
    if isinstance(groups, Block):
        across = -(-columns // groups.columns)
        return "block", row // groups.rows * across + column // groups.columns
    return "group", _given(groups[layer], layer, shape)


def _given(values: Any, layer: str, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Groups as an integer array of the kernel's shape, or as several boolean ones that do not overlap."""
    array = np.asarray(values)
    if array.dtype == np.bool_ and array.ndim == len(shape) + 1 and array.shape[1:] == shape:
        times = array.sum(axis=0)
        if (times > 1).any():
            raise ParameterError(
                f"`groups` of '{layer}' must not overlap, received {int((times > 1).sum())} weights in more than one "
                "group: give each weight to one group."
            )
        return np.where(times == 1, array.argmax(axis=0), -1).reshape(-1).astype(np.int64)
    if array.dtype.kind not in "iu" or array.shape != shape:
        raise ParameterError(
            f"`groups` of '{layer}' must be integers of the kernel's shape {shape}, or boolean arrays (groups, "
            f"{', '.join(map(str, shape))}), received dtype {array.dtype} and shape {array.shape}."
        )
    used, numbers = np.unique(array.reshape(-1), return_inverse=True)
    n_kept = int((used < 0).sum())
    return np.maximum(numbers - n_kept, -1).astype(np.int64)
