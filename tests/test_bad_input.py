"""What cannot be used is refused with a text that says what was expected, what was received and what to do."""

import errno
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from keras import layers

import dropreg as dr
from dropreg.cli import load_model_file, main

Labelled = tuple[np.ndarray, np.ndarray]
BATCH = 8  # rows of a forward pass, so that 128 rows make a chunk


def state_of(model: keras.Model) -> list[np.ndarray]:
    """Weights and, where the model has an input to feed, outputs."""
    state = [np.array(weight) for weight in model.get_weights()]
    if inputs := getattr(model, "inputs", None):
        probes = [np.linspace(-1, 1, 2 * int(np.prod(t.shape[1:]))).reshape(2, *t.shape[1:]) for t in inputs]
        state.append(np.asarray(model(probes[0] if len(probes) == 1 else probes)))
    return state


@contextmanager
def refused(error: type[dr.DropregError], *says: str, model: keras.Model | None = None) -> Iterator[None]:
    """The block raises `error`, its text contains every one of `says` in turn, and `model` stays as it was."""
    before = [] if model is None else state_of(model)
    with pytest.raises(error, match=r".*".join(re.escape(part) for part in says)):
        yield
    after = [] if model is None else state_of(model)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


def sample(model: keras.Model, data: Any, elements: dr.Elements, **changes: Any) -> dr.Record:
    return dr.sample(model, data, elements, **({"rows": 300, "batch_size": BATCH, "progress": False} | changes))


@pytest.fixture(scope="module")
def record(model: keras.Model, data: Labelled, elements: dr.Elements) -> dr.Record:
    return sample(model, data, elements)


# --- models ----------------------------------------------------------------------------------------------------


class Subclassed(keras.Model):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.hidden, self.out = layers.Dense(4), layers.Dense(3)

    def call(self, inputs: Any) -> Any:
        return self.out(self.hidden(inputs))


class FunctionalWithCall(keras.Model):
    """Has a graph, but runs other code than the graph."""

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        return -super().call(inputs)


def not_built() -> keras.Model:
    return keras.Sequential([layers.Dense(4), layers.Dense(3)], name="lazy")


def subclassed() -> keras.Model:
    model = Subclassed(name="ours")
    model(np.zeros((1, 4)))
    return model


def functional_with_call() -> keras.Model:
    inputs = keras.Input((4,))
    return FunctionalWithCall(inputs, layers.Dense(3)(layers.Dense(4)(inputs)), name="ours")


def no_hidden_layer() -> keras.Model:
    return keras.Sequential([keras.Input((4,)), layers.Dense(3, name="out")], name="linear")


SUBCLASSED = (
    "model 'ours' (",
    ") is a subclassed model: its graph lies in Python code and cannot be walked. ",
    "Sequential and Functional models work; rebuild it as keras.Model(inputs, outputs)",
)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (
            not_built,
            ("model 'lazy' is not built", "call model.build(input_shape), or begin it with keras.Input(shape)"),
        ),
        (subclassed, SUBCLASSED),
        (functional_with_call, SUBCLASSED),
        (
            no_hidden_layer,
            ("'linear' has none of neurons that can be dropped ('out': ", "expected at least one hidden Dense"),
        ),
    ],
)
def test_model_without_elements(build: Callable[[], keras.Model], says: tuple[str, ...]) -> None:
    model = build()
    with refused(dr.ModelError, *says, model=model):
        dr.elements(model)


@pytest.mark.parametrize("thing", ["model.keras", None, layers.Dense(3)])
def test_not_a_keras_model(thing: Any) -> None:
    kind = type(thing).__name__
    with refused(
        dr.ModelError, f"`model` must be a keras.Model, received {kind}: load a saved one with keras.saving.load_model"
    ):
        dr.elements(thing)


