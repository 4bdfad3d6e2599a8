"""Train a copy of a model: the loss of each row, and the training loop of `dropreg.recover`."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tqdm.auto import tqdm

from .._utils import hidden
from ..data import Examples, Prediction, Task, counted_positions, in_float32
from ..errors import ModelError
from ..graph import Graph, at_positions, batch_size_of, call_outputs, floats_per_row, step_mask, traced
from ..network import Divergence, Loss, are_logits, guess_task, run_model
from ..surgery import Hold, seed_layers
from ._mixup import continuous, mixed
from ._settings import Recovery, decayed, make_optimizer

Array = npt.NDArray[np.float32]
_LARGE = 2**16
"""Floats of activations for an example, above which a forward pass takes longer than dividing a batch."""
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """Rows of the examples: for training, or held out."""

    examples: Examples
    rows: Numbers


@dataclass(frozen=True)
class Lesson:
    """What the student learns at one output.

    Attributes
    ----------
    output : int
        Number of the output.
    task : str
    from_logits, teacher_from_logits : bool
        Whether outputs of student and teacher are logits.
    scale : float
        Factor of the loss against the teacher.
    soft : list of ndarray
        The teacher's outputs for the examples of each part; empty without a teacher.
    counted : list of ndarray of bool or float32, shape (n_examples, ...)
        Positions that count in the loss, or their weights, for each part; empty if all count equally.
    """

    output: int
    task: Task
    from_logits: bool
    teacher_from_logits: bool
    scale: float
    soft: list[Array]
    counted: list[npt.NDArray[Any]]


class Objective:
    """The loss of each row.

    Parameters
    ----------
    graph : Graph
    teacher : Graph or None
        With ``distill=1`` every output is learned from the teacher; otherwise only the one that the labels belong to.
    parts : (Part, Part)
        Training and held-out examples; the meaning of outputs is inferred from the first part.
    settings : Recovery
    """

    def __init__(self, graph: Graph, teacher: Graph | None, parts: tuple[Part, Part], settings: Recovery) -> None:
        self.settings, self.parts, self.teacher, model = settings, parts, teacher, graph.model
        numbers = range(len(model.outputs)) if settings.distill == 1 else [parts[0].examples.output]
        self.batch_size = batch_size_of(graph)
        self.lessons = [self._lesson(graph, teacher, number) for number in numbers]
        inputs = parts[0].examples.inputs
        self.may_mix = continuous(model, inputs) if settings.mixup > 0 else [False] * len(inputs)
        large = teacher is not None and floats_per_row(teacher, range(len(teacher.calls))) > _LARGE
        self._reuses = large and not any(lesson.counted for lesson in self.lessons)
        if any(self.may_mix):
            self._taught = traced(self._answers, [tf.convert_to_tensor(x[:1]) for x in inputs])

    def _lesson(self, graph: Graph, teacher: Graph | None, number: int) -> Lesson:
        mine = [
            given if given.output == number else _of_output(graph, given, number)
            for given in (part.examples for part in self.parts)
        ]
        outputs = run_model(graph, mine[0])
        alone = len(graph.outputs) == 1
        task = mine[0].task if alone or mine[0].labels is not None else guess_task(outputs)
        from_logits = are_logits(graph, number, task, outputs)
        counted = _counted(mine, outputs.shape[1:-1])
        if teacher is None:
            return Lesson(number, task, from_logits, False, 1.0, [], counted)
        same = self.parts[0].examples is self.parts[1].examples
        soft = [run_model(teacher, mine[0])]
        soft += soft if same else [run_model(teacher, mine[1])]
        if soft[0].shape != outputs.shape:
            raise ModelError(
                f"`teacher` must have outputs of shape {outputs.shape[1:]}, as model '{graph.model.name}', received "
                f"{soft[0].shape[1:]}: pass the model that it was made from."
            )
        scale = self.settings.temperature**2
        if task == "regression":  # with several outputs in units of the variance
            scale = 1.0 if alone else 1.0 / max(float(soft[0].var()), 1e-12)
        logits = are_logits(teacher, number, task, soft[0])
        return Lesson(number, task, from_logits, logits, scale, soft, counted)

    def _answers(self, inputs: list[Any]) -> list[Any]:
        assert self.teacher is not None
        with keras.StatelessScope(collect_losses=True):
            outputs = call_outputs(self.teacher, inputs, training=False)
        soft = [tf.cast(outputs[lesson.output], tf.float32) for lesson in self.lessons]
        return soft + [
            at_positions(outputs[lesson.output], step_mask(outputs[lesson.output]))
            for lesson in self.lessons
            if lesson.counted
        ]

    def mixtures(self, rows: Numbers, rng: np.random.Generator) -> tuple[list[Any], list[Any]]:
        """Return mixtures of some training rows, and the teacher's targets for them, as in `targets`.

        A large teacher is only asked about rows that are mixed, unless its answers say which positions count.
        """
        weights = self._weights(0)
        arrays = [x[rows] for x in (*self.parts[0].examples.inputs, *weights)]
        may_mix = [*self.may_mix, *(True for _ in weights)]
        mixtures, is_mixed = mixed(arrays, may_mix, self.settings.mixup, rng)
        tensors = [tf.convert_to_tensor(x) for x in mixtures]
        inputs = tensors[: len(self.may_mix)]
        if self._reuses:
            known = [lesson.soft[0][rows] for lesson in self.lessons]
            if is_mixed.any():
                asked = self._taught([tf.convert_to_tensor(x[is_mixed]) for x in mixtures[: len(inputs)]])
                for values, answer in zip(known, asked, strict=True):
                    values[is_mixed] = answer.numpy()
            return inputs, [tf.constant(values) for values in known] + tensors[len(inputs) :]
        answers = iter(self._taught(inputs))
        known = [next(answers) for _ in self.lessons]
        for lesson in (lesson for lesson in self.lessons if lesson.counted):
            counted, own = next(answers), lesson.counted[0]
            known.append(counted if own.dtype == bool else tf.cast(counted, tf.float32) * own[rows])
        return inputs, known + tensors[len(inputs) :]

    def _weights(self, number: int) -> list[Array]:
        """Return a list of the weights of a part's examples, the last target; empty if both parts have none."""
        if all(part.examples.weights is None for part in self.parts):
            return []
        return [_weights_of(self.parts[number].examples)]

    def targets(self, number: int, rows: Numbers) -> list[Any]:
        """Return the targets of some rows of a part: labels, the teacher's outputs, positions that count, weights."""
        labels = self.parts[number].examples.labels if self.settings.distill < 1 else None
        known = [labels] if labels is not None else []
        known += [lesson.soft[number] for lesson in self.lessons if lesson.soft]
        known += [lesson.counted[number] for lesson in self.lessons if lesson.counted] + self._weights(number)
        return [tf.constant(values[rows]) for values in known]

    def __call__(self, outputs: list[Any], targets: list[Any]) -> Any:
        """Return the loss of each row, shape (rows,), in nats or squared units, from all outputs of the student.

        The loss is multiplied by the weight of the example.
        """
        distill, terms, given = self.settings.distill, [], iter(targets)
        labels = next(given) if distill < 1 else None
        softs = [next(given) for lesson in self.lessons if lesson.soft]
        counted = [next(given) if lesson.counted else None for lesson in self.lessons]
        students = [
            Prediction(in_float32(outputs[a.output]), a.task, a.from_logits, positions)
            for a, positions in zip(self.lessons, counted, strict=True)
        ]
        if labels is not None:
            terms.append((1.0 - distill) * Loss().measure(students[0], labels, students[0]))
        if distill > 0:
            for lesson, student, soft in zip(self.lessons, students, softs, strict=True):
                teacher = Prediction(soft, lesson.task, lesson.teacher_from_logits)
                here, there = (_tempered(given, self.settings.temperature) for given in (student, teacher))
                terms.append(distill * lesson.scale * Divergence().measure(here, soft, there))
        loss = tf.add_n(terms)
        return tf.multiply(loss, *given) if self._weights(0) else loss


