"""What a pruner is to reach: a size, a speed, or the most that can go at a bearable loss of accuracy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from .._utils import check_between, positive
from ..data import Data, Examples, check_apart, check_data
from ..errors import DataError, ParameterError
from ..network import Accuracy, RetainedAccuracy, changes

if TYPE_CHECKING:
    import keras

    from ..graph import Graph
    from ..surgery import Pruned

Quantity = Literal["params", "macs", "bytes", "latency"]


@dataclass(frozen=True)
class Budget:
    """Remove as little as a budget allows.

    Parameters
    ----------
    quantity : {"params", "macs", "bytes", "latency"}
        Parameters, multiply-adds of matrix products for one example, bytes of the ``.keras`` file, or the measured
        median seconds of a forward pass.
    at_most : float
        As a fraction of the whole model's, strictly between 0 and 1.
    batch_size : int
        Examples of a pass whose latency is measured.

    Raises
    ------
    ParameterError
        If a parameter is out of range.
    """

    quantity: Quantity
    at_most: float
    batch_size: int = 1

    def __post_init__(self) -> None:
        if self.quantity not in get_args(Quantity):
            raise ParameterError(
                f"`quantity` must be one of {', '.join(get_args(Quantity))}, received {self.quantity!r}."
            )
        check_between("at_most", self.at_most, hint="the fraction that stays")
        positive("batch_size", self.batch_size)

    def measure(self, pruned: "Pruned") -> float:
        """How much of the whole model is left.

        Parameters
        ----------
        pruned : Pruned

        Returns
        -------
        float
            The quantity of the smaller model, as a fraction of the whole one's.
        """
        if self.quantity == "latency":
            before, after = pruned.measure_latency((self.batch_size,))["median"].to_numpy(np.float64)
            return float(after / before)
        return float(pruned.report.totals()["ratio"].to_dict()[self.quantity])

    def describe(self, value: float) -> str:
        """Begin a sentence on a target that is out of reach.

        Parameters
        ----------
        value : float
            What came closest, as `measure` gives it.

        Returns
        -------
        str
            It ends with `value`; what had it is named next.
        """
        return f"the target is at most {100 * self.at_most:.3g}% of the {self.quantity}, but {100 * value:.3g}%"


@dataclass(frozen=True, eq=False)
class AccuracyLimit:
    """Remove as much as can go at a bearable loss of accuracy, shown on held-out examples.

    The loss is that of the smaller model against the whole one on the same examples. Its one-sided upper confidence
    limit counts, not its estimate: the score limit of Tango [1]_ from how many become wrong and how many right, which
    keeps its level also where few differ, and the exact one of Clopper and Pearson [2]_ where none becomes right.

    Parameters
    ----------
    most : float
        Largest loss of accuracy, strictly between 0 and 1; 0.005 is half a percentage point.
    data : (x, y)
        Held-out examples that nothing else uses.
    level : float
        Confidence that the loss stays under the limit, strictly between 0.5 and 1. It holds for `measure`, and for
        what `anneal` and `prune` hand back, however many models they measure: they go up in steps and stop at the
        first that fails.

    Raises
    ------
    ParameterError
        If a parameter is out of range.
    DataError
        If there are too few examples to show such a loss at all.

    References
    ----------
    .. [1] Tango (1998), Statistics in Medicine 17, "Equivalence test and confidence interval for the difference in
       proportions for the paired-sample design", section 2.
    .. [2] Clopper, Pearson (1934), Biometrika 26, "The use of confidence or fiducial limits".
    """

    most: float
    data: Data
    level: float = 0.95

    def __post_init__(self) -> None:
        check_between("most", self.most, hint="0.005 is half a percentage point")
        check_between("level", self.level, low=0.5)
        if not isinstance(self.data, tuple | list) or len(self.data) != 2 or _labels(self.data[1]) is None:
            raise DataError(
                "`data` of an accuracy limit must be a pair (x, y) with labels, received none: pass (x, y)."
            )
        if (n_outputs := _n_outputs(self.data[1])) > 1:
            raise DataError(
                f"`data` of an accuracy limit must have labels of one output, received those of {n_outputs}: pass the "
                "ones that count, as (x, {'name': y})."
            )
        n_examples = len(_labels(self.data[1]))
        if n_examples < self.least_examples:
            raise DataError(
                f"`data` of an accuracy limit must hold at least {self.least_examples} examples to show a loss of at "
                f"most {self.most:g} at level {self.level:g}, received {n_examples}: pass more, or a larger limit."
            )

    @property
    def least_examples(self) -> int:
        """With fewer examples not even a model that changes nothing keeps to the limit."""
        return int(np.ceil(np.log1p(-self.level) / np.log1p(-self.most)))

    def check(self, model: "keras.Model | Graph", others: Data) -> Examples:
        """Return `data` as checked examples, if they can show the loss of a model.

        Parameters
        ----------
        model : keras.Model or Graph
        others : (x, y)
            Data that selected elements or trained.

        Returns
        -------
        checked : Examples

        Raises
        ------
        DataError
            If `data` do not fit the model, have no classes or labels, or share examples with `others`.
        """
        check_apart("data", others, "target.data", self.data)
        try:
            examples = check_data(model, self.data)
        except DataError as error:
            raise DataError(f"`data` of an accuracy limit do not fit the model: {error}") from error
        if examples.task == "regression":
            raise DataError(
                "`data` of an accuracy limit must have classes or labels 0 and 1, received other numbers: pass a "
                "fraction or a Budget for a regression."
            )
        return examples

    def measure(self, pruned: "Pruned", level: float | None = None) -> float:
        """Upper confidence limit of the loss of accuracy.

        Parameters
        ----------
        pruned : Pruned
        level : float, optional
            Strictly between 0.5 and 1; by default that of the target.

        Returns
        -------
        float
            Of the whole model's accuracy minus the smaller one's on `data`, positive = worse.
        """
        from ..graph import trace_graph

        graph = trace_graph(pruned.original)
        return self.bound(graph, pruned.model, check_data(graph, self.data), self.level if level is None else level)

    def bound(self, original: "Graph", smaller: "keras.Model", examples: Examples, level: float) -> float:
        """Upper confidence limit of the loss of accuracy for a traced original model and checked `data`.

        Parameters
        ----------
        original : Graph
        smaller : keras.Model
        examples : Examples
            As `check` returns them.
        level : float

        Returns
        -------
        float
            As `measure`.
        """
        return upper_limit(-changes(original, smaller, examples, Accuracy()), level)

    def guess(self, model: "keras.Model | Graph", examples: Examples, build: Callable[[Examples], "Pruned"]) -> float:
        """A bound of what `measure` would give, from other examples: each half measures what the other has built.

        What becomes right that was wrong counts nothing: of examples that something was chosen with it is by chance,
        and without it the loss is known better.

        Parameters
        ----------
        model : keras.Model or Graph
        examples : Examples
            That chose what goes, and that it is merged with.
        build : callable
            Gives the smaller model that is made with some of the examples.

        Returns
        -------
        float
            As `measure`; infinite where there are too few examples, or no labels.
        """
        if examples.labels is None or len(examples) < max(self.least_examples, 4):
            return np.inf
        halves = [examples.part(slice(first, None, 2)) for first in (0, 1)]
        losses = [-changes(model, build(a).model, b, RetainedAccuracy()) for a, b in (halves, halves[::-1])]
        return upper_limit(np.concatenate(losses), self.level)

    def describe(self, value: float) -> str:
        """Begin a sentence on a target that is out of reach.

        Parameters
        ----------
        value : float
            What came closest, as `measure` gives it.

        Returns
        -------
        str
            It ends with `value`; what had it is named next.
        """
        return f"the target is an accuracy loss of at most {self.most:.2%} at level {self.level:g}, but {value:.2%}"


Target = Budget | AccuracyLimit


def upper_limit(losses: npt.NDArray[np.float64], level: float) -> float:
    """Upper confidence limit of the mean of losses (n,) in [-1, 1], as `AccuracyLimit` says.

    Losses other than -1, 0 and 1, such as means over positions, count as so many of one size as have their mean and
    mean square.
    """
    total = float(np.abs(losses).sum())
    size = float((losses**2).sum()) / total if total > 0 else 1.0
    lost, gained = (float(part.sum()) / size for part in (losses[losses > 0], -losses[losses < 0]))
    return size * _score_limit(lost, gained, len(losses), level)


def _score_limit(lost: float, gained: float, n: int, level: float) -> float:
    """Upper limit of the difference of two paired proportions, of which these counts differ."""
    if gained == 0:
        return float(stats.beta.ppf(level, lost + 1, n - lost)) if lost < n else 1.0
    mean, z = (lost - gained) / n, float(stats.norm.ppf(level))

    def excess(difference: float) -> float:
        """How far a difference lies above what is not refuted."""
        b = lost + gained - (2 * n - lost + gained) * difference
        root = np.sqrt(max(b**2 + 8 * n * gained * difference * (1 - difference), 0.0))
        p_gained = (b + root) / (4 * n)  # the most likely, given the difference
        variance = max(2 * p_gained + difference - difference**2, 0.0) / n
        return difference - mean - z * np.sqrt(variance)

    return float(optimize.brentq(excess, mean, 1.0)) if excess(1.0) > 0 else 1.0


def _labels(y: Any) -> Any:
    """Labels of one output, which may have its name."""
    return next(iter(y.values())) if isinstance(y, Mapping) and len(y) == 1 else y


def _n_outputs(y: Any) -> int:
    """How many outputs labels are of: arrays by name, or a sequence of arrays."""
    several = isinstance(y, Mapping) or (isinstance(y, list | tuple) and len(y) > 0 and isinstance(y[0], np.ndarray))
    return len(y) if several else 1