@pytest.mark.parametrize(
    ("choice", "says"),
    [
        ({"include": ["frist"]}, ("`include` names 'frist'", "some of first, second, out.", "Did you mean 'first'?")),
        ({"exclude": ["secnod"]}, ("`exclude` names 'secnod'", "some of first, second, out", "mean 'second'?")),
        ({"include": ["features"]}, ("`include` names 'features', which is no layer with units",)),
        (
            {"include": ["out", "first"]},
            ("`include` names 'out', whose units cannot be dropped: the model's output needs it. Leave it out.",),
        ),
        ({"include": "first"}, ("`include` must be a list of layer names, received the string 'first'",)),
        ({"exclude": "first"}, ("`exclude` must be a list of layer names, received the string 'first'",)),
        ({"kind": "synapses"}, ("`kind` must be one of neurons", "received 'synapses'")),
    ],
)
def test_layers_that_cannot_be_chosen(model: keras.Model, choice: dict[str, Any], says: tuple[str, ...]) -> None:
    with refused(dr.ParameterError, *says, model=model):
        dr.elements(model, **choice)


def test_elements_of_another_model(model: keras.Model, data: Labelled) -> None:
    other = keras.Sequential([keras.Input((4,)), layers.Dense(5, name="first"), layers.Dense(3, name="out")])
    with refused(
        dr.ModelError,
        "`elements` were found in another model than 'small', or it has changed since: ",
        "call dropreg.elements(model) again",
        model=model,
    ):
        sample(model, data, dr.elements(other))


def test_model_whose_outputs_are_not_finite(make_model: Callable[[], keras.Model], data: Labelled) -> None:
    model = make_model()
    weights = model.get_weights()
    weights[-1][0] = np.nan
    model.set_weights(weights)
    with refused(
        dr.DataError,
        "model 'small' must give finite outputs, received NaN or infinity for 30 examples (examples 0, 1, 2, 3, 4 and ",
        "25 more): check its weights and the scale of the inputs",
        model=model,
    ):
        sample(model, data, dr.elements(model))


# --- examples and labels ---------------------------------------------------------------------------------------


def with_value(array: np.ndarray, value: float, *examples: int) -> np.ndarray:
    changed = array.astype(np.float64)
    changed[list(examples)] = value
    return changed


NOT_FINITE = ("input 'features' must be finite, received NaN or infinity in ", "(the first is example 3)", "remove")

BAD_EXAMPLES: dict[str, tuple[Callable[[np.ndarray], Any], tuple[str, ...]]] = {
    "wrong shape": (lambda x: x[:, :3], ("'features' must have shape (any, 4), received (30, 3).",)),
    "extra axis": (lambda x: x[..., None], ("'features' must have shape (any, 4), received (30, 4, 1).",)),
    "one example": (lambda x: x[0], ("'features' must have shape (any, 4), received (4,).",)),
    "strings": (lambda x: x.astype(str), ("'features' must be numbers (float32), received dtype <U",)),
    "objects": (lambda x: x.astype(object), ("'features' must be numbers (float32), received dtype object",)),
    "complex": (lambda x: x.astype(complex), ("'features' must be numbers (float32), received dtype complex",)),
    "nan": (lambda x: with_value(x, np.nan, 3, 7), NOT_FINITE),
    "infinity": (lambda x: with_value(x, np.inf, 3), NOT_FINITE),
    "minus infinity": (lambda x: with_value(x, -np.inf, 3), NOT_FINITE),
    "beyond float32": (lambda x: with_value(x, 1e300, 3), NOT_FINITE),
    "input of another name": (lambda x: {"pixels": x}, ("`x` must have the inputs features, received pixels.",)),
}


@pytest.mark.parametrize("case", BAD_EXAMPLES)
def test_bad_examples(model: keras.Model, data: Labelled, elements: dr.Elements, case: str) -> None:
    change, says = BAD_EXAMPLES[case]
    x, y = data
    with refused(dr.DataError, *says, model=model):
        sample(model, (change(x), y), elements)


def test_missing_channel_axis() -> None:
    model = keras.Sequential(
        [keras.Input((5, 6, 1), name="image"), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(3)]
    )
    with refused(
        dr.DataError,
        "input 'image' must have shape (any, 5, 6, 1), received (4, 5, 6). Add the channel axis: x[..., np.newaxis].",
        model=model,
    ):
        sample(model, (np.zeros((4, 5, 6)), np.zeros(4, int)), dr.elements(model))


def test_nan_where_the_model_takes_integers() -> None:
    hidden = layers.Flatten()(layers.Embedding(5, 2)(inputs := keras.Input((3,), dtype="int32", name="words")))
    model = keras.Model(inputs, layers.Dense(3)(layers.Dense(4)(hidden)))
    words = with_value(np.ones((4, 3)), np.nan, 2)
    with refused(dr.DataError, "input 'words' must be finite, received NaN or infinity in 1 examples (the first is"):
        sample(model, (words, np.zeros(4, int)), dr.elements(model))


