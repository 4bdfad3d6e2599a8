"""Laws of the record: what it holds follows from its settings alone, however it came about."""

import gc
import multiprocessing
import os
import queue
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, ClassVar

import keras
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dropreg as dr
from dropreg.designs import examples_of_rows, random_words

Labelled = tuple[np.ndarray, np.ndarray]
ROWS, BATCH, CHUNK = 700, 8, 128  # five whole chunks and a short one
OTHER_BATCH = 1e-6
"""Relative rounding of float32 where a forward pass has another number of rows."""


def sample(model: keras.Model, data: Any, elements: dr.Elements, **changes: Any) -> dr.Record:
    return dr.sample(model, data, elements, **({"rows": ROWS, "batch_size": BATCH, "progress": False} | changes))


@pytest.fixture(scope="module")
def record(model: keras.Model, data: Labelled, elements: dr.Elements) -> dr.Record:
    """What every other way to run it must give."""
    return sample(model, data, elements)


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, model: keras.Model, data: Labelled, elements: dr.Elements
) -> Path:
    """Folder of the same run; not to be changed."""
    folder = tmp_path_factory.mktemp("finished")
    sample(model, data, elements, out=folder)
    return folder


@pytest.fixture
def folder(tmp_path: Path, finished: Path) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def rows_of(record: dr.Record) -> dict[str, np.ndarray]:
    """All rows of a record, one array a field."""
    chunks = list(record.chunks())
    fields = ("masks", "examples", "outcomes", "effects")
    return {field: np.concatenate([getattr(chunk, field) for chunk in chunks]) for field in fields}


def assert_same(one: dr.Record, other: dr.Record) -> None:
    """Bit for bit."""
    first, second = rows_of(one), rows_of(other)
    for field, values in first.items():
        np.testing.assert_array_equal(values, second[field], err_msg=field)
    pd.testing.assert_frame_equal(one.baseline, other.baseline, check_exact=True)
    pd.testing.assert_frame_equal(one.elements, other.elements)
    assert one.settings == other.settings


# --- the same seed gives the same record -----------------------------------------------------------------------


class Reordering(Executor):
    """Collects what is submitted at about the same time and runs it in another order."""

    def __init__(self, reorder: Callable[[list[Any]], list[Any]]) -> None:
        self.submitted: list[Future[Any]] = []
        self.finished: list[Future[Any]] = []
        self._reorder = reorder
        self._tasks: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        self.submitted.append(future)
        self._tasks.put((future, lambda: fn(*args, **kwargs)))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._tasks.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (first := self._tasks.get()) is not None:
            together = [first]
            with suppress(queue.Empty):
                while (another := self._tasks.get(timeout=0.1)) is not None:
                    together.append(another)
            for future, task in self._reorder(together):
                self.finished.append(future)
                if future.set_running_or_notify_cancel():
                    try:
                        future.set_result(task())
                    except Exception as error:
                        future.set_exception(error)


