"""Laws of the record: its contents depend on its settings alone, not on how it was executed."""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import pytest
from conftest import Labelled
from runs import CHUNK, EXECUTORS, ROWS, Reordering, assert_same, rows_of, sample

import dropreg as dr

# --- the same seed gives the same record -----------------------------------------------------------------------


@pytest.mark.parametrize("name", EXECUTORS)
def test_any_executor_gives_the_same_record(
    model: keras.Model, data: Labelled, elements: dr.Elements, record: dr.Record, tmp_path: Path, name: str
) -> None:
    with EXECUTORS[name]() as executor:
        again = sample(model, data, elements, executor=executor, out=tmp_path)
    assert_same(again, record)
    assert_same(dr.Record.load(tmp_path), record)
    if isinstance(executor, Reordering):
        assert sorted(map(id, executor.finished)) == sorted(map(id, executor.submitted))
        assert executor.finished != executor.submitted, "chunks must have finished in another order"


def test_processes_give_the_same_record(
    model: keras.Model, data: Labelled, elements: dr.Elements, record: dr.Record
) -> None:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        assert_same(sample(model, data, elements, executor=executor), record)


@pytest.mark.parametrize("seed", [1, 2**32, 2**64 - 1])
def test_another_seed_gives_another_record(
    model: keras.Model, data: Labelled, elements: dr.Elements, record: dr.Record, seed: int
) -> None:
    first, second = rows_of(record), rows_of(sample(model, data, elements, seed=seed))
    agreeing = (first["masks"] == second["masks"]).mean()
    assert agreeing == pytest.approx(0.7**2 + 0.3**2, abs=0.04), "as for independent masks"
    assert (first["examples"] == second["examples"]).mean() < 0.2
    assert not np.array_equal(first["outcomes"], second["outcomes"])


def test_an_error_in_a_worker_reaches_the_caller(model: keras.Model, data: Labelled, elements: dr.Elements) -> None:
    class Broken(ThreadPoolExecutor):
        def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
            return super().submit(lambda: 1 / 0)

    with Broken(1) as executor, pytest.raises(ZeroDivisionError):
        sample(model, data, elements, executor=executor)


# --- what a record holds ---------------------------------------------------------------------------------------


def test_stored_masks_equal_redrawn_ones(finished: Path, record: dr.Record) -> None:
    assert_same(dr.Record.load(finished), record)


def test_stored_record_moves_with_its_folder(folder: Path, record: dr.Record) -> None:
    assert_same(dr.Record.load(str(folder.rename(folder.with_name("elsewhere")))), record)


@pytest.mark.parametrize("rows", [1, CHUNK, CHUNK + 1])
def test_rows_recorded_are_the_rows_asked(model: keras.Model, data: Labelled, elements: dr.Elements, rows: int) -> None:
    record = sample(model, data, elements, rows=rows)
    assert record.rows == record.settings.rows == rows
    assert record.is_complete
    assert len(record.to_frame()) == rows
    assert rows_of(record)["masks"].shape == (rows, len(elements))


def test_frame(record: dr.Record, data: Labelled, elements: dr.Elements) -> None:
    frame, rows = record.to_frame(), rows_of(record)
    assert list(frame) == ["example", *elements.names, "accuracy", "loss", "margin"]
    assert all(frame[name].dtype == np.bool_ for name in elements.names)
    np.testing.assert_array_equal(frame[list(elements.names)], rows["masks"])
    np.testing.assert_array_equal(frame["example"], rows["examples"])
    np.testing.assert_array_equal(frame[["accuracy", "loss", "margin"]], rows["outcomes"])
    assert set(frame["accuracy"]) == {0.0, 1.0}
    assert (frame["loss"] >= 0).all()
    np.testing.assert_array_equal(frame["margin"] > 0, frame["accuracy"] == 1)


