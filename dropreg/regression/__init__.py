"""From a record to a table of impacts: OLS, ridge, lasso, assisted regression, fidelity."""

from ._impact import ImpactTable, impact_table
from ._interactions import Interactions
from ._regress import MOST_DENSE, regress, to_statsmodels
from ._stopping import Precision

__all__ = [
    "MOST_DENSE",
    "ImpactTable",
    "Interactions",
    "Precision",
    "impact_table",
    "regress",
    "to_statsmodels",
]
