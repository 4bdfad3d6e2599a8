"""Plots of impact tables and comparisons."""

from ._plots import plot_comparison, plot_impacts

__all__ = ["plot_comparison", "plot_impacts"]
