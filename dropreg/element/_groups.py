"""Groups of weights that form one element."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .._utils import positive
from ..errors import ParameterError


@dataclass(frozen=True)
class Block:
    """Divide a kernel into blocks of weights, each of which is one element.

    The kernel counts as a matrix whose columns are its last axis, the outputs of Dense and convolution layers, and
    whose rows are all other axes. ``Block(4, 1)`` holds four consecutive inputs of one output, which are kept or
    removed together. Blocks at the edge are smaller where the sizes do not divide.

    Parameters
    ----------
    rows, columns : int
        Size of a block, at least 1.

    Raises
    ------
    ParameterError
        If a number is not an integer of at least 1.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> len(dr.elements(model, "weights", include="logits", groups=dr.Block(4, 1)))
    250
    """

    rows: int
    columns: int

    def __post_init__(self) -> None:
        positive("rows", self.rows)
        positive("columns", self.columns)


Groups = Literal["rows", "columns", "layers"] | Block | Mapping[str, Any]


def check_groups(groups: Any) -> None:
    """Raise ParameterError unless `groups` is one of the ways to group weights."""
    if groups is not None and not isinstance(groups, Block | Mapping) and groups not in ("rows", "columns", "layers"):
        raise ParameterError(
            "`groups` must be 'rows', 'columns', 'layers', a dropreg.Block, or a mapping of layer names to arrays, "
            f"received {groups!r}."
        )


def group_numbers(groups: Groups | None, layer: str, shape: tuple[int, ...]) -> tuple[str, npt.NDArray[np.int64]]:
    """Return the kind of a kernel's elements, and the group of each of its (flattened) scalars, -1 = always kept."""
    scalar = np.arange(int(np.prod(shape)))
    if groups is None:
        return "weight", scalar
    row, column = np.divmod(scalar, shape[-1])
    if isinstance(groups, str):
        return {"rows": ("row", row), "columns": ("column", column), "layers": ("kernel", 0 * row)}[groups]
    if isinstance(groups, Block):
        across = -(-shape[-1] // groups.columns)
        return "block", row // groups.rows * across + column // groups.columns
    return "group", _given(groups[layer], layer, shape)


def _given(values: Any, layer: str, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Number the groups given as integers of the kernel's shape, or as several boolean masks that do not overlap."""
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
