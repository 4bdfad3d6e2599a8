"""Exceptions of dropreg; every message says what was expected, what was received, and what to do."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .element import Selection


class DropregError(Exception):
    """Base class of all exceptions that dropreg itself raises.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> try:
    ...     dr.elements(model, kind="synapses")
    ... except dr.errors.DropregError as error:
    ...     print(type(error).__name__)
    ParameterError
    """

    ag_pass_through = True  # so that TensorFlow does not wrap the exception when it ends the tracing of a function


class ModelError(DropregError, ValueError):
    """The model cannot be used: for example it is not built, or contains a layer that is not supported.

    Examples
    --------
    >>> import dropreg as dr, keras
    >>> try:
    ...     dr.elements(keras.Sequential([keras.layers.Dense(3)], name="mine"))
    ... except dr.errors.ModelError as error:
    ...     print(str(error).partition(",")[0])
    model 'mine' is not built
    """


class BackendError(DropregError, ImportError):
    """Keras runs on another backend than TensorFlow.

    Examples
    --------
    >>> import dropreg as dr
    >>> issubclass(dr.errors.BackendError, ImportError)
    True
    """


class DataError(DropregError, ValueError):
    """The examples or labels do not fit the model, or cannot be read.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> x, y = dr.datasets.fashion_mnist("test")
    >>> try:
    ...     dr.scorers.activation(model, (x[:5], y[:4]), dr.elements(model))
    ... except dr.errors.DataError as error:
    ...     print(error)
    `y` must have one label for each of 5 examples, received 4 labels.
    """


class ParameterError(DropregError, ValueError):
    """An argument has a wrong type or value.

    Examples
    --------
    >>> import dropreg as dr
    >>> try:
    ...     dr.layers.register(int, rule="carry")
    ... except dr.errors.ParameterError as error:
    ...     print(error)
    `rule` must be a dropreg.layers.Rule, received 'carry': pass an instance.
    """


class UnidentifiedError(ParameterError):
    """The rows of a regression do not determine the impacts of all elements; more rows may do so.

    Examples
    --------
    >>> import dropreg as dr
    >>> issubclass(dr.errors.UnidentifiedError, dr.errors.ParameterError)
    True
    """


class RecordError(DropregError, RuntimeError):
    """A record, a packed model or another file cannot be written, resumed or read.

    Examples
    --------
    >>> import dropreg as dr
    >>> try:
    ...     dr.Record.load("nowhere")
    ... except dr.errors.RecordError as error:
    ...     print(error)
    folder nowhere: expected a record with run.json, received none: check the path.
    """


class TargetError(DropregError, RuntimeError):
    """No selection meets the target.

    Parameters
    ----------
    message : str
    best : Selection, optional
        The selection that comes closest to the target, if selections were compared.

    Examples
    --------
    >>> import dropreg as dr
    >>> issubclass(dr.errors.TargetError, dr.errors.DropregError)
    True
    """

    def __init__(self, message: str, best: "Selection | None" = None) -> None:
        super().__init__(message)
        self.best: Any = best
