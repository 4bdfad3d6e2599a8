"""How long a forward pass takes, measured in a process of its own with a fixed number of threads.

TensorFlow fixes its threads when it first computes, so the measurement saves the models and runs this
module: ``python -m dropreg.surgery._latency`` with the settings as JSON on its standard input.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .._utils import check_several, check_type, positive
from ..errors import DropregError
from ..graph import compiled

if TYPE_CHECKING:
    import keras


def measure_latency(
    models: "Mapping[str, keras.Model]",
    batch_sizes: Sequence[int] = (1, 64),
    *,
    threads: int = 1,
    repeats: int = 100,
    warm_up: int = 10,
) -> pd.DataFrame:
    """Seconds a forward pass takes, on random inputs.

    The models take turns, pass by pass, so that a machine that slows down slows them all.

    Parameters
    ----------
    models : dict of str to keras.Model
        By the names that the result uses.
    batch_sizes : sequence of int
    threads : int
        Of TensorFlow, within an operation and between operations.
    repeats : int
        Passes that are timed.
    warm_up : int
        Passes before, which are not; the first one compiles.

    Returns
    -------
    DataFrame
        One row a model and batch size: model, batch, threads, repeats, median and p95 (seconds).

    Raises
    ------
    ParameterError
        If a number is not at least 1.
    DropregError
        If the measuring process fails.
    """
    import keras

    check_type("models", models, Mapping, "pass {'whole': model}")
    check_several("batch_sizes", batch_sizes)
    for name, value in (("threads", threads), ("repeats", repeats), ("warm_up", warm_up), *_named(batch_sizes)):
        positive(name, value)
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: str(Path(folder) / f"{number}.keras") for number, name in enumerate(models)}
        for name, model in models.items():
            keras.saving.save_model(model, paths[name])
        settings = {
            "paths": paths,
            "batch_sizes": list(batch_sizes),
            "threads": threads,
            "repeats": repeats,
            "warm_up": warm_up,
        }
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        process = subprocess.run(
            [sys.executable, "-m", "dropreg.surgery._latency"],
            input=json.dumps(settings),
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
    if process.returncode:
        last = (process.stderr.strip().splitlines() or ["nothing"])[-1]
        raise DropregError(f"the process that measures latency failed ({process.returncode}), its last line: {last}")
    return pd.DataFrame(json.loads(process.stdout.splitlines()[-1]))


def _named(batch_sizes: Sequence[int]) -> list[tuple[str, int]]:
    return [("batch_sizes", size) for size in batch_sizes]


def _measure(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """What the measuring process does."""
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(settings["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(settings["threads"])
    models = {name: keras.saving.load_model(path, compile=False) for name, path in settings["paths"].items()}
    rows = []
    for batch in settings["batch_sizes"]:
        passes = {name: _pass(model, batch) for name, model in models.items()}
        for _ in range(settings["warm_up"]):
            for run in passes.values():
                run()
        seconds: dict[str, list[float]] = {name: [] for name in passes}
        for _ in range(settings["repeats"]):
            for name, run in passes.items():
                start = time.perf_counter()
                run()
                seconds[name].append(time.perf_counter() - start)
        rows += [
            {
                "model": name,
                "batch": batch,
                "threads": settings["threads"],
                "repeats": settings["repeats"],
                "median": float(np.median(taken)),
                "p95": float(np.quantile(taken, 0.95)),
            }
            for name, taken in seconds.items()
        ]
    return rows


def _pass(model: Any, batch: int) -> Any:
    """A compiled forward pass on one random batch."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    shapes = [(batch, *(size or 16 for size in tensor.shape[1:])) for tensor in model.inputs]
    inputs = [
        tf.cast(tf.constant(rng.random(shape), tf.float32), tensor.dtype)
        for shape, tensor in zip(shapes, model.inputs, strict=True)
    ]

    forward = compiled(lambda: model(inputs if len(inputs) > 1 else inputs[0], training=False))
    return lambda: [value.numpy() for value in tf.nest.flatten(forward())]


if __name__ == "__main__":
    print(json.dumps(_measure(json.load(sys.stdin))))
