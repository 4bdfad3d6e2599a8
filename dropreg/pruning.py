"""Pruning in small steps: annealed dropout regression.

Every element has a logit. Each round draws masks from the keep-probabilities that belong to the logits, estimates what
dropping each element costs at these very masks, and moves the logits by a bounded step; the expected fraction that is
dropped rises on a schedule. In the end the elements with the highest logits stay. With F(p) the expected outcome
under independent keep-probabilities p, a round estimates the gradient of F: by the coefficients of a regression on the
masks, which equal it, or by the trapezoid rule from derivatives with respect to the masks at both ends of the step.
One round at equal probabilities is plain dropout regression.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm.auto import tqdm

from .annealing import Annealing, bounded, draw_masks, keep_probabilities, slopes, trapezoid
from .baselines.magnitude import magnitude
from .baselines.probe import Probe
from .baselines.question import Question, ask
from .baselines.smoothness import non_differentiable
from .data import Data
from .designs import BoolMasks, examples_of_rows
from .elements import Elements
from .errors import ModelError, ParameterError
from .impact import ImpactTable
from .outcomes import Outcome, Prediction, Task
from .path import SelectionPath
from .selection import Selection, check_fractions, select

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

    from .masking import MaskedNetwork

Array = npt.NDArray[np.float64]
Ablation = Literal["zero", "merged"]


def anneal(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    fraction: float = 0.5,
    rounds: int = 100,
    rows_per_round: int | None = None,
    outcome: str | Outcome = "divergence",
    gradients: bool = True,
    ablation: Ablation = "zero",
    schedule: Annealing | None = None,
    examples_per_mask: int | None = None,
    start: ImpactTable | npt.ArrayLike | None = None,
    floor: int = 1,
    task: Task | None = None,
    seed: int = 0,
    progress: bool = False,
) -> Selection:
    """Choose which elements stay, in small steps.

    The last selection of `anneal_path` with one fraction; see there.

    Parameters
    ----------
    fraction : float
        Of the elements to drop, strictly between 0 and 1.
    model, data, elements, rounds, rows_per_round, outcome, gradients, ablation, schedule, examples_per_mask, start, \
