"""Estimate impacts from a record: OLS, ridge, gradient-assisted regression, interactions, fidelity.

`_regress` chooses among the estimators (one file each); `_impact` is the table with its text and columns, and
`_uncertainty` says what its standard errors stand for; `_precision` ends a run once standard errors are small enough.
"""

from ._impact import ImpactTable, impact_table
from ._interactions import Interactions
from ._precision import Precision
from ._regress import MOST_DENSE, regress
from ._slice_table import SliceTable
from ._statsmodels import to_statsmodels
from ._uncertainty import NO_ERRORS, Uncertainty

__all__ = [
    "MOST_DENSE",
    "NO_ERRORS",
    "ImpactTable",
    "Interactions",
    "Precision",
    "SliceTable",
    "Uncertainty",
    "impact_table",
    "regress",
    "to_statsmodels",
]
