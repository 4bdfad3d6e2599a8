"""Fine-tuning of a smaller model, on labels or by distillation from the original one.

With p the student's and q the teacher's probabilities, both at temperature T, and c the cross-entropy of the student
with the labels, a row's loss is (1 - distill) c + distill T^2 KL(q | p): the mix of soft and hard targets of
Hinton et al. [1]_, whose factor T^2 keeps the gradients of the two on one scale. For a regression both terms are mean
squared errors.

References
----------
.. [1] Hinton, Vinyals, Dean (2015), "Distilling the Knowledge in a Neural Network", section 2.
"""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import keras
import numpy as np
import numpy.typing as npt
import pandas as pd
import tensorflow as tf

from .copying import BATCH, call_model, copy_model, run_model, seed_layers, traced
from .data import Data, Examples, check_apart, check_data
from .errors import DataError, ModelError, ParameterError
from .graph import trace_graph
from .outcomes import Divergence, Loss, Prediction, Task, guess_from_logits
from .zeros import hold_zeros

Array = npt.NDArray[np.float32]
Decay = Literal["cosine", "none"]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Recovery:
    """How a model is fine-tuned.

    Parameters
    ----------
    epochs : int
        Passes over the examples, at most.
    learning_rate : float
        Of the first step.
    decay : {"cosine", "none"}
        Whether it falls to 0 at the end of the last epoch, along half a period of a cosine [1]_, or stays.
    batch_size : int
    patience : int, optional
        Epochs without a better held-out loss after which it stops; None runs them all. The best weights are kept
        in either case, those from before the first epoch among them.
    distill : float
        Weight of the original model's outputs beside the labels, in [0, 1]: 0 learns from labels only, 1 from the
        original model only, which needs no labels.
    temperature : float
        Of both models' probabilities where one learns from the other; no matter for a regression.
    optimizer : str
        Name of a Keras optimizer.
    held_out : float
        Share of the examples that is held out to choose the best weights where there are no validation data,
        strictly between 0 and 1.
    seed : int
        Chooses what is held out, the order of examples and the noise of layers such as Dropout.

    Raises
    ------
    ParameterError
        If a parameter is out of range.

    References
    ----------
    .. [1] Loshchilov, Hutter (2017), "SGDR: Stochastic Gradient Descent with Warm Restarts", equation 5, one period.
    """

    epochs: int = 10
    learning_rate: float = 1e-3
    decay: Decay = "cosine"
    batch_size: int = 64
    patience: int | None = 3
    distill: float = 0.0
    temperature: float = 2.0
    optimizer: str = "adam"
    held_out: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("patience", 1), ("seed", 0)):
            value = getattr(self, name)
            if name == "patience" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise ParameterError(f"`{name}` must be an integer of at least {least}, received {value!r}.")
        for name in ("learning_rate", "temperature"):
            if not 0 < getattr(self, name) < np.inf:
                raise ParameterError(f"`{name}` must be positive and finite, received {getattr(self, name)}.")
        if self.decay not in get_args(Decay):
            raise ParameterError(f"`decay` must be one of {', '.join(get_args(Decay))}, received {self.decay!r}.")
        if not 0 <= self.distill <= 1:
            raise ParameterError(f"`distill` must lie in [0, 1], received {self.distill}: 0 learns from labels only.")
        if not 0 < self.held_out < 1:
            raise ParameterError(f"`held_out` must lie strictly between 0 and 1, received {self.held_out}.")
        self.make_optimizer()

    def rate(self, progress: float) -> float:
        """Learning rate after a share of all steps, in [0, 1]."""
        falls = (1.0 + np.cos(np.pi * progress)) / 2.0 if self.decay == "cosine" else 1.0
        return float(self.learning_rate * falls)

    def make_optimizer(self) -> keras.optimizers.Optimizer:
        """A new optimizer."""
        settings = {"class_name": self.optimizer, "config": {"learning_rate": self.learning_rate}}
        try:
            return keras.optimizers.get(settings)
        except (TypeError, ValueError) as error:
            raise ParameterError(
                f"`optimizer` must be the name of a Keras optimizer, such as 'adam' or 'sgd', received "
                f"{self.optimizer!r}."
            ) from error


@dataclass(frozen=True, repr=False, eq=False)
class Recovered:
    """A fine-tuned model and how it came about.

    Attributes
    ----------
    model : keras.Model
        With the best weights of all epochs, not compiled.
    original : keras.Model
        The caller's, unchanged.
    history : DataFrame
        One row an epoch, from 0 (before fine-tuning): epoch, loss (mean over the epoch's rows, as trained: with
        dropout and while weights move; NaN in row 0), held_out (loss on held-out examples).
    recovery : Recovery
    """

    model: keras.Model
    original: keras.Model
    history: pd.DataFrame
    recovery: Recovery

    @property
    def best_epoch(self) -> int:
        """The epoch whose weights the model has, 0 where no epoch was better than none."""
        return int(self.history["held_out"].to_numpy().argmin())

    @property
    def loss_before(self) -> float:
        """Held-out loss before fine-tuning."""
        return float(self.history["held_out"].to_numpy()[0])

    @property
    def loss_after(self) -> float:
        """Held-out loss of the model."""
        return float(self.history["held_out"].to_numpy().min())

    def __repr__(self) -> str:
        return (
            f"Recovered model '{self.model.name}': held-out loss {self.loss_before:.4g} -> {self.loss_after:.4g} "
            f"(best epoch {self.best_epoch} of {len(self.history) - 1}), {self.recovery}"
        )


