"""What `dropreg.export` returns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...data import as_list, checked_input
from ...errors import DataError
from ._runners import Runner, arranged, open_file

_BATCH = 256


@dataclass(frozen=True, repr=False)
class Exported:
    """A file that `dropreg.export` has written.

    Attributes
    ----------
    path : Path
        The file, or the folder of a SavedModel.
    format : str
        "LiteRT", "ONNX" or "SavedModel".
    precision : str or dict of str to str
        That of all layers, or of layers by name; layers that are not named are float32.
    size : int
        Bytes of the file, or of all files in the folder.
    difference : float or None
        Largest absolute difference from the outputs of the Keras model, as a share of the largest absolute output.
        None without data.
    agreement : float or None
        Share of the examples (or positions) whose largest output is the same as in the Keras model. None without
        data, and where no output has two values. It says something about classifiers only.
    inputs : tuple of str
        Names of the model's inputs, in the model's order.

    Examples
    --------
    >>> import tempfile, dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     exported = dr.export(model, f"{folder}/mlp.tflite")
    >>> exported.format, exported.precision, exported.size > 4 * model.count_params()
    ('LiteRT', 'float32', True)
    """

    path: Path
    format: str
    precision: str | Mapping[str, str]
    size: int
    difference: float | None = None
    agreement: float | None = None
    inputs: tuple[str, ...] = ()

    def __repr__(self) -> str:
        precision = self.precision if isinstance(self.precision, str) else "mixed precision"
        parts = [f"{self.format}, {precision}, {self.size:,} bytes"]
        if self.difference is not None:
            parts.append(f"outputs differ by at most {self.difference:.2g} of the largest")
        if self.agreement is not None:
            parts.append(f"{100 * self.agreement:.1f} % of predictions are the same")
        return f"{self.path}: {', '.join(parts)}"

    def predict(self, inputs: Any) -> npt.NDArray[Any] | list[npt.NDArray[Any]]:
        """Return the outputs of the file.

        Parameters
        ----------
        inputs : ndarray, or list, tuple or dict of ndarray
            As the Keras model takes them: one array of shape (n_examples, ...) for each input.

        Returns
        -------
        ndarray or list of ndarray
            Shape (n_examples, ...); a list if the model has several outputs, in the model's order (by name where they
            are a dict).

        Raises
        ------
        DataError
            If the inputs do not fit the file.
        RecordError
            If the file is missing or damaged.
        ParameterError
            If the runtime of the format is not installed.

        Examples
        --------
        >>> import tempfile, dropreg as dr
        >>> model, (x, y) = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     exported = dr.export(model, f"{folder}/mlp.tflite")
        ...     outputs = exported.predict(x[:5])
        >>> outputs.shape
        (5, 10)
        """
        outputs = run_file(open_file(self.path), as_list(inputs, self.inputs), self.inputs)
        return outputs[0] if len(outputs) == 1 else outputs


def run_file(runner: Runner, inputs: Sequence[Any], names: Sequence[str]) -> list[npt.NDArray[Any]]:
    """Return the outputs of a file for one array for each of these inputs; DataError if they do not fit."""
    places = arranged(runner, names)
    known = [runner.inputs[place] for place in places]
    arrays = [
        checked_input(array, name, (None, *value.shape[1:]), value.dtype)
        for array, name, value in zip(inputs, names, known, strict=True)
    ]
    n = len(arrays[0])
    if n == 0 or any(len(array) != n for array in arrays):
        raise DataError(f"all inputs must have the same number of examples, received {[len(a) for a in arrays]}.")
    given = [arrays[places.index(place)] for place in range(len(places))]
    step = known[0].shape[0] or _BATCH
    parts = [runner.run([array[start : start + step] for array in given]) for start in range(0, n, step)]
    return [np.concatenate(part) for part in zip(*parts, strict=True)]
