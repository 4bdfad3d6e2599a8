"""Limits on how much worse a smaller model may be, tested on held-out examples."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._utils import check_between, check_positive, examples_of_rows
from ..data import Data, Examples, Task, check_apart, check_data
from ..errors import DataError, ParameterError
from ..network import Accuracy, Outcome, OutcomeLike, PerMask, RetainedAccuracy, changes, resolve
from ._upper_limits import enough_for_mean, enough_for_proportions, exceeds, mean_limit, paired_limit

if TYPE_CHECKING:
    import keras

    from ..graph import Graph
    from ..surgery import Pruned

SET_ASIDE = 0.2
"""Share of the examples that a limit without data of its own sets aside."""
_LEAST_FOR_MEAN = 30


class Verdict(NamedTuple):
    """What a limit says of a smaller model.

    `limit` is the upper confidence limit of the loss, `mean` the loss on the examples, `examples` their number and
    `enough` how many would show the limit if their mean loss were the same, None if no number would. `where` names the
    slice that these are about.
    """

    limit: float
    mean: float
    examples: int
    enough: int | None = None
    where: str = ""

    def remedy(self, limit: "Limit") -> str:
        """Return what would help if the limit is not met."""
        if self.enough is None or self.mean >= limit.most:
            return "allow more, or remove fewer elements with fraction=."
        return f"about {self.enough:,} examples would show it if they were as good; pass more, or allow more."


@dataclass(frozen=True, eq=False)
class Limit:
    """The largest acceptable loss of an outcome, tested on held-out examples: see `AccuracyLimit`, `OutcomeLimit`."""

    most: float
    data: Data | None = None
    level: float = 0.95
    by: Any = None

    def __post_init__(self) -> None:
        check_between("level", self.level, low=0.5)
        if self.data is None:
            return
        if not isinstance(self.data, tuple | list) or len(self.data) not in (2, 3):
            raise DataError("`data` of a limit must be a pair (x, y), received none: pass (x, y).")
        if (n_outputs := _n_outputs(self.data[1])) > 1:
            raise DataError(
                f"`data` of a limit must have labels of one output, received those of {n_outputs}: pass the "
                "ones that count, as (x, {'name': y})."
            )

    @property
    def measured(self) -> Outcome:
        """The outcome that may get worse."""
        raise NotImplementedError

    @property
    def pilot(self) -> Outcome:
        """The outcome that is measured on the examples that selected the elements, to decide where tests begin."""
        return self.measured

    def least_of(self, largest: float) -> int:
        """Return the fewest examples that can show the limit, with weights of at most `largest`."""
        raise NotImplementedError

    def judged(self, losses: npt.NDArray[np.float64], level: float, unit: float | None) -> Verdict:
        """Return the verdict on losses of examples (n,), positive = worse; `unit` is the largest weight, if any."""
        raise NotImplementedError

    def shown(self, value: float) -> str:
        """Return a loss as text."""
        return f"{value:.4g}"

    def text(self, value: float) -> str:
        """Return what is limited, and by how much, as text."""
        return f"a mean {self.measured.name} worse by at most {self.shown(value)}"

    def measure(self, pruned: "Pruned", level: float | None = None, *, task: Task | None = None) -> float:
        """Return the upper confidence limit of the loss on `data`; the largest over slices.

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
            How much worse the smaller model is than the original one, positive = worse.

        Raises
        ------
        ParameterError
            If the limit has no data.
        """
        from ..graph import trace_graph

        if self.data is None:
            raise ParameterError("a limit must have data to measure, received none: pass data=(x, y) to the limit.")
        graph = trace_graph(pruned.original)
        examples = _sliced(check_data(graph, self.data, task), self.by)
        return verdict_on(self, graph, pruned.model, examples, self.level if level is None else level).limit


@dataclass(frozen=True, eq=False)
class AccuracyLimit(Limit):
    """The largest acceptable loss of accuracy, tested on held-out examples; as many elements as possible are removed.

    The loss is the accuracy of the original model minus that of the smaller model on the same examples. Its one-sided
    upper confidence limit must not exceed `most`: the score limit of Tango [1]_ from the number of examples that become
    wrong and that become right, which keeps its level also where few examples differ, and the exact limit of Clopper
    and Pearson [2]_ where none becomes right. Where fewer than a thousand losses are expected the exact probability of
    as good a result must be small, too, whatever the number of examples that become right [3]_.

    Parameters
    ----------
    most : float
        Largest loss of accuracy, strictly between 0 and 1; 0.005 is half a percentage point.
    data : (x, y) or (x, y, w), optional
        Held-out examples that are used for nothing else. With weights the losses of examples are counted in units of
        the largest weight, which is safe wherever the losses occur; more examples are needed then. By default a fifth
        of the data of `prune` or `anneal` is set aside.
    level : float
        Confidence level, strictly between 0.5 and 1. It holds for `measure`, and for the results of `anneal` and
        `prune`, however many models they measure: tests follow a fixed order that ends with the first failure.
    by : "class" or array of shape (n_examples,), optional
        The limit holds for each slice: each class, or each value of a column for the examples. All must pass, so the
        level needs no correction.

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
    .. [3] Berger, Boos (1994), J. American Statistical Association 89, "P values maximized over a confidence set for
       the nuisance parameter".

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> x, y = dr.datasets.fashion_mnist("test")
    >>> limit = dr.AccuracyLimit(0.01, (x[:1000], y[:1000]))
    >>> round(limit.measure(dr.remove(model, dr.Selection.dropping(dr.elements(model), []))), 3)
    0.003
    """

    def __post_init__(self) -> None:
        check_between("most", self.most, hint="0.005 is half a percentage point")
        super().__post_init__()
        if self.data is None:
            return
        if _labels(self.data[1]) is None:
            raise DataError(
                "`data` of an accuracy limit must be a pair (x, y) with labels, received none: pass (x, y)."
            )
        _check_enough(self, len(_labels(self.data[1])))

    @property
    def measured(self) -> Outcome:
        """Accuracy."""
        return Accuracy()

    @property
    def pilot(self) -> Outcome:
        """Retained accuracy: examples become right by chance, because the selection was made with them."""
        return RetainedAccuracy()

    @property
    def least_examples(self) -> int:
        """Fewest examples, of equal weights, that can show the limit, for a model that changes no prediction."""
        return self.least_of(1.0)

    def least_of(self, largest: float) -> int:
        return int(np.ceil(np.log1p(-self.level) / np.log1p(-self.most / largest)))

    def judged(self, losses: npt.NDArray[np.float64], level: float, unit: float | None) -> Verdict:
        limit, mean, n = paired_limit(losses, level, unit), float(losses.mean()), len(losses)
        if limit <= self.most and exceeds(losses, self.most, 1.0 - level):
            limit = float(np.nextafter(self.most, 1.0))
        return Verdict(limit, mean, n, enough_for_proportions(losses, self.most, level, unit))

    def shown(self, value: float) -> str:
        return f"{value:.2%}"

    def text(self, value: float) -> str:
        return f"an accuracy loss of at most {self.shown(value)}"


@dataclass(frozen=True, eq=False)
class OutcomeLimit(Limit):
    """The largest acceptable worsening of an outcome, tested on held-out examples.

    For the loss, the error of a regression, the divergence from the original model, or an outcome of your own. A
    perplexity that may rise by a factor f is a loss that may rise by log f. The mean change over examples has a
    one-sided upper confidence limit, the larger of Student's t, corrected for skewness [1]_, and the bootstrap of t
    [2]_: approximate, for some hundred examples and more. For accuracy use `AccuracyLimit`, which keeps its level for
    few examples, too.

    Parameters
    ----------
    most : float
        Largest mean change for the worse, positive, in the outcome's unit.
    data : (x, y) or (x, y, w), optional
        As in `AccuracyLimit`; y may be None if the outcome needs no labels.
    level : float
        As in `AccuracyLimit`.
    by : "class" or array of shape (n_examples,), optional
        As in `AccuracyLimit`.
    outcome : str, Outcome, or loss or metric of Keras
        An outcome of single examples, as in `dropreg.estimate`.

    Raises
    ------
    ParameterError
        If a parameter is out of range, or the outcome is one of several examples together.
    DataError
        If there are fewer than 30 examples.

    References
    ----------
    .. [1] Johnson (1978), J. American Statistical Association 73, "Modified t tests and confidence intervals for
       asymmetrical populations".
    .. [2] Hall (1988), Annals of Statistics 16, "Theoretical comparison of bootstrap confidence intervals".

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> x, y = dr.datasets.fashion_mnist("test")
    >>> limit = dr.OutcomeLimit(0.02, (x[:1000], y[:1000]), outcome="loss")
    >>> limit.measure(dr.remove(model, dr.Selection.dropping(dr.elements(model), [])))
    0.0
    """

    outcome: OutcomeLike = "loss"

    def __post_init__(self) -> None:
        check_positive("most", self.most)
        super().__post_init__()
        if isinstance(self.measured, PerMask):
            raise ParameterError(
                f"`outcome` of a limit must be one of single examples, received '{self.measured.name}', which needs "
                "several: pass 'loss', 'divergence' or another outcome of single examples."
            )

    @property
    def measured(self) -> Outcome:
        """The outcome."""
        return resolve(self.outcome)

    def least_of(self, largest: float) -> int:
        return _LEAST_FOR_MEAN

    def judged(self, losses: npt.NDArray[np.float64], level: float, unit: float | None) -> Verdict:
        limit, mean = mean_limit(losses, level), float(losses.mean())
        return Verdict(limit, mean, len(losses), enough_for_mean(losses, self.most, level))


def _check_enough(limit: Limit, n_examples: int, largest: float = 1.0, where: str = "") -> None:
    """Raise DataError if no model can meet the limit on so few examples with this largest weight."""
    least = limit.least_of(largest)
    if n_examples < least:
        weighted = "" if largest == 1.0 else f" with weights of up to {largest:.3g} times their mean"
        raise DataError(
            f"`data` of a limit must hold at least {least} examples to show {limit.text(limit.most)} "
            f"at level {limit.level:g}{weighted}, received {n_examples}{where}: pass more, or a larger limit."
        )


def held_out_examples(
    limit: Limit, graph: "Graph", data: Data, examples: Examples, seed: int
) -> tuple[Examples, Examples]:
    """Return the examples that remain for everything else, and those of the limit.

    `examples` are the checked `data`. Raises DataError if the limit's own data are among them, do not fit the model,
    or are too few.
    """
    if limit.data is None:
        if examples.labels is None and limit.measured.needs_labels:
            raise DataError("`data` must have labels for a limit that sets a part of them aside, received none.")
        examples = _sliced(examples, limit.by)
        order = examples_of_rows(seed, 0, len(examples), len(examples))
        count = int(np.ceil(SET_ASIDE * len(examples)))
        aside, rest = examples.part(np.sort(order[:count])), examples.part(np.sort(order[count:]))
        origin = f", the fifth that is set aside of {len(examples):,}"
    else:
        check_apart("data", data, "target.data", limit.data)
        try:
            aside = _sliced(check_data(graph, limit.data, examples.task), limit.by)
        except DataError as error:
            raise DataError(f"`data` of a limit do not fit the model: {error}") from error
        rest, origin = examples, ""
    if aside.task == "regression" and limit.measured.needs_classes:
        raise DataError(
            "`data` of an accuracy limit must have classes or labels 0 and 1, received other numbers: pass "
            "dropreg.OutcomeLimit(most, data, outcome='loss') for a regression."
        )
    for name, rows in _parts(aside):
        part = aside.part(rows)
        _check_enough(limit, len(part), _largest(part), f" in slice {name!r}{origin}" if name else origin)
    return rest, aside


def _sliced(examples: Examples, by: Any) -> Examples:
    return examples if by is None else examples.sliced(by)


def _parts(examples: Examples) -> list[tuple[str, npt.NDArray[np.int64]]]:
    """Return name and numbers of the examples of each slice; all, without a name, if there are none."""
    slices = examples.slices
    if slices is None:
        return [("", np.arange(len(examples)))]
    return [(name, np.flatnonzero(slices.codes == k)) for k, name in enumerate(slices.names)]


def _largest(examples: Examples) -> float:
    """Return the largest weight per mean weight, 1 if all are equal."""
    return 1.0 if examples.weights is None else float(examples.weights.max() / examples.weights.mean())


def verdict_on(limit: Limit, original: "Graph", smaller: "keras.Model", examples: Examples, level: float) -> Verdict:
    """Return the verdict on a smaller model, that of the worst slice if there are slices; see `Limit.measure`."""
    losses = _losses(limit.measured, changes(original, smaller, examples, limit.measured))
    return _worst(limit, losses, examples, level)


def _losses(outcome: Outcome, change: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return -change if outcome.greater_is_better else change


def _worst(limit: Limit, losses: npt.NDArray[np.float64], examples: Examples, level: float) -> Verdict:
    found = []
    for name, rows in _parts(examples):
        mean_weight = 1.0 if examples.weights is None else float(examples.weights[rows].mean())
        unit = None if examples.weights is None else _largest(examples.part(rows))
        verdict = limit.judged(losses[rows] / mean_weight, level, unit)
        found.append(verdict._replace(where=f" of slice {name!r}" if name else ""))
    return max(found, key=lambda verdict: verdict.limit)


def cross_measured(limit: Limit, original: "Graph", examples: Examples, build: "Callable[[Examples], Pruned]") -> float:
    """Estimate `Limit.measure` with two models, each built with one half of the examples and measured on the other.

    The estimate is infinite with too few examples, or without labels that the outcome needs.
    """
    outcome = limit.pilot
    unlabelled = examples.labels is None and outcome.needs_labels
    if unlabelled or len(examples) < max(limit.least_of(1.0), 4):
        return np.inf
    halves = [slice(first, None, 2) for first in (0, 1)]
    losses = np.empty(len(examples))
    for mine, other in (halves, halves[::-1]):
        smaller, part = build(examples.part(mine)).model, examples.part(other)
        losses[other] = _losses(outcome, changes(original, smaller, part, outcome))
    return _worst(limit, losses, examples, limit.level).limit


def _labels(y: Any) -> Any:
    """Return the labels of one output, which may be given by its name."""
    return next(iter(y.values())) if isinstance(y, Mapping) and len(y) == 1 else y


def _n_outputs(y: Any) -> int:
    """Return the number of outputs of the labels, given as arrays by name or a sequence of arrays."""
    several = isinstance(y, Mapping) or (isinstance(y, list | tuple) and len(y) > 0 and isinstance(y[0], np.ndarray))
    return len(y) if several else 1
