"""A small trained-looking classifier, its data, its elements and a run of it."""

import gc
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from hypothesis import settings
from keras import layers
from runs import sample

import dropreg as dr
from dropreg.pruning._annealing import _annealer as annealer

gc.freeze()  # the imports of TensorFlow are permanent: the collector need not look at it again and again
gc.set_threshold(100_000, 20, 50)
settings.register_profile("dropreg", derandomize=True, deadline=None, database=None, max_examples=50)
settings.load_profile("dropreg")

N_EXAMPLES, N_INPUTS, N_CLASSES = 30, 4, 3
Labelled = tuple[np.ndarray, np.ndarray]


def says(*parts: str) -> str:
    """A pattern for texts that hold all `parts` in this order."""
    return r".*".join(re.escape(part) for part in parts)


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
    """Shared: tests must not change it."""
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


@pytest.fixture(scope="session")
def record(model: keras.Model, data: Labelled, elements: dr.Elements) -> dr.Record:
    """The reference for every other way to execute the run; a module with another record defines its own."""
    return sample(model, data, elements)


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, model: keras.Model, data: Labelled, elements: dr.Elements
) -> Path:
    """Folder of the same run; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    sample(model, data, elements, out=folder)
    return folder


@pytest.fixture
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Annealing takes few rounds where none are asked for."""
    monkeypatch.setattr(annealer, "_ROWS", 128)


@pytest.fixture
def folder(tmp_path: Path, finished: Path) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(finished, tmp_path / "run"))