BAD_LABELS: dict[str, tuple[Callable[[np.ndarray], Any], tuple[str, ...]]] = {
    "counted from 1": (
        lambda y: np.where(np.arange(30) == 4, 3, 0),
        ("`y` must be classes 0 to 2, received 3 at example 4 (1 such labels): renumber the classes from 0",),
    ),
    "negative": (lambda y: np.where(y == y[0], -1, y), ("`y` must be classes 0 to 2, received -1 at example 0",)),
    "too few": (lambda y: y[:-1], ("`y` must have one label for each of 30 examples, received 29 labels.",)),
    "a single one": (lambda y: 1, ("`y` must have one label for each of 30 examples, received a single value.",)),
    "not integers": (lambda y: y + 0.5, ("`y` must be classes 0 to 2, received ", "at example 0 (30 such labels)")),
    "nan": (lambda y: with_value(y, np.nan, 5), ("`y` must be classes 0 to 2, received nan at example 5",)),
    "names": (lambda y: y.astype(str), ("`y` must be integer classes or one-hot rows, received dtype <U",)),
    "too wide": (lambda y: np.zeros((30, 2)), ("`y` must have shape (30,) or (30, 3), received (30, 2).",)),
}


@pytest.mark.parametrize("case", BAD_LABELS)
def test_bad_labels(model: keras.Model, data: Labelled, elements: dr.Elements, case: str) -> None:
    change, says = BAD_LABELS[case]
    x, y = data
    with refused(dr.DataError, *says, model=model):
        sample(model, (x, change(y)), elements)


def test_no_examples(model: keras.Model, data: Labelled, elements: dr.Elements) -> None:
    x, y = data
    with refused(dr.DataError, "`data` must hold at least one example, received none.", model=model):
        sample(model, (x[:0], y[:0]), elements)


def test_data_is_no_pair(model: keras.Model, data: Labelled, elements: dr.Elements) -> None:
    with refused(dr.DataError, "`data` must be a pair (x, y), received ndarray: pass (x, y).", model=model):
        sample(model, data[0], elements)


def test_model_that_is_no_classifier(data: Labelled) -> None:
    model = keras.Sequential(
        [keras.Input((4,), name="features"), layers.Dense(5), layers.Dense(6), layers.Reshape((2, 3))]
    )
    says = "the model's output must have shape (batch, n_outputs), received 1 outputs, the first of shape (None, 2, 3)"
    with refused(dr.DataError, says, model=model):
        sample(model, data, dr.elements(model))


def test_inputs_of_different_lengths() -> None:
    left, right = keras.Input((2,), name="left"), keras.Input((2,), name="right")
    hidden = layers.Dense(3)(layers.Concatenate()([left, right]))
    model = keras.Model([left, right], layers.Dense(3)(hidden))
    elements, y = dr.elements(model), np.zeros(4, int)
    with refused(dr.DataError, "the same number of examples, received 4 for 'left' and 3 for 'right'", model=model):
        sample(model, ([np.zeros((4, 2)), np.zeros((3, 2))], y), elements)
    with refused(dr.DataError, "`x` must hold 2 arrays (left, right), received one: pass a list or a dict"):
        sample(model, (np.zeros((4, 2)), y), elements)
    with refused(dr.DataError, "`x` must hold 2 arrays (left, right), received 3."):
        sample(model, ([np.zeros((4, 2))] * 3, y), elements)


# --- parameters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0, 1, 1.2, -0.1, np.nan, np.inf])
def test_rate_outside_the_unit_interval(rate: float) -> None:
    with refused(dr.ParameterError, f"`rate` must lie strictly between 0 and 1, received {rate:g}."):
        dr.Bernoulli(rate)
    with refused(dr.ParameterError, f"`rate` must lie strictly between 0 and 1, received {rate:g}."):
        dr.Bernoulli((0.5, rate, 0.5))


