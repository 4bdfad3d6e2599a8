"""Pack a model into one small file, and unpack it."""

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from ..._utils import check_type, check_writable, positive, write_atomically
from ...errors import ModelError, ParameterError, RecordError
from ...graph import all_layers
from ...layers import rule_for
from .._zeros import as_array
from ._architecture import Table, build, check_builds, check_config, describe, table_of
from ._codings import decode_array, dtype_named, encode_array
from ._container import read_container, write_container

SUFFIX = ".safetensors"
_LONGEST_JSON = 1 << 26


@dataclass(frozen=True, repr=False, eq=False)
class Packed:
    """What `dropreg.pack` has written.

    Attributes
    ----------
    path : Path
        The file.
    size : int
        Bytes of the file.
    weights : DataFrame
        One row for each weight: weight (its path in the model), shape, dtype, bytes (in memory), stored (bytes in the
        file) and coding: "values", "codebook", "planes" (bytes of the values, each entropy-coded), "multiples" (whole
        multiples of a scale for each output channel, entropy-coded) or "zeros, ..." with the coding of the other
        values; "float16, ..." and so on where the numbers fit a smaller type.

    Examples
    --------
    >>> import tempfile, dropreg as dr
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     packed = dr.pack(dr.datasets.load_model("mlp"), f"{folder}/mlp.safetensors")
    >>> packed.weights["weight"].tolist()[:2]
    ['dense_1/kernel', 'dense_1/bias']
    """

    path: Path
    size: int
    weights: pd.DataFrame

    def __repr__(self) -> str:
        before = int(self.weights["bytes"].sum())
        head = f"{self.path}: {self.size:,} bytes, {before / self.size:.1f} times smaller than the weights in memory"
        return f"{head}\n{self.weights.to_string(index=False)}"


def pack(model: keras.Model, path: str | Path, *, overwrite: bool = False) -> Packed:
    """Write a model to one small file: its architecture, and its weights without loss.

    Weights with few different values are stored as a codebook and entropy-coded codes, zeros apart from other values,
    and floats by the entropy of their bytes; each weight in the way that takes the fewest bytes. Its size is within
    5 % and 4 KB of the entropy of the values, each taken for itself.

    Parameters
    ----------
    model : keras.Model
        A built model whose layers can be built from their configs. It is not changed. Its optimizer, losses and
        metrics are not stored, nor are constraints that are set on variables (`dropreg.hold_zeros`).
    path : str or Path
        A file that ends in ".safetensors".
    overwrite : bool
        Whether an existing file is replaced.

    Returns
    -------
    dropreg.surgery.Packed

    Raises
    ------
    ModelError
        If the model is not built, has a layer that holds code (Lambda) or files, or cannot be built from its config.
    ParameterError
        If the path is of another kind, or the file exists and `overwrite` is False.
    RecordError
        If the file cannot be written.

    Examples
    --------
    >>> import tempfile, dropreg as dr, numpy as np
    >>> model = dr.datasets.load_model("mlp")
    >>> model.set_weights([np.round(weight, 1) for weight in model.get_weights()])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     packed = dr.pack(model, f"{folder}/mlp.safetensors")
    ...     same = dr.unpack(f"{folder}/mlp.safetensors")
    >>> all(np.array_equal(a, b) for a, b in zip(model.get_weights(), same.get_weights()))
    True
    >>> 10 * packed.size < 4 * model.count_params()
    True
    """
    check_type("model", model, keras.Model, "pass a Keras model")
    place = Path(path)
    check_writable("`path`", place, (SUFFIX,))
    if place.exists() and not overwrite:
        raise ParameterError(
            f"`path` must be a new file, received {place}, which exists: choose another, or pass overwrite=True."
        )
    if not model.built:
        raise ModelError(f"model '{model.name}' is not built, expected one with weights: call it on data first.")
    config = _checked(model)
    rows, parts, entries = [], [], []
    for (name, kind, shape), variable in zip(table_of(model), model.weights, strict=True):
        array = as_array(variable)
        coding, found = encode_array(array)
        size = sum(map(len, found))
        entries.append([name, kind, list(shape), size, coding])
        rows.append([name, shape, kind, array.nbytes, size, _name_of(coding)])
        parts += found
    text = json.dumps({"model": config, "weights": entries}, separators=(",", ":"))
    arrays = {"model": zlib.compress(text.encode(), 9), "weights": b"".join(parts)}
    write_atomically(place, lambda part: write_container(part, arrays))
    frame = pd.DataFrame(rows, columns=["weight", "shape", "dtype", "bytes", "stored", "coding"])
    return Packed(place, place.stat().st_size, frame)