def recover(
    model: keras.Model,
    data: Data,
    *,
    teacher: keras.Model | None = None,
    validation: Data | None = None,
    recovery: Recovery | None = None,
    task: Task | None = None,
) -> Recovered:
    """Fine-tune a copy of a model, for example of one that was pruned.

    Zeros in kernels stay zeros; layers that are not trainable stay as they are.

    Parameters
    ----------
    model : keras.Model
        Sequential or Functional, with one output of logits, probabilities or numbers. It is not changed.
    data : (x, y)
        To train on; y may be None with ``distill=1``.
    teacher : keras.Model, optional
        The original model to learn from, with the same inputs and outputs; needed where ``distill`` is above 0.
    validation : (x, y), optional
        Other examples, which choose the best weights; by default a share of `data`, ``Recovery.held_out``. Pass
        examples that the model has never been trained on: those that it has learned by heart make any change look
        bad.
    recovery : Recovery, optional
        ``Recovery()`` by default.
    task : str, optional
        As in `sample`.

    Returns
    -------
    Recovered
        The same for the same arguments.

    Raises
    ------
    ParameterError
        If there is a teacher that nothing is learned from, or none although there should be, or the loss is no
        longer finite because steps are too large.
    DataError
        If the data do not fit the model, labels are missing, or validation data are those trained on.
    ModelError
        If the model cannot be copied or has nothing to train, or the teacher does not fit.
    """
    settings = Recovery() if recovery is None else recovery
    check_teacher(teacher, settings)
    parts = _parts(model, data, validation, settings, task)
    student = copy_model(model)
    hold_zeros(student)
    if not student.trainable_variables:
        raise ModelError(
            f"model '{model.name}' must have trainable weights, received none: set `trainable` of some of its layers."
        )
    seed_layers(student, settings.seed)
    objective = _Objective(model, teacher, parts, settings)
    return Recovered(student, model, _train(student, objective, parts, settings), settings)


def check_teacher(teacher: keras.Model | None, recovery: Recovery) -> None:
    """Raise ParameterError unless there is a teacher where one is learned from, and only there."""
    if recovery.distill > 0 and teacher is None:
        raise ParameterError(
            f"`teacher` must be the original model where distill is above 0, received none with "
            f"distill={recovery.distill:g}: pass teacher=, or Recovery(distill=0)."
        )
    if recovery.distill == 0 and teacher is not None:
        raise ParameterError(
            "`teacher` must go with distill above 0, received distill=0: pass Recovery(distill=1), or leave it out."
        )


def check_tuning(model: keras.Model, data: Data, task: Task | None, name: str, settings: Recovery) -> Examples:
    """Examples to fine-tune with; an error where there are no labels to learn from, or several outputs to learn."""
    names = trace_graph(model).output_names
    if len(names) > 1:
        raise ModelError(
            f"`recover` must have a model of one output, received {len(names)} ({', '.join(names)}), of which it would "
            "train one alone: train with model.fit."
        )
    examples = check_data(model, data, task)
    if examples.labels is None and settings.distill < 1:
        raise DataError(
            f"`{name}` must have labels where distill is below 1, received y=None with distill={settings.distill:g}: "
            "pass (x, y), or Recovery(distill=1) and teacher=."
        )
    return examples


@dataclass(frozen=True)
class _Part:
    """Some of the examples: to train on, or held out."""

    examples: Examples
    rows: Numbers


def _parts(
    model: keras.Model, data: Data, validation: Data | None, settings: Recovery, task: Task | None
) -> tuple[_Part, _Part]:
    """What is trained on, and what is held out."""
    if validation is not None:
        check_apart("data", data, "validation", validation)
    examples = check_tuning(model, data, task, "data", settings)
    if validation is not None:
        others = check_tuning(model, validation, examples.task, "validation", settings)
        return _Part(examples, np.arange(len(examples))), _Part(others, np.arange(len(others)))
    if len(examples) < 2:
        raise DataError(
            "`data` must hold at least two examples, one of them to be held out, received one: pass validation=."
        )
    order = np.random.default_rng(settings.seed).permutation(len(examples))
    n_held_out = min(max(round(settings.held_out * len(order)), 1), len(order) - 1)
    return _Part(examples, np.sort(order[n_held_out:])), _Part(examples, np.sort(order[:n_held_out]))


