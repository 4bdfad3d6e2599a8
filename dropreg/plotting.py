"""Figures of impact tables."""

from pathlib import Path

import numpy as np

from .impact import ImpactTable


def plot_impacts(table: ImpactTable, path: str | Path) -> None:
    """Draw every element's impact with its interval, layer by layer, largest first.

    Parameters
    ----------
    table : ImpactTable
    path : str or Path
        File to write; its ending chooses the format (PNG, SVG, PDF).
    """
    from matplotlib.figure import Figure

    frame = table.frame
    layers = list(dict.fromkeys(frame["layer"]))
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots()
    start = 0
    for number, layer in enumerate(layers):
        rows = frame[frame["layer"] == layer].sort_values("impact", ascending=False)
        at = start + np.arange(len(rows))
        color = f"C{number % 10}"
        axes.vlines(at, rows["ci_low"], rows["ci_high"], color=color, alpha=0.35, linewidth=1)
        axes.plot(at, rows["impact"], ".", color=color, markersize=4, label=f"{layer} ({len(rows)})")
        start += len(rows)
    axes.axhline(0.0, color="black", linewidth=0.8)
    axes.set_xlabel("element, sorted by impact within its layer")
    axes.set_ylabel(f"impact on {table.outcome}")
    axes.set_title(f"{table.method}, {table.rows:,} rows, {table.intervals}; positive = it hurts to lose it")
    axes.legend(fontsize="small", ncols=min(len(layers), 4))
    figure.savefig(path, dpi=130)
