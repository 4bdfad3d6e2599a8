"""Merging into recurrent layers: what they read of their input and of their own states."""

from typing import Any

import keras
import models
import numpy as np
import pytest
from keras import layers
from test_merging import run

import dropreg as dr
from dropreg.surgery._merging._merge import MergedLayer
from dropreg.surgery._merging._side_by_side import SideBySide
from dropreg.surgery._original import trace_original
from dropreg.surgery._plan import columns_of_labels, make_plan
from dropreg.surgery._rebuild import rebuild


def copy_unit(cell: list[np.ndarray], copy: int, of: int) -> list[np.ndarray]:
    """Weights of a recurrent cell with a unit that is another's copy but is read otherwise."""
    units = cell[1].shape[0]
    for array in cell:
        gates = array.reshape(*array.shape[:-1], -1, units)
        gates[..., copy] = gates[..., of]
    return cell


@pytest.mark.parametrize(
    ("layer", "sequences"),
    [
        (layers.SimpleRNN(4), True),
        (layers.GRU(4), False),
        (layers.LSTM(4, use_bias=False), True),
        (layers.Bidirectional(layers.GRU(4)), True),
        (layers.Bidirectional(layers.LSTM(4), merge_mode="sum"), False),
    ],
)
def test_copies_of_recurrent_units_are_merged_exactly(layer: keras.layers.Layer, sequences: bool) -> None:
    """Including the recurrent kernel."""
    keras.utils.set_random_seed(3)
    layer = type(layer).from_config({**layer.get_config(), "name": "cells"})
    parts = getattr(layer, "forward_layer", layer), getattr(layer, "backward_layer", layer)
    for part in (layer, *parts):
        setattr(part, "return_sequences", sequences)  # noqa: B010 - not known to all types
    reader = layers.TimeDistributed(layers.Dense(3)) if sequences else layers.Dense(3)
    model = keras.Sequential([keras.Input((5, 3)), layer, reader])
    for variable in model.trainable_variables:
        variable.assign(np.random.default_rng(variable.shape[0]).normal(scale=0.6, size=variable.shape))
    n = len(layer.get_weights()) // len({id(part) for part in parts})
    weights = layer.get_weights()
    layer.set_weights([w for k in range(0, len(weights), n) for w in copy_unit(weights[k : k + n], copy=2, of=0)])
    elements = dr.elements(model)
    gone = [j for j, index in enumerate(elements.indices) if index % 4 == 2]
    assert len(gone) == len(elements) // 4
    x, y = models.data_for(model, 80)
    unseen = models.inputs_for(model, 20, seed=9)[0]
    expected = run(model, unseen)
    selection = dr.Selection.dropping(elements, gone)
    merged, deleted = (run(dr.remove(model, selection, data=data).model, unseen) for data in ((x, y), None))
    assert np.abs(merged - expected).max() < np.abs(deleted - expected).max() / 50
    np.testing.assert_allclose(merged, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize("kind", [layers.SimpleRNN, layers.GRU, layers.LSTM])
def test_the_mean_input_of_recurrent_layers_is_preserved(kind: Any) -> None:
    """Of their input and of their own states; the biases for the one are not those for the other."""
    keras.utils.set_random_seed(3)
    dense, cells = layers.Dense(4, activation="relu", name="first"), kind(5, return_sequences=True, name="cells")
    model = keras.Sequential(
        [keras.Input((6, 2)), dense, cells, layers.GlobalAveragePooling1D(), layers.Dense(3, name="out")]
    )
    for variable in model.trainable_variables:
        variable.assign(np.random.default_rng(0).normal(size=variable.shape))
    x, y = models.data_for(model, 80)
    read = np.asarray(dense(x))
    states = np.concatenate([np.zeros((80, 1, 5)), np.asarray(cells(read))[:, :-1]], axis=1).reshape(-1, 5)
    gone = {"first": [1], "cells": [0, 3]}
    elements = dr.elements(model)
    for layer, index in gone.items():
        dropped = [j for j, e in enumerate(elements.indices) if elements.layers[j] == layer and e in index]
        small = dr.remove(model, dr.Selection.dropping(elements, dropped), data=(x, y)).model
        kept = np.delete(np.arange(len(states[0])), gone["cells"] if layer == "cells" else [])
        inputs = np.delete(np.arange(4), gone["first"] if layer == "first" else [])
        columns = (np.arange(len(cells.get_weights()[0][0]) // 5)[:, np.newaxis] * 5 + kept).ravel()
        before, after = cells.get_weights(), small.get_layer("cells").get_weights()
        before = [before[0][:, columns], before[1][:, columns], before[2][..., columns]]
        means = read.reshape(-1, 4).mean(axis=0), states.mean(axis=0)
        responses = []
        for (kernel, recurrent, bias), x_mean, h_mean in ((before, *means), (after, means[0][inputs], means[1][kept])):
            parts = np.stack([x_mean @ kernel, h_mean @ recurrent])
            responses.append(parts + bias if bias.ndim > 1 else parts.sum(axis=0) + bias)
        np.testing.assert_allclose(*responses, atol=1e-3)


@pytest.mark.parametrize("harmful", [False, True])
def test_recurrent_kernels_are_not_refitted_where_that_does_harm(
    harmful: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the layer's output then tells less of that of the network before than after deletion."""
    model = models.ready("recurrent")
    data, selection = models.data_for(model, 60), dr.Selection.dropping(dr.elements(model, include=["lstm"]), [1])
    errors = iter([1.0, 2.0 if harmful else 0.5])
    monkeypatch.setattr(MergedLayer, "unexplained", lambda self, ridges: next(errors))
    small, plain = dr.remove(model, selection, data=data), dr.remove(model, selection)
    kernels = [each.model.get_layer("lstm").get_weights()[1] for each in (small, plain)]
    assert np.array_equal(*kernels) == harmful
    assert small.merged is not None
    ridges = dict(zip(small.merged["layer"], small.merged["ridge"], strict=True))
    assert np.isinf(ridges["lstm (state)"]) == harmful


def test_outputs_before_and_after_a_step_are_distinguished() -> None:
    """The unexplained squared error is that of the regression on held-out examples: none where nothing is lost."""
    model = models.ready("recurrent")
    x, _ = models.data_for(model, 60)
    found = {}
    for gone in ([], [1], [0, 1, 2]):
        original = trace_original(model)
        selection = dr.Selection.dropping(dr.elements(model, include=["lstm"]), gone)
        columns = columns_of_labels(original.channels, selection.elements)
        rebuilt = rebuild(original, make_plan(original, columns, selection))
        layer = MergedLayer(SideBySide(rebuilt, [x], 0.2, 20), 0)
        found[len(gone)] = layer.unexplained((1e-6,))
    assert found[0] < 1e-6
    assert 1e-3 < found[1] < found[3]
