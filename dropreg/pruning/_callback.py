"""Pruning while a user's own `fit` goes on."""

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from .._utils import positive
from ..data import Data, check_data, read_once
from ..element import Elements, Floor, Selection, check_elements, check_fits, check_fractions
from ..errors import ModelError, ParameterError
from ..graph import trace_graph
from ..scorers import estimate
from ..surgery import HoldZeros, as_array
from ._step_sizes import StepSizes, counts_by_step
from ._stepwise import AnyScorer, resolve_scorer, score, select_left
from ._switches import find_switches


class PruningCallback(keras.callbacks.Callback):
    """Switches elements off for good while a model trains.

    At the end of some epochs it scores the model as it is and puts the weights that read the elements of lowest
    impact at zero, where every later step of the optimizer leaves them; training makes up for them. Afterwards
    ``dropreg.prune(model, callback.selection)`` gives the smaller model, which computes the same.

    Weights are switched off themselves; units, embeddings and heads by the kernels of the Dense layers, convolutions
    and attention projections that read them. Put it behind callbacks that restore weights, such as EarlyStopping:
    when training ends it sets to zero again what is gone.

    Parameters
    ----------
    elements : Elements
        Of the model that is trained.
    data : (x, y)
        Held-out examples for scores; not those that are trained on.
    fraction : float
        Of the elements that are gone in the end, strictly between 0 and 1.
    scorer : Scorer or callable
        As in `prune_iteratively`; called with all elements, those that are gone as zeros of the model, and as
        ``kept=`` if it takes it.
    start_epoch, end_epoch : int
        First and last epoch, from 0 as Keras counts, at whose end some go.
    every : int
        Epochs from one time to the next; `end_epoch` is always one of them.
    schedule : {"cubic", "linear", "one_shot"}
        Fraction that is gone after each time; see `fractions_by_step`. "one_shot" is at
        `start_epoch`.
    floor : int, float, "all" or mapping of str to one of them
        Fewest elements that every layer keeps, as in `select`.
    seed : int
        Scorers get it, plus one for each time after the first.

    Attributes
    ----------
    selection : Selection
        What stays, so far: everything before training. It drops less than `fraction` where training stops before
        `end_epoch`.

    Raises
    ------
    ParameterError
        If a parameter is out of range; when training begins, if it ends before `end_epoch` or averages weights.
    DataError, ModelError
        When training begins, if the data do not fit the model, the elements are not the model's, or some of them
        cannot be switched off by weights.
    """

    selection: Selection

    def __init__(
        self,
        elements: Elements,
        data: Data,
        *,
        fraction: float,
        scorer: AnyScorer = estimate,
        start_epoch: int,
        end_epoch: int,
        every: int = 1,
        schedule: StepSizes = "cubic",
        floor: Floor = 1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_elements(elements)
        for name, value in (("start_epoch", start_epoch), ("end_epoch", end_epoch), ("seed", seed)):
            positive(name, value, 0)
        positive("every", every)
        if end_epoch < start_epoch:
            raise ParameterError(
                f"`end_epoch` must not be before `start_epoch`, received {end_epoch} and {start_epoch}: swap them."
            )
        epochs = [*range(start_epoch, end_epoch, every), end_epoch]
        counts = counts_by_step(len(elements), fraction, len(epochs), schedule)
        check_fractions(elements, [fraction], floor)
        self.selection = Selection(elements, np.ones(len(elements), dtype=bool))
        self._gone = dict(zip(epochs, counts, strict=False))  # one shot has one count
        self._data = read_once(data)
        self._scorer, self._floor, self._seed = resolve_scorer(scorer), floor, seed
        self._switches: list[_Switch] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Check the model, and put constraints on the weights that will be switched off."""
        model: Any = self.model
        elements, graph = self.selection.elements, trace_graph(model)
        check_fits(elements, graph, model.name)
        check_data(model, self._data)
        last, epochs = max(self._gone), (self.params or {}).get("epochs")
        if epochs is not None and last >= epochs:
            raise ParameterError(
                f"`end_epoch` must be below the {epochs} epochs of fit, received {last}: pass at most {epochs - 1}, or "
                "train longer."
            )
        if getattr(model.optimizer, "use_ema", False):
            raise ParameterError(
                "the optimizer must not average weights over epochs, which brings back those that are gone, received "
                "use_ema=True: pass use_ema=False."
            )
        variables = [variable for variable, _ in find_switches(model, graph, self.selection)]
        for variable in variables:
            _check_free(variable)
        self._switches = [_Switch(variable) for variable in variables]
        self._graph = graph
        self._switch()
        model.make_train_function(force=True)  # one that was made before knows nothing of the constraints

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Score and switch off, if it is time."""
        gone = self._gone.get(epoch, 0)
        elements, kept = self.selection.elements, self.selection.kept
        if gone <= int((~kept).sum()):
            return
        number = list(self._gone).index(epoch)
        fraction = gone / len(elements)
        model: Any = self.model
        table = score(self._scorer, model, self._data, elements, fraction=fraction, kept=kept, seed=self._seed + number)
        self.selection = select_left(elements, table, kept, fraction, self._floor)
        self._switch()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Leave zeros that are held, as `dropreg.prune` does."""
        self._switch()
        for switch in self._switches:
            switch.variable.constraint = HoldZeros(switch.held)

    def _switch(self) -> None:
        model: Any = self.model
        masks = find_switches(model, self._graph, self.selection)
        for switch, (_, mask) in zip(self._switches, masks, strict=True):
            switch.apply(mask)


def _check_free(variable: Any) -> None:
    """Raise ModelError unless nothing but zeros is held in a variable."""
    earlier = variable.constraint
    if earlier is not None and not isinstance(earlier, HoldZeros | _Switch):
        raise ModelError(
            f"weight '{variable.path}' must have no constraint of its own to be held at zero, received "
            f"{type(earlier).__name__}: build its layer without it."
        )


class _Switch(keras.constraints.Constraint):
    """Holds zeros of a variable, more of them as time goes on, in a training step that was compiled before."""

    def __init__(self, variable: Any) -> None:
        earlier = variable.constraint
        self.variable = variable
        self._fixed: npt.NDArray[np.bool_] = np.ones(variable.shape, dtype=bool)
        if earlier is not None:
            self._fixed = np.asarray(earlier.mask)
        self.mask = tf.Variable(tf.constant(self._fixed), trainable=False)
        variable.constraint = self

    def apply(self, mask: npt.NDArray[np.bool_]) -> None:
        """Set what goes (False in `mask`) to zero, with what was at zero before."""
        self.mask.assign(tf.constant(self._fixed & mask))
        self.variable.assign(as_array(self.variable) * self.held)

    @property
    def held(self) -> npt.NDArray[np.bool_]:
        """What stays (True), in the variable's shape."""
        return np.asarray(self.mask)

    def __call__(self, w: Any) -> Any:
        return w * keras.ops.cast(self.mask, w.dtype)
