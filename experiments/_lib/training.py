"""The full training set, and the training of the networks that the experiments use."""

from pathlib import Path
from typing import Any

import numpy as np

from dropreg.data import read_idx
from dropreg.errors import DataError

N_TRAIN = 50_000
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
EPOCHS = {"mlp": 8, "cnn": 8, "resnet": 8, "vit": 16, "lstm": 5, "gru": 5}


def full_training_set(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """All 60,000 training images (bytes) and labels, or an error that says where they come from."""
    images, labels = (folder / f"train-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1"))
    if not (images.is_file() and labels.is_file()):
        raise DataError(
            f"expected {images.name} and {labels.name} in {folder}, received no such files: install "
            "Debian's package dataset-fashion-mnist, or download them from "
            "https://github.com/zalandoresearch/fashion-mnist and pass their folder as --full-set."
        )
    return read_idx(images), read_idx(labels)


def fit(model: Any, x: np.ndarray, y: np.ndarray, epochs: int) -> None:
    """Train with Adam and a cosine decay of the learning rate."""
    import keras

    batch_size = 128
    schedule: Any = keras.optimizers.schedules.CosineDecay(
        1e-3, decay_steps=epochs * -(-len(x) // batch_size), alpha=0.02
    )
    model.compile(
        optimizer=keras.optimizers.Adam(schedule),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(x, y, batch_size=batch_size, epochs=epochs, verbose=0)
