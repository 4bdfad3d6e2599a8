"""Round the kernels of a model, or let their weights share values, with levels and directions chosen on data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd

from ..._utils import Array, check_several, check_type, concatenate_names, is_number
from ...data import Data, Examples, Task, check_data
from ...element import Quantized, Replacement, check_replacement
from ...errors import ModelError, ParameterError
from ...graph import Call, Graph, all_layers, variables_of
from .._compiling import compile_like
from .._copying import copy_model
from .._factors import input_moments, is_kernel_layer, why_no_matrix
from .._holding import Hold, LearnRounded, hold_values
from .._original import trace_original
from .._zeros import as_array
from ._sequential import Rounded, round_matrix

_PRICES = 0.3  # in training: with the whole price of a bit too many weights become zero
_MOST_LEARNED = 5
"""Most bits of codes that training may change; finer ones hardly gain by it."""


@dataclass(frozen=True, repr=False, eq=False)
class Rounding:
    """A model with rounded kernels.

    Attributes
    ----------
    model : keras.Model
        Of the same layers, compiled like the original. Training (`dropreg.recover`) changes the scales and shared
        values of its kernels, and all other weights, but not which weights share a code.
    original : keras.Model
        The original model, unchanged.
    layers : DataFrame
        One row for each kernel: layer, weights (how many), bits (entropy of the codes, per weight), zeros (share of
        the weights) and error (squared error of the layer's linear output on the data, relative to its second moment;
        without data that of the weights).
    left_out : tuple of (str, str)
        Layers with a kernel that is not rounded, and why.
    learning : mapping
        Constraints, by the path of a variable, with which training may change codes as well.

    Examples
    --------
    >>> import dropreg as dr
    >>> found = dr.quantize(dr.datasets.load_model("mlp"), dr.Quantized(4))
    >>> found.layers["layer"].tolist()
    ['dense_1', 'dense_2', 'logits']
    >>> bool((found.layers["bits"] <= 4).all())
    True
    """

    model: keras.Model
    original: keras.Model
    layers: pd.DataFrame
    left_out: tuple[tuple[str, str], ...]
    learning: Mapping[str, Hold] = field(default_factory=dict)

    def __repr__(self) -> str:
        table = self.layers.to_string(index=False, float_format="{:.3g}".format)
        return "\n".join(
            [f"Rounded model '{self.model.name}'", table, *(f"left out: '{a}': {b}" for a, b in self.left_out)]
        )


def quantize(
    model: keras.Model,
    replacement: Replacement | Mapping[str, Replacement],
    data: Data | None = None,
    *,
    rate: float | Mapping[str, float] = 0.0,
    exclude: Sequence[str] = (),
    task: Task | None = None,
) -> Rounding:
    """Round the kernels of a model, so that it can be stored in few bytes (`dropreg.pack`).

    With data the weights of Dense, EinsumDense and convolution layers are rounded one input after the other, and those
    that remain compensate for the error of the layer's output (GPTQ [1]_); scales and shared values are then those with
    the least error. Other kernels, and all without data, are rounded to the nearest value.

    Parameters
    ----------
    model : keras.Model
        A built Sequential or Functional model. It is not changed.
    replacement : Quantized, Clustered or mapping of str to one of them
        For all kernels, or by the name of the layer; layers that are not named keep their weights.
    data : (x, y), dataset or iterable of batches, optional
        Examples; labels are not used.
    rate : float or mapping of str to float
        At least 0: how much error a bit of the stored codes is worth, for all kernels or by layer, relative to the
        second moment of the layer's output for each weight. Frequent codes are preferred; .001 to .01 are usual.
    exclude : sequence of str
        Names of layers that keep their weights.
    task : str, optional
        As in `dropreg.sample`.

    Returns
    -------
    dropreg.surgery.Rounding

    Raises
    ------
    ParameterError
        If a replacement or rate is none, or a name is not that of a layer with a kernel.
    ModelError
        If the model cannot be copied, or has no kernel to round.
    DataError
        If the data do not fit the model.

    References
    ----------
    .. [1] Frantar et al. (2023), "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
       arXiv:2210.17323.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> x, y = dr.datasets.fashion_mnist("estimation")
    >>> nearest = dr.quantize(model, dr.Quantized(3))
    >>> fitted = dr.quantize(model, dr.Quantized(3), (x[:1000], None))
    >>> bool(fitted.layers["error"].max() < 0.05)
    True
    """
    return Rounder(model, data, exclude=exclude, task=task).result(replacement, rate)


def with_learning(rounding: Rounding) -> keras.Model:
    """Return a copy of the rounded model whose codes change in training."""
    model = copy_model(rounding.model)
    for before, after in zip(rounding.model.weights, model.weights, strict=True):
        if before.path in rounding.learning:
            after.constraint = rounding.learning[before.path].fresh()
    return model


class Rounder:
    """The second moments of a model's layers, to round it several times; parameters as in `quantize`."""

    def __init__(
        self, model: keras.Model, data: Data | Examples | None, *, exclude: Sequence[str] = (), task: Task | None = None
    ) -> None:
        check_type("model", model, keras.Model, "pass a Keras model")
        check_several("exclude", exclude)
        self.model, self.exclude = model, tuple(exclude)
        graph = trace_original(model).graph
        self.kernels = kernels_of(model)
        _check_names("exclude", exclude, self.kernels)
        if data is not None and not isinstance(data, Examples):
            data = check_data(graph, data, task, measured=False)
        chosen = [name for name in self.kernels if name not in self.exclude]
        self.moments = {} if data is None else _moments(graph, data, chosen)

    def result(
        self, replacement: Replacement | Mapping[str, Replacement], rate: float | Mapping[str, float] = 0.0
    ) -> "Rounding":
        """Return a rounded copy of the model."""
        chosen = _by_layer("replacement", replacement, self.kernels, self.exclude)
        rates = _by_layer("rate", rate, self.kernels, ())
        for value in chosen.values():
            check_replacement("replacement", value)
        for value in rates.values():
            if not is_number(value) or value < 0:
                raise ParameterError(f"`rate` must be a number of at least 0, received {value!r}.")
        new = copy_model(self.model)
        rows: list[list[Any]] = []
        left_out: list[tuple[str, str]] = []
        learning: dict[str, Hold] = {}
        for name, variables in kernels_of(new).items():
            if name not in chosen:
                left_out.append((name, "it is excluded"))
                continue
            for variable in variables:
                row, constraint = _round(variable, name, self.moments.get(name), chosen[name], rates.get(name, 0.0))
                rows.append(row)
                if constraint is not None:
                    learning[variable.path] = constraint
        if not rows:
            raise ModelError(f"model '{self.model.name}' must have a kernel to round, received none.")
        compile_like(new, self.model)
        columns = ["layer", "weights", "bits", "zeros", "error"]
        return Rounding(new, self.model, pd.DataFrame(rows, columns=columns), tuple(left_out), learning)


