"""Running the rows of a design: masked forward passes, measured and recorded."""

import hashlib
import pickle
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt
from tqdm.auto import tqdm

from .data import Data, Examples, check_data
from .designs import Bernoulli, Design, examples_of_rows
from .elements import Elements, concatenate_names
from .errors import DataError, ParameterError
from .outcomes import Outcome, log_probabilities, resolve_all
from .record import Record, RunSettings, create_record

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

PREFIX_BYTES = 2**30
"""Most memory for values that are computed once an example and reused in every row."""

_BATCH_FLOATS = 2**24
_MOST_BATCH, _LEAST_BATCH, _BATCHES_PER_CHUNK, _MOST_CHUNK = 8192, 32, 16, 16384
_IN_FLIGHT = 8


def sample(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    rows: int,
    design: Design | None = None,
    outcomes: Sequence[str | Outcome] = ("accuracy", "loss", "margin"),
    seed: int = 0,
    batch_size: int | None = None,
    out: str | Path | None = None,
    executor: Executor | None = None,
    progress: bool = True,
) -> Record:
    """Run `model` on random masks, one mask a row, and record the outcomes.

    Rows go through the examples in random order, again and again; every row draws a mask of its
    own. The same seed gives the same record bit for bit, whatever the executor, and a run that was
    stopped goes on when it is called again with the same arguments and folder.

    Parameters
    ----------
    model : keras.Model
        A classifier with outputs of shape (batch, classes). It is not changed.
    data : (x, y)
        Held-out examples, not those that the model was trained on; y holds classes or one-hot rows.
    elements : Elements
        From ``dropreg.elements(model)``.
    rows : int
        Masked forward passes of one example, the unit of cost.
    design : Design, optional
        Distribution of the masks, ``Bernoulli(rate=0.3)`` by default.
    outcomes : sequence of str or Outcome
        Measured in one go: "accuracy", "loss" (nats), "margin" (nats).
    seed : int
        At least 0, below 2**64.
    batch_size : int, optional
        Rows of one forward pass, by default chosen from the size of the activations.
    out : str or Path, optional
        Folder to keep the record in. Without it the record goes with the returned object.
    executor : concurrent.futures.Executor, optional
        Runs the chunks, for example a ProcessPoolExecutor (with the "spawn" method) or Dask's
        ``client.get_executor()``. By default they run here, one after the other.
    progress : bool
        Show a progress bar with rows a second and the time left.

    Returns
    -------
    Record

    Raises
    ------
    ModelError, DataError, ParameterError
        If the arguments do not fit together.
    RecordError
        If `out` holds another run or cannot be written; what was recorded stays.
    """
    design = Bernoulli() if design is None else design
    rows, seed = _positive("rows", rows), _positive("seed", seed, least=0)
    if seed >= 2**64:
        raise ParameterError(f"`seed` must lie below 2**64, received {seed}.")
    design.check(len(elements))
    examples = check_data(model, data)
    runner = ChunkRunner(model, elements, examples, design, resolve_all(outcomes), seed, batch_size)
    record = create_record(out, runner.settings(rows), elements, runner.baseline, design)
    with tqdm(total=rows, initial=record.rows, unit="rows", unit_scale=True, disable=not progress) as bar:
        if executor is None:
            for chunk in record.missing():
                record.write(chunk, runner.run(chunk, record.settings.rows_in(chunk), bar.update))
        else:
            _run_on(executor, runner, record, bar.update)
    return record