def test_number_of_rates(model: keras.Model, data: Labelled, elements: dr.Elements) -> None:
    says = "`rate` must be a number or one for each of 9 elements, received 2."
    with refused(dr.ParameterError, says, model=model):
        sample(model, data, elements, design=dr.Bernoulli((0.1, 0.2)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rows": 0}, "`rows` must be an integer of at least 1, received 0."),
        ({"rows": -5}, "`rows` must be an integer of at least 1, received -5."),
        ({"rows": 1e4}, "`rows` must be an integer of at least 1, received 10000.0."),
        ({"rows": True}, "`rows` must be an integer of at least 1, received True."),
        ({"rows": "300"}, "`rows` must be an integer of at least 1, received '300'."),
        ({"seed": -1}, "`seed` must be an integer of at least 0, received -1."),
        ({"seed": 0.5}, "`seed` must be an integer of at least 0, received 0.5."),
        ({"seed": 2**64}, "`seed` must lie below 2**64, received 18446744073709551616."),
        ({"batch_size": 0}, "`batch_size` must be an integer of at least 1, received 0."),
        ({"outcomes": ["f1"]}, "`outcome` must be one of accuracy, loss, margin, divergence, received 'f1'."),
        ({"outcomes": []}, "`outcomes` must be one or more different outcomes, received []."),
        ({"outcomes": ["loss", "loss"]}, "one or more different outcomes, received ['loss', 'loss']."),
    ],
)
def test_bad_arguments_of_sample(
    model: keras.Model, data: Labelled, elements: dr.Elements, changes: dict[str, Any], says: str
) -> None:
    with refused(dr.ParameterError, says, model=model):
        sample(model, data, elements, **changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rows": 0}, "`rows` must be an integer of at least 1, received 0."),
        ({"rows": 300.0}, "`rows` must be an integer of at least 1, received 300.0."),
        ({"rows": True}, "`rows` must be an integer of at least 1, received True."),
        ({"outcome": "f1"}, "`outcome` must be one of accuracy, loss, margin, divergence, received 'f1'."),
        (
            {"rows": 10, "gradients": False},
            "10 rows cannot identify 9 elements by OLS: draw at least 90, or sample and pass ",
        ),
    ],
)
def test_bad_arguments_of_estimate(
    model: keras.Model, data: Labelled, elements: dr.Elements, changes: dict[str, Any], says: str
) -> None:
    with refused(dr.ParameterError, says, model=model):
        dr.estimate(model, data, elements, progress=False, **changes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"outcome": "f1"}, "one of the record's (accuracy, loss, margin), received 'f1': sample again with outcomes="),
        (
            {"estimator": "forest"},
            "`estimator` must be one of auto, assisted, gradient, ols, ridge, lasso, marginal or ",
        ),
        ({"covariance": "HC3"}, "`covariance` must be one of HC1, cluster, nonrobust, received 'HC3'."),
        ({"penalty": 1.0}, "`penalty` goes with estimator='ridge' or 'lasso', received 1.0 with 'auto'."),
        ({"penalty": -1.0, "estimator": "ridge"}, "`penalty` must be positive, 'evidence' or 'cv', received "),
        ({"penalty": np.nan, "estimator": "ridge"}, "`penalty` must be positive, 'evidence' or 'cv', received "),
        *[
            ({"level": level}, f"`level` must lie strictly between 0 and 1, received {level}.")
            for level in (0, 1, -0.5, 95, np.nan)
        ],
    ],
)
def test_bad_arguments_of_regress(record: dr.Record, changes: dict[str, Any], says: str) -> None:
    with refused(dr.ParameterError, says):
        dr.regress(record, **changes)


@pytest.mark.parametrize("rows", [2, 8, 10])
def test_fewer_rows_than_ols_needs(
    model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path, rows: int
) -> None:
    short = sample(model, data, elements, rows=rows, out=tmp_path / "run")
    says = f"{rows} rows cannot identify 9 elements by OLS: draw at least 90, or pass estimator='ridge'."
    with refused(dr.ParameterError, says, model=model):
        dr.regress(short)
    assert np.isfinite(dr.regress(short, estimator="ridge", penalty=1.0).impact).all(), "the remedy must work"


def test_element_that_is_dropped_in_every_row(model: keras.Model, data: Labelled, elements: dr.Elements) -> None:
    constant = sample(model, data, elements, design=dr.Bernoulli((1 - 2**-32, *[0.3] * 8)))
    with refused(dr.ParameterError, "received 1 that never change (first[0]): draw more rows, or pass estimator="):
        dr.regress(constant)