floor, task, seed, progress
        As in `anneal_path`.

    Returns
    -------
    Selection

    Raises
    ------
    ParameterError, DataError, ModelError
        As in `anneal_path`.
    """
    path = anneal_path(
        *(model, data, elements),
        fractions=(fraction,),
        rounds=rounds,
        rows_per_round=rows_per_round,
        outcome=outcome,
        gradients=gradients,
        ablation=ablation,
        schedule=schedule,
        examples_per_mask=examples_per_mask,
        start=start,
        floor=floor,
        task=task,
        seed=seed,
        progress=progress,
    )
    return path.selections[-1]


def anneal_path(
    model: "keras.Model",
    data: Data,
    elements: Elements,
    *,
    fractions: Sequence[float] = (0.5, 0.7, 0.8, 0.9),
    rounds: int = 50,
    rows_per_round: int | None = None,
    outcome: str | Outcome = "divergence",
    gradients: bool = True,
    ablation: Ablation = "zero",
    schedule: Annealing | None = None,
    examples_per_mask: int | None = None,
    start: ImpactTable | npt.ArrayLike | None = None,
    floor: int = 1,
    task: Task | None = None,
    seed: int = 0,
    progress: bool = False,
) -> SelectionPath:
    """Nested selections for several fractions, in small steps.

    Parameters
    ----------
    model : keras.Model
        It is not changed.
    data : (x, y)
        Held-out examples, as in `sample`; y may be None where the outcome needs no labels.
    elements : Elements
    fractions : sequence of float
        Of the elements to drop, ascending, strictly between 0 and 1. Each is a stage of the run, which goes on from
        the one before and drops more; what a stage drops is gone for good.
    rounds : int
        Of each stage.
    rows_per_round : int, optional
        Masked forward passes of one example in a round, a multiple of `examples_per_mask`. By default 2,048 with
        gradients; without, eight for each element and at least 8,192; eight masks where masks multiply weights.
    outcome : str or Outcome
        What must not get worse. The divergence from the whole model cannot be bettered by dropping something, which
        the loss of a network that is wrong already can; it needs no labels.
    gradients : bool
        Whether derivatives with respect to the masks help. Forward passes alone do with anything that can be called.
    ablation : {"zero", "merged"}
        What a layer reads in place of what is dropped: nothing, or its least-squares prediction from what stays
        (`dropreg.merged`). Choose "merged" for selections that will be merged, "zero" for plain deletion.
    schedule : Annealing, optional
    examples_per_mask : int, optional
        Consecutive rows that share a mask. By default 1; 64 for "merged", whose every mask takes a matrix inverse;
        1,024 where masks multiply weights.
    start : ImpactTable or array of float, shape (n_elements,), optional
        Scores whose standardized values the logits start from (an array may hold the logits of another run); zero
        by default, for weights their magnitude.
    floor : int
        Elements that stay in every layer at least; does not count for whole layers and branches.
    task : str, optional
        As in `sample`.
    seed : int
        Chooses masks and the order of examples.
    progress : bool
        Show a bar with the dropped fraction and the outcome.

    Returns
    -------
    SelectionPath
        The same for the same arguments.

    Raises
    ------
    ParameterError
        If an argument is out of range, or a fraction leaves less than the floors ask for.
    ModelError
        If `gradients` and a layer has none, or derivatives are not finite.
    DataError
        If the data do not fit the model or the outcome.
    """
    schedule = Annealing() if schedule is None else schedule
    _check(elements, fractions, rounds, floor, ablation)
    question = ask(model, data, elements, outcome=outcome, task=task, kept=None, seed=seed)
    if gradients and not question.outcome.differentiable:
        raise ParameterError(
            f"`outcome` must have a gradient or a surrogate with one, received '{question.outcome.name}': pass "
            "gradients=False, or outcome='divergence'."
        )
    group = _positive("examples_per_mask", _examples_per_mask(elements, ablation, examples_per_mask))
    rows = _positive("rows_per_round", _rows_per_round(elements, gradients, group, rows_per_round))
    if rows % group or rows < 2 * group:
        raise ParameterError(
            f"`rows_per_round` must be a multiple of {group}, the examples of a mask, and pay for at least two masks, "
            f"received {rows}: pass {max(rows // group, 2) * group}."
        )
    logits = _start(model, elements, start)
    probe = Probe(question, network=_merged(question) if ablation == "merged" else None)
    layer = non_differentiable(probe) if gradients else None
    if layer is not None:
        raise ModelError(
            f"every layer between the elements and the output must have a gradient, received layer {layer} without: "
            "pass gradients=False."
        )
    estimate = _Round(probe, gradients, group, rows)
    selections: list[Selection] = []
    decided, history = [], []
    alive, before = np.ones(len(elements), dtype=bool), 0.0
    with tqdm(total=rounds * len(fractions), unit="rounds", disable=not progress) as bar:
        for stage, fraction in enumerate(fractions):
            scores, log = _stage(estimate, schedule, logits, alive, (before, fraction), stage * rounds, rounds, bar)
            lowest = scores[alive].min() - 1.0  # what has gone stays gone
            selections.append(select(elements, np.where(alive, scores, lowest), fraction=fraction, floor=floor))
            alive = selections[-1].kept
            decided.append(scores)
            history += [{"stage": stage, **row} for row in log]
            before = fraction
    return SelectionPath(
        tuple(selections),
        np.array(decided),
        pd.DataFrame(history),
        question.outcome.name,
        f"annealed {'with gradients' if gradients else 'forward only'}, ablation {ablation}",
        probe.rows,
        question.seed,
    )


def _stage(
    estimate: "_Round",
    schedule: Annealing,
    logits: Array,
    alive: npt.NDArray[np.bool_],
    span: tuple[float, float],
    first: int,
    rounds: int,
    bar: Any,
) -> tuple[Array, list[dict[str, Any]]]:
    """Run the rounds of one fraction: logits change in place; what decides (NaN for what has gone), and a log."""
    n, log = len(alive), []
    decided, n_decided = np.zeros(n), 0
    for number in range(rounds):
        dropped = span[0] + (span[1] - span[0]) * schedule.progress(number, rounds)
        share = max(1.0 - (1.0 - dropped) * n / alive.sum(), 0.0)  # of those that are left
        p = np.zeros(n)
        p[alive] = keep_probabilities(schedule.factor(number, rounds) * logits[alive], share)
        impact, outcome = estimate(first + number, alive, p)
        logits[alive] += schedule.learning_rate * bounded(impact[alive], schedule.most)
        if schedule.counts(number, rounds):
            decided, n_decided = decided + logits, n_decided + 1
        certain = float(((p[alive] < 0.1) | (p[alive] > 0.9)).mean())
        log.append({"round": number, "dropped": dropped, "outcome": outcome, "decided": certain})
        bar.set_postfix(dropped=f"{dropped:.1%}", outcome=f"{outcome:.4g}", refresh=False)
        bar.update()
    return np.where(alive, decided / n_decided, np.nan), log


class _Round:
    """Draws the masks of a round and estimates impacts from them.

    Parameters
    ----------
    probe : Probe
    gradients : bool
    group, rows : int
        Rows of a mask and of a round.
    """

    def __init__(self, probe: Probe, gradients: bool, group: int, rows: int) -> None:
        import tensorflow as tf

        self.probe, self.gradients, self.group, self.rows = probe, gradients, group, rows
        spec = tf.TensorSpec([None, probe.n_elements], tf.float32)
        self._step = probe.function(self._differentiate if gradients else self._measure, spec)

    def __call__(self, number: int, alive: npt.NDArray[np.bool_], p: Array) -> tuple[Array, float]:
        """Impacts (n_elements,), those of dropped ones meaningless, and the mean outcome of round `number`."""
        probe, group = self.probe, self.group
        masks = np.zeros((self.rows // group, probe.n_elements), dtype=bool)
        masks[:, alive] = draw_masks(probe.question.seed, number, len(masks), p[alive])
        examples = examples_of_rows(probe.question.seed, number * self.rows, self.rows, len(probe))
        parts = [
            self._step(probe.bundle(examples[block[0] * group : (block[-1] + 1) * group]), _floats(masks[block]))
            for block in probe.blocks(len(masks), 1 if probe.one_mask else probe.batch_size // group)
        ]
        probe.rows += self.rows * (3 if self.gradients else 1)
        outcomes, whole = (np.concatenate([part[k].numpy() for part in parts]).astype(np.float64) for k in (0, 1))
        slope = np.zeros(probe.n_elements)
        if self.gradients:
            sums = np.sum([part[2].numpy().astype(np.float64) for part in parts], axis=0)
            slope[alive] = trapezoid(sums, masks.sum(axis=0), len(masks))[alive]
        else:
            slope[alive] = slopes(masks[:, alive], outcomes - whole, p[alive])
        impact = -probe.question.sign * slope
        if not np.isfinite(impact).all():
            raise ModelError(
                f"outcome '{probe.question.outcome.name}' and its derivatives must be finite, received NaN or "
                f"infinity in round {number}: check the model's weights and activations."
            )
        return impact, float(outcomes.mean())

    def _differentiate(self, bundle: Any, masks: Any) -> Any:
        """Mean outcome of each mask, that of the whole model, and the sums that `trapezoid` takes."""
        import tensorflow as tf

        probe = self.probe
        with tf.GradientTape() as tape:
            tape.watch(masks)
            prediction = probe.predict(bundle, masks)
            value = probe.surrogate(prediction, bundle)
        g: Any = tape.gradient(value, masks)
        g /= float(self.group)
        sums = tf.stack([tf.reduce_sum(g * masks, axis=0), tf.reduce_sum(g * (1.0 - masks), axis=0)])
        return *self._outcomes(prediction, bundle), sums

    def _measure(self, bundle: Any, masks: Any) -> Any:
        """As `_differentiate`, without derivatives."""
        return self._outcomes(self.probe.predict(bundle, masks), bundle)

    def _outcomes(self, prediction: Prediction, bundle: Any) -> "tuple[tf.Tensor, tf.Tensor]":
        """Mean outcome of each mask, and that of the whole model on the same examples."""
        whole = Prediction(bundle[-2], prediction.task, prediction.from_logits)
        measured = self.probe.measure(prediction, bundle), self.probe.measure(whole, bundle)
        return self._by_mask(measured[0]), self._by_mask(measured[1])

    def _by_mask(self, values: "tf.Tensor") -> "tf.Tensor":
        import tensorflow as tf

        return tf.reduce_mean(tf.reshape(values, [-1, self.group]), axis=1)


def _floats(masks: BoolMasks) -> "tf.Tensor":
    import tensorflow as tf

    return tf.constant(masks, tf.float32)


def _check(elements: Elements, fractions: Sequence[float], rounds: int, floor: int, ablation: str) -> None:
    if ablation not in get_args(Ablation):
        raise ParameterError(f"`ablation` must be one of {', '.join(get_args(Ablation))}, received {ablation!r}.")
    _positive("rounds", rounds)
    _positive("floor", floor)
    if not len(fractions):
        raise ParameterError("`fractions` must hold at least one fraction, received none.")
    for fraction in fractions:
        if isinstance(fraction, bool) or not 0 < fraction < 1:
            raise ParameterError(
                f"fractions must lie strictly between 0 and 1, received {fraction!r}: it is the fraction that goes."
            )
    if any(b <= a for a, b in pairwise(fractions)):
        raise ParameterError(f"`fractions` must ascend, received {tuple(fractions)}.")
    check_fractions(elements, fractions, floor)


def _positive(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ParameterError(f"`{name}` must be an integer of at least 1, received {value!r}.")
    return int(value)


def _examples_per_mask(elements: Elements, ablation: Ablation, asked: int | None) -> int:
    if asked is not None and asked != 1 and ablation == "zero" and not elements.one_mask_a_batch:
        raise ParameterError(
            f"`examples_per_mask` must be 1 where every row can have a mask of its own, received {asked}: leave it out."
        )
    if asked is not None:
        return asked
    return 1024 if elements.one_mask_a_batch else 64 if ablation == "merged" else 1


def _rows_per_round(elements: Elements, gradients: bool, group: int, asked: int | None) -> int:
    if asked is not None:
        return asked
    if gradients:
        return 8 * group if elements.one_mask_a_batch else max(2048 // group, 8) * group
    return -(-max(8 * len(elements), 8192) // group) * group


def _start(model: "keras.Model", elements: Elements, start: Any) -> Array:
    """The first logits."""
    if start is None:
        if not elements.one_mask_a_batch:
            return np.zeros(len(elements))
        start = magnitude(model, None, elements)
    values = np.array(start.impact if isinstance(start, ImpactTable) else start, dtype=np.float64)
    if values.shape != (len(elements),) or not np.isfinite(values).all():
        raise ParameterError(
            f"`start` must be finite numbers of shape ({len(elements)},), one for each element, received shape "
            f"{values.shape} with {int((~np.isfinite(values)).sum())} that are not finite."
        )
    return bounded(values, np.inf)


def _merged(question: Question) -> "MaskedNetwork":
    from .merged import MergedNetwork

    return MergedNetwork(question.model, question.elements, question.examples)
