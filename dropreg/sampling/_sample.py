"""Running the rows of a design: which chunks, where, and until when."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from .._utils import check_type, positive
from ..data import Data, Examples, Task, check_data
from ..element import Elements, check_elements
from ..errors import ParameterError
from ..network import Outcome, PerMask, check_outcomes, resolve_all
from ._designs import Bernoulli, Design
from ._executors import _run_on
from ._record import Record
from ._runner import ChunkRunner
from ._stop import StopRule
from ._storage import clear_stop, create_record, write_stop
from ._unseen_masks import Fidelity

if TYPE_CHECKING:
    import keras

DEFAULT_FIDELITY = Fidelity()
_EXAMPLES_PER_WEIGHT_MASK = 128


def sample(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    rows: int,
    design: Design | None = None,
    outcomes: Sequence[str | Outcome] | str | Outcome = ("accuracy", "loss", "margin"),
    gradients: Sequence[str] = (),
    task: Task | None = None,
    output: int | str | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    out: str | Path | None = None,
    stop: StopRule | None = None,
    fidelity: Fidelity | None = DEFAULT_FIDELITY,
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
        Whose measured output has shape (batch, ..., n_outputs). It is not changed.
    data : (x, y), tf.data.Dataset, keras.utils.PyDataset or iterable of batches
        Held-out examples, not those that the model was trained on. y holds classes or one-hot rows,
        0 and 1, or numbers, as `task` says; None where no outcome needs labels. Arrays may lie on
        disk (numpy.memmap); what comes in batches is written there first, see `stream`.
    elements : Elements
        From ``dropreg.elements(model)``.
    rows : int
        Masked forward passes of one example, the unit of cost.
    design : Design, optional
        Distribution of the masks, ``Bernoulli(rate=0.3)`` by default, with 128 examples for each mask
        where masks multiply weights.
    outcomes : sequence of str or Outcome
        Measured in one go: "accuracy", "retained" (`RetainedAccuracy`), "loss", "margin", "divergence" (nats), or
        metrics of your own (`PerExample`, `PerMask`).
    gradients : sequence of str
        Outcomes whose gradients with respect to the masks are summed as well, for gradient-assisted
        regression. A backward pass costs as much as two rows.
    task : {"classes", "binary", "multilabel", "regression"}, optional
        What the outputs mean; found from y by default.
    output : int or str, optional
        Which of the model's outputs to measure; needed where there are several and labels do not name one.
    seed : int
        At least 0, below 2**64.
    batch_size : int, optional
        Rows of one forward pass, by default chosen from the size of the activations.
    out : str or Path, optional
        Folder to keep the record in. Without it the record goes with the returned object.
    stop : StopRule, optional
        Ends the run before `rows` once it is precise enough; see `dropreg.regression`.
    fidelity : Fidelity or None
        Unseen masks to judge predictions on, by default 3 x 50 masks on 100 examples each; their
        rows come on top.
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
        If `out` holds another run or cannot be written, or an outcome is not finite; what was
        recorded stays.
    """
    check_elements(elements)
    design = default_design(elements) if design is None else design
    check_type("design", design, Design, "pass dropreg.designs.Bernoulli(rate)")
    if stop is not None:
        check_type("stop", stop, StopRule, "pass dropreg.Precision(outcome, std_error)")
    if fidelity is not None:
        check_type("fidelity", fidelity, Fidelity, "pass dropreg.designs.Fidelity(masks, examples)")
    rows, seed = positive("rows", rows), positive("seed", seed, least=0)
    if seed >= 2**64:
        raise ParameterError(f"`seed` must lie below 2**64, received {seed}.")
    if rows % design.rows_per_group:
        raise ParameterError(
            f"`rows` must be a multiple of {design.rows_per_group} for {design}, received {rows}: pass "
            f"rows={rows + -rows % design.rows_per_group}."
        )
    design.check(len(elements))
    measured = resolve_all(outcomes)
    examples = check_data(model, data, task, output)
    _check_outcomes(measured, tuple(gradients), design, examples)
    runner = ChunkRunner(*(model, elements, examples, design, measured, tuple(gradients), seed, batch_size))
    unseen = None if fidelity is None else runner.run_fidelity(fidelity)
    record = create_record(out, runner.settings(rows), elements, runner.baseline_frame(), design, unseen)
    with tqdm(total=rows, initial=record.rows, unit="rows", unit_scale=True, disable=not progress) as bar:
        _run(record, runner, executor, stop, bar.update)
    return record


def default_design(elements: Elements, rate: float = 0.3) -> Design:
    """Bernoulli masks; a mask for each small batch where masks multiply weights."""
    return Bernoulli(rate, examples_per_mask=_EXAMPLES_PER_WEIGHT_MASK if elements.one_mask_a_batch else 1)


def _check_outcomes(
    outcomes: tuple[Outcome, ...], gradients: tuple[str, ...], design: Design, examples: Examples
) -> None:
    by_name = {outcome.name: outcome for outcome in outcomes}
    check_outcomes(outcomes, examples.labels, examples.task)
    for outcome in outcomes:
        if isinstance(outcome, PerMask) and design.examples_per_mask < 2:
            raise ParameterError(
                f"outcome '{outcome.name}' must have several examples for each mask, received a design with one: pass "
                f"design=Bernoulli(rate, examples_per_mask=100)."
            )
    for name in gradients:
        if name not in by_name:
            raise ParameterError(f"`gradients` must name measured outcomes ({', '.join(by_name)}), received {name!r}.")
        if not by_name[name].differentiable:
            raise ParameterError(f"`gradients` must name outcomes that have one, received {name!r}: leave it out.")


def _run(
    record: Record,
    runner: "ChunkRunner",
    executor: Executor | None,
    stop: StopRule | None,
    progress: Callable[[int], Any],
) -> None:
    """Run what is missing, and ask the stop rule now and then, at chunks that depend on nothing else."""
    n_chunks = record.settings.n_chunks
    clear_stop(record)
    for end in _checkpoints(n_chunks) if stop else [n_chunks]:
        waiting = [chunk for chunk in record.missing() if chunk < end]
        if executor is None:
            for chunk, masks in runner.draw_ahead((chunk, record.settings.masks_in(chunk)) for chunk in waiting):
                record.write(chunk, runner.run(chunk, masks, progress))
        else:
            _run_on(executor, runner, record, waiting, progress)
        if stop and end < n_chunks and (reason := stop.check(record.head(end))):
            write_stop(record, reason, end)
            return


def _checkpoints(n_chunks: int) -> list[int]:
    """1, 2, 3, 5, 8 ... chunks: half as many again each time."""
    points = [1]
    while points[-1] < n_chunks:
        points.append(min(max(points[-1] + 1, points[-1] * 3 // 2), n_chunks))
    return points
