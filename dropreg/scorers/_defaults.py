"""The scorers that `dropreg.pruning` compares by default."""

from ._activation import activation
from ._gates import gates
from ._greedy import greedy
from ._leave_one_out import leave_one_out
from ._magnitude import magnitude
from ._random import random
from ._scorer import Scorer
from ._shapley import shapley
from ._taylor import obd, spread, taylor
from ._weight_activation import weight_activation


def default_scorers(rows: int = 1_000_000) -> dict[str, Scorer]:
    """The baselines, each with the same budget.

    Parameters
    ----------
    rows : int
        Most row-equivalents of each. Those that cost less are not made to spend more: the column rows of `compare`
        says what each spent.

    Returns
    -------
    dict of str to Scorer
        By the names that `compare` shows them by.
    """
    return {
        "random": Scorer(random, draws=5),
        "magnitude": Scorer(magnitude),
        "activation": Scorer(activation),
        "weight x activation": Scorer(weight_activation),
        "Taylor 1, signed": Scorer(taylor, {"rows": rows}),
        "Taylor 1, squared": Scorer(taylor, {"statistic": "squared", "rows": rows}),
        "Taylor 1 + 2, signed": Scorer(taylor, {"order": 2, "rows": rows}),
        "OBD": Scorer(obd, {"rows": rows}),
        "spread": Scorer(spread, {"rows": rows}),
        "leave one out": Scorer(leave_one_out, {"rows": rows}),
        "greedy": Scorer(greedy, {"rows": rows}),
        "gates": Scorer(gates, {"rows": rows}, per_fraction=True),
        "Shapley": Scorer(shapley, {"rows": rows}),
    }
