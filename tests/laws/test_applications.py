"""The masked network on architectures of keras.applications."""

import applications
import keras
import numpy as np
import pytest

import dropreg as dr
from dropreg.network._masked import MaskedNetwork


@pytest.mark.parametrize("name", applications.NAMES)
def test_elements_and_masks_of_real_architectures(name: str) -> None:
    """All but the classes can be dropped; keeping everything is the model; dropped elements are not read."""
    model = applications.build(name)
    elements = dr.elements(model)
    assert len(elements.left_out) == 1
    assert "output" in elements.left_out[0][1] or "mixes" in elements.left_out[0][1]
    x = applications.images_for(model, 2)
    network = MaskedNetwork(model, elements)
    expected = np.asarray(model(x, training=False))
    assert np.isfinite(expected).all()
    everything = np.ones((2, len(elements)), dtype=bool)
    np.testing.assert_allclose(np.asarray(network([x], everything)), expected, rtol=1e-4, atol=1e-6)

    masks = np.random.default_rng(0).random((1, len(elements))) < 0.7
    before = np.asarray(network([x], masks.repeat(2, axis=0)))
    assert np.abs(before - expected).max() > 1e-6
    _disturb(model, [tied for j, tied in enumerate(elements.members) if not masks[0, j]])
    np.testing.assert_allclose(np.asarray(network([x], masks.repeat(2, axis=0))), before, rtol=1e-3, atol=1e-6)


def _disturb(model: keras.Model, members: list[tuple[tuple[str, int], ...]]) -> None:
    """Give units other incoming weights and biases."""
    units: dict[str, list[int]] = {}
    for tied in members:
        for layer, index in tied:
            units.setdefault(layer, []).append(index)
    for name, indices in units.items():
        layer = model.get_layer(name)
        weights = layer.get_weights()
        for array in weights:
            array[..., indices] = array[..., indices] * 1.5 + 0.1
        layer.set_weights(weights)
