"""The plot of an impact table."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..errors import ParameterError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ._impact import ImpactTable

_MOST_NAMED = 8
"""Layers that the legend names; more are named below the axis, as many as there is room for."""


def plot_impacts(table: "ImpactTable", ax: "Axes | None") -> "Axes":
    """Plot every element's impact by layer; see `ImpactTable.plot`."""
    from matplotlib.axes import Axes

    if ax is None:
        import matplotlib.pyplot as plt

        ax = plt.figure(figsize=(10, 4), layout="constrained").subplots()
    if not isinstance(ax, Axes):
        raise ParameterError(f"`ax` must be an Axes of matplotlib or None, received {type(ax).__name__}.")
    layers = list(table.frame.groupby("layer", sort=False))
    start, bounds = 0, []
    for number, (layer, rows) in enumerate(layers):
        ordered = rows.sort_values("impact", ascending=False)
        at, color = start + np.arange(len(rows)), f"C{number % 10}" if len(layers) <= _MOST_NAMED else f"C{number % 2}"
        ax.vlines(at, *_ends(ordered), color=color, alpha=0.35, linewidth=1)
        ax.plot(at, ordered["impact"], ".", color=color, markersize=4, label=f"{layer} ({len(rows)})")
        bounds.append((start, start + len(rows)))
        start += len(rows)
    ax.axhline(0.0, color="black", linewidth=0.8)
    if len(layers) <= _MOST_NAMED:
        ax.set_xlabel("element, sorted by impact within its layer")
        ax.legend(fontsize="small", ncols=min(len(layers), 4))
    else:
        _name_layers(ax, [str(layer) for layer, _ in layers], bounds)
    ax.set_ylabel(f"{table.quantity}\n{table.direction}")
    ax.set_title(f"{table.method}, {table.rows:,} rows, {table.uncertainty}", fontsize="medium")
    return ax


def _name_layers(ax: "Axes", names: list[str], bounds: list[tuple[int, int]]) -> None:
    """Name layers below the axis, at most one for each forty-fifth of its width."""
    step = bounds[-1][1] / 45
    shown: list[tuple[float, str]] = []
    for name, (start, end) in zip(names, bounds, strict=True):
        middle = (start + end - 1) / 2
        if not shown or middle - shown[-1][0] >= step:
            shown.append((middle, name if len(name) <= 24 else f"{name[:11]}…{name[-11:]}"))
    ax.set_xticks([at for at, _ in shown], [name for _, name in shown], rotation=90, fontsize="x-small")
    left_out = len(names) - len(shown)
    ax.set_xlabel("layer" + (f" ({left_out} of {len(names)} not named)" if left_out else ""))


def _ends(rows: pd.DataFrame) -> tuple[Any, Any]:
    """Return the lower and upper ends of the lines of some rows of a table; NaN draws none."""
    if "ci_low" in rows:
        return rows["ci_low"], rows["ci_high"]
    half = rows.get("std_error", np.nan)
    return rows["impact"] - half, rows["impact"] + half
