"""A Keras callback that prunes a model during training."""

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
from ._stepwise import AnyScorer, resolve_scorer, score, select_remaining
from ._switches import find_switches


class PruningCallback(keras.callbacks.Callback):
    """Switch elements off while a model is trained with `fit`.

    At the end of chosen epochs the callback scores the current model and sets the weights that consume the elements of
    lowest impact to zero. Constraints hold them at zero in later training steps, which adapt the other weights.
    Afterwards ``dropreg.remove(model, callback.selection)`` gives the smaller model, which computes the same.

    Single weights are set to zero themselves; units, embeddings and heads by the kernels of the Dense layers,
    convolutions and attention projections that consume them. List the callback after callbacks that restore weights,
    such as EarlyStopping: at the end of training it sets the removed elements to zero again.

    Parameters
    ----------
    elements : Elements
        Elements of the trained model.
    data : (x, y)
        Held-out examples for scores, other than the training examples.
    fraction : float
        Fraction of the elements that is removed in the end, strictly between 0 and 1.
    scorer : Scorer or callable
        As in `prune_iteratively`. It is called with all elements, the removed ones as zeros of the model, and as
        ``kept=`` if it accepts that.
    start_epoch, end_epoch : int
        First and last epoch, counted from 0 as in Keras, at whose end elements are removed.
    every : int
        Number of epochs from one removal to the next; `end_epoch` is always one of them.
    schedule : {"cubic", "linear", "one_shot"}
        Removed fraction after each removal; see `fractions_by_step`. "one_shot" removes all at `start_epoch`.
    floor : int, float, "all" or mapping of str to one of them
        Fewest elements that every layer keeps, as in `select`.
    seed : int
        Passed to the scorer, increased by one for each removal after the first.

    Attributes
    ----------
    selection : Selection
        The elements kept so far. It removes less than `fraction` if training stops before `end_epoch`.

    Raises
    ------
    ParameterError
        If a parameter is out of range; when training begins, if it ends before `end_epoch` or averages weights.
    DataError, ModelError
        When training begins, if the data do not fit the model, the elements are not the model's, or some of them
        cannot be switched off by weights.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> model.compile("adam", "sparse_categorical_crossentropy")
    >>> x, y = dr.datasets.fashion_mnist("estimation")
    >>> elements, data = dr.elements(model), (x[:500], y[:500])
    >>> pruning = dr.PruningCallback(
    ...     elements, data, fraction=0.5, scorer=dr.scorers.taylor, start_epoch=0, end_epoch=0
    ... )
    >>> history = model.fit(x[500:1000], y[500:1000], callbacks=[pruning], verbose=0)
    >>> len(pruning.selection.dropped) / len(elements)
    0.5
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
        self._n_removed = dict(zip(epochs, counts, strict=False))  # "one_shot" has a single count
        self._data = read_once(data)
        self._scorer, self._floor, self._seed = resolve_scorer(scorer), floor, seed
        self._switches: list[_Switch] = []

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Check the model, and add constraints to the weights that will be set to zero."""
        model: Any = self.model
        elements, graph = self.selection.elements, trace_graph(model)
        check_fits(elements, graph, model.name)
        check_data(model, self._data)
        last, epochs = max(self._n_removed), (self.params or {}).get("epochs")
        if epochs is not None and last >= epochs:
            raise ParameterError(
                f"`end_epoch` must be below the {epochs} epochs of fit, received {last}: pass at most {epochs - 1}, or "
                "train longer."
            )
        if getattr(model.optimizer, "use_ema", False):
            raise ParameterError(
                "the optimizer must not average weights over epochs, which would restore removed elements, received "
                "use_ema=True: pass use_ema=False."
            )
        variables = [variable for variable, _ in find_switches(model, graph, self.selection)]
        for variable in variables:
            if not isinstance(variable.constraint, HoldZeros | _Switch | None):
                raise ModelError(
                    f"weight '{variable.path}' must have no constraint of its own to be held at zero, received "
                    f"{type(variable.constraint).__name__}: build its layer without it."
                )
        self._switches = [_Switch(variable) for variable in variables]
        self._graph = graph
        self._switch()
        model.make_train_function(force=True)  # an earlier function has no constraints

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Score and remove elements if this epoch is a chosen one."""
        n_removed = self._n_removed.get(epoch, 0)
        elements, kept = self.selection.elements, self.selection.kept
        if n_removed <= int((~kept).sum()):
            return
        number = list(self._n_removed).index(epoch)
        fraction = n_removed / len(elements)
        model: Any = self.model
        table = score(self._scorer, model, self._data, elements, fraction=fraction, kept=kept, seed=self._seed + number)
        self.selection = select_remaining(elements, table, kept, fraction, self._floor)
        self._switch()

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Replace the constraints by `HoldZeros`, as `dropreg.remove` does."""
        self._switch()
        for switch in self._switches:
            switch.variable.constraint = HoldZeros(switch.held)

    def _switch(self) -> None:
        model: Any = self.model
        masks = find_switches(model, self._graph, self.selection)
        for switch, (_, mask) in zip(self._switches, masks, strict=True):
            switch.apply(mask)


class _Switch(keras.constraints.Constraint):
    """A constraint that holds entries of a variable at zero, and whose mask can change after compilation."""

    def __init__(self, variable: Any) -> None:
        earlier, self.variable = variable.constraint, variable
        self._fixed = np.ones(variable.shape, dtype=bool) if earlier is None else np.asarray(earlier.mask)
        self.mask = tf.Variable(tf.constant(self._fixed), trainable=False)
        variable.constraint = self

    def apply(self, mask: npt.NDArray[np.bool_]) -> None:
        """Set the entries to zero where `mask` is False, and those that were held at zero before."""
        self.mask.assign(tf.constant(self._fixed & mask))
        self.variable.assign(as_array(self.variable) * self.held)

    @property
    def held(self) -> npt.NDArray[np.bool_]:
        """Mask of the entries that are not zero (True), in the variable's shape."""
        return np.asarray(self.mask)

    def __call__(self, w: Any) -> Any:
        return w * keras.ops.cast(self.mask, w.dtype)
