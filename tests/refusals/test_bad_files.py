"""Files on the command line that hold no model or no data: refused by name, without a traceback."""

import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import flat
import keras
import numpy as np
import pandas as pd
import pytest
from conftest import Labelled
from keras import layers
from test_bad_input import refused

import dropreg as dr
from dropreg.cli import load_model_file, main
from dropreg.errors import ModelError


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory, model: keras.Model) -> Path:
    path = tmp_path_factory.mktemp("models") / "small.keras"
    model.save(path)
    return path


@pytest.fixture(scope="module")
def data_file(tmp_path_factory: pytest.TempPathFactory, data: Labelled) -> Path:
    path = tmp_path_factory.mktemp("data") / "heldout.npz"
    np.savez(path, x=data[0], y=data[1])
    return path


def assert_refused(capsys: pytest.CaptureFixture[str], arguments: list[Any], *says: str) -> None:
    """The command line ends with code 2 and a text on stderr that contains all of `says` in order."""
    code = main(["estimate", *map(str, arguments), "--quiet"])
    printed = capsys.readouterr()
    assert code == 2
    assert printed.out == ""
    assert re.match(r"dropreg: .*" + r".*".join(re.escape(part) for part in says), printed.err), printed.err


@pytest.fixture
def in_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the command runs; a refused one must not have written anything there."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    assert not list(folder.iterdir())


