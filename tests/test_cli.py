"""The command line, from files to files."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import flat
import keras
import matplotlib.image as mpimg
import numpy as np
import pandas as pd
import pytest
from kinds import two_outputs

import dropreg as dr
from dropreg.cli import load_model_file, main
from dropreg.errors import ParameterError

Labelled = tuple[np.ndarray, np.ndarray]
ROWS = 600


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, model: keras.Model, data: Labelled) -> tuple[str, str]:
    """A saved model and its examples."""
    folder = tmp_path_factory.mktemp("files")
    model.save(folder / "small.keras")
    np.savez(folder / "heldout.npz", x=data[0], y=data[1])
    return str(folder / "small.keras"), str(folder / "heldout.npz")


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty folder that the command runs in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def estimate(files: tuple[str, str], *options: Any) -> int:
    return main(["estimate", files[0], "--data", files[1], "--rows", str(ROWS), *map(str, options)])


def as_from_python(model: keras.Model, data: Labelled, elements: dr.Elements, **options: Any) -> pd.DataFrame:
    options = {"outcome": "loss"} | options
    return flat.estimate(model, data, elements, rows=ROWS, progress=False, **options).to_frame()


def test_table_is_that_of_the_library(
    files: tuple[str, str],
    model: keras.Model,
    data: Labelled,
    elements: dr.Elements,
    work: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert estimate(files, "--quiet") == 0
    assert [path.name for path in work.iterdir()] == ["impact.csv"]
    expected = as_from_python(model, data, elements)
    pd.testing.assert_frame_equal(pd.read_csv("impact.csv"), expected)
    printed = capsys.readouterr()
    assert "Impact on loss of 9 elements (positive = replacing it hurts)" in printed.out
    assert "gradients corrected by flips, 600 rows, seed 0, 95% intervals for this data set" in printed.out
    assert printed.out.endswith("written: impact.csv\n")
    top = expected.sort_values("rank")["element"].iloc[0]
    assert re.search(rf"largest impact on loss\n.*\n *{re.escape(top)} ", printed.out)


def test_files_of_other_formats_are_written(
    files: tuple[str, str], work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", files[0], "small.tflite", "--data", files[1], "--precision"]
    assert main([*arguments, "float16"]) == 0
    assert re.match(r"small.tflite: LiteRT, float16, [\d,]+ bytes, outputs differ by at most ", capsys.readouterr().out)
    assert main([*arguments, "float32"]) == 2
    assert "which exists" in capsys.readouterr().err
    assert [path.name for path in work.iterdir()] == ["small.tflite"]


@pytest.fixture
def test_file(data: Labelled) -> str:
    """Other examples than those of `files`."""
    np.savez("test.npz", x=data[0] + 0.1, y=data[1])
    return "test.npz"


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (["--params", "0.8"], {"target": dr.Budget("params", 0.8)}),
        (
            ["--fraction", "0.2", "--seed", "3", "--include", "first", "--no-distillation"],
            {"fraction": 0.2, "seed": 3, "recovery": "none"},
        ),
    ],
)
@pytest.mark.usefixtures("few_rounds")
def test_smaller_model_is_that_of_the_library(
    files: tuple[str, str],
    test_file: str,
    model: keras.Model,
    data: Labelled,
    options: list[str],
    settings: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["prune", files[0], "--data", files[1], "--test", test_file, "--quiet", *options]) == 0
    elements = dr.elements(model, include=["first"] if "--include" in options else None)
    expected = dr.prune(model, data=data, elements=elements, **settings)
    small = load_model_file(Path("small.keras"))
    for one, other in zip(small.get_weights(), expected.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    printed = capsys.readouterr()
    assert f"params: {model.count_params()} -> {small.count_params()}" in printed.out
    table = expected.measure((data[0] + 0.1, data[1]))
    shown = re.search(r"on the examples of test.npz\n *outcome .*\n *accuracy +(\S+) +(\S+) ", printed.out)
    assert shown
    assert [float(value) for value in shown.groups()] == pytest.approx(table.iloc[0][["before", "after"]], abs=6e-5)
    assert printed.out.endswith("written: small.keras\n")
    assert not printed.err


def test_seed_and_on_blocked_are_passed_to_the_library(files: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def prune(*arguments: Any, seed: int, on_blocked: str, **options: Any) -> None:
        found.append((seed, on_blocked))
        raise ParameterError("enough")

    monkeypatch.setattr(dr, "prune", prune)
    command = ["prune", files[0], "--data", files[1], "--fraction", "0.4", "--seed"]
    assert main([*command, "7"]) == 2
    assert main([*command, "0", "--on-blocked", "keep"]) == 2
    assert found == [(7, "raise"), (0, "keep")]


def test_bad_outputs_are_refused_before_the_run(
    files: tuple[str, str], data: Labelled, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def work(*arguments: Any, **options: Any) -> None:
        raise AssertionError("nothing may be pruned")

    monkeypatch.setattr(dr, "prune", work)
    command = ["prune", files[0], "--data", files[1], "--quiet", "--fraction", "0.4"]
    assert main([*command, "--out", files[0]]) == 2
    assert "--out must be another file than the model, received" in capsys.readouterr().err
    np.savez("narrow.npz", x=data[0][:20, :-1], y=data[1][:20])
    assert main([*command, "--test", "narrow.npz"]) == 2
    assert "must have shape (any," in capsys.readouterr().err


@pytest.mark.usefixtures("few_rounds")
def test_smaller_model_within_a_loss(
    files: tuple[str, str], test_file: str, model: keras.Model, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["prune", files[0], "--data", files[1], "--quiet", "--max-loss", "0.9"]
    assert main(command) == 2
    assert "--max-loss must have test examples, received none: pass --test" in capsys.readouterr().err
    assert main([*command, "--test", files[1]]) == 2
    assert "--test must be another file than --data" in capsys.readouterr().err
    assert main([*command, "--test", test_file, "--out", "model.h5"]) == 2
    assert "--out must end in .keras, received model.h5" in capsys.readouterr().err
    assert main([*command, "--test", test_file, "--out", "less.keras"]) == 0
    assert load_model_file(Path("less.keras")).count_params() < model.count_params()
    assert main(["prune", files[0], "--data", files[1], "--quiet", "--params", "0.001"]) == 2
    assert "at most 0.1% of the params" in capsys.readouterr().err
    assert not Path("small.keras").exists()


@pytest.mark.usefixtures("few_rounds")
def test_one_of_several_outputs_is_measured(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = two_outputs()
    x, y = np.random.default_rng(0).normal(size=(40, 6)), np.random.default_rng(1).normal(size=40)
    model.save("two.keras")
    np.savez("two.npz", x=x, y=y)
    files = "two.keras", "two.npz"
    assert estimate(files, "--quiet", "--outcome", "loss", "--output", "second") == 0
    expected = as_from_python(model, (x, y), dr.elements(model), outcome="loss", output="second")
    pd.testing.assert_frame_equal(pd.read_csv("impact.csv"), expected)
    assert estimate(files, "--quiet") == 2
    assert "must name one of the model's outputs to measure (first, second)" in capsys.readouterr().err
    assert estimate(files, "--quiet", "--output", "third") == 2
    assert "`output` must be one of first, second" in capsys.readouterr().err
    np.savez("test.npz", x=x + 1.0, y=y)
    prune = ["prune", *("two.keras", "--data", "two.npz", "--test", "test.npz", "--fraction", "0.3", "--quiet")]
    assert main([*prune, "--output", "second"]) == 0
    expected = dr.prune(model, data=(x, {"second": y}), fraction=0.3)
    for one, other in zip(
        load_model_file(Path("small.keras")).get_weights(), expected.model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (["--outcome", "accuracy"], {"outcome": "accuracy"}),
        (["--outcome", "margin", "--seed", "3"], {"outcome": "margin", "seed": 3}),
        (["--forward-only"], {"gradients": False}),
        (["--rate", "0.5"], {"design": dr.designs.Bernoulli(0.5)}),
    ],
)
def test_options_are_those_of_the_library(
    files: tuple[str, str],
    model: keras.Model,
    data: Labelled,
    elements: dr.Elements,
    options: list[str],
    settings: dict[str, Any],
) -> None:
    assert estimate(files, "--quiet", "--out", "table.parquet", *options) == 0
    expected = as_from_python(model, data, elements, **settings)
    pd.testing.assert_frame_equal(pd.read_parquet("table.parquet"), expected)


def test_masks_of_weights_are_shared_by_as_many_examples_as_in_the_library(
    files: tuple[str, str], model: keras.Model, data: Labelled
) -> None:
    options = ["--elements", "weights", "--include", "second", "--rows", "12800", "--record", "run"]
    assert main(["estimate", files[0], "--data", files[1], "--quiet", *options, "--rate", "0.2"]) == 0
    assert dr.Record.load("run").settings.design == dr.designs.Bernoulli(0.2, examples_per_mask=128).settings()
    assert main(["estimate", files[0], "--data", files[1], "--quiet", *options[:-2]]) == 0
    weights = dr.elements(model, "weights", include=["second"])
    expected = flat.estimate(model, data, weights, outcome="loss", rows=12800, progress=False).to_frame()
    pd.testing.assert_frame_equal(pd.read_csv("impact.csv"), expected)


@pytest.mark.parametrize(
    ("options", "layers"),
    [
        (["--include", "first"], ["first"]),
        (["--include", "second", "first"], ["first", "second"]),
        (["--exclude", "first"], ["second"]),
        (["--include", "first", "second", "--exclude", "second"], ["first"]),
    ],
)
def test_only_chosen_layers(files: tuple[str, str], options: list[str], layers: list[str]) -> None:
    assert estimate(files, "--quiet", *options) == 0
    assert pd.read_csv("impact.csv")["layer"].unique().tolist() == layers


def test_record_and_figure(
    files: tuple[str, str],
    model: keras.Model,
    data: Labelled,
    elements: dr.Elements,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert estimate(files, "--quiet", "--record", "run", "--plot", "impact.png") == 0
    assert "written: impact.csv\nwritten: impact.png\n" in capsys.readouterr().out
    record = dr.Record.load("run")
    assert record.rows == ROWS
    pd.testing.assert_frame_equal(dr.regress(record).to_frame(), as_from_python(model, data, elements))
    height, width, _ = mpimg.imread("impact.png").shape
    assert width > height > 100


def test_stopped_run_is_resumed(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def press_ctrl_c(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(dr.Record, "_write", press_ctrl_c)
        assert estimate(files, "--quiet", "--record", "run") == 130
    assert capsys.readouterr().err == "dropreg: stopped; with --record the same command resumes from here.\n"
    assert not dr.Record.load("run").is_complete
    assert estimate(files, "--quiet", "--record", "run") == 0
    assert estimate(files, "--quiet", "--out", "whole.csv") == 0
    assert Path("impact.csv").read_bytes() == Path("whole.csv").read_bytes()


def test_record_of_another_run_is_refused(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert estimate(files, "--quiet", "--record", "run") == 0
    table = Path("impact.csv").read_bytes()
    assert estimate(files, "--quiet", "--record", "run", "--seed", "1") == 2
    assert capsys.readouterr().err.startswith(
        "dropreg: folder run holds another run: seed is 0 there and 1 here. Choose another folder."
    )
    assert Path("impact.csv").read_bytes() == table


def test_inputs_of_a_model_by_name() -> None:
    left, right = keras.Input((2,), name="left"), keras.Input((3,), name="right")
    hidden = keras.layers.Dense(4, name="hidden")(keras.layers.Concatenate()([left, right]))
    keras.Model([left, right], keras.layers.Dense(3)(hidden)).save("two.keras")
    rng = np.random.default_rng(0)
    np.savez("two.npz", left=rng.normal(size=(20, 2)), right=rng.normal(size=(20, 3)), y=rng.integers(0, 3, 20))
    assert main(["estimate", "two.keras", "--data", "two.npz", "--rows", "200", "--quiet"]) == 0
    assert pd.read_csv("impact.csv")["element"].tolist() == [f"hidden[{i}]" for i in range(4)]


def test_progress_is_shown_on_a_terminal_unless_quiet(
    files: tuple[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert estimate(files) == 0
    assert "600/600" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert estimate(files) == 0
    assert "600/600" in capsys.readouterr().err
    assert estimate(files, "--quiet") == 0
    assert "600/600" not in capsys.readouterr().err


def exit_code(arguments: list[str]) -> object:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--help"], ["estimate", "prune", "demo", "--version", "Which parts of a trained network matter"]),
        (
            ["estimate", "--help"],
            [
                "np.savez(",
                "Example\n",
                "dropreg estimate model.keras --data heldout.npz",
                "positive means that removing it hurts",
                "The model is not changed",
                "four times the rows halve them",
                *("--data", "--include", "--exclude", "--outcome", "--rows", "--rate", "--seed"),
                *("--out", "--record", "--plot", "--quiet", "default: loss", "default: impact.csv"),
            ],
        ),
        (
            ["prune", "--help"],
            [
                "np.savez(",
                "dropreg prune model.keras --data heldout.npz --fraction 0.5 --test test.npz --out small.keras",
                "loads without dropreg",
                *("--fraction", "--params", "--macs", "--bytes", "--latency", "--max-loss", "--test", "--exclude"),
                "--no-distillation",
                "default: small.keras",
            ],
        ),
        (["export", "--help"], ["dropreg export small.keras small.tflite", ".onnx", "--data", "--precision", "int8"]),
        (["demo", "--help"], ["Fashion-MNIST", "impact.csv", "impact.png", "needs no network", "--rows", "--seed"]),
    ],
)
def test_help_explains_commands(arguments: list[str], says: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(arguments) == 0
    text = capsys.readouterr().out
    assert not [part for part in says if part not in text]


def test_example_of_the_help_can_be_run(
    files: tuple[str, str], data: Labelled, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The two lines that the help shows, with fewer rows."""
    exit_code(["estimate", "--help"])
    text = capsys.readouterr().out
    saving = re.search(r"np\.savez\(.*?\)", text)
    command = re.search(r"^  dropreg (estimate .*)$", text, re.MULTILINE)
    assert saving
    assert command
    x, y = data
    eval(saving.group(), {"np": np, "x": x, "y": y})
    (work / "model.keras").write_bytes(Path(files[0]).read_bytes())
    assert main(command.group(1).replace("200000", "2000").split()) == 0
    assert len(pd.read_csv("impact.csv")) == 9


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "required: COMMAND"),
        (["shrink"], "invalid choice: 'shrink'"),
        (["prune", "model.keras", "--data", "x.npz"], "one of the arguments --fraction --params"),
        (
            ["prune", "model.keras", "--data", "x.npz", "--fraction", "0.5", "--macs", "0.5"],
            "not allowed with argument",
        ),
        (["estimate"], "required: MODEL.keras, --data"),
        (["estimate", "model.keras", "--data", "x.npz", "--outcome", "f1"], "invalid choice: 'f1'"),
        (["estimate", "model.keras", "--data", "x.npz", "--rows", "many"], "invalid int value: 'many'"),
        (["estimate", "model.keras", "--data", "x.npz", "--rate", "high"], "invalid float value: 'high'"),
    ],
)
def test_bad_usage_is_refused(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(arguments) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert "usage: dropreg" in printed.err
    assert not printed.out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["--version"]) == 0
    assert capsys.readouterr().out == f"dropreg {dr.__version__}\n"


