"""Unknown sizes of tensors as numbers that a graph computes.

Code that asks for the shape of a symbolic tensor receives None for unknown sizes, such as the number of rows, and many
functions of ``keras.ops`` take no symbolic size. Inside `symbolic_sizes` such code can be traced: unknown sizes are
symbolic integers, and the functions that take them become operations of the graph.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from ._access import patched

_SIZED = (
    *("arange", "broadcast_to", "cast", "convert_to_tensor", "eye", "full", "linspace", "ones", "reshape", "slice"),
    *("tile", "tri", "zeros", "one_hot", "repeat", "minimum", "maximum"),
)
"""Functions of ``keras.ops`` that code calls with sizes."""


@keras.saving.register_keras_serializable("dropreg")
class Size(keras.Operation):
    """The size of a tensor along one axis, as an integer of shape ()."""

    def __init__(self, axis: int, name: str | None = None) -> None:
        super().__init__(name=name)
        self.axis = axis

    def call(self, x: Any) -> Any:
        sizes: Any = keras.ops.shape(x)
        return keras.ops.convert_to_tensor(sizes[self.axis], "int32")

    def compute_output_spec(self, x: Any) -> Any:
        return keras.KerasTensor((), "int32")

    def get_config(self) -> dict[str, Any]:
        return {"axis": self.axis, "name": self.name}


@keras.saving.register_keras_serializable("dropreg")
class SizedOperation(keras.Operation):
    """A function of ``keras.ops`` some of whose arguments are sizes that the graph computes."""

    def __init__(self, function: str, name: str | None = None) -> None:
        super().__init__(name=name)
        self.function = function

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(keras.ops, self.function)(*args, **kwargs)

    def get_config(self) -> dict[str, Any]:
        return {"function": self.function, "name": self.name}


def is_size(value: Any) -> bool:
    """Return whether a value is a symbolic integer of shape ()."""
    return isinstance(value, keras.KerasTensor) and value.shape == () and str(value.dtype).startswith(("int", "uint"))


@contextmanager
def symbolic_sizes() -> Iterator[None]:
    """Let ``keras.ops`` give and take unknown sizes as symbolic integers inside a ``with`` block."""
    original: Any = keras.ops.shape
    known = dict[tuple[int, int], tuple[Any, Any]]()

    def size(x: Any, axis: int) -> Any:
        key = id(x), axis
        if key not in known:
            known[key] = x, Size(axis)(x)
        return known[key][1]

    def shape(x: Any) -> Any:
        sizes = original(x)
        if not isinstance(x, keras.KerasTensor):
            return sizes
        return tuple(size(x, axis) if n is None else n for axis, n in enumerate(sizes))

    changes = [(keras.ops, name, _sized(name)) for name in _SIZED]
    with patched([(keras.ops, "shape", shape), *changes]):
        yield


def _sized(name: str) -> Callable[..., Any]:
    """Return a function of ``keras.ops`` that also takes symbolic sizes."""
    original = getattr(keras.ops, name)

    def function(*args: Any, **kwargs: Any) -> Any:
        if not any(is_size(leaf) for leaf in keras.tree.flatten((args, kwargs))):
            return original(*args, **kwargs)
        if name == "reshape" and len(args) == 2 and not kwargs:
            known = [-1 if is_size(n) else n for n in args[1]]
            if known.count(-1) == 1:  # one unknown size needs no operation of its own
                return original(args[0], tuple(known))
        return SizedOperation(name)(*args, **kwargs)

    return function
