"""The images and trained models that ship with the package."""

import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..errors import DataError, ParameterError

if TYPE_CHECKING:
    import keras

MODELS = ("mlp", "cnn", "resnet", "vit")
_SPLITS = {"estimation": "estimation", "test": "t10k"}


def data_folder() -> Path:
    """Return the folder of the shipped data, in an installed package or in a checkout."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "_shipped", package.parent / "data"):
        if (folder / "fashion-mnist").is_dir():
            return folder
    raise DataError(
        f"expected the shipped data in {package / '_shipped'}, received a package without it: "
        "reinstall dropreg, or install it from a complete checkout."
    )


def read_idx(path: str | Path) -> np.ndarray:
    """Read one gzipped IDX file of unsigned bytes, the format of MNIST and Fashion-MNIST.

    Parameters
    ----------
    path : str or Path
        A ``.gz`` file.

    Returns
    -------
    ndarray of uint8
        Images of shape (n, rows, columns), or labels of shape (n,).

    Raises
    ------
    DataError
        If the file is of another format.

    Examples
    --------
    >>> import gzip, tempfile
    >>> import dropreg as dr
    >>> with tempfile.NamedTemporaryFile(suffix=".gz") as file:
    ...     _ = file.write(gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 3, 9, 0, 2])))
    ...     file.flush()
    ...     dr.datasets.read_idx(file.name)
    array([9, 0, 2], dtype=uint8)
    """
    with gzip.open(path, "rb") as file:
        raw = file.read()
    if raw[:3] != b"\x00\x00\x08":
        raise DataError(f"{path}: expected an IDX file of unsigned bytes, received other content.")
    n_axes = raw[3]
    shape = np.frombuffer(raw, ">u4", count=n_axes, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * n_axes).reshape(shape)


def as_inputs(images: np.ndarray) -> np.ndarray:
    """Convert images to inputs of the shipped models.

    Parameters
    ----------
    images : ndarray of uint8, shape (n, 28, 28)

    Returns
    -------
    ndarray of float32, shape (n, 28, 28, 1)
        Pixels in [0, 1].

    Examples
    --------
    >>> import dropreg as dr
    >>> import numpy as np
    >>> x = dr.datasets.as_inputs(np.full((2, 28, 28), 255, np.uint8))
    >>> x.shape, float(x.max())
    ((2, 28, 28, 1), 1.0)
    """
    return (images[..., np.newaxis] / 255.0).astype(np.float32)


def fashion_mnist(split: Literal["estimation", "test"] = "estimation") -> tuple[np.ndarray, np.ndarray]:
    """Return the Fashion-MNIST images that ship with the package [1]_.

    Parameters
    ----------
    split : {"estimation", "test"}
        "estimation": the last 10,000 images of the training set, on which no shipped model was trained. "test": the
        10,000 test images. Estimate impacts on the first, measure accuracy on the second.

    Returns
    -------
    x : ndarray of float32, shape (10000, 28, 28, 1)
        Pixels in [0, 1].
    y : ndarray of int64, shape (10000,)
        Classes 0 to 9.

    Raises
    ------
    ParameterError
        If `split` is unknown.

    References
    ----------
    .. [1] Xiao, Rasul, Vollgraf (2017), "Fashion-MNIST", arXiv:1708.07747.

    Examples
    --------
    >>> import dropreg as dr
    >>> x, y = dr.datasets.fashion_mnist("test")
    >>> x.shape, y[:5].tolist()
    ((10000, 28, 28, 1), [9, 2, 1, 1, 6])
    """
    if split not in _SPLITS:
        raise ParameterError(f"`split` must be one of {', '.join(_SPLITS)}, received {split!r}.")
    folder, name = data_folder() / "fashion-mnist", _SPLITS[split]
    x = as_inputs(read_idx(folder / f"{name}-images-idx3-ubyte.gz"))
    return x, read_idx(folder / f"{name}-labels-idx1-ubyte.gz").astype(np.int64)


def model_path(name: str) -> Path:
    """Return the path of a shipped model's ``.keras`` file.

    Parameters
    ----------
    name : {"mlp", "cnn", "resnet", "vit"}

    Returns
    -------
    Path

    Raises
    ------
    ParameterError
        If `name` is unknown.

    Examples
    --------
    >>> import dropreg as dr
    >>> dr.datasets.model_path("mlp").name
    'mlp.keras'
    """
    if name not in MODELS:
        raise ParameterError(f"`name` must be one of {', '.join(MODELS)}, received {name!r}.")
    return data_folder() / "models" / f"{name}.keras"


def load_model(name: str) -> "keras.Model":
    """Load a shipped model, trained on the first 50,000 training images of Fashion-MNIST.

    Parameters
    ----------
    name : {"mlp", "cnn", "resnet", "vit"}

    Returns
    -------
    keras.Model
        Its outputs are logits; it is not compiled.

    Raises
    ------
    ParameterError
        If `name` is unknown.

    Examples
    --------
    >>> import dropreg as dr
    >>> dr.datasets.load_model("mlp").output_shape
    (None, 10)
    """
    import keras

    model = keras.saving.load_model(model_path(name), compile=False)
    assert isinstance(model, keras.Model)
    return model
