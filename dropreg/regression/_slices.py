"""Impacts for each slice of the examples: classes, or the values of a column."""

import html
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from ..data import slices_of
from ..errors import ParameterError, RecordError, UnidentifiedError
from ._impact import ImpactTable, impact_table
from ._uncertainty import adjust_p_values

if TYPE_CHECKING:
    from ..sampling import Record


class ConstantError(UnidentifiedError):
    """An outcome that no mask changes."""


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
    tables: dict[str, ImpactTable]
    frame: pd.DataFrame

    def __len__(self) -> int:
        return len(self.tables)

    def __getitem__(self, name: object) -> ImpactTable:
        """Return the impacts for one slice."""
        if str(name) not in self.tables:
            raise ParameterError(f"table[...] must be given one of the slices {self._listed()}, received {name!r}.")
        return self.tables[str(name)]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the slices."""
        return tuple(self.tables)

    @property
    def _any(self) -> ImpactTable:
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

    def worst(self) -> ImpactTable:
        """Return for each element its largest impact on a slice, to keep what any slice needs.

        The largest of several estimates is too large on average, the more so the larger their errors: it orders
        elements, and has no standard error.

        Returns
        -------
        ImpactTable
            Scores for `dropreg.select`.
        """
        return impact_table(
            *(self._any.frame, self.matrix().to_numpy(np.float64).max(axis=1)),
            method=self._any.method,
            outcome=self._any.outcome,
            unit=f"largest impact on {self._any.outcome} of a slice by {self.by}",
            rows=sum(table.rows for table in self.tables.values()),
            seed=self._any.seed,
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


def by_slice(record: "Record", by: Any, overall: ImpactTable, fit: "Callable[[Record], ImpactTable]") -> SliceTable:
    """Return the impacts that `fit` estimates on the rows of each slice; `overall` are those on all rows."""
    settings = record.settings
    if settings.examples_per_mask > 1:
        raise ParameterError(
            f"`by` must be None where a mask serves several examples, received {settings.examples_per_mask} for each "
            "mask: sample with a design of one."
        )
    label, names, codes, declared = _slices(record, by)
    tables: dict[str, ImpactTable] = {}
    for number, name in enumerate(names):
        part = record.of_examples(codes == number, number if declared else None)
        try:
            tables[name] = fit(part)
        except ConstantError:
            zeros = np.zeros(len(overall))
            frame = replace(overall, rows=part.rows, fidelity=None, stop=None)
            tables[name] = replace(frame, frame=_frame(overall, zeros))
        except (UnidentifiedError, RecordError) as error:
            raise type(error)(f"slice {name!r} by {label}: {error}") from error
    return SliceTable(label, tables, _tidy(tables, settings.n_elements))


def _frame(like: ImpactTable, zeros: npt.NDArray[np.float64]) -> pd.DataFrame:
    """Return the frame of impacts that are all zero, because nothing changed."""
    return impact_table(
        *(like.frame, zeros, zeros),
        method=like.method,
        outcome=like.outcome,
        rows=0,
        seed=0,
        uncertainty=like.uncertainty,
    ).frame


def _slices(record: "Record", by: Any) -> tuple[str, tuple[str, ...], npt.NDArray[np.int64], bool]:
    """Return name, slices and their numbers for each example, and whether they are those of the run."""
    settings = record.settings
    if isinstance(by, str):
        if record.slices is None or by != settings.by:
            there = f"slices by {settings.by!r}" if settings.by else "no slices"
            raise ParameterError(
                f"`by` must name the slices of the record or be one value for each example, received {by!r} for a "
                f"record with {there}: pass the values, or sample again with by={by!r}."
            )
        return settings.by, settings.slices, record.slices, True
    found = slices_of(by, settings.n_examples)
    declared = record.slices is not None and np.array_equal(found.codes, record.slices)
    return found.by, found.names, found.codes, declared


def _tidy(tables: dict[str, ImpactTable], n_elements: int) -> pd.DataFrame:
    """Return the tables below each other, with p-values that are adjusted for all of them."""
    frame = pd.concat([table.frame for table in tables.values()], ignore_index=True)
    frame.insert(0, "slice", np.repeat(list(tables), n_elements))
    if "p_value" in frame:
        for name in ("bh", "by"):
            frame[f"p_{name}"] = adjust_p_values(frame["p_value"].to_numpy(), f"fdr_{name}")
    return frame
