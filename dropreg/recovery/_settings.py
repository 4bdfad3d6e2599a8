"""Settings of fine-tuning and distillation."""

from dataclasses import dataclass
from typing import Literal, get_args

import keras
import numpy as np

from .._utils import check_between, check_positive, is_number
from ..errors import ParameterError

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
