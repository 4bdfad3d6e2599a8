"""Errors that say what was expected, what was received and what to do."""


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
