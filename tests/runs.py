"""Runs of a small model: how they are sampled, executed and compared."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import nullcontext, suppress
from typing import Any

import flat
import keras
import models
import numpy as np
import pandas as pd

import dropreg as dr

ROWS, BATCH, CHUNK = 700, 8, 128  # five full chunks and a short one
DEFAULTS: dict[str, Any] = {"rows": ROWS, "batch_size": BATCH, "progress": False, "fidelity": None}

Small = tuple[keras.Model, tuple[Any, np.ndarray], dr.Elements]


def sample(model: keras.Model, data: Any, elements: dr.Elements, **changes: Any) -> dr.Record:
    return flat.sample(model, data, elements, **(DEFAULTS | changes))


def small(seed: int = 0) -> Small:
    model = models.ready("mlp", seed)
    return model, models.data_for(model, 20, seed), dr.elements(model)


def rows_of(record: dr.Record) -> dict[str, np.ndarray]:
    """All rows of a record, one array a field."""
    chunks = list(record.chunks())
    fields = ("masks", "examples", "outcomes", "effects")
    rows = {field: np.concatenate([getattr(chunk, field) for chunk in chunks]) for field in fields}
    return rows | {"examples": rows["examples"][:, 0]}


def assert_same(one: dr.Record, other: dr.Record) -> None:
    """Bit for bit."""
    first, second = rows_of(one), rows_of(other)
    for field, values in first.items():
        np.testing.assert_array_equal(values, second[field], err_msg=field)
    pd.testing.assert_frame_equal(one.baseline, other.baseline, check_exact=True)
    pd.testing.assert_frame_equal(one.elements, other.elements)
    assert one.settings == other.settings


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
