"""Trained networks, the images that go with them, and what is measured of them."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
from scipy.special import log_softmax

import dropreg as dr

if TYPE_CHECKING:
    import keras

MODELS = Path(__file__).resolve().parents[1] / "models"
SHIPPED = ("mlp", "cnn", "resnet", "vit")
HALF = 5000
"""Estimation images that selections see; the others are for merging."""
Pair = tuple[np.ndarray, np.ndarray]


class Shipped(NamedTuple):
    """A shipped model, what can be dropped in it, and the examples it was not trained on."""

    model: "keras.Model"
    elements: dr.Elements
    data: tuple[np.ndarray, np.ndarray]


def load_shipped(name: str) -> Shipped:
    """A shipped model with its neurons and filters, and the estimation split."""
    model = dr.datasets.load_model(name)
    return Shipped(model, dr.elements(model), dr.datasets.fashion_mnist("estimation"))


def load(name: str, seed: int) -> Any:
    """A trained network: seed 0 is the shipped one, of those that ship."""
    if seed == 0 and name in SHIPPED:
        return dr.datasets.load_model(name)
    import keras

    return keras.saving.load_model(MODELS / f"{name}-{seed}.keras", compile=False)


def accuracy(model: Any, data: Pair) -> float:
    return float((model.predict(data[0], batch_size=500, verbose=0).argmax(axis=1) == data[1]).mean())


def predicted(model: Any, x: np.ndarray) -> np.ndarray:
    """Logits."""
    return model.predict(x, batch_size=500, verbose=0)


def divergences(whole: np.ndarray, small: np.ndarray) -> np.ndarray:
    """Of each example, nats."""
    log_p, log_q = log_softmax(whole, axis=1), log_softmax(small, axis=1)
    return (np.exp(log_p) * (log_p - log_q)).sum(axis=1)


def divergence(whole: np.ndarray, small: np.ndarray) -> float:
    """Mean over examples, nats."""
    return float(divergences(whole, small).mean())


def right(outputs: np.ndarray, labels: np.ndarray) -> float:
    """Accuracy of logits."""
    return float((outputs.argmax(axis=1) == labels).mean())