def _positive(name: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ParameterError(f"`{name}` must be an integer of at least {least}, received {value!r}.")
    return int(value)


class ChunkRunner:
    """Measures the rows of any chunk; all that it returns follows from its arguments.

    Parameters
    ----------
    model, elements, examples, design, outcomes, seed, batch_size
        As in `sample`, checked.

    Attributes
    ----------
    baseline : ndarray of float32, shape (n_examples, n_outcomes)
        Unmasked outcomes.
    """

    def __init__(
        self,
        model: "keras.Model",
        elements: Elements,
        examples: Examples,
        design: Design,
        outcomes: tuple[Outcome, ...],
        seed: int,
        batch_size: int | None,
    ) -> None:
        import tensorflow as tf

        from .masking import MaskedNetwork

        self._arguments = (model, elements, examples, design, outcomes, seed)
        self.network = MaskedNetwork(model, elements)
        self.batch_size = _batch_size(self.network.floats_per_row()) if batch_size is None else batch_size
        _positive("batch_size", self.batch_size)
        self.chunk_rows = min(_MOST_CHUNK, self.batch_size * _BATCHES_PER_CHUNK)
        self._labels = tf.constant(examples.labels)
        self._cache = self.network.cached_prefix(examples, self.batch_size, PREFIX_BYTES)
        self._step = tf.function(
            self._measure,
            input_signature=[
                [tf.TensorSpec([None, *x.shape[1:]], x.dtype) for x in self._source()],
                tf.TensorSpec([None], tf.int64),
                tf.TensorSpec([None, len(elements)], tf.bool),
            ],
        )
        self.from_logits, self.baseline = self._measure_baseline()

    def __reduce__(self) -> tuple[Any, ...]:
        return ChunkRunner, (*self._arguments, self.batch_size)

    def _source(self) -> Sequence[Any]:
        """What rows are gathered from: cached frontier values, or the inputs themselves."""
        return self._arguments[2].inputs if self._cache is None else self._cache

    def _frontier(self, gathered: "list[tf.Tensor]") -> "list[tf.Tensor]":
        return self.network.prefix(gathered) if self._cache is None else gathered

    def _measure(self, gathered: "list[tf.Tensor]", labels: "tf.Tensor", masks: "tf.Tensor") -> "tf.Tensor":
        import tensorflow as tf

        outputs = self.network.suffix(self._frontier(gathered), tf.cast(masks, tf.float32))
        return self._outcomes_of(outputs, labels)

    def _outcomes_of(self, outputs: "tf.Tensor", labels: "tf.Tensor") -> "tf.Tensor":
        import tensorflow as tf

        scores = log_probabilities(outputs, self.from_logits)
        return tf.stack([outcome.measure(scores, labels) for outcome in self._arguments[4]], axis=1)

    def _measure_baseline(self) -> tuple[bool, npt.NDArray[np.float32]]:
        """Whether outputs are logits, and the outcomes of the whole model."""
        import tensorflow as tf

        model, _, examples, *_ = self._arguments
        forward = tf.function(lambda gathered: self.network.suffix(self._frontier(gathered), None))
        starts = range(0, len(examples), self.batch_size)
        parts = [
            forward([tf.convert_to_tensor(x[start : start + self.batch_size]) for x in self._source()])
            for start in starts
        ]
        outputs = tf.concat(parts, axis=0)
        values = tf.cast(outputs, tf.float32).numpy()
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(bad):
            raise DataError(
                f"model '{model.name}' must give finite outputs, received NaN or infinity for {len(bad)} examples "
                f"(examples {concatenate_names(bad.tolist())}): check its weights and the scale of the inputs."
            )
        self.from_logits = not bool((values >= 0).all() and np.allclose(values.sum(axis=1), 1.0, atol=1e-3))
        return self.from_logits, self._outcomes_of(outputs, self._labels).numpy()

    def settings(self, rows: int) -> RunSettings:
        """What the record of a run of `rows` rows follows from."""
        model, elements, examples, design, outcomes, seed = self._arguments
        weights = hashlib.sha256()
        for array in model.get_weights():
            weights.update(np.ascontiguousarray(array).data)
        weights.update("".join(elements.names).encode())
        return RunSettings(
            rows=rows,
            seed=seed,
            design=design.settings(),
            outcomes=tuple(outcome.name for outcome in outcomes),
            greater_is_better=tuple(outcome.greater_is_better for outcome in outcomes),
            n_elements=len(elements),
            n_examples=len(examples),
            chunk_rows=self.chunk_rows,
            batch_size=self.batch_size,
            from_logits=self.from_logits,
            model=elements.signature,
            weights=weights.hexdigest()[:16],
            data=examples.fingerprint(),
        )

    def run(
        self, chunk: int, n_rows: int, progress: Callable[[int], Any] = lambda rows: None
    ) -> npt.NDArray[np.float32]:
        """Outcomes of the first `n_rows` rows of a chunk, shape (n_rows, n_outcomes)."""
        import tensorflow as tf

        _, elements, examples, design, _, seed = self._arguments
        masks = design.draw(seed, chunk, n_rows, len(elements))
        order = examples_of_rows(seed, chunk * self.chunk_rows, n_rows, len(examples))
        source, parts = self._source(), []
        for start in range(0, n_rows, self.batch_size):
            batch = order[start : start + self.batch_size]
            gathered = [tf.gather(x, batch) if self._cache is not None else tf.constant(x[batch]) for x in source]
            labels = tf.constant(examples.labels[batch])
            parts.append(self._step(gathered, labels, tf.constant(masks[start : start + len(batch)])).numpy())
            progress(len(batch))
        return np.concatenate(parts)


def _batch_size(floats_per_row: int) -> int:
    """A power of two whose activations take some tens of megabytes."""
    fitting = 2 ** int(np.log2(max(_BATCH_FLOATS // max(floats_per_row, 1), 1)))
    return int(np.clip(fitting, _LEAST_BATCH, _MOST_BATCH))


_RUNNERS: dict[str, ChunkRunner] = {}
"""Runners of this process by token: a worker unpickles each once."""


def _run_chunk(token: str, path: str, chunk: int, n_rows: int) -> npt.NDArray[np.float32]:
    """Run one chunk in a worker, which may be a thread of this process or another process."""
    if token not in _RUNNERS:
        _RUNNERS.clear()
        _RUNNERS[token] = pickle.loads(Path(path).read_bytes())
    return _RUNNERS[token].run(chunk, n_rows)


def _run_on(executor: Executor, runner: ChunkRunner, record: Record, progress: Callable[[int], Any]) -> None:
    """Run the missing chunks on `executor`, a few at a time, and write them as they finish."""
    token, folder = uuid4().hex, Path(tempfile.mkdtemp(prefix="dropreg-job-"))
    path = folder / "runner.pickle"
    path.write_bytes(pickle.dumps(runner))
    _RUNNERS[token] = runner
    waiting = iter(record.missing())
    running: dict[Future[npt.NDArray[np.float32]], int] = {}
    try:
        while True:
            for chunk in waiting:
                n_rows = record.settings.rows_in(chunk)
                running[executor.submit(_run_chunk, token, str(path), chunk, n_rows)] = chunk
                if len(running) >= _IN_FLIGHT:
                    break
            if not running:
                break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                chunk = running.pop(future)
                outcomes = future.result()
                record.write(chunk, outcomes)
                progress(len(outcomes))
    finally:
        for future in running:
            future.cancel()
        _RUNNERS.pop(token, None)
        shutil.rmtree(folder, ignore_errors=True)
