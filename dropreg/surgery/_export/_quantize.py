"""Quantize a LiteRT file of float32 numbers."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..._utils import first_line
from ...errors import ModelError
from ._formats import TAG, quiet
from ._runners import arranged, needed, open_file

_MOST_CALIBRATED = 256
_BATCH = 64
_TASK = "quantization"


def quantize(path: Path, precision: str | Mapping[int, str], examples: Mapping[str, npt.NDArray[Any]]) -> None:
    """Quantize a LiteRT file in place; its inputs and outputs keep their types.

    Parameters
    ----------
    path : Path
        A file of `write_litert`.
    precision : str or dict of int to str
        That of all layers, or of the layers with tags, by number; layers without are float32.
    examples : dict of str to ndarray, each of shape (n_examples, ...)
        Examples for each input of the model, for the ranges of activations; empty if no precision needs them.

    Raises
    ------
    ModelError
        If the model cannot be quantized.
    ParameterError
        If ai-edge-quantizer is not installed.
    """
    quantizer = _quantizer(path)
    try:
        with quiet():
            scopes = _scopes(path, precision)
            if not scopes:
                return
            for regex, name in scopes.items():
                _add(quantizer, regex, name)
            ranges = _ranges(quantizer, path, examples) if quantizer.need_calibration else None
            result = quantizer.quantize(ranges, enable_progress_report=False, enable_progress_bar=False)
    except (RuntimeError, ValueError, KeyError, NotImplementedError, TypeError) as error:
        raise ModelError(
            f"the model must consist of operations that can be quantized, received {first_line(error)}: choose another "
            "`precision`, or pass that of single layers by name."
        ) from error
    path.write_bytes(bytes(result.quantized_model))


def quantized_layers(path: Path) -> dict[int, set[str]]:
    """Return the types of the weights in each tagged layer of a LiteRT file, by the layer's number."""
    found: dict[int, set[str]] = {}
    kinds = {0: "float32", 1: "float16", 9: "int8", 17: "int4"}
    model, tools = _parsed(path)
    for graph in model.subgraphs:
        for operation in graph.operators:
            types = {kinds.get(tensor.type, "another type") for tensor in _constants(operation, graph, model)}
            for number in _layers_of(operation, graph, model, tools):
                found.setdefault(number, set()).update(types)
    return found


def _quantizer(path: Path) -> Any:
    module = needed("ai_edge_quantizer.quantizer", "litert", _TASK)
    with quiet():
        return module.Quantizer(str(path))


def _add(quantizer: Any, regex: str, precision: str) -> None:
    """Add the operations whose names match to the recipe of a quantizer."""
    names = needed("ai_edge_quantizer.qtyping", "litert", _TASK)
    algorithms = needed("ai_edge_quantizer.algorithm_manager", "litert", _TASK).AlgorithmName
    every = names.TFLOperationName.ALL_SUPPORTED
    if precision == "int8":
        quantizer.add_static_config(regex, every, activation_num_bits=8, weight_num_bits=8)
        for end in (names.TFLOperationName.INPUT, names.TFLOperationName.OUTPUT):
            quantizer.update_quantization_recipe(regex, end, None, algorithms.NO_QUANTIZE)
    elif precision == "float16":
        whole = names.QuantGranularity.TENSORWISE
        quantizer.add_weight_only_config(regex, every, 16, whole, algorithms.FLOAT_CASTING)
    else:
        quantizer.add_dynamic_config(regex, every, num_bits=4 if precision == "dynamic int4" else 8)


def _scopes(path: Path, precision: str | Mapping[int, str]) -> dict[str, str]:
    """Return the precision of operations by a regular expression for the name by which the quantizer knows them."""
    if isinstance(precision, str):
        return {".*": precision}
    model, tools = _parsed(path)
    names: dict[str, list[str]] = {}
    for graph in model.subgraphs:
        for operation in graph.operators:
            numbers = _layers_of(operation, graph, model, tools)
            kind = next((precision[number] for number in numbers if number in precision), "float32")
            if kind != "float32":
                names.setdefault(kind, []).append(tools.get_op_scope(operation, graph.tensors))
    return {f"^({'|'.join(map(re.escape, several))})$": kind for kind, several in names.items()}


def _parsed(path: Path) -> tuple[Any, Any]:
    tools = needed("ai_edge_quantizer.utils.tfl_flatbuffer_utils", "litert", _TASK)
    return tools.read_model(str(path)), tools


def _constants(operation: Any, graph: Any, model: Any) -> list[Any]:
    """Return the tensors of numbers that an operation takes from the file."""
    tensors = [graph.tensors[place] for place in operation.inputs if place >= 0]
    return [tensor for tensor in tensors if model.buffers[tensor.buffer].data is not None]


def _layers_of(operation: Any, graph: Any, model: Any, tools: Any) -> list[int]:
    """Return the numbers of the layer of an operation and of the layers around it, inner ones first.

    Where operations of several layers were fused into one, it is that of the kernel, which has a name of its own. The
    last operation of a model has the name of an output; its weights still have those of the layer.
    """
    names = [bytes(tensor.name).decode() for tensor in _constants(operation, graph, model)]
    outputs = tools.get_op_scope(operation, graph.tensors).split(";")
    names = [name for name in names if ";" not in name] + outputs + names
    tags = [re.findall(rf"(?:^|/){TAG}(\d+)", name) for name in names]
    return [int(number) for number in reversed(next(filter(None, tags), []))]


def _ranges(quantizer: Any, path: Path, examples: Mapping[str, npt.NDArray[Any]]) -> dict[str, Any]:
    """Return the least and the largest value of each tensor over the examples, by the tensor's name.

    The quantizer averages ranges over batches, which would cut off large values, so it is given one batch at a time.
    """
    runner = open_file(path)
    inputs = [runner.inputs[place] for place in arranged(runner, list(examples))]
    named, n = list(zip(inputs, examples.values(), strict=True)), len(next(iter(examples.values())))
    rows = np.linspace(0, n - 1, min(_MOST_CALIBRATED, n)).astype(int)
    found: dict[str, Any] = {}
    joined = {"min": np.minimum, "max": np.maximum}
    for start in range(0, len(rows), _BATCH):
        batch = {known.name: array[rows[start : start + _BATCH]].astype(known.dtype) for known, array in named}
        for name, values in quantizer.calibrate({"serving_default": [batch]}, num_threads=1).items():
            before = found.get(name, values)
            found[name] = values | {
                key: join(before[key], values[key]) for key, join in joined.items() if key in values
            }
    return found
