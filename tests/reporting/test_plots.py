"""Figures of comparisons."""

from pathlib import Path

import keras
from conftest import Labelled

import dropreg as dr


def test_bands_are_drawn(model: keras.Model, data: Labelled, elements: dr.Elements, tmp_path: Path) -> None:
    scorers = {"random": dr.scorers.Scorer(dr.scorers.random, draws=3), "spread": dr.scorers.spread}
    frame = dr.compare(model, data, elements, scorers=scorers, fractions=(0.3, 0.6), seeds=(0, 1), progress=False)
    dr.reporting.plot_comparison(frame, tmp_path / "bands.png", title="two seeds")
    assert (tmp_path / "bands.png").stat().st_size > 10_000