def _round(
    variable: Any, name: str, moment: Array | None, replacement: Replacement, rate: float
) -> tuple[list[Any], Hold | None]:
    """Round one kernel in place, and return its row of the table, and the constraint that learns codes, if any."""
    kernel = as_array(variable)
    matrix, back = _as_matrix(variable, kernel)
    if moment is not None and len(moment) != len(matrix):
        moment = None
    found = round_matrix(matrix, moment, replacement, rate)
    hold_values(variable, back(found.values), back(found.codes), replacement, columns=matrix.shape[1])
    row = [name, kernel.size, _entropy(found.codes), float(np.mean(found.values == 0)), _error(matrix, found, moment)]
    if not isinstance(replacement, Quantized) or replacement.bits > _MOST_LEARNED or (matrix == 0).any():
        return row, None
    return row, LearnRounded(found.values, found.levels, replacement.most, _PRICES * found.prices)


def _error(matrix: Array, found: Rounded, moment: Array | None) -> float:
    change = matrix - found.values
    if moment is None:
        return float(np.square(change).sum() / max(np.square(matrix).sum(), 1e-30))
    before, after = (float(np.sum(each * (moment @ each))) for each in (matrix, change))
    return after / max(before, 1e-30)


def _entropy(codes: npt.NDArray[Any]) -> float:
    counts = np.unique(codes, return_counts=True)[1]
    p = counts / counts.sum()
    return float(-(p * np.log2(p)).sum()) + 0.0


def _as_matrix(variable: Any, kernel: npt.NDArray[Any]) -> tuple[Array, Any]:
    """Return a kernel as a matrix with a column for each output, and the function that gives its shape back."""
    shape = kernel.shape
    if getattr(variable, "name", "") == "depthwise_kernel" or "depthwise" in getattr(variable, "path", ""):
        return kernel.reshape(-1, shape[-2] * shape[-1]).astype(np.float64), lambda values: values.reshape(shape)
    return kernel.reshape(-1, shape[-1]).astype(np.float64), lambda values: values.reshape(shape)


def kernels_of(model: keras.Model) -> dict[str, list[Any]]:
    """Return the variables to round by the name of their layer."""
    found: dict[str, list[Any]] = {}
    seen: set[int] = set()
    for layer in all_layers(model):
        for variable in variables_of(layer):
            is_kernel = len(variable.shape) > 1 and variable.name != "bias" and "seed" not in variable.name
            if is_kernel and str(variable.dtype).startswith("float") and id(variable) not in seen:
                seen.add(id(variable))
                found.setdefault(layer.name, []).append(variable)
    return found


def _check_names(name: str, layers: Any, kernels: Mapping[str, Any]) -> None:
    if unknown := [layer for layer in layers if layer not in kernels]:
        raise ParameterError(
            f"`{name}` must name layers with a kernel ({concatenate_names(list(kernels)) or 'none'}), received "
            f"{unknown[0]!r}."
        )


def _by_layer(name: str, value: Any, kernels: Mapping[str, Any], exclude: Sequence[str]) -> dict[str, Any]:
    """Return a value for each layer."""
    if isinstance(value, Mapping):
        _check_names(name, value, kernels)
    every = value if isinstance(value, Mapping) else dict.fromkeys(kernels, value)
    return {layer: own for layer, own in every.items() if layer not in exclude}


def _moments(graph: Graph, examples: Examples, chosen: Sequence[str]) -> dict[str, Array]:
    """Return the second moments of the inputs of layers that multiply them by a matrix, by name."""
    calls: dict[str, Call] = {}
    for call in graph.calls:
        if is_kernel_layer(call.layer) and call.layer.name in chosen and why_no_matrix(call) is None:
            calls.setdefault(call.layer.name, call)
    return input_moments(graph, examples, calls)
