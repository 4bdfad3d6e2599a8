"""The images and trained models that ship with the package."""

import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..errors import DataError

if TYPE_CHECKING:
    import keras

MODELS = ("mlp", "cnn", "resnet", "vit")
_SPLITS = {"estimation": "estimation", "test": "t10k"}


def data_folder() -> Path:
    """Folder of the shipped data, in an installed package or in a checkout."""
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
        Images as (n, rows, columns), labels as (n,).
    """
    with gzip.open(path, "rb") as file:
        raw = file.read()
    if raw[:3] != b"\x00\x00\x08":
        raise DataError(f"{path}: expected an IDX file of unsigned bytes, received other content.")
    n_axes = raw[3]
    shape = np.frombuffer(raw, ">u4", count=n_axes, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * n_axes).reshape(shape)


def as_inputs(images: np.ndarray) -> np.ndarray:
    """Images of bytes (n, 28, 28) as the float32 (n, 28, 28, 1) in [0, 1] that the models take."""
    return (images[..., np.newaxis] / 255.0).astype(np.float32)


def fashion_mnist(split: Literal["estimation", "test"] = "estimation") -> tuple[np.ndarray, np.ndarray]:
    """Shipped Fashion-MNIST images [1]_.

    Parameters
    ----------
    split : {"estimation", "test"}
        "estimation": the last 10,000 images of the training set, which no shipped model was
        trained on. "test": the 10,000 test images. Estimate on the first, judge on the second.

    Returns
    -------
    x : ndarray of float32, shape (10000, 28, 28, 1)
        Pixels in [0, 1].
    y : ndarray of int64, shape (10000,)
        Classes 0 to 9.

    References
    ----------
    .. [1] Xiao, Rasul, Vollgraf (2017), "Fashion-MNIST", arXiv:1708.07747.
    """
    if split not in _SPLITS:
        raise DataError(f"`split` must be one of {', '.join(_SPLITS)}, received {split!r}.")
    folder, name = data_folder() / "fashion-mnist", _SPLITS[split]
    x = as_inputs(read_idx(folder / f"{name}-images-idx3-ubyte.gz"))
    return x, read_idx(folder / f"{name}-labels-idx1-ubyte.gz").astype(np.int64)


def model_path(name: str) -> Path:
    """Path of a shipped model's ``.keras`` file; `name` is one of "mlp", "cnn", "resnet", "vit"."""
    if name not in MODELS:
        raise DataError(f"`name` must be one of {', '.join(MODELS)}, received {name!r}.")
    return data_folder() / "models" / f"{name}.keras"


def load_model(name: str) -> "keras.Model":
    """Load a shipped model, trained on the first 50,000 training images; its outputs are logits."""
    import keras

    model = keras.saving.load_model(model_path(name), compile=False)
    assert isinstance(model, keras.Model)
    return model
