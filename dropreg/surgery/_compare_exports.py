"""Compare models in several precisions: bytes, agreement, accuracy and latency."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from .._utils import check_several, check_type
from ..data import Data, check_data
from ..errors import DataError, ParameterError
from ..network import Accuracy, are_logits
from ._export import Exported, Precision, export, open_file, run_file
from ._latency import measure_latency

_BATCHES = (1, 64)


def compare_exports(
    models: Mapping[str, keras.Model],
    folder: str | Path,
    data: Data,
    test: Data = None,
    *,
    precisions: Sequence[Precision] = ("float32", "int8"),
    threads: int = 1,
    repeats: int = 100,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Export each model to LiteRT in each precision, and compare the files.

    A smaller model should be compared with the original in int8, not only with the original in float32: quantization
    alone makes it four times smaller.

    Parameters
    ----------
    models : dict of str to keras.Model
        The models by name, such as {"original": model, "smaller": small}.
    folder : str or Path
        An existing folder for the files, "original float32.tflite" and so on.
    data : (x, y), dataset or iterable of batches
        Examples for the ranges of activations and for the comparison, as in `dropreg.export`.
    test : (x, y), optional
        Other examples with classes, for the accuracy.
    precisions : sequence of str
        As in `dropreg.export`.
    threads, repeats : int
        As in `dropreg.measure_latency`.
    overwrite : bool
        Whether existing files are replaced.

    Returns
    -------
    DataFrame
        One row for each model and precision: model, precision, bytes, difference and agreement (between the file and
        its Keras model), accuracy (of the file; NaN without `test`), ms_1 and ms_64 (median milliseconds of a forward
        pass of 1 and 64 examples).

    Raises
    ------
    ParameterError, ModelError, DataError, RecordError
        As in `dropreg.export`; DataError also if `test` has no classes.

    Examples
    --------
    >>> import tempfile, dropreg as dr
    >>> model, (x, y) = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("estimation")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     frame = dr.surgery.compare_exports(
    ...         {"original": model}, folder, (x[:100], None), precisions=["float32"], repeats=3
    ...     )
    >>> frame[["model", "precision", "agreement"]]
          model precision  agreement
    0  original   float32        1.0
    """
    check_type("models", models, Mapping, "pass {'original': model, 'smaller': small}")
    check_several("precisions", precisions)
    if not models or not precisions:
        raise ParameterError("`models` and `precisions` must not be empty: pass {'original': model} and ['float32'].")
    files, rows = {}, []
    for name, model in models.items():
        for precision in precisions:
            path = Path(folder) / f"{name} {precision}.tflite"
            exported = export(model, path, data, precision=precision, overwrite=overwrite)
            files[f"{name} {precision}"] = exported
            rows.append(
                {
                    "model": name,
                    "precision": precision,
                    "bytes": exported.size,
                    "difference": exported.difference,
                    "agreement": exported.agreement,
                    "accuracy": np.nan if test is None else _accuracy(model, exported, test),
                }
            )
    taken = measure_latency(files, _BATCHES, threads=threads, repeats=repeats)
    frame = pd.DataFrame(rows)
    for batch in _BATCHES:
        frame[f"ms_{batch}"] = 1000 * taken.loc[taken["batch"] == batch, "median"].to_numpy()
    return frame


def _accuracy(model: keras.Model, exported: Exported, test: Data) -> float:
    """Return the share of examples, or of positions or labels, that a file classifies correctly."""
    examples = check_data(model, test)
    if examples.labels is None or examples.task == "regression":
        received = "no labels" if examples.labels is None else "numbers"
        raise DataError(f"`test` must have classes, received {received}: pass (x, y) with classes, or test=None.")
    found = run_file(open_file(exported.path), examples.inputs, exported.inputs)[examples.output]
    outputs = examples.check_outputs(found.astype(np.float32), model.name)
    from_logits = are_logits(model, examples.output, examples.task, outputs)
    labels, counted, weights = examples.carried()
    scores: Any = keras.ops.convert_to_tensor(outputs)
    truth: Any = keras.ops.convert_to_tensor(labels)
    prediction = examples.predicted(scores, counted, from_logits=from_logits)
    values = Accuracy().measure(prediction, truth, prediction)
    return float(np.mean(examples.weighted(values, weights)))
