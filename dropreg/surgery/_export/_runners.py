"""Run exported files: LiteRT, ONNX and SavedModel."""

import importlib
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ...errors import ParameterError, RecordError

ONNX_DTYPES = {"float": "float32", "double": "float64"}
"""Names of ONNX for types that NumPy names otherwise."""


@dataclass(frozen=True)
class Input:
    """An input of a file: its name, its shape with None for any length, and its dtype."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


class Runner(Protocol):
    """A loaded file."""

    inputs: tuple[Input, ...]

    def run(self, arrays: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Return the outputs for one array for each input, in the order of `inputs`."""
        ...


def needed(module: str, extra: str, task: str) -> Any:
    """Import and return a module of an extra; ParameterError with the command that installs it if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0].replace("_", "-")
        raise ParameterError(
            f"{task} must have the package {package}, received the error '{error}': pip install 'dropreg[{extra}]'."
        ) from error


def open_file(path: Path, threads: int | None = None) -> Runner:
    """Load an exported file, which runs with this number of threads (None: the default of its runtime).

    SavedModels run with the threads of TensorFlow.

    Raises
    ------
    RecordError
        If the file is missing or damaged.
    ParameterError
        If its runtime is not installed.
    """
    kinds = {".tflite": _LiteRT, ".onnx": _Onnx}
    try:
        return kinds[path.suffix](path, threads) if path.suffix in kinds else _SavedModel(path)
    except ParameterError:
        raise
    except Exception as error:  # each runtime has its own
        reason = " ".join(str(error).split())
        raise RecordError(f"{path}: expected an exported model, received {reason}: export it again.") from error


def arranged(runner: Runner, names: Sequence[str]) -> list[int]:
    """Return the number of the file's input for each name; ParameterError if the file has other inputs.

    Files hold names without special characters.
    """
    found = [value.name for value in runner.inputs]
    if len(names) == len(found) == 1:
        return [0]
    wanted = [plain(name) for name in names]
    if sorted(wanted) != sorted(map(plain, found)) or len(set(wanted)) != len(wanted):
        raise ParameterError(f"the file must have the inputs {', '.join(names)}, received {', '.join(found)}.")
    places = {plain(name): number for number, name in enumerate(found)}
    return [places[name] for name in wanted]


def plain(name: str) -> str:
    """Return a name of letters, digits and underscores that is valid in all formats."""
    return re.sub(r"\W", "_", name).strip("_")


def _in_order(names: Sequence[str]) -> list[str]:
    """Return names of outputs in the order of the model's: "output_2" before "output_10"."""
    return sorted(names, key=lambda name: [int(part) if part.isdigit() else 0 for part in name.split("_")] + [name])


def _lengths(shape: Sequence[Any]) -> tuple[int | None, ...]:
    return tuple(int(n) if isinstance(n, int | np.integer) and n >= 0 else None for n in shape)


class _LiteRT:
    """A LiteRT file, whose memory is allocated anew when the shape of an input changes."""

    def __init__(self, path: Path, threads: int | None) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TensorFlow's interpreter names its successor
            self.interpreter = _interpreter_class()(model_path=str(path), num_threads=threads)
        runner = self.interpreter.get_signature_runner()
        inputs, outputs = runner.get_input_details(), runner.get_output_details()
        self.inputs = tuple(
            Input(name, _lengths(detail["shape_signature"]), np.dtype(detail["dtype"]).name)
            for name, detail in inputs.items()
        )
        self._places = [detail["index"] for detail in inputs.values()]
        self._outputs = [outputs[name]["index"] for name in _in_order(list(outputs))]
        self._shapes: list[tuple[int, ...]] = []

    def run(self, arrays: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        shapes = [array.shape for array in arrays]
        if shapes != self._shapes:
            for place, shape, known in zip(self._places, shapes, self.inputs, strict=True):
                if None in known.shape:
                    self.interpreter.resize_tensor_input(place, list(shape))
            self.interpreter.allocate_tensors()
            self._shapes = shapes
        for place, array, known in zip(self._places, arrays, self.inputs, strict=True):
            self.interpreter.set_tensor(place, np.ascontiguousarray(array, known.dtype))
        self.interpreter.invoke()
        return [self.interpreter.get_tensor(place) for place in self._outputs]


def _interpreter_class() -> Any:
    """Return the interpreter of LiteRT, or that of TensorFlow where LiteRT is not installed."""
    try:
        return importlib.import_module("ai_edge_litert.interpreter").Interpreter
    except ImportError:
        return tf.lite.Interpreter


class _Onnx:
    def __init__(self, path: Path, threads: int | None) -> None:
        runtime = needed("onnxruntime", "onnx", "running '.onnx' files")
        options = runtime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = options.inter_op_num_threads = threads
        self.session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = tuple(
            Input(value.name, _lengths(value.shape), _dtype_of(value.type)) for value in self.session.get_inputs()
        )
        self._outputs = _in_order([value.name for value in self.session.get_outputs()])

    def run(self, arrays: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        given = {known.name: np.asarray(array, known.dtype) for known, array in zip(self.inputs, arrays, strict=True)}
        return self.session.run(self._outputs, given)


def _dtype_of(kind: str) -> str:
    """Return NumPy's name of a type that ONNX writes as "tensor(float)"."""
    name = kind.removeprefix("tensor(").removesuffix(")")
    return ONNX_DTYPES.get(name, name)


class _SavedModel:
    def __init__(self, path: Path) -> None:
        self._loaded: Any = tf.saved_model.load(str(path))  # owns the variables
        self._call = self._loaded.signatures["serving_default"]
        specs = self._call.structured_input_signature[1]
        self.inputs = tuple(
            Input(name, _lengths(spec.shape.as_list()), spec.dtype.name) for name, spec in specs.items()
        )
        self._outputs = _in_order(list(self._call.structured_outputs))

    def run(self, arrays: Sequence[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        given = {known.name: tf.constant(array, known.dtype) for known, array in zip(self.inputs, arrays, strict=True)}
        outputs = self._call(**given)
        return [outputs[name].numpy() for name in self._outputs]
