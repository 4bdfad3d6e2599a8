"""The result of pruning: a smaller model and its report."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import keras
import pandas as pd

from ..data import Data, Task
from ..element import Selection
from ..network import Outcome, measure
from ._latency import measure_latency
from ._sizes import Sizes

if TYPE_CHECKING:
    from ..recovery import Recovered

OnBlocked = Literal["raise", "keep"]


@dataclass(frozen=True, repr=False, eq=False)
class Pruned:
    """A smaller model and how it came about.

    Attributes
    ----------
    model : keras.Model
        A plain Keras model with smaller layers, not compiled. It saves to ``.keras``, reloads without dropreg and
        trains on.
    original : keras.Model
        The caller's, unchanged.
    selection : Selection
        What stays; with ``on_blocked="keep"`` more than was asked for.
    merge : str
        How the rest was merged into it.
    merged : DataFrame or None
        What merging found in each layer; see `merge_into`.
    blocked : tuple of (str, str)
        Layers that were kept whole although the selection drops some of their units, and why.
    report : Sizes
        Parameters, multiply-adds and bytes before and after.
    history : DataFrame or None
        One row a step of `dropreg.prune_iteratively`, None of `dropreg.prune`.
    recovered : Recovered or None
        How `dropreg.prune` trained the model after merging; None if it did not.
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

    def measure(
        self,
        data: Data,
        outcomes: Sequence[str | Outcome] | str | Outcome | None = None,
        *,
        task: Task | None = None,
    ) -> pd.DataFrame:
        """How well the models before and after do on the same examples.

        Parameters
        ----------
        data : (x, y), dataset or iterable of batches
            Test examples: none that chose what went, merged, or trained.
        outcomes : str, Outcome or sequence of them, optional
            As in `dropreg.sample`, metrics of your own included. By default accuracy and loss, the loss alone of a
            regression, the divergence without labels.
        task : str, optional
            As in `dropreg.sample`.

        Returns
        -------
        DataFrame
            One row an outcome: outcome, before, after (means over the examples), change (after - before: whether more
            is better depends on the outcome) and its std_error over examples, NaN for a `PerMask` metric.

        Raises
        ------
        DataError
            If the data do not fit the model, or an outcome needs labels and there are none.
        ParameterError
            If an outcome or the task is unknown, or does not fit the labels.
        """
        return measure(self.original, self.model, data, outcomes, task)

    def measure_latency(
        self, batch_sizes: Sequence[int] = (1, 64), *, threads: int = 1, repeats: int = 100, warm_up: int = 10
    ) -> pd.DataFrame:
        """Seconds that a forward pass takes before and after.

        Parameters
        ----------
        batch_sizes, threads, repeats, warm_up
            As in `dropreg.measure_latency`.

        Returns
        -------
        DataFrame
            As that of `dropreg.measure_latency`, with the models "before" and "after".

        Raises
        ------
        ParameterError, ModelError
            As in `dropreg.measure_latency`.
        """
        models = {"before": self.original, "after": self.model}
        return measure_latency(models, batch_sizes, threads=threads, repeats=repeats, warm_up=warm_up)

    def __repr__(self) -> str:
        lines = [f"Pruned model '{self.model.name}', merge: {self.merge}", repr(self.report)]
        lines += [] if self.recovered is None else [f"recovered: {self.recovered.describe()}"]
        lines += [f"kept whole: '{layer}': {reason}" for layer, reason in self.blocked]
        return "\n".join(lines)
