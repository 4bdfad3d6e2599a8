"""The result of pruning: a smaller model and its report."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import keras
import pandas as pd

from ..data import Data, Task
from ..element import Selection
from ..errors import ModelError
from ..layers import kerashub_part
from ..network import OutcomeLike, measure
from ._latency import measure_latency
from ._sizes import Sizes

if TYPE_CHECKING:
    from ..pruning import Effort
    from ..recovery import Recovered

OnBlocked = Literal["raise", "keep"]


@dataclass(frozen=True, repr=False, eq=False)
class Pruned:
    """A smaller model, and how it was made.

    Attributes
    ----------
    model : keras.Model
        A plain Keras model with smaller layers, compiled with the original's loss, metrics and a new optimizer of the
        same configuration if the original is compiled. It saves to ``.keras``, loads without dropreg and can be
        trained further. That of a model of KerasHub has the same class again, with its backbone, preprocessor and
        `generate`; run ``import dropreg.layers`` before it is loaded.
    original : keras.Model
        The original model, unchanged.
    selection : Selection
        The kept elements; with ``on_blocked="keep"`` there can be more of them than were selected.
    merge : str
        How the consuming layers were refitted: "least_squares" or "none".
    merged : DataFrame or None
        One row for each refitted layer, or projection inside it: layer, ridge (the chosen penalty, infinite where the
        kernel is left unchanged) and unexplained (held-out squared error of the layer's response, as a fraction of
        the error without refitting the kernel). None without merging.
    blocked : tuple of (str, str)
        Layers that were not cut although the selection removes some of their units, and why.
    report : Sizes
        Parameters, those that are not zero, multiply-adds and bytes before and after.
    history : DataFrame or None
        One row for each step of `dropreg.prune_iteratively`; None otherwise.
    recovered : Recovered or None
        How the model was trained after merging; None if it was not.
    effort : dropreg.pruning.Effort or None
        What `dropreg.prune` decided to do for merged units and a fraction; None otherwise.
    other_class : str or None
        Why the model is a plain Functional one although the original is of a class of KerasHub; None otherwise.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> x, y = dr.datasets.fashion_mnist("test")
    >>> selection = dr.Selection.random(dr.elements(model), 0.5)
    >>> pruned = dr.remove(model, selection, data=(x[:500], None))
    >>> pruned.merge
    'least_squares'
    >>> pruned.model.count_params() < pruned.original.count_params()
    True
    """

    model: keras.Model
    original: keras.Model
    selection: Selection
    merge: str
    merged: pd.DataFrame | None
    blocked: tuple[tuple[str, str], ...]
    report: Sizes
    history: pd.DataFrame | None = None
    recovered: "Recovered | None" = None
    effort: "Effort | None" = None
    other_class: str | None = None

    def measure(
        self, data: Data, outcomes: Sequence[OutcomeLike] | OutcomeLike | None = None, *, task: Task | None = None
    ) -> pd.DataFrame:
        """Measure the original and the smaller model on the same examples.

        Parameters
        ----------
        data : (x, y), dataset or iterable of batches
            Test examples, none of which were used to select, merge or train.
        outcomes : str, Outcome or sequence of them, optional
            As in `dropreg.sample`, custom metrics included. The default is accuracy and loss, only the loss for a
            regression, and the divergence without labels.
        task : str, optional
            As in `dropreg.sample`.

        Returns
        -------
        DataFrame
            One row for each outcome: outcome, before, after (means over the examples), change (after - before; its
            good direction depends on the outcome) and std_error of the change over examples, NaN for a `PerMask`
            metric.

        Raises
        ------
        DataError
            If the data do not fit the model, or an outcome needs labels and there are none.
        ParameterError
            If an outcome or the task is unknown, or does not fit the labels.

        Examples
        --------
        >>> import dropreg as dr
        >>> model = dr.datasets.load_model("mlp")
        >>> x, y = dr.datasets.fashion_mnist("test")
        >>> selection = dr.Selection.random(dr.elements(model), 0.5)
        >>> pruned = dr.remove(model, selection)
        >>> pruned.measure((x[:500], y[:500]))["outcome"].tolist()
        ['accuracy', 'loss']
        """
        return measure(self.original, self.model, data, outcomes, task)

    def measure_latency(
        self, batch_sizes: Sequence[int] = (1, 64), *, threads: int = 1, repeats: int = 100, warm_up: int = 10
    ) -> pd.DataFrame:
        """Measure the seconds that a forward pass of the original and of the smaller model takes.

        Parameters
        ----------
        batch_sizes, threads, repeats, warm_up
            As in `dropreg.measure_latency`; errors are the same as well.

        Returns
        -------
        DataFrame
            As in `dropreg.measure_latency`, with the models "before" and "after".

        Examples
        --------
        >>> import dropreg as dr
        >>> model = dr.datasets.load_model("mlp")
        >>> pruned = dr.remove(model, dr.Selection.random(dr.elements(model), 0.5))  # doctest: +SKIP
        >>> pruned.measure_latency(batch_sizes=(1,), repeats=5)["model"].tolist()  # doctest: +SKIP
        ['before', 'after']
        """
        models = {"before": self.original, "after": self.model}
        return measure_latency(models, batch_sizes, threads=threads, repeats=repeats, warm_up=warm_up)

    def save_to_preset(self, folder: str | Path) -> None:
        """Save the smaller model as a preset of KerasHub, which is loaded without dropreg.

        The configuration of its class must say all sizes. It does where the same share of the feed-forward units of all
        layers is removed, of the heads of all layers (Gemma, Gemma 3, Mistral, Qwen 3), and whole blocks. A share of
        0.25 of each layer is removed by ``fraction=0.25`` with ``floor=0.75``, if it is a whole number of elements.

        Parameters
        ----------
        folder : str or Path
            For ``from_preset`` of the model's class.

        Raises
        ------
        ModelError
            If the model is not of a class of KerasHub, or has layers of other sizes.

        Examples
        --------
        >>> import dropreg as dr
        >>> model = dr.datasets.load_model("mlp")
        >>> pruned = dr.remove(model, dr.Selection.random(dr.elements(model), 0.5))
        >>> try:
        ...     pruned.save_to_preset("folder")
        ... except dr.errors.ModelError as error:
        ...     print(str(error).partition(",")[0])
        model 'mlp' must be of a class of KerasHub to be saved as a preset
        """
        if kerashub_part(self.model) is None:
            raise ModelError(
                f"model '{self.model.name}' must be of a class of KerasHub to be saved as a preset, received a "
                f"{type(self.model).__name__} model{f' ({self.other_class})' if self.other_class else ''}: save it as "
                ".keras."
            )
        model: Any = self.model
        model.save_to_preset(str(folder))

    def __repr__(self) -> str:
        lines = [f"Pruned model '{self.model.name}', merge: {self.merge}", repr(self.report)]
        lines += [] if self.recovered is None else [f"recovered: {self.recovered.describe()}"]
        lines += (
            [] if self.other_class is None else [f"not of class {type(self.original).__name__}: {self.other_class}"]
        )
        lines += [f"not cut: '{layer}': {reason}" for layer, reason in self.blocked]
        return "\n".join(lines)
