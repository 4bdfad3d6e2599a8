"""A small trained-looking classifier, its data and its elements."""

import os
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from hypothesis import settings
from keras import layers

import dropreg as dr

settings.register_profile("dropreg", derandomize=True, deadline=None, database=None, max_examples=50)
settings.load_profile("dropreg")

N_EXAMPLES, N_INPUTS, N_CLASSES = 30, 4, 3
Labelled = tuple[np.ndarray, np.ndarray]


def build_model() -> keras.Model:
    """Nine droppable units in the layers 'first' and 'second', logits in 'out'; the same weights every time."""
    model = keras.Sequential(
        [
            keras.Input((N_INPUTS,), name="features"),
            layers.Dense(5, activation="relu", name="first"),
            layers.Dense(4, activation="tanh", name="second"),
            layers.Dense(N_CLASSES, name="out"),
        ],
        name="small",
    )
    rng = np.random.default_rng(1)
    model.set_weights([rng.normal(size=weight.shape) for weight in model.get_weights()])
    return model


@pytest.fixture(scope="session")
def make_model() -> Callable[[], keras.Model]:
    """Builds a model of the test's own, which it may change."""
    return build_model


@pytest.fixture(scope="session")
def model() -> keras.Model:
    """Shared: tests must leave it as it is."""
    return build_model()


@pytest.fixture(scope="session")
def data(model: keras.Model) -> Labelled:
    """Examples that the model gets right about four times out of five."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(N_EXAMPLES, N_INPUTS)).astype(np.float32)
    y = np.argmax(model(x), axis=1)
    wrong = rng.random(N_EXAMPLES) < 0.2
    y[wrong] = (y[wrong] + 1) % N_CLASSES
    return x, y


@pytest.fixture(scope="session")
def elements(model: keras.Model) -> dr.Elements:
    return dr.elements(model)
