"""Fine-tune a smaller model on labels, or distill the original model into it.

With p the student's and q the teacher's probabilities, both at temperature T, and c the cross-entropy of the student
with the labels, the loss of a row is (1 - distill) c + distill T^2 KL(q | p): the mix of hard and soft targets of
Hinton et al. [1]_, whose factor T^2 keeps both gradients on one scale. For a regression both terms are mean squared
errors. If a model of several outputs learns from the teacher alone, the losses of all outputs are added, with squared
errors in units of the variance of the teacher's outputs.

References
----------
.. [1] Hinton, Vinyals, Dean (2015), "Distilling the Knowledge in a Neural Network", section 2.
"""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pandas as pd

from .._utils import check_type
from ..data import Data, Examples, Task, check_apart, check_data
from ..errors import DataError, ModelError, ParameterError
from ..graph import Graph, trace_graph
from ..surgery import compile_like, copy_model, hold_zeros
from ._settings import Recovery
from ._trainer import Objective, Part, Trainer


@dataclass(frozen=True, repr=False, eq=False)
class Recovered:
    """Result of `recover`: the fine-tuned model and the history of its training.

    Attributes
    ----------
    model : keras.Model
        With the best weights of all epochs, compiled like the model passed to `recover`.
    original : keras.Model
        The model passed to `recover`, unchanged.
    history : DataFrame
        One row for each epoch, from 0 (before fine-tuning): epoch, loss (mean objective over the rows in training,
        with dropout and changing weights; NaN in row 0), held_out (the same on held-out examples). With ``distill``
        above 0 this is not a loss on labels: see `objective`.
    recovery : Recovery
    learning_rate : float
        The chosen learning rate.
    as_in_training : bool
        Whether layers such as Dropout and BatchNormalization acted as in training.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> x, y = dr.datasets.fashion_mnist("estimation")
    >>> found = dr.recover(model, (x[:500], y[:500]), recovery=dr.Recovery(epochs=2))
    >>> found.loss_after <= found.loss_before
    True
    >>> found.history["epoch"].tolist()
    [0, 1, 2]
    """

    model: keras.Model
    original: keras.Model
    history: pd.DataFrame
    recovery: Recovery
    learning_rate: float
    as_in_training: bool

    @property
    def best_epoch(self) -> int:
        """Epoch of the model's weights; 0 if no epoch lowered the held-out loss."""
        return int(self.history["held_out"].to_numpy().argmin())

    @property
    def loss_before(self) -> float:
        """Held-out objective before fine-tuning; see `objective`."""
        return float(self.history["held_out"].to_numpy()[0])

    @property
    def loss_after(self) -> float:
        """Held-out objective of the fine-tuned model; see `objective`."""
        return float(self.history["held_out"].to_numpy().min())

    @property
    def objective(self) -> str:
        """What was minimized: "loss" on labels, "distance from the teacher" (a divergence), or both, weighted."""
        distill = self.recovery.distill
        if 0 < distill < 1:
            return f"{1 - distill:g} x loss + {distill:g} x distance from the teacher"
        return "distance from the teacher" if distill else "loss"

    def describe(self) -> str:
        """Return one line about the held-out objective before and after training.

        Returns
        -------
        str
        """
        return (
            f"held-out {self.objective} {self.loss_before:.4g} -> {self.loss_after:.4g} "
            f"(best epoch {self.best_epoch} of {len(self.history) - 1}) at learning rate {self.learning_rate:g}"
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
    progress: bool | None = None,
) -> Recovered:
    """Fine-tune a copy of a model, for example of a pruned one.

    Zeros in kernels remain zero, and layers that are not trainable do not change.

    Parameters
    ----------
    model : keras.Model
        Sequential or Functional, with outputs of logits, probabilities or numbers. Several outputs require
        ``distill=1``, which learns all of them. It is not changed.
    data : (x, y)
        Training examples; y may be None with ``distill=1``.
    teacher : keras.Model, optional
        The original model to learn from, with the same inputs and outputs; required if ``distill`` is above 0.
    validation : (x, y), optional
        Other examples, which choose the best weights; by default the share ``Recovery.held_out`` of `data`. The model
        must never have been trained on these examples: if it has memorized them, every change looks harmful.
    recovery : Recovery, optional
        ``Recovery()`` by default.
    task : str, optional
        As in `sample`.
    progress : bool, optional
        Show a bar of epochs with the held-out loss; by default on a terminal only.

    Returns
    -------
    Recovered
        Equal arguments give equal results.

    Raises
    ------
    ParameterError
        If there is a teacher without distillation or the reverse, or the loss is not finite because steps are too
        large.
    DataError
        If the data do not fit the model, labels are missing, or validation and training data are the same.
    ModelError
        If the model cannot be copied or has no trainable weights, or the teacher does not fit.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> x, _ = dr.datasets.fashion_mnist("estimation")
    >>> smaller = dr.remove(model, dr.Selection.random(dr.elements(model), 0.5)).model
    >>> distillation = dr.Recovery(epochs=2, distill=1.0)
    >>> found = dr.recover(smaller, (x[:500], None), teacher=model, recovery=distillation)
    >>> found.loss_after < found.loss_before
    True
    """
    settings = Recovery() if recovery is None else recovery
    check_type("recovery", settings, Recovery, "pass dropreg.Recovery(epochs=10), say")
    check_teacher(teacher, settings)
    graph = trace_graph(model)
    if validation is not None:
        check_apart("data", data, "validation", validation)
    examples = check_tuning(graph, data, task, "data", settings)
    if validation is None:
        parts = split(examples, settings)
    else:
        others = check_tuning(graph, validation, examples.task, "validation", settings)
        parts = Part(examples, np.arange(len(examples))), Part(others, np.arange(len(others)))
    if teacher is None:
        return train(graph, None, parts, settings, progress=progress)
    traced = trace_graph(teacher)
    for part in parts:
        x: Any = list(part.examples.inputs)
        check_data(traced, (x if len(x) > 1 else x[0], None), measured=False)
    return train(graph, traced, parts, settings, progress=progress)


