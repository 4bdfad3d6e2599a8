"""The figures of `study.py`."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure


def draw_curvature(frame: pd.DataFrame, title: str, path: Path) -> None:
    """SD(L'') against MEAN(L''), coloured by layer, first training seed."""
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.subplots()
    for layer, points in frame[frame["training"] == frame["training"].min()].groupby("layer", sort=False):
        axes.plot(points["curvature_mean"], points["curvature_sd"], ".", markersize=3, alpha=0.6, label=str(layer))
    axes.set_xscale("symlog", linthresh=1e-6)
    axes.set_yscale("symlog", linthresh=1e-6)
    axes.set_xlabel("MEAN(L'') over examples")
    axes.set_ylabel("SD(L'') over examples")
    axes.set_title(title)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=130)


def draw_prediction(frame: pd.DataFrame, title: str, path: Path) -> None:
    """Predicted against measured change by size of the set, and the median ratio of the two."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    image = left.scatter(
        frame["measured"], frame["second_order"], c=np.log10(frame["size"]), s=8, cmap="viridis", alpha=0.7
    )
    left.set_xscale("symlog", linthresh=1e-4)
    left.set_yscale("symlog", linthresh=1e-4)
    left.axline((0, 0), (1, 1), color="black", linewidth=0.8)
    left.set_xlabel("measured change of the mean loss (nats)")
    left.set_ylabel("predicted, first + second order")
    figure.colorbar(image, ax=left, label="log10 of the elements removed at once")
    sizes = frame.groupby("size")
    right.plot(sizes["measured"].mean(), "ko-", label="measured")
    for name, label in (("first_order", "first order"), ("second_order", "first + second order")):
        right.plot(sizes[name].mean(), ".-", label=label)
    right.set_xscale("log")
    right.set_yscale("symlog", linthresh=1e-4)
    right.set_xlabel("random elements removed at once")
    right.set_ylabel("mean change of the loss (nats)")
    right.legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=130)


def draw_removal(frame: pd.DataFrame, title: str, path: Path) -> None:
    """Accuracy against fraction for every scorer, one panel a mode."""
    modes = list(dict.fromkeys(frame["mode"]))
    figure = Figure(figsize=(5 * len(modes), 5), layout="constrained")
    for axes, mode in zip(figure.subplots(1, len(modes), sharey=True, squeeze=False)[0], modes, strict=True):
        for number, (name, lines) in enumerate(frame[frame["mode"] == mode].groupby("scorer", sort=False)):
            groups = lines.groupby("fraction")["accuracy"]
            mean, deviation = groups.mean(), groups.std().fillna(0.0)
            axes.plot(mean, ".-", color=f"C{number}", label=str(name))
            axes.fill_between(mean.index, mean - deviation, mean + deviation, color=f"C{number}", alpha=0.15)
        axes.set_title(mode)
        axes.set_xlabel("fraction removed")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("test accuracy (mean, SD over trainings and draws)")
    figure.axes[0].legend(fontsize="small")
    figure.suptitle(title)
    figure.savefig(path, dpi=130)
