"""Targets of pruning: a size or latency, or a limit on the loss of accuracy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from scipy import optimize, stats

from .._utils import check_between, positive
from ..data import Data, Examples, Task, check_apart, check_data
from ..errors import DataError, ParameterError
from ..network import Accuracy, RetainedAccuracy, changes

if TYPE_CHECKING:
    import keras

    from ..graph import Graph
    from ..surgery import Pruned

Quantity = Literal["params", "macs", "bytes", "latency"]


@dataclass(frozen=True)
class Budget:
    """The largest allowed size or latency; as few elements as possible are removed.

    Parameters
    ----------
    quantity : {"params", "macs", "bytes", "latency"}
        Parameters, multiply-adds of matrix products for one example, bytes of the ``.keras`` file, or the measured
        median seconds of a forward pass.
    at_most : float
        Fraction of the original model's quantity, strictly between 0 and 1.
    batch_size : int
        Examples of a forward pass whose latency is measured.

    Raises
    ------
    ParameterError
        If a parameter is out of range.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> x, y = dr.datasets.fashion_mnist("estimation")
    >>> data, elements = (x[:500], y[:500]), dr.elements(model, include="dense_2")
    >>> target = dr.Budget("params", 0.95)
    >>> selection = dr.anneal(model, data, elements, target=target, annealing=dr.Annealing(rounds=1))
    >>> bool(target.measure(dr.remove(model, selection)) <= 0.95)
    True
    """

    quantity: Quantity
    at_most: float
    batch_size: int = 1

    def __post_init__(self) -> None:
        if self.quantity not in get_args(Quantity):
            raise ParameterError(
                f"`quantity` must be one of {', '.join(get_args(Quantity))}, received {self.quantity!r}."
            )
        check_between("at_most", self.at_most, hint="the fraction of the original model to keep")
        positive("batch_size", self.batch_size)

    def measure(self, pruned: "Pruned") -> float:
        """Return the smaller model's quantity as a fraction of the original one's.

        Parameters
        ----------
        pruned : Pruned

        Returns
        -------
        float
        """
        if self.quantity == "latency":
            before, after = pruned.measure_latency((self.batch_size,))["median"].to_numpy(np.float64)
            return float(after / before)
        return float(pruned.report.totals()["ratio"].to_dict()[self.quantity])


@dataclass(frozen=True, eq=False)
class AccuracyLimit:
    """The largest acceptable loss of accuracy, tested on held-out examples; as many elements as possible are removed.

    The loss is the accuracy of the original model minus that of the smaller model on the same examples. Its one-sided
    upper confidence limit must not exceed `most`: the score limit of Tango [1]_ from the number of examples that become
    wrong and that become right, which keeps its level also where few examples differ, and the exact limit of Clopper
    and Pearson [2]_ where none becomes right.

    Parameters
    ----------
    most : float
        Largest loss of accuracy, strictly between 0 and 1; 0.005 is half a percentage point.
    data : (x, y) or (x, y, w)
        Held-out examples that are used for nothing else. With weights the losses of examples are counted in units of
        the largest weight, which is safe wherever the losses occur; more examples are needed then.
    level : float
        Confidence level, strictly between 0.5 and 1. It holds for `measure`, and for the results of `anneal` and
        `prune`, however many models they measure: tests follow a fixed order that ends with the first failure.

    Raises
    ------
    ParameterError
        If a parameter is out of range.
    DataError
        If there are too few examples to show such a loss.

    References
    ----------
    .. [1] Tango (1998), Statistics in Medicine 17, "Equivalence test and confidence interval for the difference in
       proportions for the paired-sample design", section 2.
    .. [2] Clopper, Pearson (1934), Biometrika 26, "The use of confidence or fiducial limits".

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> x, y = dr.datasets.fashion_mnist("test")
    >>> limit = dr.AccuracyLimit(0.01, (x[:1000], y[:1000]))
    >>> round(limit.measure(dr.remove(model, dr.Selection.dropping(dr.elements(model), []))), 3)
    0.003
    """

    most: float
    data: Data
    level: float = 0.95

    def __post_init__(self) -> None:
        check_between("most", self.most, hint="0.005 is half a percentage point")
        check_between("level", self.level, low=0.5)
        if not isinstance(self.data, tuple | list) or len(self.data) not in (2, 3) or _labels(self.data[1]) is None:
            raise DataError(
                "`data` of an accuracy limit must be a pair (x, y) with labels, received none: pass (x, y)."
            )
        if (n_outputs := _n_outputs(self.data[1])) > 1:
            raise DataError(
                f"`data` of an accuracy limit must have labels of one output, received those of {n_outputs}: pass the "
                "ones that count, as (x, {'name': y})."
            )
        self._check_enough(len(_labels(self.data[1])))

    @property
    def least_examples(self) -> int:
        """Fewest examples, of equal weights, that can show the limit, for a model that changes no prediction."""
        return self._least(1.0)

    def _least(self, largest: float) -> int:
        return int(np.ceil(np.log1p(-self.level) / np.log1p(-self.most / largest)))

    def _check_enough(self, n_examples: int, largest: float = 1.0) -> None:
        """Raise DataError if no model can meet the limit on so few examples with this largest weight."""
        least = self._least(largest)
        if n_examples < least:
            weighted = "" if largest == 1.0 else f" with weights of up to {largest:.3g} times their mean"
            raise DataError(
                f"`data` of an accuracy limit must hold at least {least} examples to show a loss of at most "
                f"{self.most:g} at level {self.level:g}{weighted}, received {n_examples}: pass more, or a larger limit."
            )

    def measure(self, pruned: "Pruned", level: float | None = None, *, task: Task | None = None) -> float:
        """Return the upper confidence limit of the loss of accuracy on `data`.

        Parameters
        ----------
        pruned : Pruned
        level : float, optional
            Strictly between 0.5 and 1, by default that of the limit.
        task : str, optional
            As in `sample`.

        Returns
        -------
        float
            Original accuracy minus that of the smaller model, positive = worse.
        """
        from ..graph import trace_graph

        graph = trace_graph(pruned.original)
        examples = check_data(graph, self.data, task)
        return loss_limit(graph, pruned.model, examples, self.level if level is None else level)


Target = Budget | AccuracyLimit


def check_limit(limit: AccuracyLimit, graph: "Graph", others: Data, task: Task) -> Examples:
    """Return the limit's data as checked examples of classes, none of which are among `others`."""
    check_apart("data", others, "target.data", limit.data)
    try:
        examples = check_data(graph, limit.data, task)
    except DataError as error:
        raise DataError(f"`data` of an accuracy limit do not fit the model: {error}") from error
    if examples.task == "regression":
        raise DataError(
            "`data` of an accuracy limit must have classes or labels 0 and 1, received other numbers: pass a "
            "fraction or a Budget for a regression."
        )
    limit._check_enough(len(examples), _largest(examples))
    return examples


