"""Hash functions by their code."""

import hashlib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import partial
from types import CodeType, FunctionType, MethodType
from typing import Any

_PLAIN = (str, bytes, int, float, complex, type(None), type(...))


def function_fingerprint(function: Any) -> str:
    """Return a hash of a function's bytecode, its defaults, and the functions and plain values in its closure.

    A dataclass instance is hashed by its fields. Arrays and other objects are hashed by their type only, and global
    variables by their name only. The hash depends on the version of Python.
    """
    return hashlib.sha256("\n".join(_parts(function, [])).encode()).hexdigest()[:16]


def _parts(value: Any, inside: list[Any]) -> Iterator[str]:
    """Yield the strings to hash for a value; `inside` are the functions that enclose it."""
    value = getattr(value, "python_function", value)  # the function inside a tf.function
    yield type(value).__name__
    if isinstance(value, _PLAIN):
        yield repr(value)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _parts(part, inside)
        yield "end"
    elif isinstance(value, set | frozenset):
        yield from sorted("\n".join(_parts(part, inside)) for part in value)
    elif isinstance(value, dict):
        yield from _parts(list(value.items()), inside)
    elif isinstance(value, CodeType):
        yield value.co_code.hex()
        yield from _parts([value.co_names, value.co_consts], inside)
    elif isinstance(value, MethodType):
        yield from _parts(value.__func__, inside)
    elif isinstance(value, partial):
        yield from _parts([value.func, value.args, value.keywords], inside)
    elif isinstance(value, FunctionType):
        if not any(value is outer for outer in inside):  # a function may enclose itself
            enclosed = [_content(cell) for cell in value.__closure__ or ()]
            yield from _parts([value.__code__, value.__defaults__, value.__kwdefaults__, enclosed], [*inside, value])
    else:
        yield f"{type(value).__module__}.{type(value).__qualname__} {getattr(value, '__qualname__', '')}"
        call = vars(type(value)).get("__call__")
        if isinstance(call, FunctionType):
            yield from _parts(call, inside)
        if is_dataclass(value) and not isinstance(value, type):
            yield from _parts([getattr(value, part.name) for part in fields(value)], inside)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the cell is still empty
        return None