def test_the_package_is_a_module_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "dropreg", "estimate", "missing.keras", "--data", "missing.npz"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert "dropreg: model file missing.keras: expected a .keras file" in done.stderr
    assert "Traceback" not in done.stderr


def test_demo(work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    read = dr.datasets.fashion_mnist
    monkeypatch.setattr(dr.datasets, "fashion_mnist", lambda part: tuple(values[:2000] for values in read(part)))
    folder = work / "new" / "folder"
    assert main(["demo", "--rows", "3000", "--quiet", "--out", str(folder)]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["impact.csv", "impact.png"]
    table = pd.read_csv(folder / "impact.csv")
    assert len(table) > 100
    assert np.isfinite(table["impact"]).all()
    assert ((table["std_error"] > 0) != table["no_change"]).all()
    text = capsys.readouterr().out
    assert f"Impact on accuracy of {len(table)} elements" in text
    assert "3,000 rows, seed 0" in text
    shown = re.findall(r"(all units kept|largest impact removed|random units removed): (0\.\d{4})", text)
    accuracy = {name: float(value) for name, value in shown}
    assert set(accuracy) == {"all units kept", "largest impact removed", "random units removed"}
    assert accuracy["all units kept"] > 0.85
    assert accuracy["largest impact removed"] < accuracy["random units removed"]
    assert accuracy["random units removed"] <= accuracy["all units kept"] + 0.01
    assert text.endswith(f"written: {folder / 'impact.csv'} and {folder / 'impact.png'}\n")
    assert mpimg.imread(folder / "impact.png").ndim == 3


def test_compress_writes_a_small_file(
    files: tuple[str, str], data: Labelled, work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez("test.npz", x=data[0] + 0.1, y=data[1])
    given = ["compress", *files[:1], "--data", files[1], "--bytes", "4000", "--bits", "4", "--quiet"]
    assert main([*given, "--test", "test.npz", "--out", "few.safetensors"]) == 0
    text = capsys.readouterr().out
    assert "accuracy before" in text
    assert "written: few.safetensors" in text
    assert (work / "few.safetensors").stat().st_size <= 4000
    assert dr.unpack(work / "few.safetensors").count_params() <= 82
    assert main([*given, "--out", "few.keras"]) == 2
    assert "--out must end in .safetensors, received few.keras" in capsys.readouterr().err
