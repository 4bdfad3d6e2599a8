"""Checks of arguments."""

from collections.abc import Collection, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ParameterError


def positive(name: str, value: Any, least: int = 1) -> int:
    """Return `value` as an int; ParameterError unless it is an integer of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ParameterError(f"`{name}` must be an integer of at least {least}, received {value!r}.")
    return int(value)


def check_seed(seed: int) -> int:
    """The seed as an int, or ParameterError unless it is one that fits 64 bits."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
        raise ParameterError(f"`seed` must be an integer from 0 to 2**64 - 1, received {seed!r}.")
    return int(seed)


def first_line(error: Exception) -> str:
    """Return the first line of an error message; the messages of other libraries can be long."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()


def is_number(value: Any) -> bool:
    """Return whether `value` is a real number; True and False are not."""
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_)


def check_between(name: str, value: Any, low: float = 0, high: float = 1, hint: str = "") -> None:
    """Raise ParameterError unless `value` is a number strictly between `low` and `high`; `hint` ends its message."""
    if not is_number(value) or not low < value < high:
        raise ParameterError(
            f"`{name}` must lie strictly between {low:g} and {high:g}, received {_shown(value)}{hint and ': ' + hint}."
        )


def check_positive(name: str, value: Any) -> None:
    """Raise ParameterError unless `value` is a positive, finite number."""
    if not is_number(value) or not 0 < value < np.inf:
        raise ParameterError(f"`{name}` must be positive and finite, received {_shown(value)}.")


def check_type(name: str, value: Any, kind: type, remedy: str) -> None:
    """Raise ParameterError unless `value` is an instance of `kind`; `remedy` ends its message."""
    if not isinstance(value, kind):
        raise ParameterError(f"`{name}` must be {kind.__name__}, received {type(value).__name__}: {remedy}.")


def check_several(name: str, values: Any) -> None:
    """Raise ParameterError unless `values` is a collection other than a string or a mapping."""
    if isinstance(values, str | Mapping) or not isinstance(values, Collection):
        raise ParameterError(f"`{name}` must be a list, received {_shown(values)}: pass [{_shown(values)}].")


def check_writable(name: str, path: str | Path, suffixes: Sequence[str]) -> None:
    """Raise ParameterError unless `path` has one of these suffixes and lies in an existing folder."""
    path = Path(path)
    if path.suffix not in suffixes:
        raise ParameterError(f"{name} must end in {' or '.join(suffixes)}, received {path}.")
    if not path.resolve().parent.is_dir():
        raise ParameterError(f"{name} {path}: expected an existing folder, received {path.parent}: make it first.")
    if path.is_dir():
        raise ParameterError(f"{name} must be a file, received the folder {path}: choose another name.")


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, Real) else repr(value)


def concatenate_names(names: Sequence[Any], limit: int = 5) -> str:
    """Join the first `limit` names for an error message, and count the others."""
    shown = ", ".join(str(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


def hidden(progress: bool | None) -> bool | None:
    """The ``disable`` of a tqdm bar: None, by which tqdm shows a bar on terminals only, where `progress` is None.

    Raises
    ------
    ParameterError
        If `progress` is no boolean and not None.
    """
    if progress is not None and not isinstance(progress, bool):
        raise ParameterError(f"`progress` must be True, False or None, received {_shown(progress)}.")
    return None if progress is None else not progress
