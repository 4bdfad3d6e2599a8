"""The impact table: the one result of every scorer."""

import html
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from .._utils import check_between, check_positive, positive
from ..errors import ParameterError
from ._interactions import Interactions, adjusted

COLUMNS = (
    *("element", "layer", "kind", "index", "params"),
    *("impact", "std_error", "z", "p_value", "p_bh", "p_by", "ci_low", "ci_high", "rank"),
)


@dataclass(frozen=True, repr=False)
class ImpactTable:
    """What each element is worth, and how sure that is.

    Attributes
    ----------
    frame : DataFrame
        One row an element, in the model's order. ``impact`` is how much worse the outcome gets when
        the element is dropped (positive = it hurts to lose it), in the outcome's unit; ``std_error``
        its standard error (NaN where the scorer has none); ``z`` their ratio; ``p_value`` two-sided
        against impact 0, ``p_bh`` and ``p_by`` the same adjusted for all elements by
        Benjamini-Hochberg and Benjamini-Yekutieli (false discovery rate); ``ci_low`` and
        ``ci_high`` the interval at `level`; ``rank`` 1 for the largest impact.
    method : str
        How it was estimated.
    outcome : str
    rows : int
        Masked forward passes that it rests on.
    level : float
        Confidence level of the intervals.
    seed : int
    details : dict
        More of how it came about, such as the design and the kind of standard errors.
    fidelity : DataFrame or None
        How well the impacts predict unseen masks; see `score`.
    interactions : Interactions or None
    stop : str or None
        Why the run ended early, and what that does to the error bars.
    df : float
        Degrees of freedom of Student's t that tests and intervals are by; infinite for the normal.
    """

    frame: pd.DataFrame
    method: str
    outcome: str
    rows: int
    level: float
    seed: int
    details: dict[str, Any] = field(default_factory=dict)
    fidelity: pd.DataFrame | None = None
    interactions: Interactions | None = None
    stop: str | None = None
    df: float = np.inf

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def impact(self) -> npt.NDArray[np.float64]:
        """Shape (n_elements,), in the order of the elements."""
        return self.frame["impact"].to_numpy()

    @property
    def std_error(self) -> npt.NDArray[np.float64]:
        """Shape (n_elements,), in the order of the elements."""
        return self.frame["std_error"].to_numpy()

    @property
    def intervals(self) -> str:
        """What the intervals are: "95% intervals", or "95% posterior intervals", which promise no coverage."""
        kind = "posterior intervals" if self.details.get("errors") == "posterior" else "intervals"
        return f"{100 * self.level:.10g}% {kind}"

    def to_frame(self) -> pd.DataFrame:
        """A copy of the table.

        Returns
        -------
        DataFrame
            The columns of `ImpactTable`, one row an element, in the order of the elements.
        """
        return self.frame.copy()

    def to_csv(self, path: str | Path) -> None:
        """Write the table as CSV, without an index.

        Parameters
        ----------
        path : str or Path
            A file that is there is replaced.
        """
        self.frame.to_csv(path, index=False)

    def to_parquet(self, path: str | Path) -> None:
        """Write the table as Parquet, without an index.

        Parameters
        ----------
        path : str or Path
            A file that is there is replaced.
        """
        self.frame.to_parquet(path, index=False)

    def top(self, n: int = 10, *, lowest: bool = False) -> pd.DataFrame:
        """The `n` elements with the largest impact, or the smallest.

        Parameters
        ----------
        n : int
            At least 1; all elements where there are fewer.
        lowest : bool
            Whether the smallest impacts are wanted, the smallest first.

        Returns
        -------
        DataFrame
            The same columns as the table.

        Raises
        ------
        ParameterError
            If `n` is no integer of at least 1.
        """
        positive("n", n)
        ordered = self.frame.sort_values("rank", ascending=not lowest, kind="stable")
        return ordered.head(n).reset_index(drop=True)

    def negligible(self, margin: float, level: float = 0.05) -> pd.DataFrame:
        """The elements shown to have an impact below a margin, the ones that a pruner may act on.

        Two one-sided tests (TOST) [1]_ of -margin < impact < margin by Student's t, adjusted over all
        elements for a false discovery rate of `level`. An element that is merely not shown to matter
        is not here.

        Parameters
        ----------
        margin : float
            Positive, in the outcome's unit.
        level : float
            False discovery rate, strictly between 0 and 1.

        Returns
        -------
        DataFrame
            element, layer, params, impact, std_error, ``p_equivalence`` and ``p_bh`` of the test; the
            clearest first.

        Raises
        ------
        ParameterError
            If `margin` or `level` is out of range, or the table has no standard errors.

        References
        ----------
        .. [1] Schuirmann (1987), J. Pharmacokinetics and Biopharmaceutics 15.
        """
        check_positive("margin", margin)
        check_between("level", level)
        if not np.isfinite(self.std_error).all():
            raise ParameterError(
                f"`negligible` must have standard errors, received impacts by {self.method} without: "
                "use estimator='ols'."
            )
        with np.errstate(divide="ignore", invalid="ignore"):
            distance = (margin - np.abs(self.impact)) / self.std_error
        p_value = stats.t.sf(distance, self.df)
        frame = self.frame[["element", "layer", "params", "impact", "std_error"]].assign(
            p_equivalence=p_value, p_bh=adjusted(p_value, "fdr_bh")
        )
        return frame[frame["p_bh"] <= level].sort_values("p_equivalence", ignore_index=True)

    def redundant_pairs(self, level: float = 0.05) -> pd.DataFrame:
        """Pairs of elements that stand in for each other, at a false discovery rate of `level`.

        Two units may stand in for each other in what the network says and yet not for the loss, which
        losing both can even lower; impacts on the divergence from the whole model find those too.

        Parameters
        ----------
        level : float
            False discovery rate (Benjamini and Hochberg), strictly between 0 and 1.

        Returns
        -------
        DataFrame
            See `Interactions.pairs`; the clearest first.

        Raises
        ------
        ParameterError
            If the table was estimated without interactions, or `level` is out of range.
        """
        if self.interactions is None:
            raise ParameterError(
                "`redundant_pairs` must have interactions, received a table without: pass interactions=True to "
                "regress or estimate."
            )
        return self.interactions.redundant(level)

    def by_layer(self) -> pd.DataFrame:
        """Impacts layer by layer.

        Returns
        -------
        DataFrame
            One row a layer: layer, elements (how many), mean and largest (impact, in the outcome's unit), clear
            (fraction of the elements whose interval does not hold zero).
        """
        clear = (self.frame["ci_low"] > 0) | (self.frame["ci_high"] < 0)
        groups = self.frame.assign(clear=clear).groupby("layer", sort=False, as_index=False)
        return groups.agg(
            elements=("impact", "size"), mean=("impact", "mean"), largest=("impact", "max"), clear=("clear", "mean")
        )

    def summary(self, n: int = 10) -> str:
        """Method, layers, and the largest and smallest impacts, as text.

        Parameters
        ----------
        n : int
            How many of either are shown, at least 1.

        Returns
        -------
        str
        """
        shown = ["element", "params", "impact", "std_error", "z", "p_value", "ci_low", "ci_high", "rank"]
        width = max(len(line) for line in self._heading())
        parts = [
            *self._heading(),
            "=" * width,
            self.by_layer().to_string(index=False, float_format=_number),
            "-" * width,
            f"largest impact on {self.outcome}",
            self.top(n)[shown].to_string(index=False, float_format=_number),
            "-" * width,
            f"smallest impact on {self.outcome}",
            self.top(n, lowest=True)[shown].to_string(index=False, float_format=_number),
        ]
        return "\n".join(parts)

    def _heading(self) -> list[str]:
        details = ", ".join(f"{name} {_text(value)}" for name, value in self.details.items())
        return [
            f"Impact on {self.outcome} of {len(self)} elements (positive = it hurts to lose it)",
            f"{self.method}, {self.rows:,} rows, seed {self.seed}, {self.intervals}",
            *([details] if details else []),
            *([self.stop] if self.stop else []),
            *self._fidelity_lines(),
        ]

    def _fidelity_lines(self) -> list[str]:
        if self.fidelity is None:
            return []
        parts = [
            f"{row.correlation:.2f} of at most {row.ceiling:.2f} at rate {row.rate:.2g}"
            for row in self.fidelity.itertuples()
        ]
        return [f"correlation with unseen masks: {'; '.join(parts)}"]

    def _ends(self) -> pd.DataFrame:
        if len(self) <= 10:
            return self.top(len(self))
        lowest = self.top(5, lowest=True)
        return pd.concat([self.top(5), lowest.iloc[::-1]], ignore_index=True)

    def __repr__(self) -> str:
        shown = ["rank", "element", "impact", "std_error", "ci_low", "ci_high"]
        lines = self._ends()[shown].to_string(index=False, float_format=_number).split("\n")
        if len(self) > 10:
            lines.insert(6, f"... {len(self) - 10} more".rjust(len(lines[0])))
        return "\n".join([*self._heading(), *lines])

    def _repr_html_(self) -> str:
        heading = "<br>".join(html.escape(line) for line in self._heading())
        return f"<p>{heading}</p>{self._ends().to_html(index=False, float_format=_number)}"