def _largest(examples: Examples) -> float:
    """Return the largest weight, 1 if all are equal."""
    return 1.0 if examples.weights is None else float(examples.weights.max())


def loss_limit(original: "Graph", smaller: "keras.Model", examples: Examples, level: float) -> float:
    """Return the upper confidence limit of the loss of accuracy; see `AccuracyLimit.measure`."""
    unit = None if examples.weights is None else _largest(examples)
    return upper_limit(-changes(original, smaller, examples, Accuracy()), level, unit)


def cross_measured(
    limit: AccuracyLimit, original: "Graph", examples: Examples, build: Callable[[Examples], "Pruned"]
) -> float:
    """Estimate `limit.measure` with two models, each built with one half of the examples and measured on the other.

    Only examples that become wrong count. Examples that become right may do so by chance, because the selection was
    made with them. The estimate is infinite with too few examples or no labels.
    """
    if examples.labels is None or len(examples) < max(limit.least_examples, 4):
        return np.inf
    halves = [examples.part(slice(first, None, 2)) for first in (0, 1)]
    losses = [-changes(original, build(a).model, b, RetainedAccuracy()) for a, b in (halves, halves[::-1])]
    return upper_limit(np.concatenate(losses), limit.level, None if examples.weights is None else _largest(examples))


def not_met(target: Target, value: float) -> str:
    """Return the first half of an error text; `value` is the closest measured one."""
    if isinstance(target, Budget):
        return f"the target is at most {100 * target.at_most:.3g}% of the {target.quantity}, but {100 * value:.3g}%"
    return f"the target is an accuracy loss of at most {target.most:.2%} at level {target.level:g}, but {value:.2%}"


def upper_limit(losses: npt.NDArray[np.float64], level: float, unit: float | None = None) -> float:
    """Return the upper confidence limit of the mean of losses (n,) in [-1, 1]; see `AccuracyLimit`.

    Losses other than -1, 0 and 1, such as means over positions, are replaced by as many of equal size as have the same
    mean and mean square. Weighted losses, in [-unit, unit], are replaced by as many of size `unit` as have the same
    mean: their mean square, and so the limit, is larger.
    """
    total = float(np.abs(losses).sum())
    size = unit or (float((losses**2).sum()) / total if total > 0 else 1.0)
    lost, gained = (float(part.sum()) / size for part in (losses[losses > 0], -losses[losses < 0]))
    return size * _score_limit(lost, gained, len(losses), level)


def _score_limit(lost: float, gained: float, n: int, level: float) -> float:
    """Return the upper limit of the difference of two paired proportions, of which these counts differ."""
    if gained == 0:
        return float(stats.beta.ppf(level, lost + 1, n - lost)) if lost < n else 1.0
    mean, z = (lost - gained) / n, float(stats.norm.ppf(level))

    def excess(difference: float) -> float:
        """Return by how much a difference exceeds the largest one that the data do not reject."""
        b = lost + gained - (2 * n - lost + gained) * difference
        root = np.sqrt(max(b**2 + 8 * n * gained * difference * (1 - difference), 0.0))
        p_gained = (b + root) / (4 * n)  # maximum likelihood, given the difference
        variance = max(2 * p_gained + difference - difference**2, 0.0) / n
        return difference - mean - z * np.sqrt(variance)

    return float(optimize.brentq(excess, mean, 1.0)) if excess(1.0) > 0 else 1.0


def _labels(y: Any) -> Any:
    """Return the labels of one output, which may be given by its name."""
    return next(iter(y.values())) if isinstance(y, Mapping) and len(y) == 1 else y


def _n_outputs(y: Any) -> int:
    """Return the number of outputs of the labels, given as arrays by name or a sequence of arrays."""
    several = isinstance(y, Mapping) or (isinstance(y, list | tuple) and len(y) > 0 and isinstance(y[0], np.ndarray))
    return len(y) if several else 1
