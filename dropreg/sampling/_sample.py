"""Sample random masks: the function `sample`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from .._utils import check_identified, check_seed, check_type, hidden, positive
from ..data import Data, Task
from ..element import Elements, check_elements
from ..errors import ParameterError
from ..network import Outcome, OutcomeLike, PerMask, ask, resolve_all
from ._designs import Bernoulli, Design
from ._executors import run_on
from ._options import Sampling
from ._record import Record
from ._runner import ChunkRunner
from ._storage import clear_stop, create_record, write_stop

if TYPE_CHECKING:
    import keras

_EXAMPLES_PER_WEIGHT_MASK = 128


def sample(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    rows: int,
    outcomes: OutcomeLike | Sequence[OutcomeLike] = "loss",
    sampling: Sampling | None = None,
    by: Any = None,
    task: Task | None = None,
    output: int | str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool | None = None,
) -> Record:
    """Run a model under random masks, by default one for each row, and record the outcomes.

    A row is one example under one mask. Elements that are weights share a mask among 128 examples, and a design can
    say how many. Masks take the examples in random order, each once before any is used again. The same seed gives
    the same record bit for bit, whatever the executor. A run that was stopped resumes when `sample` is called again
    with the same arguments and folder.

    Parameters
    ----------
    model : keras.Model
        Its measured output has shape (batch, ..., n_outputs). The model is not changed.
    data : (x, y), tf.data.Dataset, keras.utils.PyDataset or iterable of batches
        Held-out examples, not those that the model was trained on. y holds classes or one-hot rows, 0 and 1, or
        numbers, depending on `task`; None if no outcome needs labels. With weights (x, y, w), as in Keras, the outcome
        of a row is multiplied by the weight of its example divided by the mean weight, so that means over rows
        estimate weighted means; examples of weight 0 are left out, and not numbered. Arrays may lie on disk
        (numpy.memmap); batches are first written to disk, see `dropreg.datasets.stream`.
    elements : Elements
        From ``dropreg.elements(model)``.
    rows : int
        Masked forward passes of one example, the unit of cost; with a stop rule the largest number. A multiple of the
        examples that share a mask, and of two for `Paired`.
    outcomes : str, Outcome, loss or metric of Keras, or sequence of them
        Outcomes to measure in the same forward passes: "loss", "accuracy", "retained" (`RetainedAccuracy`), "margin",
        "divergence" (nats), losses and metrics of Keras, or metrics of your own (`PerExample`, `PerMask`).
    sampling : Sampling, optional
        The design of the masks, gradients, fidelity masks, a stop rule, the batch size, an executor.
    by : "class" or array of shape (n_examples,), optional
        Divides the examples into slices, two to 1,000 of at least two examples each: "class" by their labels, or one
        value for each example, such as a column of a table. `regress` then estimates the impacts for each slice.
    task : {"classes", "binary", "multilabel", "regression"}, optional
        Meaning of the outputs; inferred from y by default.
    output : int or str, optional
        The model's output to measure; required if there are several and the labels do not name one.
    seed : int
        At least 0, below 2**64.
    out : str or Path, optional
        Folder of the record. By default the record is kept in a temporary folder, which is deleted with the object.
        Only the same model, elements, data, outcomes, options and versions resume a run there; whatever differs is
        named.
    progress : bool, optional
        Whether to show a progress bar; by default on a terminal only.

    Returns
    -------
    Record

    Raises
    ------
    ModelError, DataError, ParameterError
        If the arguments do not fit together, or `out` is given and an outcome of your own cannot be recognized by its
        code and data: give it a `version`.
    RecordError
        If `out` holds another run or cannot be written, or an outcome is not finite; rows recorded before are kept.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> record = dr.sample(model, dr.datasets.fashion_mnist("test"), dr.elements(model), rows=2_000)
    >>> record.rows, len(record.elements)
    (2000, 400)
    """
    check_elements(elements)
    options = Sampling() if sampling is None else sampling
    check_type("sampling", options, Sampling, "pass dropreg.Sampling(design=...)")
    design = default_design(elements) if options.design is None else options.design
    rows, seed = positive("rows", rows), check_seed(seed)
    if rows % design.rows_per_group:
        raise ParameterError(
            f"`rows` must be a multiple of {design.rows_per_group} for {design}, received {rows}: pass "
            f"rows={rows + -rows % design.rows_per_group}."
        )
    design.check(len(elements))
    measured = resolve_all(outcomes)
    if out is not None:
        check_identified("`design`", design)
        for outcome in measured:
            check_identified(f"outcome '{outcome.name}'", outcome)
    gradients = _with_gradients(measured, options.gradients)
    for outcome in measured:
        if isinstance(outcome, PerMask) and design.examples_per_mask < 2:
            raise ParameterError(
                f"outcome '{outcome.name}' must have several examples for each mask, received a design with one: pass "
                "sampling=dropreg.Sampling(design=dropreg.designs.Bernoulli(rate, examples_per_mask=100))."
            )
    question = ask(model, data, elements, outcome=measured, task=task, output=output, seed=seed)
    if by is not None:
        if design.examples_per_mask > 1:
            raise ParameterError(
                f"`by` must be None where a mask serves several examples, received {design.examples_per_mask} for each "
                "mask: pass a design with one."
            )
        question = replace(question, examples=question.examples.sliced(by))
    has_flips = design.masks_per_group == 1 and (design.examples_per_mask == 1 or elements.one_mask_a_batch)
    runner = ChunkRunner(question, design, gradients, options.batch_size, options.flips if has_flips else 0)
    settings = runner.settings(rows)
    if options.stop is not None:
        options.stop.validate(settings)
    unseen = None if options.fidelity is None else runner.run_fidelity(options.fidelity)
    codes = None if question.examples.slices is None else question.examples.slices.codes
    record = create_record(out, settings, elements, runner.baseline_frame(), design, unseen, codes)
    with tqdm(total=rows, initial=record.rows, unit="rows", unit_scale=True, disable=hidden(progress)) as bar:
        _run(record, runner, options, bar.update)
    return record


def default_design(elements: Elements, rate: float | None = None) -> Design:
    """Return Bernoulli masks: one for each row, or for each 128 examples if the elements are weights.

    The rate is 0.5 for elements with a replacement, which do little harm alone, else 0.3.
    """
    if rate is None:
        rate = 0.3 if elements.replacement is None else 0.5
    return Bernoulli(rate, examples_per_mask=_EXAMPLES_PER_WEIGHT_MASK if elements.one_mask_a_batch else 1)


def _with_gradients(outcomes: tuple[Outcome, ...], asked: bool | Sequence[str]) -> tuple[str, ...]:
    """Return the names of the outcomes whose gradients are summed."""
    by_name = {outcome.name: outcome for outcome in outcomes}
    if isinstance(asked, bool):
        return tuple(name for name, outcome in by_name.items() if asked and outcome.differentiable)
    for name in asked:
        if name not in by_name:
            raise ParameterError(f"`gradients` must name measured outcomes ({', '.join(by_name)}), received {name!r}.")
        if not by_name[name].differentiable:
            raise ParameterError(f"`gradients` must name outcomes that have one, received {name!r}: leave it out.")
    return tuple(asked)


def _run(record: Record, runner: ChunkRunner, options: Sampling, progress: Callable[[int], Any]) -> None:
    """Run the missing chunks; the stop rule is checked at chunk numbers that do not depend on the outcomes."""
    n_chunks, stop = record.settings.n_chunks, options.stop
    clear_stop(record)
    for end in _checkpoints(n_chunks) if stop else [n_chunks]:
        waiting = [chunk for chunk in record.missing() if chunk < end]
        if options.executor is None:
            for chunk, masks in runner.draw_ahead((chunk, record.settings.masks_in(chunk)) for chunk in waiting):
                record._write(chunk, runner.run(chunk, masks, progress))
        else:
            run_on(options.executor, runner, record, waiting, progress)
        if stop and end < n_chunks and (reason := stop.check(record.head(end))):
            write_stop(record, reason, end)
            return


def _checkpoints(n_chunks: int) -> list[int]:
    """Return the numbers of chunks 1, 2, 3, 4, 6, 9, ..., each by half larger than the one before, up to `n_chunks`."""
    points = [1]
    while points[-1] < n_chunks:
        points.append(min(max(points[-1] + 1, points[-1] * 3 // 2), n_chunks))
    return points
