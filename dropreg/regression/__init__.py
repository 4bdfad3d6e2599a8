"""Estimate impacts from a record: OLS, ridge, lasso, gradient-assisted regression, interactions, fidelity."""

from ._impact import ImpactTable, impact_table
from ._interactions import Interactions
from ._regress import MOST_DENSE, regress, to_statsmodels
from ._stopping import Precision

__all__ = ["MOST_DENSE", "ImpactTable", "Interactions", "Precision", "impact_table", "regress", "to_statsmodels"]
