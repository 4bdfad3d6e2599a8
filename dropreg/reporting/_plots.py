"""Figures of impact tables."""

from pathlib import Path

import numpy as np
import pandas as pd

from .._utils import check_type, check_writable
from ..errors import ParameterError
from ..regression import ImpactTable


def _check_path(path: str | Path) -> None:
    """Raise ParameterError unless a figure can be written there."""
    from matplotlib.backend_bases import FigureCanvasBase

    check_writable("`path`", path, [f".{kind}" for kind in FigureCanvasBase.get_supported_filetypes()])


def plot_impacts(table: ImpactTable, path: str | Path) -> None:
    """Draw every element's impact with its interval, layer by layer, largest first.

    Parameters
    ----------
    table : ImpactTable
    path : str or Path
        File to write; its ending chooses the format (PNG, SVG, PDF).

    Raises
    ------
    ParameterError
        If `path` cannot be written to.
    """
    from matplotlib.figure import Figure

    check_type("table", table, ImpactTable, "call dropreg.estimate or another scorer")
    _check_path(path)
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


def plot_comparison(frame: pd.DataFrame, path: str | Path, *, value: str = "accuracy", title: str = "") -> None:
    """Draw what is left after each scorer against the fraction removed: means, and bands of one SD over seeds.

    Parameters
    ----------
    frame : DataFrame
        From ``dropreg.pruning``, or several of them (of models of other seeds) one below the other.
    path : str or Path
        File to write; its ending chooses the format (PNG, SVG, PDF).
    value : str
        Column to draw: "accuracy", "loss", "params" or "macs".
    title : str

    Raises
    ------
    ParameterError
        If `frame` lacks a column, or `path` cannot be written to.
    """
    from matplotlib.figure import Figure

    check_type("frame", frame, pd.DataFrame, "call dropreg.compare")
    missing = [name for name in ("scorer", "fraction", value) if name not in frame]
    if missing:
        raise ParameterError(
            f"`value` and the columns scorer and fraction must be in `frame`, received {', '.join(map(str, frame))} "
            f"without {', '.join(map(str, missing))}: pass a table of dropreg.compare, and value='accuracy' or 'loss'."
        )
    _check_path(path)
    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    whole = frame[frame["fraction"] == 0.0]
    for number, (name, lines) in enumerate(frame[frame["fraction"] > 0.0].groupby("scorer", sort=False)):
        groups = lines.groupby("fraction")[value]
        mean, sd = groups.mean(), groups.std().fillna(0.0)
        color, dashes = f"C{number % 10}", ("-", "--", ":")[number // 10 % 3]
        label = f"{name} ({groups.size().max()})"
        axes.plot(mean.index, mean, dashes, marker=".", color=color, label=label)
        axes.fill_between(mean.index, mean - sd, mean + sd, color=color, alpha=0.15, linewidth=0)
    if len(whole):
        axes.axhline(whole[value].mean(), color="black", linewidth=0.8, label="whole model")
    axes.set_xlabel("fraction of elements removed")
    axes.set_ylabel(value)
    axes.set_title(title or "mean and SD over seeds (number of runs)", fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small", ncols=2)
    figure.savefig(path, dpi=130)
