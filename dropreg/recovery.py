"""Fine-tuning of a smaller model, on labels or by distillation from the original one.

With p the student's and q the teacher's probabilities, both at temperature T, and c the cross-entropy of the student
with the labels, a row's loss is (1 - distill) c + distill T^2 KL(q | p): the mix of soft and hard targets of
Hinton et al. [1]_, whose factor T^2 keeps the gradients of the two on one scale. For a regression both terms are mean
squared errors. Where a model of several outputs learns from the teacher alone, the losses of all outputs are added,
squared errors in units of the variance of the teacher's outputs.

References
----------
.. [1] Hinton, Vinyals, Dean (2015), "Distilling the Knowledge in a Neural Network", section 2.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import keras
import numpy as np
import pandas as pd

from .copying import copy_model
from .data import Data, Examples, check_apart, check_data
from .errors import DataError, ModelError, ParameterError, check_between, check_positive, check_type, is_number
from .graph import trace_graph
from .prediction import Task
from .tuning import Objective, Part, Trainer
from .zeros import hold_zeros

Decay = Literal["cosine", "none"]


@dataclass(frozen=True)
class Recovery:
    """How a model is fine-tuned.

    Parameters
    ----------
    epochs : int
        Passes over the examples, at most.
    learning_rate : float or tuple of float
        Of the first step. Of several the largest that can be borne: they are tried from the same weights, largest
        first, until one lowers the held-out loss within `trial_epochs`. Large ones suit a model that has much to
        recover, and spoil one that has little; the smallest if none helps. Where not even the smallest helps, the
        noise of training can be too much: layers then act as in inference (BatchNormalization by its moving
        statistics, no Dropout).
    bold_rate : float, optional
        A rate above all of these. Where the largest of them can be borne, both are tried for twice `trial_epochs`, and
        it is taken if its trial ends lower: networks that have lost most can gain much by it.
    decay : {"cosine", "none"}
        Whether the rate falls to 0 at the end of the last epoch, along half a period of a cosine [1]_, or stays.
    batch_size : int
    patience : int, optional
        Epochs without a better held-out loss after which it stops; None runs them all. The best weights are kept
        in either case, those from before the first epoch among them.
    distill : float
        Weight of the original model's outputs beside the labels, in [0, 1]: 0 learns from labels only, 1 from the
        original model only, which needs no labels.
    mixup : float
        Share of the examples, in [0, 1], in whose place each batch has a mixture with another example,
        r x + (1 - r) x' with r uniform in [0, 1), drawn anew each time; the teacher says what it should give. Above 0
        it needs ``distill=1``. Inputs that outputs have no gradient by, such as tokens, are never mixed.
    temperature : float
        Of both models' probabilities where one learns from the other; no matter for a regression.
    optimizer : str
        Name of a Keras optimizer.
    held_out : float
        Share of the examples that is held out to choose the best weights where there are no validation data,
        strictly between 0 and 1.
    trial_epochs : int
        Epochs of a trial, at whose end the rate has fallen as at the end of training.
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
    learning_rate: float | tuple[float, ...] = 1e-3
    bold_rate: float | None = None
    decay: Decay = "cosine"
    batch_size: int = 64
    patience: int | None = 3
    distill: float = 0.0
    mixup: float = 0.0
    temperature: float = 2.0
    optimizer: str = "adam"
    held_out: float = 0.1
    trial_epochs: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 1), ("patience", 1), ("trial_epochs", 1), ("seed", 0)):
            value = getattr(self, name)
            if name == "patience" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise ParameterError(f"`{name}` must be an integer of at least {least}, received {value!r}.")
        if not self.rates or not all(is_number(rate) and 0 < rate < np.inf for rate in self.rates):
            raise ParameterError(f"`learning_rate` must be positive and finite, received {self.learning_rate!r}.")
        bold = self.bold_rate
        if bold is not None and not (is_number(bold) and max(self.rates) < bold < np.inf):
            raise ParameterError(
                f"`bold_rate` must be above `learning_rate` and finite, received {bold!r} with "
                f"learning_rate={self.learning_rate}."
            )
        check_positive("temperature", self.temperature)
        if self.decay not in get_args(Decay):
            raise ParameterError(f"`decay` must be one of {', '.join(get_args(Decay))}, received {self.decay!r}.")
        for name, hint in (("distill", "0 learns from labels only"), ("mixup", "0 mixes no examples")):
            share = getattr(self, name)
            if not is_number(share) or not 0 <= share <= 1:
                raise ParameterError(f"`{name}` must lie in [0, 1], received {share!r}: {hint}.")
        if self.mixup > 0 and self.distill < 1:
            raise ParameterError(
                f"`mixup` must go with distill=1, received distill={self.distill:g}: mixtures have no labels; pass "
                "distill=1, or mixup=0."
            )
        check_between("held_out", self.held_out)
        self.make_optimizer()

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rates to choose from."""
        given = self.learning_rate
        return tuple(given) if isinstance(given, tuple | list) else (given,)

    def fallen(self, progress: float) -> float:
        """What is left of the learning rate after a share of all steps.

        Parameters
        ----------
        progress : float
            In [0, 1].

        Returns
        -------
        float
            In [0, 1].
        """
        return float((1.0 + np.cos(np.pi * progress)) / 2.0) if self.decay == "cosine" else 1.0

    def make_optimizer(self) -> keras.optimizers.Optimizer:
        """A new optimizer, at the first learning rate.

        Returns
        -------
        keras.optimizers.Optimizer

        Raises
        ------
        ParameterError
            If Keras has no optimizer of this name.
        """
        settings = {"class_name": self.optimizer, "config": {"learning_rate": self.rates[0]}}
        try:
            return keras.optimizers.get(settings)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
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
    learning_rate : float
        That it was trained with.
    as_in_training : bool
        Whether layers such as Dropout and BatchNormalization acted as in training.
    """

    model: keras.Model
    original: keras.Model
    history: pd.DataFrame
    recovery: Recovery
    learning_rate: float
    as_in_training: bool

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

    def describe(self) -> str:
        """What training did to the held-out loss, in a line.

        Returns
        -------
        str
        """
        return (
            f"held-out loss {self.loss_before:.4g} -> {self.loss_after:.4g} (best epoch {self.best_epoch} of "
            f"{len(self.history) - 1}) at learning rate {self.learning_rate:g}"
            f"{'' if self.as_in_training else ', layers as in inference'}"
        )

    def __repr__(self) -> str:
        return f"Recovered model '{self.model.name}': {self.describe()}, {self.recovery}"