def _tempered(prediction: Prediction, temperature: float) -> Prediction:
    """Return the prediction at a temperature, as logits; a regression is unchanged."""
    if prediction.task == "regression":
        return prediction
    scores = prediction.log_probabilities() if prediction.task == "classes" else prediction.logits()
    return replace(prediction, outputs=scores / temperature, from_logits=True)


def _counted(parts: list[Examples], positions: tuple[int, ...]) -> list[npt.NDArray[Any]]:
    """Return the positions that count in the loss, or their weights, for each part; an empty list if all do equally."""
    if all(part.counted is None for part in parts):
        return []
    dtype = np.float32 if any(part.has_position_weights for part in parts) else bool
    given = [np.ones((len(part), *positions), bool) if part.counted is None else part.counted for part in parts]
    return [array.astype(dtype, copy=False) for array in given]


def _weights_of(examples: Examples) -> Array:
    """Return the weights of examples, shape (n_examples,), 1 where all are equal."""
    return np.ones(len(examples), np.float32) if examples.weights is None else examples.weights


def _of_output(graph: Graph, examples: Examples, number: int) -> Examples:
    """Return the same examples for another output, without labels."""
    counted = counted_positions(graph, examples.inputs, number)
    return replace(examples, output=number, labels=None, counted=counted)


