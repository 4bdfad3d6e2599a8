"""Export a model to a file of another format, and check that the file computes the same."""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from ..._utils import check_type, check_writable, concatenate_names, spread_rows
from ...data import Data, Examples, check_data, read_once
from ...errors import ModelError, ParameterError, RecordError
from ...graph import Graph, all_layers, batch_size_of, call_outputs, map_batches, trace_graph
from ...network import difference, tolerance
from ._exported import Exported, run_file
from ._formats import write_litert, write_onnx, write_saved_model
from ._precisions import STORED, Precision, check_precision, layers_named
from ._quantize import quantize, quantized_layers
from ._runners import open_file

FORMATS = {".tflite": "LiteRT", ".onnx": "ONNX", "": "SavedModel"}
_MOST_CHECKED = 1000
_TOLERANCES = {"float32": 1e-4, "float16": 1e-2}


def export(
    model: keras.Model,
    path: str | Path,
    data: Data = None,
    *,
    precision: Precision | Mapping[str, Precision] = "float32",
    overwrite: bool = False,
) -> Exported:
    """Write a model to a file of LiteRT or ONNX, or to a SavedModel, quantized if asked.

    With data, the file is run on up to 1,000 of the examples and compared with the model.

    Parameters
    ----------
    model : keras.Model
        A built model. It is not changed.
    path : str or Path
        A file that ends in ".tflite" (LiteRT) or ".onnx" (ONNX), or a folder without a suffix (SavedModel).
    data : ndarray, (x, y), dataset or iterable of batches, optional
        Examples for the comparison and for the ranges of activations, as for all functions of dropreg; labels are not
        used. Also x alone, as an array or a dict of arrays. Examples like those that the model is meant for, but not
        those that it is tested on.
    precision : str or dict of str to str
        Of weights and activations. A dict names the layers that have another precision than "float32". All but
        "float32" are for LiteRT only.

        - "float32"
        - "float16": weights of 16 bits; computes with 32 bits where the hardware has no others
        - "dynamic int8": weights of 8 bits, one scale for each channel; activations are quantized when the file runs
        - "dynamic int4": the same with weights of 4 bits
        - "int8": weights and activations of 8 bits, with ranges from `data`; inputs and outputs are float32

        Operations that cannot be quantized are float32.
    overwrite : bool
        Whether an existing file or SavedModel is replaced.

    Returns
    -------
    dropreg.surgery.Exported

    Raises
    ------
    ModelError
        If the format has no operation for a part of the model, a named layer has no weights that can be quantized, or
        the outputs of a float32 (float16) file differ from those of the model by more than 1e-4 (1e-2) of the largest.
        Then nothing is written.
    ParameterError
        If the path is of another kind or exists and `overwrite` is False; if the precision is unknown, is not for this
        format, needs data or names no layer; or if a package is missing, which the message names.
    DataError
        If the examples do not fit the model.
    RecordError
        If the file cannot be written.

    Examples
    --------
    >>> import tempfile, dropreg as dr
    >>> model, (x, y) = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("estimation")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     exported = dr.export(model, f"{folder}/mlp.tflite", (x[:100], None))
    >>> exported.difference < 1e-4, exported.agreement
    (True, 1.0)
    """
    check_type("model", model, keras.Model, "pass a Keras model")
    place = _checked_path(Path(path), overwrite=overwrite)
    kind = FORMATS[place.suffix]
    check_precision(precision, kind, calibrated=data is not None)
    graph = trace_graph(model)
    examples = None if data is None else _examples(graph, data)
    if isinstance(precision, Mapping):
        layers_named(graph, precision)
    try:
        with tempfile.TemporaryDirectory(dir=place.resolve().parent, prefix=f".{place.name}.") as folder:
            part = Path(folder) / f"model{place.suffix}"
            _write(graph, part, precision, examples)
            exported = Exported(place, kind, precision, _size_of(part), inputs=graph.input_names)
            if examples is not None:
                exported = _compared(graph, part, exported, examples)
            _move(part, place)
    except OSError as error:
        raise RecordError(f"{place}: cannot be written ({error}): choose another folder.") from error
    return exported


def _checked_path(place: Path, *, overwrite: bool) -> Path:
    """Return the path; ParameterError unless its suffix is that of a format and it may be written."""
    if place.suffix not in FORMATS:
        raise ParameterError(
            f"`path` must end in .tflite or .onnx, or have no suffix for a SavedModel, received {place}."
        )
    exists = place.exists()
    if not place.suffix and exists and not (place / "saved_model.pb").is_file():
        raise ParameterError(f"`path` must be a new folder or a SavedModel, received {place}: choose another name.")
    if place.suffix or not exists:
        check_writable("`path`", place, (place.suffix,))
    if exists and not overwrite:
        raise ParameterError(
            f"`path` must be new, received {place}, which exists: choose another, or pass overwrite=True."
        )
    return place