def recover(
    model: keras.Model,
    data: Data,
    *,
    teacher: keras.Model | None = None,
    validation: Data | None = None,
    recovery: Recovery | None = None,
    task: Task | None = None,
    progress: bool = False,
) -> Recovered:
    """Fine-tune a copy of a model, for example of one that was pruned.

    Zeros in kernels stay zeros; layers that are not trainable stay as they are.

    Parameters
    ----------
    model : keras.Model
        Sequential or Functional, with outputs of logits, probabilities or numbers: one, or with ``distill=1`` any
        number, which are all learned. It is not changed.
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
    progress : bool
        Show a bar of epochs with the held-out loss.

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
    check_type("recovery", settings, Recovery, "pass dropreg.Recovery(epochs=10), say")
    check_teacher(teacher, settings)
    parts = _parts(model, data, validation, settings, task)
    student = copy_model(model)
    hold_zeros(student)
    if not student.trainable_variables:
        raise ModelError(
            f"model '{model.name}' must have trainable weights, received none: set `trainable` of some of its layers."
        )
    trainer = Trainer(student, Objective(model, teacher, parts, settings), progress=progress)
    rate, training = trainer.bearable()
    log = trainer.run(rate, settings.epochs, training=training, patience=settings.patience)
    if not np.isfinite(log[-1]["held_out"]):
        raise ParameterError(
            f"the held-out loss must be finite, received {log[-1]['held_out']} after epoch {log[-1]['epoch']} with "
            f"learning_rate={rate:g}: pass a smaller `learning_rate`."
        )
    return Recovered(student, model, pd.DataFrame(log), settings, rate, training)


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
    """Examples to fine-tune with; an error where there are no labels to learn from, or several outputs that have."""
    names = trace_graph(model).output_names
    if len(names) > 1 and settings.distill < 1:
        raise ModelError(
            f"`recover` must have a model of one output to learn from labels, received {len(names)} "
            f"({', '.join(names)}), of which it would train one alone: pass Recovery(distill=1), to `recover` "
            "with teacher=, or train with model.fit."
        )
    examples = check_data(model, data, task, measured=settings.distill < 1)
    if examples.labels is None and settings.distill < 1:
        raise DataError(
            f"`{name}` must have labels where distill is below 1, received y=None with distill={settings.distill:g}: "
            "pass (x, y), or Recovery(distill=1), to `recover` with teacher=."
        )
    return examples


def _parts(
    model: keras.Model, data: Data, validation: Data | None, settings: Recovery, task: Task | None
) -> tuple[Part, Part]:
    """What is trained on, and what is held out."""
    if validation is not None:
        check_apart("data", data, "validation", validation)
    examples = check_tuning(model, data, task, "data", settings)
    if validation is not None:
        others = check_tuning(model, validation, examples.task, "validation", settings)
        return Part(examples, np.arange(len(examples))), Part(others, np.arange(len(others)))
    if len(examples) < 2:
        raise DataError(
            "`data` must hold at least two examples, one of them to be held out, received one: pass validation=."
        )
    order = np.random.default_rng(settings.seed).permutation(len(examples))
    n_held_out = min(max(round(settings.held_out * len(order)), 1), len(order) - 1)
    return Part(examples, np.sort(order[n_held_out:])), Part(examples, np.sort(order[:n_held_out]))