@pytest.mark.parametrize("n", [0, -3])
def test_top_of_no_elements(record: dr.Record, n: int) -> None:
    with refused(dr.ParameterError, f"`n` must be at least 1, received {n}."):
        dr.regress(record).top(n)


# --- records ---------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 8}, ("seed is 0 there and 8 here",)),
        ({"design": dr.Bernoulli(0.4)}, ("design is", "'rate': 0.3", "there and", "'rate': 0.4", "here")),
        ({"outcomes": ["loss"]}, ("outcomes is ('accuracy', 'loss', 'margin') there and ('loss',) here",)),
        ({"seed": 8, "batch_size": 4}, ("seed is 0 there and 8 here;", "batch_size is 8 there and 4 here")),
    ],
)
def test_folder_with_another_run(
    model: keras.Model,
    data: Labelled,
    elements: dr.Elements,
    tmp_path: Path,
    changes: dict[str, Any],
    says: tuple[str, ...],
) -> None:
    sample(model, data, elements, out=tmp_path)
    before = contents(tmp_path)
    expected = (f"folder {tmp_path} holds another run: ", *says, "Choose another folder.")
    with refused(dr.RecordError, *expected, model=model):
        sample(model, data, elements, out=tmp_path, **changes)
    assert contents(tmp_path) == before


def test_folder_with_a_run_on_other_data(
    model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path
) -> None:
    sample(model, data, elements, out=tmp_path)
    with refused(dr.RecordError, "holds another run: data is ", " there and ", model=model):
        sample(model, (data[0] + 1, data[1]), elements, out=tmp_path)


def test_folder_with_a_run_of_other_weights(
    make_model: Callable[[], keras.Model], data: Labelled, elements: dr.Elements, tmp_path: Path
) -> None:
    model = make_model()
    sample(model, data, elements, out=tmp_path)
    model.set_weights([weight * 1.1 for weight in model.get_weights()])
    with refused(dr.RecordError, "holds another run: weights is ", " there and ", model=model):
        sample(model, data, elements, out=tmp_path)


def test_folder_with_other_files(model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    says = f"folder {tmp_path}: expected an empty or new folder, received one with other files."
    with refused(dr.RecordError, says, model=model):
        sample(model, data, elements, out=tmp_path)
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}


