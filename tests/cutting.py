"""Selections to remove, and the law that a smaller model computes what the masked network computes."""

from typing import Any

import keras
import numpy as np

import dropreg as dr
from dropreg.element._keep import largest_fraction
from dropreg.network._masked import MaskedNetwork

RELATIVE = 1e-4  # float32 rounding, relative to the largest output


FRACTIONS = (0.3, 0.5, 0.7)


def run(model: keras.Model, inputs: list[np.ndarray]) -> np.ndarray:
    return np.asarray(model(inputs if len(inputs) > 1 else inputs[0], training=False))


def assert_close(found: np.ndarray, expected: np.ndarray, relative: float = RELATIVE) -> None:
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= relative * np.abs(expected).max()


def selections(elements: dr.Elements) -> list[dr.Selection]:
    """Random selections at the three fractions; all layers and branches may be removed."""
    if elements.kinds[0] in ("layer", "branch"):
        n = len(elements)
        return [dr.Selection.dropping(elements, range(n)), dr.Selection.dropping(elements, [n - 1])]
    most = largest_fraction(elements, 1)
    return [dr.Selection.random(elements, min(part, most), seed=seed) for seed, part in enumerate(FRACTIONS)]


def check_law(model: keras.Model, kind: Any, inputs: list[np.ndarray], step: int = 1) -> list[dr.Pruned]:
    """Masked and shrunk outputs agree, for every selection (or every second one); the model is unchanged."""
    elements = dr.elements(model, kind)
    before, weights = run(model, inputs), model.get_weights()
    nodes = [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    masked, pruned = MaskedNetwork(model, elements), []
    for selection in selections(elements)[::step]:
        small = dr.remove(model, selection, on_blocked="keep")
        kept = small.selection.kept
        assert_close(run(small.model, inputs), np.asarray(masked(inputs, kept[np.newaxis])))
        assert small.model.name == model.name
        pruned.append(small)
    assert nodes == [len(layer._inbound_nodes) for layer in model._flatten_layers()]
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(before, run(model, inputs))
    return pruned