class Trainer:
    """Train one student repeatedly: in trials of learning rates, then in the actual training.

    Parameters
    ----------
    student : keras.Model
        It is changed.
    objective : Objective
    progress : bool or None
        Show a bar of epochs with the held-out loss.
    """

    def __init__(self, student: keras.Model, objective: Objective, *, progress: bool | None) -> None:
        self.student, self.objective, self.progress = student, objective, progress
        self.parts, self.settings = objective.parts, objective.settings
        self.variables = student.trainable_variables
        self.optimizer = make_optimizer(self.settings)
        self.optimizer.build(self.variables)
        self._fresh = [variable.numpy() for variable in self.optimizer.variables]
        self._one = next(self._batches(0, self.parts[0].rows[:1], 1))
        self._measure = traced(lambda *batch: self._losses(*batch, training=False), *self._one)
        self._step = cache(lambda training: traced(lambda *batch: self._trained(*batch, training=training), *self._one))

    def choose_rate(self) -> tuple[float, bool]:
        """Return the learning rate and whether layers act as in training; see `Recovery`. One rate is not tried."""
        settings = self.settings
        *larger, smallest = sorted(settings.rates, reverse=True)
        training = not larger or not self._noisy() or self._helps(smallest, training=True)
        rate = next((rate for rate in larger if self._helps(rate, training=training)), smallest)
        if settings.bold_rate is not None and rate == max(settings.rates):
            epochs = 2 * settings.trial_epochs  # harm in the first epochs may be repaired in later ones
            usual, bold = (self._tried(each, epochs, training=training) for each in (rate, settings.bold_rate))
            rate = settings.bold_rate if bold[-1] < usual[-1] else rate
        return rate, training

    def _helps(self, rate: float, *, training: bool) -> bool:
        """Return whether a trial lowers the held-out loss."""
        losses = self._tried(rate, self.settings.trial_epochs, training=training)
        return losses[-1] < losses[0]

    def _tried(self, rate: float, epochs: int, *, training: bool) -> list[float]:
        """Return held-out losses before a trial and after each epoch; the student's weights are restored."""
        log = self.run(rate, epochs, training=training, patience=None, keep=False)
        return [row["held_out"] for row in log]

    def _noisy(self) -> bool:
        """Return whether outputs differ between training and inference."""
        rows = self.parts[0].rows[: self.settings.batch_size]
        inputs, targets = next(self._batches(0, rows, len(rows)))
        with keras.StatelessScope(collect_losses=True):
            losses = [self._losses(inputs, targets, training=training).numpy() for training in (True, False)]
        return not np.allclose(*losses, rtol=1e-4, atol=1e-6)

    def run(
        self, learning_rate: float, epochs: int, *, training: bool, patience: int | None, keep: bool = True
    ) -> list[dict[str, Any]]:
        """Train until the held-out loss stops falling or is not finite; return one row for each epoch.

        `training` says whether layers act as in training. With `keep` the best weights of all epochs are set in the
        end, otherwise the initial ones.
        """
        settings, rows, step = self.settings, self.parts[0].rows, self._step(training)
        for variable, value in zip(self.optimizer.variables, self._fresh, strict=True):
            variable.assign(value)
        seed_layers(self.student, settings.seed)
        for variable in self.variables:
            if isinstance(variable.constraint, Hold):
                variable.constraint.restart(variable.value)
        rng = np.random.default_rng([settings.seed, 1])
        log = [{"epoch": 0, "loss": float("nan"), "held_out": self._held_out()}]
        best, first = log[0], self.student.get_weights()
        best_weights, n_steps = first, -(-len(rows) // settings.batch_size)
        shown = {"desc": f"learning rate {learning_rate:g}", "unit": "epochs", "leave": keep}
        for epoch in (bar := tqdm(range(1, epochs + 1), disable=hidden(self.progress), **shown)):
            order, losses = rng.permutation(rows), []
            for number, batch in enumerate(self._lessons(order, rng)):
                progress = (epoch - 1 + number / n_steps) / epochs
                self.optimizer.learning_rate = learning_rate * decayed(settings, progress)
                losses.append((float(step(*batch)), len(batch[0][0])))
            loss = sum(value * count for value, count in losses) / len(order)
            log.append({"epoch": epoch, "loss": loss, "held_out": self._held_out()})
            bar.set_postfix(held_out=f"{log[-1]['held_out']:.4g}", refresh=False)
            if not np.isfinite(log[-1]["held_out"]):
                break
            if log[-1]["held_out"] < best["held_out"]:
                best, best_weights = log[-1], self.student.get_weights()
            if patience is not None and epoch - best["epoch"] >= patience:
                break
        self.student.set_weights(best_weights if keep else first)
        return log

    def _trained(self, inputs: list[Any], targets: list[Any], *, training: bool) -> Any:
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(self._losses(inputs, targets, training=training))
            total = tf.add_n([value, *(tf.cast(loss, tf.float32) for loss in self.student.losses)])
        gradient = tape.gradient(total, [variable.value for variable in self.variables])
        self.optimizer.apply(gradient, self.variables)
        return value

    def _losses(self, inputs: list[Any], targets: list[Any], *, training: bool) -> Any:
        return self.objective(call_outputs(self.student, inputs, training=training), targets)

    def _held_out(self) -> float:
        """Return the mean held-out loss of the student."""
        batches = self._batches(1, self.parts[1].rows, self.objective.batch_size)
        return float(np.concatenate([self._measure(*batch) for batch in batches]).mean())

    def _lessons(self, order: Numbers, rng: np.random.Generator) -> Iterator[tuple[list[Any], list[Any]]]:
        """Return the training batches of an epoch."""
        size = self.settings.batch_size
        if not any(self.objective.may_mix):
            return self._batches(0, order, size)
        return (self.objective.mixtures(rows, rng) for rows in np.array_split(order, -(-len(order) // size)))

    def _batches(self, part: int, order: Numbers, size: int) -> Iterator[tuple[list[Any], list[Any]]]:
        inputs = self.parts[part].examples.inputs
        for rows in np.array_split(order, -(-len(order) // size)):
            yield [tf.convert_to_tensor(x[rows]) for x in inputs], self.objective.targets(part, rows)
