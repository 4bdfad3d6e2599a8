"""Measure how long a forward pass takes, in a separate process with a fixed number of threads.

TensorFlow fixes its threads at its first computation, so `measure_latency` saves the models and runs this module as
``python -m dropreg.surgery._latency``, with the settings as JSON on standard input.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from .._utils import check_several, check_type, positive
from ..errors import DropregError, ParameterError
from ..graph import compiled
from ._export import Exported, open_file

_KINDS = (Exported, str, Path)


def measure_latency(
    models: Mapping[str, keras.Model | Exported | str | Path],
    batch_sizes: Sequence[int] = (1, 64),
    *,
    threads: int = 1,
    repeats: int = 100,
    warm_up: int = 10,
) -> pd.DataFrame:
    """Measure the seconds that a forward pass takes, on random inputs.

    The models are timed alternately, one pass at a time, so that changes of the machine's speed affect them equally.

    Parameters
    ----------
    models : dict of str to keras.Model, dropreg.surgery.Exported or path
        The models, by the names that the result uses. Exported files, or their paths, run in their own runtime.
    batch_sizes : sequence of int
        Examples in a forward pass.
    threads : int
        Threads that TensorFlow, LiteRT or ONNX Runtime uses, within an operation and between operations.
    repeats : int
        Number of timed passes.
    warm_up : int
        Number of passes before these, which are not timed; the first one compiles the model.

    Returns
    -------
    DataFrame
        One row for each model and batch size: model, batch, threads, repeats, median and p95 (seconds).

    Raises
    ------
    ParameterError
        If a number is not at least 1, or a value is no model and no existing file.
    DropregError
        If the measuring process fails.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> frame = dr.measure_latency({"original": model}, batch_sizes=(1, 64), repeats=5)
    >>> frame[["model", "batch", "threads", "repeats"]]
          model  batch  threads  repeats
    0  original      1        1        5
    1  original     64        1        5
    >>> bool((frame["p95"] >= frame["median"]).all())
    True
    """
    check_type("models", models, Mapping, "pass {'original': model}")
    check_several("batch_sizes", batch_sizes)
    numbers = {"threads": threads, "repeats": repeats, "warm_up": warm_up}
    for name, value in (*numbers.items(), *(("batch_sizes", size) for size in batch_sizes)):
        positive(name, value)
    with tempfile.TemporaryDirectory() as folder:
        paths = {
            name: _path_of(name, model, Path(folder) / str(number))
            for number, (name, model) in enumerate(models.items())
        }
        process = subprocess.run(
            [sys.executable, "-m", "dropreg.surgery._latency"],
            input=json.dumps({"paths": paths, "batch_sizes": list(batch_sizes), **numbers}),
            capture_output=True,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
            check=False,
        )
    if process.returncode:
        last = (process.stderr.strip().splitlines() or ["nothing"])[-1]
        raise DropregError(f"the process that measures latency failed ({process.returncode}), its last line: {last}")
    return pd.DataFrame(json.loads(process.stdout.splitlines()[-1]))


def _path_of(name: str, model: Any, place: Path) -> str:
    """Return the path of a file with the model: its own, or `place` with a suffix, where it is saved."""
    if isinstance(model, keras.Model):
        path = place.with_suffix(".keras")
        keras.saving.save_model(model, path)
        return str(path)
    path = Path(model.path if isinstance(model, Exported) else model) if isinstance(model, _KINDS) else None
    if path is None or not path.exists():
        received = type(model).__name__ if path is None else f"{path}, which does not exist"
        raise ParameterError(
            f"`models` must hold Keras models, dropreg.surgery.Exported or paths of exported files, received "
            f"{received} for '{name}': pass a model, or what dropreg.export returns."
        )
    return str(path.resolve())


def _measure(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Time all models; runs in the measuring process."""
    tf.config.threading.set_intra_op_parallelism_threads(settings["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(settings["threads"])
    models = {name: _loaded(Path(path), settings["threads"]) for name, path in settings["paths"].items()}
    rows = []
    for batch in settings["batch_sizes"]:
        passes = {name: _forward_pass(model, batch) for name, model in models.items()}
        for _ in range(settings["warm_up"]):
            for run in passes.values():
                run()
        seconds: dict[str, list[float]] = {name: [] for name in passes}
        for _ in range(settings["repeats"]):
            for name, run in passes.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
        fixed = {"batch": batch, "threads": settings["threads"], "repeats": settings["repeats"]}
        rows += [
            {"model": name, **fixed, "median": float(np.median(taken)), "p95": float(np.quantile(taken, 0.95))}
            for name, taken in seconds.items()
        ]
    return rows


def _loaded(path: Path, threads: int) -> Any:
    """Return the Keras model, or the exported file, at a path."""
    return keras.saving.load_model(path, compile=False) if path.suffix == ".keras" else open_file(path, threads)


def _forward_pass(model: Any, batch: int) -> Callable[[], list[Any]]:
    """Return a compiled forward pass on one random batch."""
    rng = np.random.default_rng(0)
    if not isinstance(model, keras.Model):
        arrays = [
            rng.random((batch, *(n or 16 for n in known.shape[1:]))).astype(known.dtype) for known in model.inputs
        ]
        return lambda: model.run(arrays)
    shapes = [(batch, *(size or 16 for size in tensor.shape[1:])) for tensor in model.inputs]
    inputs = [
        tf.cast(tf.constant(rng.random(shape), tf.float32), tensor.dtype)
        for shape, tensor in zip(shapes, model.inputs, strict=True)
    ]
    forward = compiled(lambda: model(inputs if len(inputs) > 1 else inputs[0], training=False))
    return lambda: [value.numpy() for value in tf.nest.flatten(forward())]


if __name__ == "__main__":
    print(json.dumps(_measure(json.load(sys.stdin))))
