"""Which runs resume one another: those of the same model, data, outcomes and versions, and no others."""

import ctypes
import json
import math
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import flat
import keras
import models
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from conftest import Labelled, says
from keras import layers
from runs import ROWS, assert_same, sample

import dropreg as dr
from dropreg._utils import fingerprint, identify
from dropreg.errors import ParameterError, RecordError

# --- what identifies functions and objects ---------------------------------------------------------------------

FACTOR: Any = 1.0


def helper(values: Any) -> Any:
    return values * FACTOR


def by_helper(labels: Any, outputs: Any) -> Any:
    return helper(outputs)[:, 0]


def by_local_import(labels: Any, outputs: Any) -> Any:
    from own_helpers import scaled  # type: ignore[import-not-found]

    return scaled(outputs)[:, 0]


class Table:
    def __init__(self, values: Any) -> None:
        self.values = values

    def __call__(self, labels: Any, outputs: Any) -> Any:
        return outputs[:, 0] * self.values


def over(table: Any) -> Callable[..., Any]:
    return lambda labels, outputs: outputs[:, 0] * table


def powers(power: int) -> Callable[..., Any]:
    """Two lambdas of one name and one code."""
    return lambda labels, outputs: outputs[:, 0] ** power


@pytest.mark.parametrize(
    ("same", "other"),
    [
        (lambda: powers(2), lambda: powers(3)),
        (lambda: over(np.arange(3.0)), lambda: over(np.arange(3.0) + 1e-9)),
        (lambda: over(tf.constant([1.0, 2.0])), lambda: over(tf.constant([1.0, 3.0]))),
        (lambda: over(pd.Series([1.0, 2.0], ["a", "b"])), lambda: over(pd.Series([1.0, 2.0], ["b", "a"]))),
        (lambda: Table(2.0), lambda: Table(3.0)),
        (lambda: Table(2.0).__call__, lambda: Table(3.0).__call__),
        (lambda: partial(powers(2), labels=1), lambda: partial(powers(2), labels=2)),
        (lambda: tf.function(powers(2)), lambda: tf.function(powers(3))),
        (lambda: keras.metrics.TopKCategoricalAccuracy(3), lambda: keras.metrics.TopKCategoricalAccuracy(4)),
        (lambda: keras.metrics.MeanMetricWrapper(powers(2)), lambda: keras.metrics.MeanMetricWrapper(powers(3))),
        (lambda: math.sqrt, lambda: math.exp),
        (lambda: np.add, lambda: np.multiply),
        (lambda: "a,b".split, lambda: "a b".split),
        (lambda: {"one", "two", "three"}, lambda: {"one", "two", "four"}),
        (dr.outcomes.Loss, dr.outcomes.Margin),
        (lambda: np.random.default_rng(0), lambda: np.random.default_rng(1)),
    ],
)
def test_values_are_identified_by_what_they_hold(same: Callable[[], Any], other: Callable[[], Any]) -> None:
    first, second, third = identify(same()), identify(same()), identify(other())
    assert first.unknown == third.unknown == ()
    assert first.digest == second.digest != third.digest


def test_arrays_inside_keras_models_are_compared() -> None:
    teacher = models.build("mlp")
    before = fingerprint(over(teacher))
    assert fingerprint(over(teacher)) == before
    teacher.set_weights([2.0 * weight for weight in teacher.get_weights()])
    assert fingerprint(over(teacher)) != before


def test_globals_of_helper_functions_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(by_helper)
    assert fingerprint(by_helper) == before
    for name, value in (("FACTOR", 2.0), ("FACTOR", np.ones(3)), ("helper", lambda values: values + FACTOR)):
        with monkeypatch.context() as patch:
            patch.setitem(globals(), name, value)
            assert fingerprint(by_helper) != before, name
    assert fingerprint(by_helper) == before


def test_modules_of_the_users_are_compared_by_what_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = ModuleType("own_helpers")
    by_module = eval("lambda labels, outputs: own_helpers.scaled(outputs)[:, 0]", {"own_helpers": module})
    module.scaled, module.unused = helper, 1
    monkeypatch.setitem(sys.modules, "own_helpers", module)
    for function in (by_module, by_local_import):
        module.scaled, module.unused = helper, 1
        before = identify(function)
        assert before.unknown == ()
        module.unused = 2
        assert identify(function) == before
        module.scaled = abs
        assert identify(function) != before


def test_functions_that_enclose_themselves_are_identified() -> None:
    def chain(n: int) -> Callable[[int], int]:
        def even(k: int) -> int:
            return n if k == 0 else odd(k - 1)

        def odd(k: int) -> int:
            return 0 if k == 0 else even(k - 1)

        return even

    assert fingerprint(chain(1)) == fingerprint(chain(1)) != fingerprint(chain(2))