def _examples(graph: Graph, data: Data) -> Examples:
    alone = isinstance(data, np.ndarray | Mapping)
    return check_data(graph, (data if alone else read_once(data)[0], None), measured=False)


def _write(graph: Graph, part: Path, precision: str | Mapping[str, str], examples: Examples | None) -> None:
    """Write the model in the format of the path's suffix."""
    if part.suffix == ".onnx":
        return write_onnx(graph, part)
    if not part.suffix:
        return write_saved_model(graph, part)
    if precision in ("float32", "float16"):
        return write_litert(graph, part, half=precision == "float16")
    arrays = {} if examples is None else dict(zip(graph.input_names, examples.inputs, strict=True))
    if isinstance(precision, str):
        write_litert(graph, part)
        return quantize(part, precision, arrays)
    tagged = dict(enumerate(layer for layer in all_layers(graph.model) if layer is not graph.model))
    numbers = {id(layer): number for number, layer in tagged.items()}
    named = [numbers[id(layer)] for layer in layers_named(graph, precision)]
    write_litert(graph, part, tagged=tagged)
    quantize(part, dict(zip(named, precision.values(), strict=True)), arrays)
    return _check_layers(part, dict(zip(named, precision.items(), strict=True)))


def _check_layers(part: Path, precision: Mapping[int, tuple[str, str]]) -> None:
    """Raise ModelError unless each named layer, given as (name, precision), has weights of its precision."""
    stored = quantized_layers(part)
    float32 = [
        name
        for number, (name, kind) in precision.items()
        if kind != "float32" and STORED[kind] not in stored.get(number, ())
    ]
    if float32:
        raise ModelError(
            f"`precision` must name layers with weights that can be quantized, received {concatenate_names(float32)}: "
            "remove them from `precision`."
        )


def _compared(graph: Graph, part: Path, exported: Exported, examples: Examples) -> Exported:
    """Return `exported` with difference and agreement; ModelError where they should be equal and are not."""
    some = examples.part(spread_rows(len(examples), _MOST_CHECKED))

    def forward(*inputs: Any) -> list[Any]:
        with keras.StatelessScope(collect_losses=True):
            return call_outputs(graph, inputs, training=False)

    expected = map_batches(forward, some.inputs, batch_size_of(graph))
    found = run_file(open_file(part), some.inputs, graph.input_names)
    pairs = list(zip(found, [np.asarray(value, np.float64) for value in expected], strict=True))
    furthest = max(difference(np.asarray(own, np.float64), other) for own, other in pairs)
    limit = _limit(graph.model, exported.precision)
    if furthest > limit:
        raise ModelError(
            f"model '{graph.model.name}' must compute the same in {exported.format}, received outputs that differ by "
            f"{furthest:.2g} of the largest, more than {limit:.2g}: a layer is converted wrongly, or overflows in "
            "float16. Export it in another format or precision."
        )
    return replace(exported, difference=furthest, agreement=_agreement(pairs))


def _limit(model: keras.Model, precision: str | Mapping[str, str]) -> float:
    """Return the largest difference that rounding explains; infinity for integers."""
    kinds = {precision} if isinstance(precision, str) else {*precision.values(), "float32"}
    own = tolerance(model)
    limit = max(_TOLERANCES.get(kind, np.inf) for kind in kinds)
    return max(limit, own) if own > 1e-3 else limit  # a model that computes in float16 itself


def _agreement(pairs: Sequence[tuple[npt.NDArray[Any], npt.NDArray[Any]]]) -> float | None:
    """Return the share of rows with the same largest output, over all outputs with several values."""
    same = [np.argmax(a, -1) == np.argmax(b, -1) for a, b in pairs if b.ndim > 1 and b.shape[-1] > 1]
    return float(np.mean(np.concatenate([part.ravel() for part in same]))) if same else None


def _size_of(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _move(part: Path, place: Path) -> None:
    """Put a file or folder in its place; a folder there before is put back if that fails."""
    if not part.is_dir() or not place.exists():
        os.replace(part, place)
        return
    before = part.with_name("before")
    os.replace(place, before)
    try:
        os.replace(part, place)
    except OSError:
        os.replace(before, place)
        raise
    shutil.rmtree(before, ignore_errors=True)
