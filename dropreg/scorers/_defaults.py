"""The scorers that `dropreg.compare` compares by default."""

from ._activation import activation, weight_activation
from ._greedy import greedy
from ._leave_one_out import leave_one_out
from ._magnitude import magnitude
from ._random import random
from ._scorer import Scorer
from ._taylor import obd, spread, taylor


def default_scorers(rows: int = 1_000_000) -> dict[str, Scorer]:
    """Return the baselines that `dropreg.compare` compares by default, each with the same budget.

    Parameters
    ----------
    rows : int
        Largest cost of each in row-equivalents. A scorer may cost less; the column ``rows`` of `compare` says what
        each did cost.

    Returns
    -------
    dict of str to Scorer
        Keys are the names in the table of `compare`.

    Examples
    --------
    >>> import dropreg as dr
    >>> list(dr.scorers.default_scorers(rows=100_000))[:4]
    ['random', 'magnitude', 'activation', 'weight x activation']
    """
    budget = {"rows": rows}
    return {
        "random": Scorer(random, draws=5),
        "magnitude": Scorer(magnitude),
        "activation": Scorer(activation),
        "weight x activation": Scorer(weight_activation),
        "Taylor 1, signed": Scorer(taylor, budget),
        "Taylor 1, squared": Scorer(taylor, {"statistic": "squared"} | budget),
        "Taylor 1 + 2, signed": Scorer(taylor, {"order": 2} | budget),
        "OBD": Scorer(obd, budget),
        "spread": Scorer(spread, budget),
        "leave one out": Scorer(leave_one_out, budget),
        "greedy": Scorer(greedy, budget),
    }
