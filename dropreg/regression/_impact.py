"""The impact table: the result of every scorer."""

import html
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import stats

from .._utils import Array, check_between, check_positive, positive
from ..errors import ParameterError
from ._interactions import Interactions
from ._uncertainty import NO_ERRORS, Uncertainty, adjust_p_values

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ._slices import SliceTable


@dataclass(frozen=True, repr=False)
class ImpactTable:
    """Impacts of elements, with standard errors and intervals where the scorer has them.

    Attributes
    ----------
    frame : DataFrame
        One row for each element, in the model's order. Columns: element, layer, kind, index, params; ``impact``, how
        much worse the outcome gets when the element is replaced (positive = replacing it hurts), or a score (larger =
        more important); ``shrunk``, by the estimator "corrected" only, the impact shrunk towards what gradients
        alone predict, for predictions; ``unit``, as below; ``rank``, 1 for the largest impact. With standard errors
        also ``std_error``, NaN where all rows showed the same change, and ``no_change``, whether that change was zero.
        Where intervals cover also ``z``, the ratio of both; ``p_value``, two-sided against impact 0; ``p_bh`` and
        ``p_by``, the same adjusted for all elements by Benjamini-Hochberg and Benjamini-Yekutieli (false discovery
        rate); ``ci_low`` and ``ci_high``, the interval.
    method : str
        Name of the estimator.
    outcome : str
        Name of the outcome.
    unit : str
        The outcome's name where impacts are changes of the outcome, else what the scores are.
    rows : int
        Number of masked forward passes used.
    seed : int
        Seed of the random numbers.
    uncertainty : Uncertainty
        What the standard errors stand for: their kind, the level of the intervals and the degrees of freedom.
    details : dict
        Further information, such as the design and the kind of standard errors.
    fidelity : DataFrame or None
        How well the impacts predict unseen masks, one row for each drop rate: rate, masks, examples, ``correlation``
        of predicted and measured outcomes, ``ceiling`` (the correlation of a perfect prediction), r2, r2_ceiling.
    interactions : Interactions or None
        Pairwise interactions, if they were estimated.
    slices : SliceTable or None
        Impacts for each slice of the examples, if they were estimated.
    original : float or None
        Mean outcome of the original model on the data, where it is known.
    stop : str or None
        Why the run ended early, and how that affects the standard errors.

    Examples
    --------
    >>> import dropreg as dr
    >>> model, data = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
    >>> elements = dr.elements(model, include=["dense_2"])
    >>> table = dr.estimate(model, data, elements, outcome="loss", rows=2000, progress=False)
    >>> len(table), table.impact.shape, str(table.uncertainty)
    (100, (100,), '95% intervals for this data set')
    >>> table.top(3)["rank"].tolist()
    [1, 2, 3]
    >>> table.by_layer()["elements"].tolist()
    [100]
    >>> print(table.summary(3).splitlines()[0])
    Impact on loss of 100 elements (positive = replacing it hurts)
    """

    frame: pd.DataFrame
    method: str
    outcome: str
    unit: str
    rows: int
    seed: int
    uncertainty: Uncertainty = NO_ERRORS
    details: dict[str, Any] = field(default_factory=dict)
    fidelity: pd.DataFrame | None = None
    interactions: Interactions | None = None
    slices: "SliceTable | None" = None
    original: float | None = None
    stop: str | None = None

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def impact(self) -> Array:
        """Impacts, shape (n_elements,), in the order of the elements; positive = replacing the element hurts."""
        return self.frame["impact"].to_numpy()

    @property
    def std_error(self) -> Array:
        """Standard errors of the impacts, shape (n_elements,); NaN where there are none."""
        return self.frame["std_error"].to_numpy() if "std_error" in self.frame else np.full(len(self), np.nan)

    @property
    def quantity(self) -> str:
        """What the table holds, as text: the impact on an outcome, or a score."""
        return f"impact on {self.outcome}" if self.unit == self.outcome else f"score ({self.unit})"

    @property
    def direction(self) -> str:
        """What a large value means, as text."""
        return "positive = replacing it hurts" if self.unit == self.outcome else "larger = more important"

    def to_frame(self) -> pd.DataFrame:
        """Return a copy of the table.

        Returns
        -------
        DataFrame
            One row for each element, in the order of the elements, with the columns of `ImpactTable`.
        """
        return self.frame.copy()

    def to_csv(self, path: str | Path) -> None:
        """Write the table as CSV, without an index.

        Parameters
        ----------
        path : str or Path
            An existing file is replaced.
        """
        self.frame.to_csv(path, index=False)

    def to_parquet(self, path: str | Path) -> None:
        """Write the table as Parquet, without an index.

        Parameters
        ----------
        path : str or Path
            An existing file is replaced.
        """
        self.frame.to_parquet(path, index=False)

    def with_scores(self, values: Array, *, unit: str, rows: int) -> "ImpactTable":
        """Return a table of scores without errors for the same elements.

        Parameters
        ----------
        values : ndarray of float64, shape (n_elements,)
            Larger = more important.
        unit : str
            What the scores are.
        rows : int
            Number of masked forward passes used.

        Returns
        -------
        ImpactTable
        """
        named = {"method": self.method, "outcome": self.outcome, "seed": self.seed}
        return impact_table(self.frame, values, **named, unit=unit, rows=rows)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the table with everything that it says, for `load`.

        A Parquet file carries what is not in its columns as metadata. For CSV it is in a file beside it, with ".json"
        added to the name. Slices and interactions are in files beside it, with ".slices.parquet" and
        ".interactions.parquet".

        Parameters
        ----------
        path : str or Path
            Ends in ".parquet" or ".csv".
        overwrite : bool
            Replace files that exist.

        Raises
        ------
        ParameterError
            If the path has another ending or no folder, or a file exists and `overwrite` is False.
        RecordError
            If the file cannot be written.
        """
        from ._files import save_table

        save_table(self, path, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> "ImpactTable":
        """Read a table that `save` has written.

        Parameters
        ----------
        path : str or Path

        Returns
        -------
        ImpactTable

        Raises
        ------
        ParameterError
            If the path has another ending.
        RecordError
            If the file, or one beside it, cannot be read or is another.

        Examples
        --------
        >>> import tempfile
        >>> import dropreg as dr
        >>> model, data = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
        >>> table = dr.scorers.magnitude(model, data, dr.elements(model))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table.save(folder + "/impact.parquet")
        ...     dr.ImpactTable.load(folder + "/impact.parquet").unit == table.unit
        True
        """
        from ._files import load_table

        return load_table(path, cls)

    def plot(self, *, ax: "Axes | None" = None) -> "Axes":
        """Plot the impact of every element, layer by layer, in descending order.

        Lines are intervals where the table has them, else standard errors to either side, if there are any.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Drawn into; by default a new figure.

        Returns
        -------
        matplotlib.axes.Axes

        Examples
        --------
        >>> import matplotlib
        >>> import dropreg as dr
        >>> matplotlib.use("agg")
        >>> model, data = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
        >>> axes = dr.scorers.magnitude(model, data, dr.elements(model)).plot()
        >>> axes.figure.savefig("/dev/null", format="png")
        """
        from ._plot import plot_impacts

        return plot_impacts(self, ax)

    def top(self, n: int = 10, *, lowest: bool = False) -> pd.DataFrame:
        """Return the `n` elements with the largest or the smallest impacts.

        Parameters
        ----------
        n : int
            At least 1; all elements if there are fewer.
        lowest : bool
            Return the smallest impacts, in ascending order.

        Returns
        -------
        DataFrame
            With the columns of `ImpactTable`.

        Raises
        ------
        ParameterError
            If `n` is not an integer of at least 1.
        """
        positive("n", n)
        ordered = self.frame.sort_values("rank", ascending=not lowest, kind="stable")
        return ordered.head(n).reset_index(drop=True)

    def negligible(self, margin: float, level: float = 0.05) -> pd.DataFrame:
        """Return the elements whose impact is shown to be smaller than a margin.

        Two one-sided tests (TOST) [1]_ of -margin < impact < margin by Student's t, adjusted for all elements for a
        false discovery rate of `level`. An element whose impact is merely not significant is not returned, nor one
        for which all rows showed the same change, so that there is no standard error.

        Parameters
        ----------
        margin : float
            Positive, in the outcome's unit.
        level : float
            False discovery rate, strictly between 0 and 1.

        Returns
        -------
        DataFrame
            element, layer, params, impact, std_error, ``p_equivalence`` and ``p_bh`` of the test, in ascending order
            of the p-values.

        Raises
        ------
        ParameterError
            If `margin` or `level` is out of range, or the table has no intervals that cover.

        References
        ----------
        .. [1] Schuirmann (1987), J. Pharmacokinetics and Biopharmaceutics 15.

        Examples
        --------
        >>> import dropreg as dr
        >>> model, data = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
        >>> elements = dr.elements(model, include=["dense_2"])
        >>> forward = dr.Sampling(gradients=False)
        >>> table = dr.estimate(model, data, elements, rows=2000, sampling=forward, progress=False)
        >>> len(table.negligible(margin=10.0))
        100
        """
        check_positive("margin", margin)
        check_between("level", level)
        if not self.uncertainty.covers:
            raise ParameterError(
                f"`negligible` must have intervals that cover, received {self.method} with {self.uncertainty}: use "
                "dropreg.regress(record, estimator='ols')."
            )
        p_value = stats.t.sf((margin - np.abs(self.impact)) / self.std_error, self.uncertainty.df)
        p_value = np.where(np.isfinite(self.std_error), p_value, 1.0)
        frame = self.frame[["element", "layer", "params", "impact", "std_error"]].assign(
            p_equivalence=p_value, p_bh=adjust_p_values(p_value, "fdr_bh")
        )
        return frame[frame["p_bh"] <= level].sort_values("p_equivalence", ignore_index=True)

    def redundant_pairs(self, level: float = 0.05) -> pd.DataFrame:
        """Return the pairs of elements that compensate for each other's removal.

        Two units may be redundant for the model's predictions and yet not for the loss, which can even decrease when
        both are removed. Impacts on the divergence from the original model find such pairs too.

        Parameters
        ----------
        level : float
            False discovery rate (Benjamini and Hochberg, over all pairs), strictly between 0 and 1.

        Returns
        -------
        DataFrame
            The rows of `Interactions.pairs` with a significant positive interaction, the largest ``z`` first.

        Raises
        ------
        ParameterError
            If the table was estimated without interactions, or `level` is out of range.

        Examples
        --------
        >>> import dropreg as dr
        >>> model, data = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
        >>> elements = dr.elements(model, include=["dense_2"])
        >>> record = dr.sample(model, data, elements, rows=1000, outcomes="loss", progress=False)
        >>> pairs = dr.regress(record, interactions=True).redundant_pairs()
        >>> pairs.columns[:3].tolist()
        ['element', 'other', 'interaction']
        """
        if self.interactions is None:
            raise ParameterError(
                "`redundant_pairs` must have interactions, received a table without: pass interactions=True to regress."
            )
        check_between("level", level)
        frame = self.interactions.pairs()
        return frame[(frame["interaction"] > 0) & (frame["p_bh"] <= level)].reset_index(drop=True)

    def by_layer(self) -> pd.DataFrame:
        """Summarize the impacts of each layer.

        Returns
        -------
        DataFrame
            One row for each layer: layer, elements (their number), mean and largest (impact, in the table's unit), and
            where there are intervals clear (fraction of the elements whose interval excludes zero).
        """
        columns = {"elements": ("impact", "size"), "mean": ("impact", "mean"), "largest": ("impact", "max")}
        frame = self.frame
        if self.uncertainty.covers:
            frame = frame.assign(clear=(frame["ci_low"] > 0) | (frame["ci_high"] < 0))
            columns["clear"] = ("clear", "mean")
        return frame.groupby("layer", sort=False, as_index=False).agg(**columns)

    def summary(self, n: int = 10) -> str:
        """Return the method, the layers, and the largest and smallest impacts as text.

        Parameters
        ----------
        n : int
            Number of elements shown at either end, at least 1.

        Returns
        -------
        str
        """
        shown = self._shown("element", "params", "impact", "std_error", "z", "p_value", "ci_low", "ci_high", "rank")
        width = max(len(line) for line in self._heading())
        parts = [*self._heading(), "=" * width, self.by_layer().to_string(index=False, float_format=_number)]
        for name, lowest in (("largest", False), ("smallest", True)):
            ends = _marked(self.top(n, lowest=lowest), shown).to_string(index=False, float_format=_number)
            parts += ["-" * width, f"{name} {self.quantity}", ends]
        parts += [] if self.slices is None else ["=" * width, repr(self.slices)]
        return "\n".join(parts)

    def _shown(self, *columns: str) -> list[str]:
        """Return those of `columns` that the table has."""
        return [name for name in columns if name in self.frame]

    def _heading(self) -> list[str]:
        lines = [
            f"{self.quantity[0].upper()}{self.quantity[1:]} of {len(self)} elements ({self.direction})",
            "" if self.original is None else f"original model: mean {self.outcome} {self.original:.4g} on the data",
            f"{self.method}, {self.rows:,} rows, seed {self.seed}, {self.uncertainty}",
            ", ".join(f"{name} {_text(value)}" for name, value in self.details.items()),
            self.stop or "",
        ]
        if self.fidelity is not None:
            parts = [
                f"{row.correlation:z.2f} of at most {row.ceiling:.2f} at rate {row.rate:.2g}".replace("nan", "unknown")
                for row in self.fidelity.itertuples()
            ]
            lines.append(f"correlation with unseen masks: {'; '.join(parts)}")
        return [line for line in lines if line]

    def _ends(self) -> pd.DataFrame:
        if len(self) <= 10:
            return self.top(len(self))
        return pd.concat([self.top(5), self.top(5, lowest=True).iloc[::-1]], ignore_index=True)

    def __repr__(self) -> str:
        shown = self._shown("rank", "element", "impact", "std_error", "ci_low", "ci_high")
        lines = _marked(self._ends(), shown).to_string(index=False, float_format=_number).split("\n")
        if len(self) > 10:
            lines.insert(6, f"... {len(self) - 10} more".rjust(len(lines[0])))
        return "\n".join([*self._heading(), *lines])

    def _repr_html_(self) -> str:
        heading = "<br>".join(html.escape(line) for line in self._heading())
        return f"<p>{heading}</p>{self._ends().to_html(index=False, float_format=_number)}"


def _marked(rows: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """Return columns of some rows, and ``no_change`` where it is True for one of them."""
    marked = "no_change" in rows and bool(rows["no_change"].any())
    return rows[[*columns, *(["no_change"] if marked else [])]]


def _number(value: float) -> str:
    return f"{value:z.4g}"


def _text(value: Any) -> str:
    return f"{value:z.3g}" if isinstance(value, float) else str(value)


def impact_table(
    elements: pd.DataFrame,
    impact: Array,
    std_error: Array | None = None,
    *,
    method: str,
    outcome: str,
    rows: int,
    seed: int,
    unit: str | None = None,
    uncertainty: Uncertainty = NO_ERRORS,
    details: dict[str, Any] | None = None,
) -> ImpactTable:
    """Make an `ImpactTable` from impacts and standard errors, one for each row of `elements`.

    `unit` says what scores are that are no changes of the outcome; `std_error` is not used if `uncertainty` is of the
    kind "none".
    """
    impact, unit = impact + 0.0, unit or outcome  # -0.0 becomes 0.0
    frame = elements[["element", "layer", "kind", "index", "params"]].reset_index(drop=True)
    frame = frame.assign(
        impact=impact,
        unit=unit,
        **uncertainty.columns(impact, std_error),
        rank=stats.rankdata(-impact, method="ordinal").astype(np.int64),
    )
    return ImpactTable(frame, method, outcome, unit, rows, seed, uncertainty, details or {})
