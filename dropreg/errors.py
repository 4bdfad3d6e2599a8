"""Errors that say what was expected, what was received and what to do."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .selection import Selection


class DropregError(Exception):
    """Base class of everything that dropreg raises on its own account."""


class ModelError(DropregError, ValueError):
    """The model cannot be used as asked: not built, subclassed, corrupt, a layer that is unknown."""


class DataError(DropregError, ValueError):
    """The examples or labels do not fit the model, or cannot be read."""


class ParameterError(DropregError, ValueError):
    """An argument lies outside what it may be."""


class RecordError(DropregError, RuntimeError):
    """A record cannot be written, continued or read."""


class TargetError(DropregError, RuntimeError):
    """A target cannot be met.

    Attributes
    ----------
    best : Selection
        The selection that came closest.
    """

    def __init__(self, message: str, best: "Selection") -> None:
        super().__init__(message)
        self.best = best


def positive(name: str, value: Any, least: int = 1) -> int:
    """`value` as an int, or ParameterError unless it is one of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ParameterError(f"`{name}` must be an integer of at least {least}, received {value!r}.")
    return int(value)


def concatenate_names(names: Sequence[Any], limit: int = 5) -> str:
    """The first few of `names` for an error text."""
    shown = ", ".join(str(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