def test_functions_are_identified_alike_in_every_process() -> None:
    program = """
import test_identity as t
from dropreg._utils import fingerprint
print(*[fingerprint(f) for f in (t.by_helper, t.Table({"a", "b", "c", "d"}), t.powers(2), t.models.build)])
"""
    here = Path(__file__).parents[1]
    path = ":".join(map(str, (here, here / "sampling", here.parent)))
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={"PYTHONPATH": path, "PYTHONHASHSEED": seed, "TF_CPP_MIN_LOG_LEVEL": "3", "PATH": ""},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1
    assert len(set(printed.pop().split())) == 4


class Refusing:
    def __reduce_ex__(self, protocol: Any) -> Any:
        raise ValueError("no")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (over(threading.Lock()), "'table' (_thread.lock)"),
        (over(Refusing()), "'table' (test_identity.Refusing)"),
        (over(ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 1)), "'table' (ctypes."),
        (over(n for n in range(3)), "'table' (builtins.generator)"),
        (over(tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer([1], [2]), 0)), "'table"),
    ],
)
def test_values_that_cannot_be_compared_are_named(value: Any, text: str) -> None:
    assert text in " ".join(identify(value).unknown)


# --- resuming a run --------------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {"rows": 20, "outcomes": "loss"}


def small_model(build: Callable[[int], Any], kind: int) -> keras.Model:
    """The same weights for either kind of the first layer."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((5,)), build(kind), layers.Dense(6, "relu", name="first"), layers.Dense(3, name="out")]
    )


def small_data() -> tuple[np.ndarray, np.ndarray]:
    return np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32), np.arange(20) % 3


class Scaled(layers.Layer):
    def __init__(self, factor: float, **options: Any) -> None:
        super().__init__(**options)
        self.factor = factor
        self.table = np.full(3, factor)

    def call(self, x: Any) -> Any:
        return x * self.factor

    def get_config(self) -> dict[str, Any]:
        raise NotImplementedError


def scaled_class(factor: float) -> type[layers.Layer]:
    class Inner(layers.Layer):
        def call(self, x: Any) -> Any:
            return x * factor

    return Inner


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (
            lambda k: layers.Dense(12, "relu" if k else "sigmoid", name="a"),
            "'a' (Dense) has another configuration there: activation is sigmoid there and relu here",
        ),
        (lambda k: layers.LeakyReLU(0.1 + k, name="a"), "'a' (LeakyReLU)|negative_slope is 0.1 there and 1.1 here"),
        (lambda k: layers.LayerNormalization(epsilon=0.1 + k, name="a"), "'a' (|epsilon is 0.1 there and 1.1 here"),
        (lambda k: layers.Lambda([tf.abs, lambda x: x + 1][k], name="a"), "'a' (Lambda)|function is another there"),
        (
            lambda k: layers.Dense(4, [lambda x: 2 * x, lambda x: x][k], name="a"),
            "'a' (Dense)|activation is another there",
        ),
        (lambda k: Scaled(1.0 + k, name="a"), "'a' (Scaled)|factor is 1.0 there and 2.0 here, table is another there"),
        (lambda k: scaled_class(1.0 + k)(name="a"), "'a' (Inner)|class is another there"),
    ],
)
def test_the_layer_and_what_differs_in_it_are_named(build: Any, text: str, tmp_path: Path) -> None:
    first, again, second = (small_model(build, kind) for kind in (0, 0, 1))
    flat.sample(first, small_data(), dr.elements(first), **SMALL, out=tmp_path)
    assert flat.sample(again, small_data(), dr.elements(again), **SMALL, out=tmp_path).is_complete
    with pytest.raises(RecordError, match=says("holds another run: layer ", *text.split("|"), "another folder")):
        flat.sample(second, small_data(), dr.elements(second), **SMALL, out=tmp_path)


class Subclassed(keras.Model):
    def __init__(self, factor: float) -> None:
        super().__init__(name="model")
        self.first, self.out = layers.Dense(6, name="first"), layers.Dense(3, name="out")
        self.factor = factor

    def call(self, x: Any) -> Any:
        return self.out(self.first(x * self.factor))


def test_attributes_of_a_subclassed_model_are_compared_and_its_training_is_not(tmp_path: Path) -> None:
    def model(factor: float) -> keras.Model:
        keras.utils.set_random_seed(0)
        made = Subclassed(factor)
        made(small_data()[0])
        return made

    first, compiled, second = model(1.0), model(1.0), model(2.0)
    flat.sample(first, small_data(), dr.elements(first), **SMALL, out=tmp_path)
    compiled.compile("sgd", "sparse_categorical_crossentropy")
    compiled.predict(small_data()[0], verbose="0")
    assert flat.sample(compiled, small_data(), dr.elements(compiled), **SMALL, out=tmp_path).is_complete
    with pytest.raises(RecordError, match=says("layer 'model' (Subclassed)", "factor is 1.0 there and 2.0 here")):
        flat.sample(second, small_data(), dr.elements(second), **SMALL, out=tmp_path)


def test_constants_of_operations_are_compared(tmp_path: Path) -> None:
    def model(factor: float) -> keras.Model:
        keras.utils.set_random_seed(0)
        keras.backend.clear_session()
        x: Any = keras.Input((5,))
        return keras.Model(x, layers.Dense(3, name="out")(layers.Dense(6, name="first")(x * factor)))

    first = model(2.0)
    flat.sample(first, small_data(), dr.elements(first), **SMALL, out=tmp_path)
    second = model(3.0)
    with pytest.raises(
        RecordError, match=says("layer 'multiply' (Multiply)", "arguments is [[2.0]] there and [[3.0]]")
    ):
        flat.sample(second, small_data(), dr.elements(second), **SMALL, out=tmp_path)


def test_initializers_and_constraints_do_not_matter(tmp_path: Path) -> None:
    first, second = (small_model(lambda kind: layers.Dense(4, name="a"), 0) for _ in range(2))
    flat.sample(first, small_data(), dr.elements(first), **SMALL, out=tmp_path)
    second.layers[0].kernel_initializer = keras.initializers.Zeros()
    second.layers[0].kernel_constraint = keras.constraints.NonNeg()
    second.trainable = False
    assert flat.sample(second, small_data(), dr.elements(second), **SMALL, out=tmp_path).is_complete


def metric(function: Any, **options: Any) -> dr.outcomes.PerExample:
    return dr.outcomes.PerExample(function, "mine", greater_is_better=True, **options)


class Own(dr.outcomes.Outcome):
    name = "mine"
    greater_is_better = True

    def __init__(self, column: int) -> None:
        self.column = column

    def measure(self, prediction: Any, labels: Any, original: Any) -> Any:
        return prediction.outputs[:, self.column]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (metric(lambda y, p: p[:, 0]), metric(lambda y, p: p[:, 1])),
        (metric(lambda y, p: tf.abs(p[:, 0])), metric(lambda y, p: tf.exp(p[:, 0]))),
        (metric(over(2.0)), metric(over(3.0))),
        (metric(Table(2.0)), metric(Table(3.0))),
        (metric(by_helper), metric(lambda y, p: helper(p)[:, 0] + 0.0)),
        (metric(powers(2), version="1"), metric(powers(2), version="2")),
        (Own(0), Own(1)),
        tuple(keras.losses.CategoricalFocalCrossentropy(gamma=g, from_logits=True, name="mine") for g in (2.0, 3.0)),
    ],
)
def test_another_metric_of_the_same_name_is_refused(first: Any, second: Any, tmp_path: Path) -> None:
    model, data = models.ready("mlp"), models.data_for(models.ready("mlp"), 10)
    flat.sample(model, data, dr.elements(model), rows=10, outcomes=first, out=tmp_path)
    assert flat.sample(model, data, dr.elements(model), rows=10, outcomes=first, out=tmp_path).is_complete
    text = says("holds another run: outcome 'mine' has other code or data there (if it gives", "needs a `version`).")
    with pytest.raises(RecordError, match=text):
        flat.sample(model, data, dr.elements(model), rows=20, outcomes=second, out=tmp_path)


def test_another_helper_of_a_metric_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = models.ready("mlp"), models.data_for(models.ready("mlp"), 10)
    flat.sample(model, data, dr.elements(model), rows=10, outcomes=metric(by_helper), out=tmp_path)
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    with pytest.raises(RecordError, match=says("outcome 'mine' has other code or data there")):
        flat.sample(model, data, dr.elements(model), rows=10, outcomes=metric(by_helper), out=tmp_path)


def test_metrics_that_cannot_be_identified_need_a_version_in_folders_only(tmp_path: Path) -> None:
    model, data = models.ready("mlp"), models.data_for(models.ready("mlp"), 10)
    lock = threading.Lock()

    def locked(labels: Any, outputs: Any) -> Any:
        with lock:
            return outputs[:, 0]

    elements = dr.elements(model)
    assert flat.sample(model, data, elements, rows=10, outcomes=metric(locked)).is_complete
    parts = (
        "outcome 'mine' must be one that can be recognized",
        "(`out`)",
        "'function.lock' (_thread.lock)",
        "version='1'",
    )
    with pytest.raises(ParameterError, match=says(*parts)):
        flat.sample(model, data, elements, rows=10, outcomes=metric(locked), out=tmp_path / "run")
    with pytest.raises(ParameterError, match=says(*parts)):
        flat.estimate(model, data, elements, outcome=metric(locked), out=tmp_path / "run", gradients=False)
    assert not (tmp_path / "run").exists()
    named = metric(locked, version="1")
    assert flat.sample(model, data, elements, rows=10, outcomes=named, out=tmp_path / "run").is_complete


def test_a_design_of_other_code_is_refused(tmp_path: Path) -> None:
    def design(rate: float) -> dr.designs.Design:
        class Mine(dr.designs.Design):
            def draw(self, seed: int, chunk: int, n_masks: int, n_elements: int) -> np.ndarray:
                return np.random.default_rng([seed, chunk]).random((n_masks, n_elements)) > rate

        return Mine(0.5)

    model, data = models.ready("mlp"), models.data_for(models.ready("mlp"), 10)
    elements = dr.elements(model)
    for _ in range(2):
        flat.sample(model, data, elements, rows=10, design=design(0.5), out=tmp_path)
    with pytest.raises(RecordError, match=says("holds another run: design is", "'code': ")):
        flat.sample(model, data, elements, rows=10, design=design(0.6), out=tmp_path)


@pytest.mark.parametrize("wrong", ["", 1, 2.0])
def test_versions_are_strings(wrong: Any) -> None:
    text = says("`version` must be a string such as '1' or None, received ")
    with pytest.raises(ParameterError, match=text):
        metric(powers(2), version=wrong)
    with pytest.raises(ParameterError, match=text):
        dr.outcomes.PerMask(powers(2), "mine", True, version=wrong)
    with pytest.raises(ParameterError, match=text):
        dr.scorers.Scorer(dr.scorers.random, version=wrong)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"task": "regression"}, "task is binary there and regression here"),
        ({"y": lambda y: 1 - y}, "the examples of `data` are others there (labels)"),
        ({"x": lambda x: x + 1}, "the examples of `data` are others there (inputs)"),
        ({"weights": 1.0 + np.arange(20)}, "the examples of `data` are others there (weights)"),
        ({"kinds": ["layers"]}, "other elements were asked for there"),
    ],
)
def test_other_tasks_labels_and_elements_are_named(changes: dict[str, Any], text: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    parts = [keras.Input((5,)), layers.Dense(5, name="a"), layers.Dense(5, name="b"), layers.Dense(1, name="out")]
    model = keras.Sequential(parts)
    x, y = small_data()[0], (np.arange(20) % 2).astype(np.float32)[:, np.newaxis]
    flat.sample(model, (x, y), dr.elements(model), **SMALL, out=tmp_path)
    other: Any = changes.get("x", np.copy)(x), changes.get("y", np.copy)(y)
    other = (*other, changes["weights"]) if "weights" in changes else other
    elements = dr.elements(model, changes.get("kinds", ["neurons"]))
    with pytest.raises(RecordError, match=says("holds another run: ", text)):
        flat.sample(model, other, elements, **SMALL, out=tmp_path, task=changes.get("task"))


def test_other_versions_are_named(
    model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample(model, data, elements, out=tmp_path)
    for package, here in (("keras", version("keras")), ("tensorflow", version("tensorflow"))):
        with monkeypatch.context() as patch:
            patch.setattr(
                "dropreg.network._identity.version", lambda name, new=package: "9.9" if name == new else version(name)
            )
            with pytest.raises(RecordError, match=says(f"holds another run: {package} is {here} there and 9.9 here.")):
                sample(model, data, elements, out=tmp_path)
    monkeypatch.setattr("dropreg.__version__", "9.9")
    with pytest.raises(RecordError, match=says("holds another run: dropreg is ", "there and 9.9 here.")):
        sample(model, data, elements, out=tmp_path)


def test_the_settings_say_when_the_run_began(
    model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path
) -> None:
    first = sample(model, data, elements, rows=200, out=tmp_path)
    written = json.loads((tmp_path / "run.json").read_text())
    assert written["date"] == first.settings.date
    assert abs((pd.Timestamp.now("UTC") - pd.Timestamp(written["date"])).total_seconds()) < 600
    assert {"configuration", "weights", "data", "metrics", "task", "versions", "checksum"} <= written.keys()
    assert {"dropreg", "keras", "tensorflow"} <= written["versions"].keys()
    longer = sample(model, data, elements, rows=300, out=tmp_path)
    assert longer.settings.date == first.settings.date, "a resumed run keeps its date"


# --- chunks in another's place ---------------------------------------------------------------------------------


def swap(folder: Path, other: Path) -> str:
    first, second, aside = (folder / f"chunk-00000{name}.parquet" for name in ("0", "1", "x"))
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
    return "chunk-000000.parquet: expected a file of a record, received chunk-000001.parquet of the same run"


def duplicate(folder: Path, other: Path) -> str:
    shutil.copy(folder / "chunk-000000.parquet", folder / "chunk-000003.parquet")
    return "chunk-000003.parquet: expected a file of a record, received chunk-000000.parquet of the same run"


def foreign(name: str) -> Callable[[Path, Path], str]:
    def replaced(folder: Path, other: Path) -> str:
        shutil.copy(other / name, folder / name)
        return f"{name}: expected a file of a record, received {name} of another run"

    return replaced


def unlabelled(folder: Path, other: Path) -> str:
    path = folder / "chunk-000002.parquet"
    pd.read_parquet(path).to_parquet(path)
    return "chunk-000002.parquet: expected a file of a record, received a file that does not say which run"


@pytest.mark.parametrize(
    "spoil",
    [
        swap,
        duplicate,
        unlabelled,
        *map(foreign, ("chunk-000001.parquet", "elements.parquet", "baseline.parquet")),
        *map(foreign, ("fidelity.parquet", "gradients-000001.parquet", "flips-000001.parquet")),
    ],
)
def test_files_in_anothers_place_are_refused_by_name_and_made_again(spoil: Any, tmp_path: Path) -> None:
    model = models.ready("mlp")
    data, elements = models.data_for(model, 20), dr.elements(model)
    run: dict[str, Any] = {"rows": 500, "outcomes": "loss", "gradients": True, "flips": 2, "batch_size": 8}
    fidelity = dr.designs.Fidelity(3, 5)
    expected = sample(model, data, elements, **run, fidelity=fidelity, out=tmp_path / "run")
    sample(model, data, elements, **run, fidelity=fidelity, seed=1, out=tmp_path / "other")
    text = spoil(tmp_path / "run", tmp_path / "other")
    with pytest.raises(RecordError, match=says(text, "sample into the same folder again to replace it")):
        dr.Record.load(tmp_path / "run")
    assert_same(sample(model, data, elements, **run, fidelity=fidelity, out=tmp_path / "run"), expected)
    again = dr.Record.load(tmp_path / "run")
    assert_same(again, expected)
    np.testing.assert_array_equal(dr.regress(again).impact, dr.regress(expected).impact)


def test_a_reason_to_stop_of_another_run_is_refused(
    model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path
) -> None:
    class Enough(dr.sampling.StopRule):
        def check(self, record: dr.Record) -> str | None:
            return "enough"

    sample(model, data, elements, out=tmp_path / "run")
    sample(model, data, elements, out=tmp_path / "other", seed=1, stop=Enough())
    shutil.copy(tmp_path / "other" / "stop.json", tmp_path / "run")
    with pytest.raises(RecordError, match=says("stop.json: expected why a run", "received that of another run")):
        dr.Record.load(tmp_path / "run")
    assert sample(model, data, elements, out=tmp_path / "run").rows == ROWS
    assert dr.Record.load(tmp_path / "run").rows == ROWS


def test_missing_chunks_are_named(folder: Path) -> None:
    for number in (1, 3):
        (folder / f"chunk-00000{number}.parquet").unlink()
    record = dr.Record.load(folder)
    assert record.missing() == [1, 3]
    assert "444 rows of 700 (chunks 1, 3 missing: sample into the same folder to resume)" in repr(record)


def test_changed_settings_are_refused(
    model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path
) -> None:
    expected = sample(model, data, elements, out=tmp_path)
    path = tmp_path / "run.json"
    text = path.read_text()
    path.write_text(text.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(RecordError, match=says("run.json: expected the settings", "disagree with their checksum")):
        dr.Record.load(tmp_path)
    with pytest.raises(RecordError, match=says("run.json: expected the settings", "chunk-000000", "is not this one")):
        sample(model, data, elements, out=tmp_path, seed=1)
    files = {file.name: file.read_bytes() for file in tmp_path.glob("chunk-*")}
    assert_same(sample(model, data, elements, out=tmp_path), expected)
    assert {file.name: file.read_bytes() for file in tmp_path.glob("chunk-*")} == files, "no chunk is run again"
    assert_same(dr.Record.load(tmp_path), expected)
