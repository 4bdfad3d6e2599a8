"""Architectures of keras.applications, small, with random weights and normalization statistics."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

_OPTIONS: dict[str, dict[str, Any]] = {
    "MobileNetV2": {"alpha": 0.35},
    "MobileNetV3Small": {"alpha": 0.75},
    "VGG16": {"include_top": False, "pooling": "max"},
}
N_CLASSES = 10
NAMES = ("MobileNetV2", "MobileNetV3Small", "VGG16")
"""The others are checked by experiments/applications.py."""


def build(name: str, seed: int = 0) -> keras.Model:
    """The architecture `name` for images of 32 x 32, weights as initialised."""
    keras.utils.set_random_seed(seed)
    options = {"classes": N_CLASSES, "classifier_activation": None, **_OPTIONS.get(name, {})}
    builder: Callable[..., keras.Model] = getattr(keras.applications, name)
    model = builder(weights=None, input_shape=(32, 32, 3), **options)
    if options.get("include_top") is False:
        x = keras.layers.Dense(20, activation="relu", name="hidden")(model.outputs[0])
        model = keras.Model(model.input, keras.layers.Dense(N_CLASSES, name="scores")(x))
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            disturbed = [np.abs(w + rng.normal(scale=0.1, size=w.shape)) for w in layer.get_weights()]
            layer.set_weights(disturbed)
    return model


def images_for(model: keras.Model, n_examples: int, seed: int = 0) -> np.ndarray:
    """Random images, normally distributed."""
    shape = (n_examples, *model.inputs[0].shape[1:])
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)
