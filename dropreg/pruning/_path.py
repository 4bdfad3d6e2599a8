"""Nested selections of one run."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from .._utils import Array
from ..element import Elements, Selection
from ..errors import ParameterError
from ..regression import ImpactTable, impact_table


@dataclass(frozen=True, repr=False, eq=False)
class SelectionPath:
    """Nested selections for rising fractions, from one run.

    Attributes
    ----------
    selections : tuple of Selection
        For each fraction, ascending; each keeps a subset of the one before.
    logits : ndarray of float64, shape (n_fractions, n_elements)
        What decided each selection, NaN for elements that had gone before.
    history : DataFrame
        One row a round: stage, run and round (from 0), taken (whether the run made the stage's selection), dropped (the
        expected fraction), outcome (mean over the round's masks), decided (fraction of the elements with a
        keep-probability outside of [.1, .9]).
    outcome : str
    method : str
    rows : int
        Row-equivalents that were spent: one a masked forward pass of one example, two more for its backward pass.
    seed : int
    """

    selections: tuple[Selection, ...]
    logits: Array
    history: pd.DataFrame
    outcome: str
    method: str
    rows: int
    seed: int

    @property
    def elements(self) -> Elements:
        """Of the model that the selections are for."""
        return self.selections[0].elements

    @property
    def fractions(self) -> tuple[float, ...]:
        """Fraction of the elements that each selection drops."""
        return tuple(selection.fraction for selection in self.selections)

    def at(self, fraction: float) -> Selection:
        """The selection that drops `fraction` of the elements.

        Parameters
        ----------
        fraction : float
            One of the path's, up to half an element.

        Returns
        -------
        Selection

        Raises
        ------
        ParameterError
            If the path has no such selection.
        """
        for selection in self.selections:
            if abs(selection.fraction - fraction) <= 0.5 / len(self.elements):
                return selection
        known = ", ".join(f"{value:.3g}" for value in self.fractions)
        raise ParameterError(f"`fraction` must be one of the path's, {known}, received {fraction}.")

    def to_impact(self) -> ImpactTable:
        """How long each element stays, as the impacts of a scorer.

        Elements of the last selection rank above all others, those of the one before it above the rest, and so
        on; among equals the logits decide. The impacts are places in that order, from 0 to 1.

        Returns
        -------
        ImpactTable
            Without standard errors.
        """
        keys = [np.nan_to_num(row, nan=-np.inf) for row in self.logits]
        order = np.lexsort([key for key, s in zip(keys, self.selections, strict=True) for key in (key, s.kept)])
        places = np.empty(len(self.elements))
        places[order] = np.arange(1, len(places) + 1) / len(places)
        return impact_table(
            self.elements.to_frame(), places, method=self.method, outcome=self.outcome, rows=self.rows, seed=self.seed
        )

    def __repr__(self) -> str:
        lines = [f"SelectionPath: {self.method}, outcome {self.outcome}, {self.rows:,} rows, seed {self.seed}"]
        last = self.history[self.history["taken"]].groupby("stage")["outcome"].last().to_list()
        lines += [
            f"{s.fraction:.1%} go, {int(s.kept.sum())} stay; mean {self.outcome} of the last masks {value:.4g}"
            for s, value in zip(self.selections, last, strict=True)
        ]
        return "\n".join(lines)
