"""Choosing layers, reading the elements of one layer, and floors."""

from typing import Any

import flat
import keras
import models
import numpy as np
import pytest
from conftest import says
from keras import layers

import dropreg as dr
from dropreg.errors import ParameterError


def both_directions() -> keras.Model:
    inputs = keras.Input((5, 3))
    x = layers.Bidirectional(layers.GRU(4, name="gru"), name="both")(inputs)
    return keras.Model(inputs, layers.Dense(2, name="out")(x))


@pytest.mark.parametrize("parameter", ["include", "exclude"])
@pytest.mark.parametrize("kind", ["neurons", "weights"])
def test_layers_are_chosen_by_name_or_by_layer(kind: Any, parameter: str) -> None:
    model = models.ready("mlp")
    options: dict[str, Any] = {parameter: ["a"]}
    expected = dr.elements(model, kind, **options)
    layer = model.get_layer("a")
    for chosen in ("a", layer, [layer], ("a", layer), {"a"}):
        options = {parameter: chosen}
        assert dr.elements(model, kind, **options).names == expected.names


def test_a_layer_stands_for_the_layers_inside_it() -> None:
    model = both_directions()
    chosen = dr.elements(model, include=model.get_layer("both"))
    assert list(dict.fromkeys(chosen.layers)) == ["forward_gru", "backward_gru"]
    transformer = models.ready("transformer_block")
    for index, layer in enumerate(transformer.layers):
        if isinstance(layer, layers.MultiHeadAttention):
            weights = dr.elements(transformer, "weights", include=transformer.layers[index])
            assert weights.names == dr.elements(transformer, "weights", include=layer.name).names


def test_the_elements_of_one_layer() -> None:
    model = models.ready("residual")
    elements = dr.elements(model)
    assert list(elements) == list(elements.names)
    part = elements["branch_1"]
    assert part.names == dr.elements(model, include="branch_1").names
    np.testing.assert_array_equal(part.params, elements.params[elements.columns_of("branch_1")])
    assert elements["gate"].members == elements["stem"].members
    assert elements["stem"].left_out == ()
    assert not dr.elements(both_directions())["forward_gru"].equal


@pytest.mark.parametrize("layer", ["c", 0])
def test_an_unknown_layer_is_refused(layer: Any) -> None:
    with pytest.raises(ParameterError, match=says(f"one of the layers a, b, received {layer!r}")):
        dr.elements(models.ready("mlp"))[layer]


@pytest.mark.parametrize(
    ("floor", "expected"),
    [
        (1, (1, 4)),
        (2, (2, 3)),
        (0.5, (3, 2)),
        (np.float32(0.5), (3, 2)),
        ({"a": 0.4}, (2, 3)),
        ({"a": 1}, (1, 4)),
        ({"a": "all"}, (5, 1)),
    ],
)
def test_floors_are_numbers_shares_or_all(floor: Any, expected: tuple[int, int]) -> None:
    elements = dr.elements(models.ready("mlp"))
    fraction = 4 / 9 if expected != (5, 1) else 3 / 9
    kept = dr.select(elements, np.arange(9.0), fraction=fraction, floor=floor).by_layer()["kept"]
    assert tuple(kept) == expected


def test_a_floor_of_all_leaves_nothing_to_remove() -> None:
    elements = dr.elements(models.ready("mlp"))
    assert dr.select(elements, np.arange(9.0), fraction=0.0, floor="all").kept.all()
    with pytest.raises(ParameterError, match=says("fewer than `floor` asks for", "all for each layer")):
        dr.select(elements, np.arange(9.0), fraction=0.5, floor="all")


@pytest.mark.parametrize(
    ("least", "text"),
    [
        (1.0, "received 1.0: pass 'all' to keep the layer, or the int 1 to keep one element."),
        (0.0, "received 0.0: pass the int 0."),
        (1.5, "received 1.5."),
        (float("nan"), "received nan."),
        (True, "received True."),
        (-1, "received -1."),
        ("every", "received 'every'."),
    ],
)
def test_ambiguous_floors_are_refused(least: Any, text: str) -> None:
    elements = dr.elements(models.ready("mlp"))
    for floor, name in ((least, "`floor` must be"), ({"a": least}, "`floor` of layer 'a' must be")):
        with pytest.raises(ParameterError, match=says(name, text)):
            dr.select(elements, np.arange(9.0), fraction=0.5, floor=floor)
    with pytest.raises(ParameterError, match=says("`floor` of layer 'a' must be at most its 5 elements, received 6")):
        dr.select(elements, np.arange(9.0), fraction=0.5, floor={"a": 6})


@pytest.mark.parametrize(("floor", "least"), [(0.6, (3, 3)), ({"a": "all"}, (5, 1))])
def test_floors_of_steps_are_shares_of_the_original(floor: Any, least: tuple[int, int]) -> None:
    model = models.ready("mlp")
    data, elements = models.data_for(model, 60), dr.elements(model)
    found = flat.prune_iteratively(
        *(model, data, elements), fraction=3 / 9, scorer=dr.scorers.magnitude, steps=3, schedule="linear", floor=floor
    )
    kept = found.selection.by_layer()["kept"]
    assert kept.sum() == 6
    assert (kept.to_numpy() >= least).all()


def test_unknown_multiply_adds_of_a_layer_are_no_number() -> None:
    model = models.ready("mlp")
    assert dr.elements(model, "weights").by_layer()["macs"].isna().all()
    assert dr.elements(model).by_layer()["macs"].notna().all()