def test_true_means_kept(
    make_model: Callable[[], keras.Model], data: Labelled, record: dr.Record, elements: dr.Elements
) -> None:
    """Rows that agree with a model whose False units read and write nothing."""
    rows = rows_of(record)
    for row in range(5):
        model = make_model()
        for name, kept in zip(elements.names, rows["masks"][row], strict=True):
            layer, _, index = name.rstrip("]").partition("[")
            reader = model.get_layer({"first": "second", "second": "out"}[layer])
            kernel, bias = reader.get_weights()
            kernel[int(index)] *= kept
            reader.set_weights([kernel, bias])
        example = rows["examples"][row]
        logits = np.asarray(model(data[0][[example]]), dtype=np.float64)[0]
        loss = np.log(np.exp(logits).sum()) - logits[data[1][example]]
        assert rows["outcomes"][row, 1] == pytest.approx(loss, rel=1e-4, abs=1e-5)


def test_effects_are_relative_to_the_original_model(
    model: keras.Model, data: Labelled, elements: dr.Elements, record: dr.Record
) -> None:
    logits = np.asarray(model(data[0]), dtype=np.float64)
    own = logits[np.arange(len(logits)), data[1]]
    whole = np.log(np.exp(logits).sum(axis=1)) - own
    np.testing.assert_allclose(record.baseline["loss"], whole, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(record.baseline["accuracy"], logits.argmax(axis=1) == data[1])
    rows = rows_of(record)
    expected = rows["outcomes"] - record.baseline.to_numpy()[rows["examples"]]
    np.testing.assert_allclose(rows["effects"], expected, atol=1e-6)  # differences are stored in float32


def test_elements_are_dropped_at_the_rate_of_the_design(
    model: keras.Model, data: Labelled, elements: dr.Elements
) -> None:
    rates = tuple(np.linspace(0.1, 0.9, len(elements)))
    masks = rows_of(sample(model, data, elements, rows=4000, design=dr.designs.Bernoulli(rates), batch_size=64))[
        "masks"
    ]
    np.testing.assert_allclose(1 - masks.mean(axis=0), rates, atol=6 * np.sqrt(0.25 / 4000))


@pytest.mark.parametrize("rows", [20, 30, 61, ROWS])
def test_every_example_is_used_equally_often(record: dr.Record, data: Labelled, rows: int) -> None:
    counts = np.bincount(rows_of(record)["examples"][:rows], minlength=len(data[1]))
    assert counts.max() - counts.min() <= 1


# --- what a run costs ------------------------------------------------------------------------------------------


class Counted(dr.outcomes.Outcome):
    """Always 1; counts the rows that it is measured for."""

    name = "counted"
    greater_is_better = True
    rows: ClassVar[list[int]] = []

    def measure(self, *arguments: Any, **_: Any) -> Any:
        import tensorflow as tf

        def count(labels: np.ndarray) -> np.ndarray:
            self.rows.append(len(labels))
            return np.ones(len(labels), np.float32)

        labels = arguments[1]
        return tf.ensure_shape(tf.numpy_function(count, [labels], tf.float32), labels.shape)


@pytest.fixture
def counted() -> Iterator[Counted]:
    Counted.rows.clear()
    yield Counted()
    Counted.rows.clear()


@pytest.mark.parametrize(("name", "rows"), [(name, 250) for name in EXECUTORS] + [("none", 1)])
def test_rows_spent_are_the_rows_asked(
    model: keras.Model, data: Labelled, elements: dr.Elements, counted: Counted, name: str, rows: int
) -> None:
    with EXECUTORS[name]() as executor:
        sample(model, data, elements, rows=rows, outcomes=[counted], executor=executor)
    assert sum(counted.rows) == len(data[1]) + rows, "once without a mask for each example, then the rows"


def test_resuming_runs_only_missing_chunks(
    model: keras.Model, data: Labelled, elements: dr.Elements, counted: Counted, tmp_path: Path
) -> None:
    sample(model, data, elements, outcomes=[counted], out=tmp_path)
    sorted(tmp_path.glob("chunk-*"))[2].unlink()
    counted.rows.clear()
    sample(model, data, elements, outcomes=[counted], out=tmp_path)
    assert sum(counted.rows) == len(data[1]) + CHUNK
    counted.rows.clear()
    sample(model, data, elements, outcomes=[counted], out=tmp_path)
    assert sum(counted.rows) == len(data[1]), "a complete record is not run again"