def train(
    graph: Graph, teacher: Graph | None, parts: tuple[Part, Part], settings: Recovery, *, progress: bool | None
) -> Recovered:
    """Train a copy of a model on the first part of the examples; the second part chooses the best weights."""
    model = graph.model
    student = copy_model(model)
    hold_zeros(student)
    if not student.trainable_variables:
        raise ModelError(
            f"model '{model.name}' must have trainable weights, received none: set `trainable` of some of its layers."
        )
    trainer = Trainer(student, Objective(graph, teacher, parts, settings), progress=progress)
    rate, training = trainer.choose_rate()
    log = trainer.run(rate, settings.epochs, training=training, patience=settings.patience)
    if not np.isfinite(log[-1]["held_out"]):
        raise ParameterError(
            f"the held-out loss must be finite, received {log[-1]['held_out']} after epoch {log[-1]['epoch']} with "
            f"learning_rate={rate:g}: pass a smaller `learning_rate`."
        )
    compile_like(student, model)
    return Recovered(student, model, pd.DataFrame(log), settings, rate, training)


def check_teacher(teacher: keras.Model | None, recovery: Recovery) -> None:
    """Raise ParameterError unless there is a teacher if, and only if, `distill` is above 0."""
    if recovery.distill > 0 and teacher is None:
        raise ParameterError(
            f"`teacher` must be the original model where distill is above 0, received none with "
            f"distill={recovery.distill:g}: pass teacher=, or Recovery(distill=0)."
        )
    if recovery.distill == 0 and teacher is not None:
        raise ParameterError(
            "`teacher` must go with distill above 0, received distill=0: pass Recovery(distill=1), or leave it out."
        )


def check_tuning(graph: Graph, data: Data, task: Task | None, name: str, settings: Recovery) -> Examples:
    """Return checked examples for fine-tuning, with labels if labels are learned."""
    examples = check_data(graph, data, task, measured=settings.distill < 1 and len(graph.outputs) == 1)
    check_labels(graph, examples, name, settings)
    return examples


def check_labels(graph: Graph, examples: Examples, name: str, settings: Recovery) -> None:
    """Raise an error if `distill` is below 1 and labels are missing or there are several outputs."""
    names = graph.output_names
    if len(names) > 1 and settings.distill < 1:
        raise ModelError(
            f"`recover` must have a model of one output to learn from labels, received {len(names)} "
            f"({', '.join(names)}): pass Recovery(distill=1), to `recover` with teacher=, or train with model.fit."
        )
    if examples.labels is None and settings.distill < 1:
        raise DataError(
            f"`{name}` must have labels where distill is below 1, received y=None with distill={settings.distill:g}: "
            "pass (x, y), or Recovery(distill=1), to `recover` with teacher=."
        )


def split(examples: Examples, settings: Recovery) -> tuple[Part, Part]:
    """Divide examples at random into training examples and the held-out share."""
    if len(examples) < 2:
        raise DataError(
            "`data` must hold at least two examples, one of them to be held out, received one: pass validation=."
        )
    order = np.random.default_rng(settings.seed).permutation(len(examples))
    n_held_out = min(max(round(settings.held_out * len(order)), 1), len(order) - 1)
    return Part(examples, np.sort(order[n_held_out:])), Part(examples, np.sort(order[:n_held_out]))