class _Objective:
    """The loss of each row.

    Parameters
    ----------
    model, teacher : keras.Model, the latter or None
    parts : (_Part, _Part)
        The examples; what outputs mean is seen from the first part's.
    settings : Recovery
    """

    def __init__(
        self, model: keras.Model, teacher: keras.Model | None, parts: tuple[_Part, _Part], settings: Recovery
    ) -> None:
        self.settings = settings
        self.task: Task = parts[0].examples.task
        outputs = run_model(model, parts[0].examples)
        self.from_logits = guess_from_logits(self.task, outputs)
        self.teacher_from_logits = False
        self._soft: dict[int, Array] = {}
        if teacher is None:
            return
        for part in parts:
            x: Any = list(part.examples.inputs)
            check_data(teacher, (x if len(x) > 1 else x[0], None))
            self._soft.setdefault(id(part.examples), run_model(teacher, part.examples))
        soft = self._soft[id(parts[0].examples)]
        if soft.shape != outputs.shape:
            raise ModelError(
                f"`teacher` must have outputs of shape {outputs.shape[1:]}, as model '{model.name}', received "
                f"{soft.shape[1:]}: pass the model that it was made from."
            )
        self.teacher_from_logits = guess_from_logits(self.task, soft)

    def targets(self, part: _Part, rows: Numbers) -> list[Any]:
        """Labels and the teacher's outputs of some rows, those of the two that are learned from."""
        known = (part.examples.labels if self.settings.distill < 1 else None, self._soft.get(id(part.examples)))
        return [tf.constant(values[rows]) for values in known if values is not None]

    def __call__(self, outputs: Any, targets: list[Any]) -> Any:
        """Loss of each row, shape (rows,), in nats or squared units."""
        distill, temperature = self.settings.distill, self.settings.temperature
        student = Prediction(tf.cast(outputs, tf.float32), self.task, self.from_logits)
        terms = []
        if distill < 1:
            terms.append((1.0 - distill) * Loss().measure(student, targets[0], student))
        if distill > 0:
            teacher = Prediction(targets[-1], self.task, self.teacher_from_logits)
            student, teacher = (_tempered(prediction, temperature) for prediction in (student, teacher))
            scale = 1.0 if self.task == "regression" else temperature**2
            terms.append(distill * scale * Divergence().measure(student, targets[-1], teacher))
        return tf.add_n(terms)


def _tempered(prediction: Prediction, temperature: float) -> Prediction:
    """The prediction at a temperature, as logits; numbers of a regression stay as they are."""
    if prediction.task == "regression":
        return prediction
    scores = prediction.log_probabilities() if prediction.task == "classes" else prediction.logits()
    return Prediction(scores / temperature, prediction.task, True)


def _train(student: keras.Model, objective: _Objective, parts: tuple[_Part, _Part], settings: Recovery) -> pd.DataFrame:
    """Train until held-out loss no longer falls, restore the best weights; one row an epoch."""
    variables = student.trainable_variables
    optimizer = settings.make_optimizer()
    optimizer.build(variables)

    def step(inputs: list[Any], targets: list[Any]) -> Any:
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(objective(call_model(student, inputs, training=True), targets))
            total = tf.add_n([value, *(tf.cast(loss, tf.float32) for loss in student.losses)])
        optimizer.apply(tape.gradient(total, [variable.value for variable in variables]), variables)
        return value

    def measure(inputs: list[Any], targets: list[Any]) -> Any:
        return objective(call_model(student, inputs, training=False), targets)

    def batches(part: _Part, order: Numbers, size: int) -> Any:
        for rows in np.array_split(order, -(-len(order) // size)):
            yield [tf.convert_to_tensor(x[rows]) for x in part.examples.inputs], objective.targets(part, rows)

    one = next(batches(parts[0], parts[0].rows[:1], 1))
    train, judge = traced(step, *one), traced(measure, *one)

    def held_out() -> float:
        return float(np.concatenate([judge(*batch) for batch in batches(parts[1], parts[1].rows, BATCH)]).mean())

    rng = np.random.default_rng([settings.seed, 1])
    log = [{"epoch": 0, "loss": float("nan"), "held_out": _finite(held_out(), 0, settings)}]
    best, best_weights = log[0], student.get_weights()
    n_steps = -(-len(parts[0].rows) // settings.batch_size)
    for epoch in range(1, settings.epochs + 1):
        order, losses = rng.permutation(parts[0].rows), []
        for number, batch in enumerate(batches(parts[0], order, settings.batch_size)):
            optimizer.learning_rate = settings.rate((epoch - 1 + number / n_steps) / settings.epochs)
            losses.append((float(train(*batch)), len(batch[0][0])))
        loss = sum(value * count for value, count in losses) / len(order)
        log.append({"epoch": epoch, "loss": loss, "held_out": _finite(held_out(), epoch, settings)})
        if log[-1]["held_out"] < best["held_out"]:
            best, best_weights = log[-1], student.get_weights()
        if settings.patience is not None and epoch - best["epoch"] >= settings.patience:
            break
    student.set_weights(best_weights)
    return pd.DataFrame(log)


def _finite(loss: float, epoch: int, settings: Recovery) -> float:
    if not np.isfinite(loss):
        raise ParameterError(
            f"the held-out loss must be finite, received {loss} after epoch {epoch} with "
            f"learning_rate={settings.learning_rate:g}: pass a smaller `learning_rate`."
        )
    return loss
