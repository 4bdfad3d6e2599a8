"""Figures of impact tables and comparisons."""

from pathlib import Path

import pandas as pd

from .._utils import check_type, check_writable
from ..errors import ParameterError
from ..regression import ImpactTable


def _check_path(path: str | Path) -> None:
    """Raise ParameterError unless a figure can be written to `path`."""
    from matplotlib.backend_bases import FigureCanvasBase

    check_writable("`path`", path, [f".{kind}" for kind in FigureCanvasBase.get_supported_filetypes()])


def plot_impacts(table: ImpactTable, path: str | Path) -> None:
    """Write the plot of a table, as `ImpactTable.plot` draws it, to a file.

    Parameters
    ----------
    table : ImpactTable
        From ``dropreg.estimate`` or another scorer.
    path : str or Path
        File to write; its suffix sets the format (PNG, SVG, PDF).

    Raises
    ------
    ParameterError
        If `table` is not an ImpactTable, or `path` cannot be written to.

    Examples
    --------
    >>> import tempfile
    >>> import dropreg as dr
    >>> model, data = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("test")
    >>> table = dr.scorers.magnitude(model, data, dr.elements(model))
    >>> dr.reporting.plot_impacts(table, tempfile.mkdtemp() + "/impacts.png")
    """
    from matplotlib.figure import Figure

    check_type("table", table, ImpactTable, "call dropreg.estimate or another scorer")
    _check_path(path)
    figure = Figure(figsize=(10, 4), layout="constrained")
    axes = figure.subplots()
    table.plot(ax=axes)
    figure.savefig(path, dpi=130)


def plot_comparison(frame: pd.DataFrame, path: str | Path, *, value: str = "accuracy", title: str = "") -> None:
    """Plot a score of the pruned models against the fraction removed, one line for each scorer.

    Lines are means over seeds, bands one standard deviation to either side. A horizontal line is the original model.

    Parameters
    ----------
    frame : DataFrame
        From ``dropreg.compare``, or several such tables (of models of other seeds) concatenated.
    path : str or Path
        File to write; its suffix sets the format (PNG, SVG, PDF).
    value : str
        Column to plot: "accuracy", "loss", "params" or "macs".
    title : str
        Title of the figure; by default an explanation of lines and bands.

    Raises
    ------
    ParameterError
        If `frame` lacks a column, or `path` cannot be written to.

    Examples
    --------
    >>> import tempfile
    >>> import pandas as pd
    >>> import dropreg as dr
    >>> frame = pd.DataFrame({"scorer": ["original", "taylor"], "fraction": [0.0, 0.5], "accuracy": [0.9, 0.8]})
    >>> dr.reporting.plot_comparison(frame, tempfile.mkdtemp() + "/comparison.png")
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
    original = frame[frame["fraction"] == 0.0]
    for number, (name, lines) in enumerate(frame[frame["fraction"] > 0.0].groupby("scorer", sort=False)):
        groups = lines.groupby("fraction")[value]
        mean, sd = groups.mean(), groups.std().fillna(0.0)
        color, dashes = f"C{number % 10}", ("-", "--", ":")[number // 10 % 3]
        axes.plot(mean.index, mean, dashes, marker=".", color=color, label=f"{name} ({groups.size().max()})")
        axes.fill_between(mean.index, mean - sd, mean + sd, color=color, alpha=0.15, linewidth=0)
    if len(original):
        axes.axhline(original[value].mean(), color="black", linewidth=0.8, label="original model")
    axes.set_xlabel("fraction of elements removed")
    axes.set_ylabel(value)
    axes.set_title(title or "mean and SD over seeds (number of runs)", fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small", ncols=2)
    figure.savefig(path, dpi=130)
