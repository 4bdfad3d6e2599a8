"""Errors that say what was expected, what was received and what to do."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .element import Selection


class DropregError(Exception):
    """Base class of everything that dropreg raises on its own account."""

    ag_pass_through = True  # TensorFlow hands such errors on as they are when one ends its tracing


class ModelError(DropregError, ValueError):
    """The model cannot be used as asked: not built, subclassed, corrupt, a layer that is unknown."""


class DataError(DropregError, ValueError):
    """The examples or labels do not fit the model, or cannot be read."""


class ParameterError(DropregError, ValueError):
    """An argument lies outside what it may be."""


class UnidentifiedError(ParameterError):
    """The rows cannot tell the elements apart; more rows may."""


class RecordError(DropregError, RuntimeError):
    """A record cannot be written, continued or read."""


class TargetError(DropregError, RuntimeError):
    """A target cannot be met.

    Parameters
    ----------
    message : str
    best : Selection
        The selection that came closest.
    """

    def __init__(self, message: str, best: "Selection") -> None:
        super().__init__(message)
        self.best = best
