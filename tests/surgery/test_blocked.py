"""Law: layers that cannot be cut are refused by name, or kept uncut with on_blocked='keep'."""

from typing import Any

import keras
import models
import numpy as np
import pytest
from keras import layers

import dropreg as dr
from dropreg.errors import ModelError
from dropreg.network._masked import MaskedNetwork


def test_unequal_directions_are_refused_or_kept() -> None:
    model = models.ready("bidirectional")
    elements = dr.elements(model)
    selection = dr.Selection.dropping(elements, [0])
    with pytest.raises(ModelError, match=r"as many units in both directions, which would keep 2 and 3.*on_blocked"):
        dr.remove(model, selection)
    kept = dr.remove(model, selection, on_blocked="keep")
    assert kept.selection.kept.all()
    name = next(layer.name for layer in model.layers if isinstance(layer, layers.Bidirectional))
    assert kept.blocked[0][0] == name
    assert f"not cut: '{name}'" in repr(kept)


def test_directions_that_are_not_combined_keep_as_many_units() -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5, 3))
    both = layers.Bidirectional(layers.GRU(4), merge_mode=None, name="both")(inputs)  # pyright: ignore[reportArgumentType]
    model = keras.Model(inputs, layers.Dense(3)(layers.Concatenate()(both)))
    elements = dr.elements(model)
    with pytest.raises(ModelError, match="as many units in both directions, which would keep 3 and 4"):
        dr.remove(model, dr.Selection.dropping(elements, [0]))
    selection = dr.select(elements, np.arange(8.0), fraction=0.5)
    assert selection.by_layer()["kept"].tolist() == [2, 2]
    small = dr.remove(model, selection).model
    x = models.inputs_for(model, 20, seed=3)[0]
    expected = MaskedNetwork(model, elements)([x], selection.kept[np.newaxis])
    np.testing.assert_allclose(np.asarray(small(x)), np.asarray(expected), atol=1e-5)


def test_layers_that_cannot_be_cut_are_refused_before_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*arguments: Any, **options: Any) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr("dropreg.pruning._annealing._anneal.Annealer", measure)
    model = models.ready("bidirectional")
    elements = dr.elements(model, include=["forward_gru"])
    data = models.data_for(model, 20)
    limit = dr.AccuracyLimit(0.5, models.data_for(model, 30, seed=5))
    ways: list[dict[str, Any]] = [{"fraction": 0.5}, {"target": dr.Budget("params", 0.9)}, {"target": limit}]
    for how in ways:
        with pytest.raises(ModelError, match="as many units in both directions, which would keep 1 and 3"):
            dr.prune(model, data=data, elements=elements, **how)
        with pytest.raises(AssertionError, match="measured"):
            dr.prune(model, data=data, elements=elements, on_blocked="keep", **how)


def test_a_budget_is_met_beside_uncut_layers() -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="relu", lora_rank=2, name="adapted")(inputs)
    model = keras.Model(inputs, layers.Dense(3)(layers.Dense(8, activation="relu", name="free")(x)))
    budget = dr.Budget("params", 0.8)
    small = dr.prune(model, data=models.data_for(model, 40), target=budget, on_blocked="keep", recovery="none")
    assert budget.measure(small) <= 0.8
    assert small.model.get_layer("adapted").units == 8
    assert [layer for layer, _ in small.blocked] == ["adapted"]


def test_rules_without_a_cut_are_refused_or_kept() -> None:
    class Doubling(layers.Layer):
        def call(self, inputs: Any) -> Any:
            return inputs * 2.0

    class Follow(dr.layers.Rule):
        def flow(self, call: Any, index: int, inputs: Any, channels: Any) -> Any:
            return [inputs[0]]

    dr.layers.register(Doubling, rule=Follow())
    x = inputs = keras.Input((4,))
    x = Doubling(name="doubling")(layers.Dense(5, name="hidden")(x))
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    selection = dr.Selection.dropping(dr.elements(model), [1])
    with pytest.raises(ModelError, match=r"layer 'doubling' \(Doubling\) must be cut to remove hidden\[1\], but"):
        dr.remove(model, selection)
    assert dr.remove(model, selection, on_blocked="keep").blocked == (("doubling", "its rule has no `cut` method"),)


def blocks() -> keras.Model:
    """Residual blocks of two layers of one width."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="relu", name="stem")(inputs)
    for k in range(2):
        inside = layers.Dense(8, activation="relu", name=f"first_{k}")(x)
        x = layers.Add()([x, layers.Dense(8, activation="relu", name=f"second_{k}")(inside)])
    return keras.Model(inputs, layers.Dense(3)(x))


@pytest.mark.parametrize("kinds", [["neurons", "layers"], ["neurons", "branches", "layers"]])
@pytest.mark.parametrize("seed", range(4))
def test_units_needed_by_the_replacement_of_a_layer_are_kept(kinds: list[Any], seed: int) -> None:
    model = blocks()
    selection = dr.Selection.random(dr.elements(model, kinds), 0.5, seed=seed)
    dropped = [name for name, kept in zip(selection.elements.names, selection.kept, strict=True) if not kept]
    small = dr.remove(model, selection, on_blocked="keep")
    assert (small.selection.kept >= selection.kept).all()
    x = models.inputs_for(model, 20, seed=3)[0]
    expected = MaskedNetwork(model, selection.elements)([x], small.selection.kept[np.newaxis])
    np.testing.assert_allclose(np.asarray(small.model(x)), np.asarray(expected), atol=1e-5)
    if (small.selection.kept != selection.kept).any():
        with pytest.raises(ModelError, match="remove one kind after the other, or pass on_blocked='keep'"):
            dr.remove(model, selection)
        assert {layer for layer, _ in small.blocked} & set(dropped)
        assert "its replacement keeps these units" in repr(small)
    again = dr.remove(model, small.selection)
    np.testing.assert_allclose(np.asarray(again.model(x)), np.asarray(expected), atol=1e-5)


@pytest.mark.usefixtures("few_rounds")
def test_a_budget_is_met_by_units_and_layers_together() -> None:
    model = blocks()
    elements, budget = dr.elements(model, ["neurons", "layers"]), dr.Budget("params", 0.2)
    data = models.data_for(model, 40)
    small = dr.prune(model, data=data, elements=elements, target=budget, on_blocked="keep", recovery="none")
    assert budget.measure(small) <= 0.2
    gone = {kind for kind, kept in zip(elements.kinds, small.selection.kept, strict=True) if not kept}
    assert gone == {"neuron", "layer"}