def _number(value: float) -> str:
    return f"{value:.4g}"


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def impact_table(
    elements: pd.DataFrame,
    impact: npt.NDArray[np.float64],
    std_error: npt.NDArray[np.float64] | None = None,
    *,
    method: str,
    outcome: str,
    rows: int,
    seed: int,
    level: float = 0.95,
    df: float = np.inf,
    details: dict[str, Any] | None = None,
) -> ImpactTable:
    """Make an `ImpactTable` from impacts and standard errors, one for each row of `elements`.

    Intervals and p-values are those of Student's t with `df` degrees of freedom.

    Raises
    ------
    ParameterError
        If `level` lies outside (0, 1).
    """
    check_between("level", level)
    error = np.full(len(impact), np.nan) if std_error is None else std_error
    with np.errstate(divide="ignore", invalid="ignore"):
        z = impact / error
    p_value = 2 * stats.t.sf(np.abs(z), df)
    half = stats.t.ppf(0.5 + level / 2, df) * error
    frame = elements[["element", "layer", "kind", "index", "params"]].reset_index(drop=True)
    frame = frame.assign(
        impact=impact,
        std_error=error,
        z=z,
        p_value=p_value,
        p_bh=adjusted(p_value, "fdr_bh"),
        p_by=adjusted(p_value, "fdr_by"),
        ci_low=impact - half,
        ci_high=impact + half,
        rank=stats.rankdata(-impact, method="ordinal").astype(np.int64),
    )
    return ImpactTable(frame[list(COLUMNS)], method, outcome, rows, level, seed, details or {}, df=df)
