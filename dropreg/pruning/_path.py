"""Nested selections of one annealing run."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from .._utils import Array
from ..element import Elements, Selection, as_kept, load_selections, save_selections
from ..errors import ParameterError, RecordError
from ..regression import ImpactTable, impact_table


@dataclass(frozen=True, repr=False, eq=False)
class SelectionPath:
    """Nested selections for rising fractions, from one run of `dropreg.anneal_path`.

    Attributes
    ----------
    selections : tuple of Selection
        One for each fraction, ascending; each keeps a subset of the one before.
    logits : ndarray of float64, shape (n_fractions, n_elements)
        Logits that decided each selection, NaN for elements that were removed before.
    history : DataFrame
        One row for each round: stage, run and round (from 0), taken (whether the run made the stage's selection),
        dropped (expected removed fraction), outcome (mean over the round's masks), decided (fraction of the elements
        with a keep-probability outside of [.1, .9]).
    outcome : str
    method : str
    rows : int
        Cost in row-equivalents: one for the masked forward pass of one example, two more for its backward pass.
    seed : int

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> x, y = dr.datasets.fashion_mnist("estimation")
    >>> data, elements = (x[:500], y[:500]), dr.elements(model, include="dense_2")
    >>> path = dr.anneal_path(model, data, elements, fractions=(0.3, 0.6), annealing=dr.Annealing(rounds=3))
    >>> [round(fraction, 2) for fraction in path.fractions]
    [0.3, 0.6]
    >>> len(path.at(0.6).dropped)
    60
    >>> bool(path.to_impact().impact[path.at(0.6).kept].min() > 0.5)
    True
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
        """The elements of the selections."""
        return self.selections[0].elements

    @property
    def fractions(self) -> tuple[float, ...]:
        """Removed fraction of each selection."""
        return tuple(selection.fraction for selection in self.selections)

    def at(self, fraction: float) -> Selection:
        """Return the selection that removes `fraction` of the elements.

        Parameters
        ----------
        fraction : float
            One of the path's fractions, up to half an element.

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

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the path to a JSON file, for `load`.

        Parameters
        ----------
        path : str or Path
            Ends in ".json".
        overwrite : bool
            Replace a file that exists.

        Raises
        ------
        ParameterError
            If the path has another ending or no folder, or the file exists and `overwrite` is False.
        RecordError
            If the file cannot be written.
        """
        values = {
            "kept": [selection.kept.tolist() for selection in self.selections],
            "logits": [[None if np.isnan(v) else float(v) for v in row] for row in self.logits],
            "history": json.loads(self.history.to_json(orient="records", double_precision=15)),
            **{name: getattr(self, name) for name in ("outcome", "method", "rows", "seed")},
        }
        save_selections(path, self.elements, values, "path of selections", overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path, elements: Elements) -> "SelectionPath":
        """Read a path that `save` has written.

        Parameters
        ----------
        path : str or Path
        elements : Elements
            Those of the path, from ``dropreg.elements(model, ...)`` with the same arguments.

        Returns
        -------
        SelectionPath

        Raises
        ------
        RecordError
            If the file cannot be read.
        ParameterError
            If it is a path of other elements.
        """
        values = load_selections(path, elements, "path of selections")
        try:
            selections = tuple(Selection(elements, as_kept(kept, path)) for kept in values["kept"])
            logits = np.array([[np.nan if v is None else v for v in row] for row in values["logits"]], np.float64)
            plain = {name: values[name] for name in ("outcome", "method", "rows", "seed")}
            return cls(selections, logits, pd.DataFrame(values["history"]), **plain)
        except (KeyError, TypeError, ValueError) as error:
            raise RecordError(
                f"{path}: expected a saved path of selections, received {error}: save it again."
            ) from error

    def to_impact(self) -> ImpactTable:
        """Return the order of removal as an impact table.

        The impacts are ranks divided by the number of elements, in (0, 1]. Elements of the last selection rank above
        those that only the selection before keeps, and so on; within these groups the logits decide.

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
            *(self.elements.to_frame(), places),
            method=self.method,
            outcome=self.outcome,
            unit="rank divided by the number of elements",
            rows=self.rows,
            seed=self.seed,
        )

    def __repr__(self) -> str:
        lines = [f"SelectionPath: {self.method}, outcome {self.outcome}, {self.rows:,} rows, seed {self.seed}"]
        last = self.history[self.history["taken"]].groupby("stage")["outcome"].last().to_list()
        lines += [
            f"{s.fraction:.1%} removed, {int(s.kept.sum())} kept; mean {self.outcome} of the last masks {value:.4g}"
            for s, value in zip(self.selections, last, strict=True)
        ]
        return "\n".join(lines)