def test_folder_that_is_a_file(model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with refused(dr.RecordError, f"folder {tmp_path / 'file'}: expected an empty or new folder", model=model):
        sample(model, data, elements, out=tmp_path / "file")
    with refused(dr.RecordError, f"folder {tmp_path / 'file' / 'run'}: cannot be made", "choose another", model=model):
        sample(model, data, elements, out=tmp_path / "file" / "run")


def test_record_with_more_rows_than_asked(
    model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path
) -> None:
    sample(model, data, elements, out=tmp_path)
    says = f"folder {tmp_path} holds a run of 300 rows, received rows=200: open it with dropreg.load_record"
    with refused(dr.RecordError, says, model=model):
        sample(model, data, elements, out=tmp_path, rows=200)
    assert dr.load_record(tmp_path).rows == 300


def test_folder_without_a_record(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        says = f"folder {folder}: expected a record with run.json, received none: check the path."
        with refused(dr.RecordError, says):
            dr.load_record(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"outcomes": [], "greater_is_better": []}'])
def test_damaged_settings_of_a_record(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with refused(dr.RecordError, f"{tmp_path / 'run.json'}: expected the settings of a run, received "):
        dr.load_record(tmp_path)


@pytest.mark.parametrize("name", ["elements.parquet", "baseline.parquet"])
def test_record_that_lacks_a_table(
    model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path, name: str
) -> None:
    sample(model, data, elements, out=tmp_path)
    (tmp_path / name).unlink()
    with refused(dr.RecordError, name, "sample into the same folder again"):
        dr.load_record(tmp_path)
    sample(model, data, elements, out=tmp_path)
    assert dr.load_record(tmp_path).is_complete, "the remedy must work"


# --- a full disk -----------------------------------------------------------------------------------------------


@contextmanager
def disk_full_after(n_files: int, name: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Only `n_files` more Parquet files whose name contains `name` fit on the disk; the next leaves half a file."""
    written = []

    def failing(write: Callable[..., Any]) -> Callable[..., Any]:
        def write_or_fail(content: Any, where: Any, *args: Any, **options: Any) -> None:
            if name in str(where):
                written.append(where)
                if len(written) > n_files:
                    Path(where).write_bytes(b"PAR1 and no more")
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(where))
            write(content, where, *args, **options)

        return write_or_fail

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", failing(pq.write_table))
        patch.setattr(pd.DataFrame, "to_parquet", failing(pd.DataFrame.to_parquet))
        yield


def assert_same_rows(one: dr.Record, other: dr.Record) -> None:
    assert one.rows == other.rows
    for a, b in zip(one.chunks(), other.chunks(), strict=True):
        for field in ("masks", "examples", "outcomes", "effects"):
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


def test_full_disk(
    model: keras.Model,
    data: Labelled,
    elements: dr.Elements,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "run"
    with (
        disk_full_after(2, "chunk", monkeypatch),
        refused(
            dr.RecordError,
            f"the disk is full at {folder}: 256 rows are recorded there and stay. Free some space and sample into the ",
            "same folder again: the run goes on where it stopped.",
            model=model,
        ),
    ):
        sample(model, data, elements, rows=600, out=folder)

    stopped = dr.load_record(folder)
    assert stopped.rows == 256
    assert not stopped.is_complete
    assert not list(folder.glob(".*")), "no half file is left behind"

    whole = sample(model, data, elements, rows=600)
    assert_same_rows(sample(model, data, elements, rows=600, out=folder), whole)
    assert_same_rows(dr.load_record(folder), whole)


@pytest.mark.parametrize("name", ["elements", "baseline"])
def test_full_disk_before_the_first_row(
    model: keras.Model,
    data: Labelled,
    elements: dr.Elements,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    folder = tmp_path / "run"
    with (
        disk_full_after(0, name, monkeypatch),
        refused(dr.RecordError, "the disk is full", "sample into the same folder again", model=model),
    ):
        sample(model, data, elements, out=folder)
    assert sample(model, data, elements, out=folder).is_complete, "the remedy must work"


def test_folder_that_cannot_be_written(
    model: keras.Model,
    data: Labelled,
    elements: dr.Elements,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(table: Any, where: Any, *args: Any, **options: Any) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(where))

    monkeypatch.setattr(pq, "write_table", refuse)
    with refused(dr.RecordError, "cannot be written (", "Permission denied", "choose another folder.", model=model):
        sample(model, data, elements, out=tmp_path)


# --- files on the command line ---------------------------------------------------------------------------------


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
    """The command line ends with code 2 and a text on stderr that contains every one of `says` in turn."""
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
    with refused(dr.ModelError, says):
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
        f"model file {path}: expected a model saved by Keras 3, received one that does not load (",
        "): save it again with model.save('model.keras').",
    )
    with refused(dr.ModelError, *says):
        load_model_file(path)
    assert_refused(capsys, [path, "--data", data_file], *says)


def test_model_file_with_a_layer_of_ones_own(tmp_path: Path) -> None:
    class Own(layers.Dense):
        pass

    keras.Sequential([keras.Input((4,)), Own(3), layers.Dense(3)]).save(tmp_path / "own.keras")
    with refused(dr.ModelError, "does not load (", "with layers of your own loads in Python, where they are reg"):
        load_model_file(tmp_path / "own.keras")


def test_file_that_holds_no_model(tmp_path: Path, model_file: Path) -> None:
    layer = keras.saving.serialize_keras_object(layers.Dense(3))
    rezipped(model_file, tmp_path / "layer.keras", "config.json", json.dumps(layer).encode())
    with refused(dr.ModelError, f"model file {tmp_path / 'layer.keras'}: expected a ", "received"):
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


@pytest.mark.parametrize(
    ("save", "says"),
    [
        (lambda path: None, ("expected an .npz file, received no such file",)),
        *[
            (save, ("expected an .npz archive of arrays, received ",))
            for save in (Path.touch, save_text, save_single_array, save_objects, save_cut_off)
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


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--rate", "1.2"], "`rate` must lie strictly between 0 and 1, received 1.2."),
        (["--rows", "0"], "`rows` must be an integer of at least 1, received 0."),
        (["--rows", "10", "--forward-only"], "10 rows cannot identify 9 elements by OLS"),
        (["--seed", "-1"], "`seed` must be an integer of at least 0, received -1."),
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