def unpack(
    path: str | Path, *, custom_objects: Mapping[str, Any] | None = None, most_bytes: int = 1 << 34
) -> keras.Model:
    """Return the model in a file that `dropreg.pack` has written.

    Nothing in the file is run: it holds numbers and a description of layers, and Keras builds these in safe mode.
    Everything is checked before memory is allocated for it.

    Parameters
    ----------
    path : str or Path
        The file.
    custom_objects : dict of str to class or function, optional
        Layers and functions of your own, by name, unless they are registered with
        ``keras.saving.register_keras_serializable``.
    most_bytes : int
        The most bytes that the weights may take in memory. A small file can describe large arrays.

    Returns
    -------
    keras.Model
        With the same weights, bit for bit. It is not compiled.

    Raises
    ------
    RecordError
        If the file is missing, damaged, of a later version or of another program, holds code, or describes more than
        `most_bytes`.
    ParameterError
        If `most_bytes` is not a positive integer.

    Examples
    --------
    >>> import tempfile, dropreg as dr
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     packed = dr.pack(dr.datasets.load_model("mlp"), f"{folder}/mlp.safetensors")
    ...     model = dr.unpack(packed.path)
    >>> model.count_params()
    266610
    """
    positive("most_bytes", most_bytes)
    place = Path(path)
    try:
        arrays = read_container(place)
        config, entries = _description(arrays["model"])
        table = _checked_table(entries, len(arrays["weights"]), most_bytes)
        check_config(config, custom_objects)
        check_builds(config, table, custom_objects)
        model = build(config, custom_objects)
        values, start = [], 0
        for (_, kind, shape), (_, _, _, size, coding) in zip(table, entries, strict=True):
            data = arrays["weights"][start : start + size]
            values.append(decode_array(coding, data, kind, math.prod(shape)).reshape(shape))
            start += size
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise RecordError(
            f"{place}: expected a model that dropreg.pack has written, received {reason}: pack it again."
        ) from error
    _set_weights(model, values)
    return model


def _checked(model: keras.Model) -> dict[str, Any]:
    """Return the architecture; ModelError unless `unpack` could build it."""
    config = json.loads(json.dumps(describe(model)))
    try:
        check_config(config)
        check_builds(config, table_of(model))
    except ValueError as error:
        raise ModelError(
            f"model '{model.name}' must be built again from its config to be packed, received {error}: register "
            "classes of your own with keras.saving.register_keras_serializable, and replace Lambda layers by a class."
        ) from error
    return config


def _description(data: memoryview) -> tuple[dict[str, Any], list[Any]]:
    inflate = zlib.decompressobj()
    try:
        text = inflate.decompress(data, _LONGEST_JSON)
        values = json.loads(text)
    except (zlib.error, ValueError, RecursionError) as error:
        raise ValueError("a description that cannot be read") from error
    if not inflate.eof or not isinstance(values, dict) or set(values) != {"model", "weights"}:
        raise ValueError("a description that is not complete")
    config, entries = values["model"], values["weights"]
    if not isinstance(config, dict) or not isinstance(entries, list):
        raise ValueError("a description of something else")
    return config, entries


def _checked_table(entries: list[Any], n_bytes: int, most_bytes: int) -> Table:
    """Return the table of the weights; ValueError unless their sizes are possible and fit the file."""
    table, stored, needed = [], 0, 0
    for entry in entries:
        name, kind, shape, size, _ = entry
        if not isinstance(name, str) or not all(type(k) is int and k >= 0 for k in (size, *shape)):
            raise ValueError("a weight without a size")
        stored += size
        needed += math.prod(shape) * np.dtype(dtype_named(kind)).itemsize
        table.append((name, kind, tuple(shape)))
    if stored != n_bytes:
        raise ValueError(f"weights of {stored:,} bytes, and {n_bytes:,} bytes of them")
    if needed > most_bytes:
        raise ValueError(f"weights that take {needed:,} bytes in memory, more than most_bytes={most_bytes:,}")
    return table


def _set_weights(model: keras.Model, values: list[Any]) -> None:
    for variable, value in zip(model.weights, values, strict=True):
        variable.assign(value)
    for layer in all_layers(model):
        rule_for(layer).finish(layer)


def _name_of(coding: Any) -> str:
    if isinstance(coding, list):
        return "codebook" if coding[0] else "values"
    if "planes" in coding:
        return "planes"
    if "columns" in coding:
        return "multiples"
    return f"{coding.get('narrow', 'zeros')}, {_name_of(coding['rest'])}"
