"""Run chunks on an executor."""

import pickle
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

from ._chunks import ChunkResult
from ._record import Record
from ._runner import ChunkRunner

_IN_FLIGHT = 8
_RUNNERS: dict[str, ChunkRunner] = {}
"""Runners of this process by token, so that a worker unpickles each runner once."""


def _run_chunk(token: str, path: str, chunk: int, n_masks: int) -> ChunkResult:
    """Run one chunk in a worker: a thread of this process, or another process."""
    if token not in _RUNNERS:
        _RUNNERS.clear()
        _RUNNERS[token] = pickle.loads(Path(path).read_bytes())
    runner = _RUNNERS[token]
    return runner.run(chunk, runner.draw(chunk, n_masks))


def run_on(
    executor: Executor, runner: ChunkRunner, record: Record, chunks: Sequence[int], progress: Callable[[int], Any]
) -> None:
    """Run `chunks` on `executor`, a few at a time, and write each to the record when it is done."""
    token, folder = uuid4().hex, Path(tempfile.mkdtemp(prefix="dropreg-job-"))
    path = folder / "runner.pickle"
    path.write_bytes(pickle.dumps(runner))
    _RUNNERS[token] = runner
    waiting = iter(chunks)
    running: dict[Future[ChunkResult], int] = {}
    try:
        while True:
            for chunk in islice(waiting, _IN_FLIGHT - len(running)):
                n_masks = record.settings.masks_in(chunk)
                running[executor.submit(_run_chunk, token, str(path), chunk, n_masks)] = chunk
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                chunk = running.pop(future)
                record._write(chunk, future.result())
                progress(record.settings.rows_in(chunk))
    finally:
        for future in running:
            future.cancel()
        _RUNNERS.pop(token, None)
        shutil.rmtree(folder, ignore_errors=True)