def test_missing_model_file(
    tmp_path: Path, in_empty_folder: Path, data_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "missing.keras"
    says = f"model file {path}: expected a .keras file, received no such file: check the path."
    with refused(ModelError, says):
        load_model_file(path)
    assert_refused(capsys, [path, "--data", data_file], says)


def rezipped(source: Path, target: Path, member: str, content: bytes | None) -> None:
    """Copy a zip archive with one member replaced, or left out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            if name != member:
                new.writestr(name, old.read(name))
            elif content is not None:
                new.writestr(name, content)


CORRUPTIONS: dict[str, Callable[[Path, Path], object]] = {
    "empty": lambda good, bad: bad.write_bytes(b""),
    "garbage": lambda good, bad: bad.write_bytes(b"no model " * 1000),
    "cut off": lambda good, bad: bad.write_bytes(good.read_bytes()[:-100]),
    "another archive": lambda good, bad: rezipped(good, bad, "config.json", None),
    "broken configuration": lambda good, bad: rezipped(good, bad, "config.json", b'{"class_name"'),
    "other configuration": lambda good, bad: rezipped(good, bad, "config.json", b"[]"),
    "broken weights": lambda good, bad: rezipped(good, bad, "model.weights.h5", b"junk"),
    "no weights": lambda good, bad: rezipped(good, bad, "model.weights.h5", None),
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_corrupt_model_file(
    tmp_path: Path,
    in_empty_folder: Path,
    model_file: Path,
    data_file: Path,
    capsys: pytest.CaptureFixture[str],
    corruption: str,
) -> None:
    path = tmp_path / "corrupt.keras"
    CORRUPTIONS[corruption](model_file, path)
    says = (
        f"model file {path}: expected a model saved by Keras 3, received a file that does not load (",
        "): save it again with model.save('model.keras').",
    )
    with refused(ModelError, *says):
        load_model_file(path)
    assert_refused(capsys, [path, "--data", data_file], *says)


def test_model_file_with_a_layer_of_ones_own(tmp_path: Path) -> None:
    class Own(layers.Dense):
        pass

    keras.Sequential([keras.Input((4,)), Own(3), layers.Dense(3)]).save(tmp_path / "own.keras")
    with refused(ModelError, "does not load (", "with custom layers must be used from Python, where they are reg"):
        load_model_file(tmp_path / "own.keras")


def test_file_that_holds_no_model(tmp_path: Path, model_file: Path) -> None:
    layer = keras.saving.serialize_keras_object(layers.Dense(3))
    rezipped(model_file, tmp_path / "layer.keras", "config.json", json.dumps(layer).encode())
    with refused(ModelError, f"model file {tmp_path / 'layer.keras'}: expected a ", "received"):
        load_model_file(tmp_path / "layer.keras")


def save_text(path: Path) -> None:
    path.write_text("x,y\n1,2\n")


def save_single_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


def save_objects(path: Path) -> None:
    np.savez(path, x=np.array([{}, 1], dtype=object), y=np.zeros(2))


def save_cut_off(path: Path) -> None:
    np.savez(path, x=np.zeros((30, 4)), y=np.zeros(30))
    path.write_bytes(path.read_bytes()[:-100])


def save_compressed_and_damaged(path: Path) -> None:
    np.savez_compressed(path, x=np.arange(120.0).reshape(30, 4) % 7.3, y=np.zeros(30))
    content = path.read_bytes()
    path.write_bytes(content[:60] + b"\xff" * 40 + content[100:])


@pytest.mark.parametrize(
    ("save", "says"),
    [
        (lambda path: None, ("expected an .npz file, received no such file",)),
        *[
            (save, ("expected an .npz archive of arrays, received ",))
            for save in (
                *(Path.touch, save_text, save_single_array, save_objects, save_cut_off),
                save_compressed_and_damaged,
            )
        ],
        *[
            (
                lambda path, names=names: np.savez(path, **cast(Any, dict.fromkeys(names, np.zeros(2)))),
                (f"expected arrays 'x' and 'y', received {holds}: write it with np.savez(path, x=x, y=y)",),
            )
            for names, holds in [(["x"], "x"), (["y"], "y"), (["images", "labels"], "images, labels"), ([], "nothing")]
        ],
    ],
)
def test_bad_data_file(
    tmp_path: Path,
    in_empty_folder: Path,
    model_file: Path,
    capsys: pytest.CaptureFixture[str],
    save: Callable[[Path], object],
    says: tuple[str, ...],
) -> None:
    path = tmp_path / "heldout.npz"
    save(path)
    assert_refused(capsys, [model_file, "--data", path], f"data file {path}: ", *says)


@pytest.mark.parametrize("option", ["--out", "--plot"])
def test_a_folder_in_place_of_an_output_file(
    tmp_path: Path, model_file: Path, data_file: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    folder = tmp_path / ("table.csv" if option == "--out" else "figure.png")
    folder.mkdir()
    says = f"{option} must be a file, received the folder {folder}: choose another name."
    assert_refused(capsys, [model_file, "--data", data_file, "--rows", "64", option, folder], says)


def test_a_file_in_place_of_the_demo_folder(data_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (data_file, data_file / "below"):
        assert main(["demo", "--rows", "64", "--quiet", "--out", str(path)]) == 2
        printed = capsys.readouterr()
        assert re.match(rf"dropreg: --out must be a folder, received {path}, which cannot be made", printed.err)
        assert not printed.out


def test_only_outcomes_that_compare_with_labels_need_them(
    tmp_path: Path,
    model_file: Path,
    model: keras.Model,
    data: Labelled,
    elements: dr.Elements,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("unlabelled.npz", x=data[0])
    command = [model_file, "--data", "unlabelled.npz", "--rows", "300"]
    assert_refused(capsys, command, "expected arrays 'x' and 'y', received x: write it with np.savez(path, x=x, y=y)")
    assert main(["estimate", *map(str, command), "--quiet", "--outcome", "divergence"]) == 0
    capsys.readouterr()
    expected = flat.estimate(model, (data[0], None), elements, rows=300, outcome="divergence", progress=False)
    np.testing.assert_allclose(pd.read_csv("impact.csv")["impact"], expected.impact)
    np.savez("nothing.npz", y=data[1])
    command = [model_file, "--data", "nothing.npz", "--outcome", "divergence"]
    assert_refused(capsys, command, "expected an array 'x', received y: write it with np.savez(path, x=x)")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--rate", "1.2"], "`rate` must lie strictly between 0 and 1, received 1.2."),
        (["--rows", "0"], "`rows` must be an integer of at least 1, received 0."),
        (["--rows", "10", "--forward-only"], "10 rows cannot identify 9 elements by OLS"),
        (["--seed", "-1"], "`seed` must be an integer from 0 to 2**64 - 1, received -1."),
        (["--include", "frist"], "`include` names 'frist'"),
        (["--exclude", "frist"], "`exclude` names 'frist'"),
        (["--out", "impact.xlsx"], "--out must end in .csv or .parquet, received impact.xlsx."),
        (["--out", "missing/impact.csv"], "--out missing/impact.csv: expected an existing folder, received missing"),
        (["--plot", "missing/impact.png"], "--plot missing/impact.png: expected an existing folder, received missing"),
        (["--plot", "impact.xyz"], "--plot must end in .png or .svg or .pdf, received impact.xyz."),
    ],
)
def test_bad_options(
    in_empty_folder: Path,
    model_file: Path,
    data_file: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    says: str,
) -> None:
    assert_refused(capsys, [model_file, "--data", data_file, *options], says)