class Immediate(Executor):
    """Has finished when `submit` returns, so that several chunks are found finished at once."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def shuffled(tasks: list[Any]) -> list[Any]:
    return [tasks[i] for i in np.random.default_rng(3).permutation(len(tasks))]


EXECUTORS: dict[str, Callable[[], Any]] = {
    "none": nullcontext,
    "one thread": lambda: ThreadPoolExecutor(1),
    "three threads": lambda: ThreadPoolExecutor(3),
    "immediate": Immediate,
    "reversed": lambda: Reordering(lambda tasks: tasks[::-1]),
    "shuffled": lambda: Reordering(shuffled),
}


@pytest.mark.parametrize("name", EXECUTORS)
def test_any_executor_gives_the_same_record(
    model: keras.Model, data: Labelled, elements: dr.Elements, record: dr.Record, tmp_path: Path, name: str
) -> None:
    with EXECUTORS[name]() as executor:
        again = sample(model, data, elements, executor=executor, out=tmp_path)
    assert_same(again, record)
    assert_same(dr.load_record(tmp_path), record)
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


# --- stopping and going on -------------------------------------------------------------------------------------


class KilledError(BaseException):
    """Stands for the end of the process."""


@contextmanager
def killed_after(n_chunks: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The block ends in the middle of writing one chunk more than `n_chunks`."""
    write, left = pq.write_table, [n_chunks]

    def write_or_die(table: Any, where: Any, *args: Any, **options: Any) -> None:
        if "chunk" in str(where):
            if left[0] == 0:
                Path(where).write_bytes(b"PAR1 and no more")
                raise KilledError
            left[0] -= 1
        write(table, where, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(pq, "write_table", write_or_die)
        with pytest.raises(KilledError):
            yield


@pytest.mark.parametrize("stops", [[5], [2, 0, 1]])
@pytest.mark.parametrize("name", ["none", "three threads"])
def test_a_run_that_was_killed_goes_on(
    model: keras.Model,
    data: Labelled,
    elements: dr.Elements,
    record: dr.Record,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    stops: list[int],
) -> None:
    for n_chunks in stops:
        with killed_after(n_chunks, monkeypatch), EXECUTORS[name]() as executor:
            sample(model, data, elements, out=tmp_path, executor=executor)
    stopped = dr.load_record(tmp_path)
    assert not stopped.is_complete
    assert CHUNK * sum(stops) - CHUNK < stopped.rows <= CHUNK * sum(stops), "what was recorded stays"
    assert "(stopped: sample into the same folder to go on)" in repr(stopped)
    with EXECUTORS[name]() as executor:
        assert_same(sample(model, data, elements, out=tmp_path, executor=executor), record)
    assert_same(dr.load_record(tmp_path), record)


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


@pytest.mark.parametrize(
    ("lose", "numbers"), [(Path.unlink, [0]), (damaged, [1, 4]), (lambda path: path.write_bytes(b""), [5])]
)
def test_lost_chunks_are_run_again(
    model: keras.Model,
    data: Labelled,
    elements: dr.Elements,
    record: dr.Record,
    folder: Path,
    lose: Callable[[Path], object],
    numbers: list[int],
) -> None:
    files = sorted(folder.glob("chunk-*"))
    assert len(files) == 6
    for number in numbers:
        lose(files[number])
    rest = dr.load_record(folder)
    kept = np.repeat([number not in numbers for number in range(6)], CHUNK)[:ROWS]
    assert rest.rows == kept.sum()
    np.testing.assert_array_equal(rows_of(rest)["outcomes"], rows_of(record)["outcomes"][kept])
    assert_same(sample(model, data, elements, out=folder), record)


def test_a_stopped_run_can_be_regressed(
    model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with killed_after(2, monkeypatch):
        sample(model, data, elements, out=tmp_path)
    table = dr.regress(dr.load_record(tmp_path))
    assert table.rows == 2 * CHUNK
    shorter = sample(model, data, elements, rows=2 * CHUNK)
    np.testing.assert_array_equal(table.impact, dr.regress(shorter).impact)


@pytest.mark.parametrize("earlier", [1, 300, 3 * CHUNK])
def test_a_longer_run_keeps_the_earlier_rows(
    model: keras.Model, data: Labelled, elements: dr.Elements, record: dr.Record, tmp_path: Path, earlier: int
) -> None:
    short = rows_of(sample(model, data, elements, rows=earlier, out=tmp_path))
    longer = sample(model, data, elements, out=tmp_path)
    assert_same(longer, record)
    long = rows_of(longer)
    whole = earlier // CHUNK * CHUNK
    for field, values in short.items():
        np.testing.assert_array_equal(long[field][:whole], values[:whole], err_msg=field)
        np.testing.assert_allclose(long[field][:earlier], values, rtol=OTHER_BATCH, atol=OTHER_BATCH, err_msg=field)
    np.testing.assert_array_equal(long["masks"][:earlier], short["masks"])
    np.testing.assert_array_equal(long["examples"][:earlier], short["examples"])


def test_a_longer_run_does_not_touch_whole_chunks(
    model: keras.Model, data: Labelled, elements: dr.Elements, folder: Path
) -> None:
    whole = sorted(folder.glob("chunk-*"))[:5]
    before = [path.stat().st_mtime_ns for path in whole]
    longer = sample(model, data, elements, rows=ROWS + 2 * CHUNK, out=folder)
    assert longer.rows == ROWS + 2 * CHUNK
    assert [path.stat().st_mtime_ns for path in whole] == before


@pytest.mark.parametrize(("owner", "write"), [(Path, "write_text"), (pd.DataFrame, "to_parquet")])
def test_a_longer_run_that_ends_at_once_leaves_a_record(
    model: keras.Model,
    data: Labelled,
    elements: dr.Elements,
    record: dr.Record,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    owner: type,
    write: str,
) -> None:
    def write_or_die(*arguments: Any, **options: Any) -> None:
        path = next(argument for argument in arguments if isinstance(argument, Path))
        path.write_bytes(b"half")
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(owner, write, write_or_die)
        with pytest.raises(KilledError):
            sample(model, data, elements, rows=ROWS + 1, out=folder)
    left, before = rows_of(dr.load_record(folder)), rows_of(record)
    assert len(left["outcomes"]) >= ROWS // CHUNK * CHUNK
    for field, values in left.items():
        np.testing.assert_array_equal(values, before[field][: len(values)], err_msg=field)
    assert sample(model, data, elements, rows=ROWS + 1, out=folder).is_complete


# --- what a record holds ---------------------------------------------------------------------------------------


def test_stored_masks_are_those_drawn_again(finished: Path, record: dr.Record) -> None:
    assert_same(dr.load_record(finished), record)


def test_stored_record_moves_with_its_folder(folder: Path, record: dr.Record) -> None:
    assert_same(dr.load_record(str(folder.rename(folder.with_name("elsewhere")))), record)


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


def test_effects_are_relative_to_the_whole_model(
    model: keras.Model, data: Labelled, elements: dr.Elements, record: dr.Record
) -> None:
    logits = np.asarray(model(data[0]), dtype=np.float64)
    own = logits[np.arange(len(logits)), data[1]]
    whole = np.log(np.exp(logits).sum(axis=1)) - own
    np.testing.assert_allclose(record.baseline["loss"], whole, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(record.baseline["accuracy"], logits.argmax(axis=1) == data[1])
    rows = rows_of(record)
    expected = rows["outcomes"] - record.baseline.to_numpy()[rows["examples"]]
    np.testing.assert_array_equal(rows["effects"], expected)


def test_elements_are_dropped_at_the_rate_of_the_design(
    model: keras.Model, data: Labelled, elements: dr.Elements
) -> None:
    rates = tuple(np.linspace(0.1, 0.9, len(elements)))
    masks = rows_of(sample(model, data, elements, rows=4000, design=dr.Bernoulli(rates), batch_size=64))["masks"]
    np.testing.assert_allclose(1 - masks.mean(axis=0), rates, atol=6 * np.sqrt(0.25 / 4000))


@pytest.mark.parametrize("rows", [20, 30, 61, ROWS])
def test_every_example_is_used_equally_often(record: dr.Record, data: Labelled, rows: int) -> None:
    counts = np.bincount(rows_of(record)["examples"][:rows], minlength=len(data[1]))
    assert counts.max() - counts.min() <= 1


# --- what a run costs ------------------------------------------------------------------------------------------


class Counted(dr.Outcome):
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


def test_going_on_spends_only_what_is_missing(
    model: keras.Model, data: Labelled, elements: dr.Elements, counted: Counted, tmp_path: Path
) -> None:
    sample(model, data, elements, outcomes=[counted], out=tmp_path)
    sorted(tmp_path.glob("chunk-*"))[2].unlink()
    counted.rows.clear()
    sample(model, data, elements, outcomes=[counted], out=tmp_path)
    assert sum(counted.rows) == len(data[1]) + CHUNK
    counted.rows.clear()
    sample(model, data, elements, outcomes=[counted], out=tmp_path)
    assert sum(counted.rows) == len(data[1]), "a whole record is not run again"


# --- temporary folders -----------------------------------------------------------------------------------------


def test_temporary_record_goes_with_its_object(model: keras.Model, data: Labelled, elements: dr.Elements) -> None:
    record = sample(model, data, elements, rows=20)
    folder = record.folder
    assert any(folder.iterdir())
    del record
    gc.collect()
    assert not folder.exists()


def test_stored_record_outlives_its_object(
    model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path
) -> None:
    record = sample(model, data, elements, rows=20, out=tmp_path)
    del record
    gc.collect()
    assert dr.load_record(tmp_path).rows == 20


@pytest.mark.parametrize("name", ["none", "three threads"])
def test_nothing_else_is_left_behind(
    model: keras.Model,
    data: Labelled,
    elements: dr.Elements,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr("tempfile.tempdir", os.fspath(place))
    with EXECUTORS[name]() as executor:
        sample(model, data, elements, rows=200, out=tmp_path / "run", executor=executor)
        with killed_after(1, monkeypatch):
            sample(model, data, elements, rows=ROWS, out=tmp_path / "other", executor=executor)
        with killed_after(1, monkeypatch):
            sample(model, data, elements, rows=ROWS, executor=executor)
    gc.collect()
    assert not list(place.iterdir())


# --- the draws -------------------------------------------------------------------------------------------------

seeds = st.integers(0, 2**64 - 1)
chunk_numbers = st.integers(0, 2**40)
small = st.integers(1, 40)
rates = st.floats(0.02, 0.98)


@given(seeds, chunk_numbers, st.integers(0, 3), st.integers(0, 200), st.integers(0, 200))
def test_words_are_a_prefix_of_more_words(seed: int, chunk: int, stream: int, count: int, more: int) -> None:
    words = random_words(seed, chunk, stream, count)
    assert words.dtype == np.uint32
    assert len(words) == count
    np.testing.assert_array_equal(words, random_words(seed, chunk, stream, count + more)[:count])


@given(
    st.lists(st.tuples(st.sampled_from([0, 1, 2**63]), st.integers(0, 5), st.integers(0, 1)), min_size=2, unique=True)
)
def test_words_differ_by_seed_chunk_and_stream_whatever_the_order(keys: list[tuple[int, int, int]]) -> None:
    drawn = {key: random_words(*key, 100).tolist() for key in keys}
    assert len({tuple(words) for words in drawn.values()}) == len(keys)
    for key in reversed(keys):
        assert random_words(*key, 100).tolist() == drawn[key]


@pytest.mark.parametrize(("seed", "chunk", "stream"), [(0, 0, 0), (7, 0, 1), (2**64 - 1, 3, 0)])
def test_words_are_uniform(seed: int, chunk: int, stream: int) -> None:
    words = random_words(seed, chunk, stream, 2**16)
    bits = np.unpackbits(words.view(np.uint8)).reshape(len(words), 32)
    np.testing.assert_allclose(bits.mean(axis=0), 0.5, atol=5 * 0.5 / np.sqrt(len(words)))
    correlations = np.corrcoef(bits.T) - np.eye(32)
    assert np.abs(correlations).max() < 6 / np.sqrt(len(words))


def test_words_stay_what_they_are() -> None:
    """Records of earlier versions are read by drawing their masks again."""
    assert random_words(0, 0, 0, 3).tolist() == [149215387, 49592932, 2628306354]
    assert random_words(1, 2, 1, 3).tolist() == [2592942375, 2470896546, 1156975250]


@given(seeds, st.integers(0, 500), st.integers(0, 200), small)
def test_rows_use_examples_equally_often(seed: int, first: int, count: int, n_examples: int) -> None:
    examples = examples_of_rows(seed, 0, first + count, n_examples)
    counts = np.bincount(examples, minlength=n_examples)
    assert len(counts) == n_examples
    assert counts.max() - counts.min() <= 1
    np.testing.assert_array_equal(examples_of_rows(seed, first, count, n_examples), examples[first:])


@given(seeds, small)
def test_every_epoch_is_a_permutation(seed: int, n_examples: int) -> None:
    epochs = examples_of_rows(seed, 0, 4 * n_examples, n_examples).reshape(4, n_examples)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.arange(n_examples)[None].repeat(4, axis=0))


@given(seeds)
def test_every_epoch_has_an_order_of_its_own(seed: int) -> None:
    epochs = examples_of_rows(seed, 0, 400, 100).reshape(4, 100)
    assert len({tuple(order) for order in epochs.tolist()}) == 4
    assert not np.array_equal(epochs[0], np.arange(100))
    assert not np.array_equal(epochs[0], examples_of_rows(seed ^ 1, 0, 100, 100))


def test_order_of_examples_does_not_favour_a_place() -> None:
    """Over many seeds every example is equally often first, and last."""
    orders = np.array([examples_of_rows(seed, 0, 5, 5) for seed in range(5000)])
    for place in (0, 4):
        np.testing.assert_allclose(np.bincount(orders[:, place]) / 5000, 0.2, atol=6 * np.sqrt(0.16 / 5000))


@given(seeds, chunk_numbers, rates)
def test_one_rate_is_realized(seed: int, chunk: int, rate: float) -> None:
    masks = dr.Bernoulli(rate).draw(seed, chunk, 500, 20)
    assert masks.dtype == np.bool_
    assert masks.shape == (500, 20)
    assert 1 - masks.mean() == pytest.approx(rate, abs=7 * np.sqrt(rate * (1 - rate) / masks.size))


@given(seeds, st.lists(rates, min_size=1, max_size=10))
def test_rates_of_ones_own_are_realized(seed: int, rate: list[float]) -> None:
    design = dr.Bernoulli(tuple(rate))
    masks = design.draw(seed, 0, 4000, len(rate))
    expected = np.array(rate)
    assert (np.abs(1 - masks.mean(axis=0) - expected) <= 7 * np.sqrt(expected * (1 - expected) / 4000)).all()
    np.testing.assert_allclose(design.keep_probabilities(len(rate)), 1 - expected)


@pytest.mark.parametrize("rate", [1e-12, 2**-33, 1 - 2**-33, 1 - 1e-12, np.nextafter(1, 0)])
def test_extreme_rates_do_not_wrap(rate: float) -> None:
    assert (dr.Bernoulli(rate).draw(0, 0, 100, 10) == (rate < 0.5)).all()


@given(seeds, chunk_numbers, rates, st.integers(0, 60), st.integers(0, 60), small)
def test_fewer_rows_are_a_prefix_of_more(
    seed: int, chunk: int, rate: float, rows: int, more: int, n_elements: int
) -> None:
    design = dr.Bernoulli(rate)
    np.testing.assert_array_equal(
        design.draw(seed, chunk, rows, n_elements), design.draw(seed, chunk, rows + more, n_elements)[:rows]
    )


@given(seeds, st.lists(st.integers(0, 10**6), min_size=2, max_size=6, unique=True))
def test_chunks_differ_whatever_the_order_of_calls(seed: int, numbers: list[int]) -> None:
    design = dr.Bernoulli(0.5)
    drawn = {number: design.draw(seed, number, 20, 8) for number in numbers}
    assert len({masks.tobytes() for masks in drawn.values()}) == len(numbers)
    for number in reversed(numbers):
        np.testing.assert_array_equal(design.draw(seed, number, 20, 8), drawn[number])


def test_elements_and_rows_are_independent() -> None:
    masks = dr.Bernoulli(0.3).draw(5, 0, 20_000, 12)
    between_elements = np.corrcoef(masks.T) - np.eye(12)
    assert np.abs(between_elements).max() < 6 / np.sqrt(20_000)
    between_rows = np.corrcoef(masks[:-1].ravel(), masks[1:].ravel())[0, 1]
    assert abs(between_rows) < 6 / np.sqrt(masks.size)


@given(rates, rates)
def test_a_larger_rate_drops_what_a_smaller_one_drops(one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert (dr.Bernoulli(low).draw(0, 0, 50, 8) >= dr.Bernoulli(high).draw(0, 0, 50, 8)).all()
