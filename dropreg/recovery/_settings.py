"""Options of fine-tuning and distillation."""

from dataclasses import dataclass
from typing import Literal, get_args

import keras
import numpy as np

from .._utils import check_between, check_positive, is_number, positive
from ..errors import ParameterError

Decay = Literal["cosine", "none"]


@dataclass(frozen=True)
class Recovery:
    """Options of fine-tuning and distillation.

    Parameters
    ----------
    epochs : int
        Largest number of passes over the examples.
    learning_rate : float or tuple of float
        Initial learning rate. Several rates are tried from the same weights, largest first, until one lowers the
        held-out loss within `trial_epochs`; the smallest is used if none does. Large rates suit models that have lost
        much and damage models that have lost little. If not even the smallest rate lowers the loss, layers act as in
        inference (BatchNormalization uses its moving statistics, Dropout is off), because the noise of training may be
        too large.
    bold_rate : float, optional
        A rate above all of these. If the largest of them is chosen, both are tried for twice `trial_epochs`, and the
        bold one is used if its held-out loss is lower. Networks that have lost most can gain much by it.
    decay : {"cosine", "none"}
        "cosine": the rate falls to 0 at the end of the last epoch, along half a period of a cosine [1]_. "none": it is
        constant.
    batch_size : int
    patience : int, optional
        Stop after this many epochs without a lower held-out loss; None runs all epochs. The best weights, possibly
        those before the first epoch, are restored in either case.
    distill : float
        Weight, in [0, 1], of the original model's outputs beside the labels: 0 learns from labels only, 1 from the
        original model only, which requires no labels.
    mixup : float
        Share of the examples in each batch, in [0, 1], that are replaced by mixtures r x + (1 - r) x' with another
        example, with r uniform in [0, 1), drawn anew each time; the teacher's outputs are their targets. Above 0 it
        requires ``distill=1``. Inputs by which outputs have no gradient, such as tokens, are never mixed.
    temperature : float
        Temperature of the probabilities of both models in distillation; no effect for a regression.
    optimizer : str
        Name of a Keras optimizer.
    held_out : float
        Share of the examples, strictly between 0 and 1, that is held out to choose the best weights if there are no
        validation data.
    trial_epochs : int
        Epochs of a trial, over which the rate decays as in training.
    seed : int
        Seed of the held-out share, the order of examples, and the noise of layers such as Dropout.

    Raises
    ------
    ParameterError
        If a parameter is out of range.

    References
    ----------
    .. [1] Loshchilov, Hutter (2017), "SGDR: Stochastic Gradient Descent with Warm Restarts", equation 5, one period.

    Examples
    --------
    >>> import dropreg as dr
    >>> dr.Recovery(epochs=5, learning_rate=(3e-3, 1e-3), distill=1.0).rates
    (0.003, 0.001)
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
            if name != "patience" or self.patience is not None:
                positive(name, getattr(self, name), least)
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
        make_optimizer(self)

    @property
    def rates(self) -> tuple[float, ...]:
        """The candidate learning rates."""
        given = self.learning_rate
        return tuple(given) if isinstance(given, tuple | list) else (given,)


def decayed(recovery: Recovery, progress: float) -> float:
    """Return the factor of the learning rate, in [0, 1], after a share `progress` of all steps."""
    return float((1.0 + np.cos(np.pi * progress)) / 2.0) if recovery.decay == "cosine" else 1.0


def make_optimizer(recovery: Recovery) -> keras.optimizers.Optimizer:
    """Return a new optimizer with the first learning rate; ParameterError if Keras does not know its name."""
    settings = {"class_name": recovery.optimizer, "config": {"learning_rate": recovery.rates[0]}}
    try:
        return keras.optimizers.get(settings)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ParameterError(
            f"`optimizer` must be the name of a Keras optimizer, such as 'adam' or 'sgd', received "
            f"{recovery.optimizer!r}."
        ) from error
