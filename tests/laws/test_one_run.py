"""Law: a folder belongs to one model, data set, outcome and version; resuming with another is refused by name."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flat
import keras
import numpy as np
import pytest
from keras import layers

import dropreg as dr
from dropreg.errors import RecordError

Run = dict[str, Any]


def build(activation: str = "relu", more: bool = False) -> keras.Model:
    keras.utils.set_random_seed(0)
    hidden = [layers.Dense(8, activation=activation, name="a"), layers.Dense(6, activation="relu", name="b")]
    extra = [layers.Dropout(0.1)] if more else []
    return keras.Sequential([keras.Input((5,)), *hidden, *extra, layers.Dense(3, name="out")])


def other_weights() -> keras.Model:
    model = build()
    model.layers[0].kernel.assign(1.1 * model.layers[0].kernel)
    return model


def first() -> Run:
    """What all runs are compared with."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 5)).astype(np.float32), rng.integers(0, 3, 30)
    return {"model": build(), "data": (x, y), "outcome": "loss", "task": None, "seed": 0}


def sample(run: Run, folder: Path, rows: int) -> Any:
    options = {"rows": rows, "outcomes": run["outcome"], "task": run["task"], "seed": run["seed"], "fidelity": None}
    return flat.sample(run["model"], run["data"], dr.elements(run["model"]), out=folder, **options)


def estimate(run: Run, folder: Path, rows: int) -> Any:
    options = {"rows": rows, "outcome": run["outcome"], "task": run["task"], "seed": run["seed"], "fidelity": None}
    return flat.estimate(run["model"], run["data"], dr.elements(run["model"]), out=folder, **options)


def compare(run: Run, folder: Path, rows: int) -> Any:
    scorers = {"spread": dr.scorers.Scorer(dr.scorers.spread, {"outcome": run["outcome"]})}
    options = {"scorers": scorers, "fractions": (0.5,), "seeds": (0,) if rows == 40 else (0, 1), "progress": False}
    return dr.compare(run["model"], run["data"], dr.elements(run["model"]), out=folder, task=run["task"], **options)


def own(factor: float) -> dr.outcomes.PerExample:
    return dr.outcomes.PerExample(lambda labels, outputs: factor * outputs[:, 0], "own", True, differentiable=True)


VERBS: dict[str, Callable[[Run, Path, int], Any]] = {"sample": sample, "estimate": estimate, "compare": compare}
CHANGES: dict[str, tuple[Callable[[Run], Any], str]] = {
    "architecture": (lambda run: {"model": build(more=True)}, "structure|architecture|model|weights"),
    "configuration": (lambda run: {"model": build("tanh")}, "configuration|model"),
    "weights": (lambda run: {"model": other_weights()}, "weights|model"),
    "inputs": (lambda run: {"data": (run["data"][0] + 1, run["data"][1])}, "data|examples"),
    "labels": (lambda run: {"data": (run["data"][0], np.roll(run["data"][1], 1))}, "data|examples"),
    "order": (lambda run: {"data": tuple(part[::-1] for part in run["data"])}, "data|examples"),
    "outcome": (lambda run: {"outcome": "divergence"}, "outcomes|scorer"),
    "task": (lambda run: {"data": (run["data"][0], np.eye(3)[run["data"][1]]), "task": "multilabel"}, "task|data"),
    "seed": (lambda run: {"seed": 1}, "seed is 0 there and 1 here"),
}
LATER = {("compare", "seed")}
"""Comparisons add seeds to a folder."""
GRID = [(verb, change) for verb in VERBS for change in CHANGES if (verb, change) not in LATER]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of the first run of each verb, not to be changed."""
    folders: dict[str, Path] = {}

    def folder(verb: str) -> Path:
        if verb not in folders:
            folders[verb] = tmp_path_factory.mktemp(verb)
            VERBS[verb](first(), folders[verb], 40)
        return folders[verb]

    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("verb", "change"), GRID)
def test_another_run_is_refused(verb: str, change: str, finished: Callable[[str], Path]) -> None:
    folder, (make, says) = finished(verb), CHANGES[change]
    before, run = contents(folder), first()
    with pytest.raises(RecordError, match=rf"folder .* holds another .*({says})"):
        VERBS[verb](run | make(run), folder, 80)
    assert contents(folder) == before, "nothing is lost"


@pytest.mark.parametrize("verb", VERBS)
def test_the_same_run_is_resumed(verb: str, finished: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(finished(verb), tmp_path / verb)
    VERBS[verb](first(), folder, 80)
    assert contents(folder) != contents(finished(verb))


@pytest.mark.parametrize("verb", ["sample", "estimate"])
def test_another_metric_of_the_same_name_is_refused(verb: str, tmp_path: Path) -> None:
    VERBS[verb](first() | {"outcome": own(1.0)}, tmp_path, 40)
    with pytest.raises(RecordError, match=r"folder .* holds another run.*outcome 'own' has other code"):
        VERBS[verb](first() | {"outcome": own(2.0)}, tmp_path, 80)
    VERBS[verb](first() | {"outcome": own(1.0)}, tmp_path, 80)


@pytest.mark.parametrize("verb", ["sample", "estimate"])
def test_another_version_is_refused(
    verb: str, finished: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dropreg.__version__", "0.0.1")
    with pytest.raises(RecordError, match=r"folder .* holds another run.*dropreg is .* there and 0\.0\.1 here"):
        VERBS[verb](first(), finished(verb), 80)
