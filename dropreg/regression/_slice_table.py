"""The table of impacts for each slice of the examples."""

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import stats

from ..errors import ParameterError
from ._uncertainty import adjust_p_values

if TYPE_CHECKING:
    from ._impact import ImpactTable


@dataclass(frozen=True, repr=False)
class SliceTable:
    """Impacts of elements for each slice of the examples, with errors and tests over both: ``slices`` of a table.

    Attributes
    ----------
    by : str
        What divides the examples: "class", or the name of a column.
    tables : dict of str to ImpactTable
        The impacts for each slice, on its examples alone.
    frame : DataFrame
        One row for each slice and element: slice, and the columns of `ImpactTable`. ``rank`` is that in the slice;
        ``p_bh`` and ``p_by`` are adjusted for all elements and slices together (false discovery rate).

    Examples
    --------
    >>> import dropreg as dr
    >>> model, data = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
    >>> elements = dr.elements(model, include=["dense_2"])
    >>> classes = dr.estimate(model, data, elements, by="class", rows=5_000, progress=False).slices
    >>> len(classes), classes.names[:3]
    (10, ('0', '1', '2'))
    >>> classes["3"].top(2).columns[:2].tolist()
    ['element', 'layer']
    >>> classes.matrix().shape
    (100, 10)
    >>> selection = dr.select(elements, classes.worst(), fraction=0.5)
    >>> classes.contrasts().columns[:4].tolist()
    ['slice', 'element', 'layer', 'difference']
    """

    by: str
    tables: "dict[str, ImpactTable]"
    frame: pd.DataFrame

    @classmethod
    def of(cls, by: str, tables: "dict[str, ImpactTable]") -> "SliceTable":
        """Return the table of these tables, one for each slice.

        Parameters
        ----------
        by : str
        tables : dict of str to ImpactTable
            Of the same elements.

        Returns
        -------
        SliceTable
        """
        frame = pd.concat([table.frame for table in tables.values()], ignore_index=True)
        frame.insert(0, "slice", np.repeat(list(tables), [len(table) for table in tables.values()]))
        if "p_value" in frame:
            for name in ("bh", "by"):
                frame[f"p_{name}"] = adjust_p_values(frame["p_value"].to_numpy(), f"fdr_{name}")
        return cls(by, tables, frame)

    def __len__(self) -> int:
        return len(self.tables)

    def __getitem__(self, name: object) -> "ImpactTable":
        """Return the impacts for one slice."""
        if str(name) not in self.tables:
            raise ParameterError(f"table[...] must be given one of the slices {self._listed()}, received {name!r}.")
        return self.tables[str(name)]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the slices."""
        return tuple(self.tables)

    @property
    def _any(self) -> "ImpactTable":
        """One of the tables, for what they have in common."""
        return next(iter(self.tables.values()))

    def _listed(self) -> str:
        names = list(self.tables)
        return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")

    def to_frame(self) -> pd.DataFrame:
        """Return a copy of the tidy table.

        Returns
        -------
        DataFrame
            One row for each slice and element.
        """
        return self.frame.copy()

    def to_csv(self, path: str | Path) -> None:
        """Write the tidy table as CSV, without an index.

        Parameters
        ----------
        path : str or Path
            An existing file is replaced.
        """
        self.frame.to_csv(path, index=False)

    def matrix(self, column: str = "impact") -> pd.DataFrame:
        """Return one column of the table as elements x slices.

        Parameters
        ----------
        column : str
            A column of `ImpactTable`, such as "impact", "std_error" or "p_bh".

        Returns
        -------
        DataFrame of shape (n_elements, n_slices)

        Raises
        ------
        ParameterError
            If there is no such column.
        """
        if column not in self.frame:
            known = ", ".join(self.frame.columns)
            raise ParameterError(f"`column` must be one of {known}, received {column!r}.")
        values = self.frame[column].to_numpy().reshape(len(self), -1).T
        return pd.DataFrame(values, index=pd.Index(self._any.frame["element"]), columns=list(self.tables))

    def worst(self) -> "ImpactTable":
        """Return for each element its largest impact on a slice, to keep what any slice needs.

        The largest of several estimates is too large on average, the more so the larger their errors: it orders
        elements, and has no standard error.

        Returns
        -------
        ImpactTable
            Scores for `dropreg.select`.
        """
        return self._any.with_scores(
            self.matrix().to_numpy(np.float64).max(axis=1),
            unit=f"largest impact on {self._any.outcome} of a slice by {self.by}",
            rows=sum(table.rows for table in self.tables.values()),
        )

    def contrasts(self) -> pd.DataFrame:
        """Test for each slice and element whether the impact differs from that on the other slices.

        The other slices count alike, whatever their numbers of examples. Slices have no examples in common, so their
        estimates are independent.

        Returns
        -------
        DataFrame
            One row for each slice and element, the smallest p-values first: slice, element, layer, ``difference`` (the
            impact minus the mean impact on the other slices), std_error, z, p_value (two-sided), ``p_bh``, adjusted
            for all elements and slices (Benjamini-Hochberg).

        Raises
        ------
        ParameterError
            If there are no standard errors that cover.
        """
        if not self._any.uncertainty.covers:
            raise ParameterError(
                f"`contrasts` must have intervals that cover, received {self._any.method} with "
                f"{self._any.uncertainty}: pass estimator='corrected' or 'ols' to regress."
            )
        n = len(self)
        impact = self.matrix().to_numpy(np.float64)
        variance = np.nan_to_num(self.matrix("std_error").to_numpy(np.float64)) ** 2  # NaN: nothing changed
        others = (impact.sum(axis=1, keepdims=True) - impact) / (n - 1)
        error = np.sqrt(variance + (variance.sum(axis=1, keepdims=True) - variance) / (n - 1) ** 2)
        difference = impact - others
        z = np.divide(difference, error, out=np.full_like(error, np.nan), where=error > 0)
        df = min(table.uncertainty.df for table in self.tables.values())
        p_value = np.where((error == 0) & (difference == 0), 1.0, 2 * stats.t.sf(np.abs(z), df))
        flat = {name: array.T.reshape(-1) for name, array in (("difference", difference), ("std_error", error))}
        frame = self.frame[["slice", "element", "layer"]].assign(**flat, z=z.T.reshape(-1))
        frame["p_value"] = p_value.T.reshape(-1)
        frame["p_bh"] = adjust_p_values(frame["p_value"].to_numpy(), "fdr_bh")
        return frame.sort_values("p_value", kind="stable", ignore_index=True)

    def _summary(self) -> pd.DataFrame:
        """Return one row for each slice: rows, mean and largest impact, and the element of the largest."""
        lines = []
        for name, table in self.tables.items():
            best = int(table.impact.argmax())
            line = {"slice": name, "rows": table.rows, "mean": table.impact.mean(), "largest": table.impact[best]}
            lines.append(line | {"element": table.frame["element"].iloc[best]})
        frame = pd.DataFrame(lines)
        if "p_bh" in self.frame:
            frame["clear"] = [int((part["p_bh"] <= 0.05).sum()) for _, part in self.frame.groupby("slice", sort=False)]
        return frame

    def _heading(self) -> list[str]:
        first, size = self._any, len(self._any)
        lines = [
            f"{first.quantity[0].upper()}{first.quantity[1:]} of {size:,} elements for {len(self)} slices by {self.by}",
            f"{first.method}, {first.uncertainty}",
        ]
        clear = "clear: number of elements whose impact differs from 0 (false discovery rate 5% over all slices)"
        return [*lines, *([clear] if "p_bh" in self.frame else [])]

    def __repr__(self) -> str:
        body = self._summary().to_string(index=False, float_format=lambda value: f"{value:z.4g}")
        return "\n".join([*self._heading(), body])

    def _repr_html_(self) -> str:
        heading = "<br>".join(html.escape(line) for line in self._heading())
        return f"<p>{heading}</p>{self._summary().to_html(index=False, float_format=lambda value: f'{value:z.4g}')}"
