"""Transformers of KerasHub at tiny sizes: elements are found inside their blocks, and masked equals shrunk."""

import importlib
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import dropreg as dr
from dropreg.errors import ModelError
from dropreg.graph import call_outputs
from dropreg.network import MaskedNetwork

keras_hub = pytest.importorskip(
    "keras_hub", reason="KerasHub is not installed (dropreg[kerashub])", exc_type=ImportError
)
pytestmark = pytest.mark.filterwarnings("ignore:`compile.*was not called")  # by every task of KerasHub
families: Any = importlib.import_module("families")
ENCODER, FAMILIES, LENGTH, inputs_of = families.ENCODER, families.FAMILIES, families.LENGTH, families.inputs_of


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[Any, int, int]:
    build, n_units, n_heads = FAMILIES[request.param]
    keras.utils.set_random_seed(0)
    model, rng = build(), np.random.default_rng(0)
    for weight in model.weights:
        if weight.dtype.startswith("float"):
            weight.assign(weight + rng.normal(scale=0.3, size=weight.shape))
    return model, n_units, n_heads


def check_law(model: Any, elements: dr.Elements) -> tuple[Any, np.ndarray]:
    """Masked equals shrunk for random 40 % of the elements; returns the smaller model and its output."""
    inputs, weights = inputs_of(model), [np.asarray(weight) for weight in model.weights]
    selection = dr.Selection.random(elements, 0.4, seed=1)
    expected = np.asarray(MaskedNetwork(model, elements)(inputs, selection.kept[np.newaxis]))
    small = dr.remove(model, selection).model
    found = np.asarray(call_outputs(small, inputs, training=False)[0])
    own = np.asarray(call_outputs(model, inputs, training=False)[0])
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.abs(own - expected).max() > 1e-2 * np.abs(own).max()
    assert small.count_params() < model.count_params()
    for before, after in zip(weights, model.weights, strict=True):
        np.testing.assert_array_equal(before, after)
    return small, found


def test_masked_equals_shrunk(family: Any, tmp_path: Path) -> None:
    model, n_units, n_heads = family
    elements = dr.elements(model, ["neurons", "heads"])
    kinds = np.array(elements.kinds)
    assert [int((kinds == "neuron").sum()), int((kinds != "neuron").sum())] == [n_units, n_heads]
    small, found = check_law(model, elements)
    small.save(tmp_path / "small.keras")
    loaded: Any = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(call_outputs(loaded, inputs_of(model), training=False)[0], found)


def test_blocks_are_removed(family: Any) -> None:
    model, *_ = family
    blocks = [name for name in dr.elements(model, "layers").layers if "_layer_" in name or "block" in name]
    elements = dr.elements(model, "layers", include=blocks)
    assert len(elements) == len(set(elements.layers)) == 2
    check_law(model, elements)


def test_everything_kept_changes_nothing(family: Any) -> None:
    model, *_ = family
    elements, inputs = dr.elements(model, "heads"), inputs_of(model)
    everything = dr.Selection(elements, np.ones(len(elements), bool))
    small = dr.remove(model, everything).model
    for found, own in zip(*(call_outputs(m, inputs, training=False) for m in (small, model)), strict=True):
        np.testing.assert_allclose(found, own, atol=1e-6)


def test_what_is_not_exact_is_left_out_by_name() -> None:
    model = FAMILIES["Llama"][0]()
    reasons = {name.rpartition("/")[2]: reason for name, reason in dr.elements(model, ["neurons", "heads"]).left_out}
    assert reasons["self_attention_layernorm"].startswith("it mixes its input channels, which are kept")
    assert "token_embedding" in reasons
    with pytest.raises(ModelError, match=r"LlamaLayerNorm|reverse=True"):
        dr.elements(model, "embeddings")
