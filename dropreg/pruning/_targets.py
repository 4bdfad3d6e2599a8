"""Targets of pruning: a size or latency, or a limit on how much worse an outcome may get."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from .._utils import check_between, positive
from ..errors import ParameterError
from ._limits import Limit, Verdict

if TYPE_CHECKING:
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


Target = Budget | Limit


def not_met(budget: Budget, value: float) -> str:
    """Return the first half of an error text; `value` is the closest measured one."""
    return f"the target is at most {100 * budget.at_most:.3g}% of the {budget.quantity}, but {100 * value:.3g}%"


def not_shown(limit: Limit, verdict: Verdict, n_removed: int) -> str:
    """Return an error text: what was measured for the model of `n_removed` elements, which came closest."""
    count = f"{n_removed} element{'s' if n_removed > 1 else ''}"
    return (
        f"the target is {limit.text(limit.most)} at level {limit.level:g}, but with {count} removed the upper limit is "
        f"{limit.shown(verdict.limit)} ({limit.shown(verdict.mean)} on {verdict.examples:,} examples"
        f"{verdict.where}): {verdict.remedy(limit)}"
    )
