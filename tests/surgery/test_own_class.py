"""A smaller model of KerasHub has the original's class again: it generates, is saved and loaded, and trains."""

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
families: Any = importlib.import_module("families")
ENCODER, LENGTH, inputs_of = families.ENCODER, families.LENGTH, families.inputs_of
pytestmark = pytest.mark.filterwarnings("ignore:.compile... was not called as part of model loading:UserWarning")
TINY = {"num_layers": 1, "hidden_dim": 8, "intermediate_dim": 6}
SMALL: dict[str, Any] = {
    "BERT": lambda: keras_hub.models.BertBackbone(**ENCODER | TINY, **LENGTH),
    "GPT-2": families.causal("GPT2", **ENCODER | TINY, **LENGTH),
    "Gemma": families.causal("Gemma", **families.GROUPED | TINY | {"num_layers": 2, "intermediate_dim": 8}, head_dim=4),
    "Llama": families.causal("Llama", **families.GROUPED | TINY),
    "Whisper": lambda: keras_hub.models.WhisperBackbone(**ENCODER | TINY, **families.SOUND),
}
CAUSAL = ("GPT-2", "Gemma", "Llama")


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    """Models of one block, which no test changes."""
    built = {}
    for name, build in SMALL.items():
        keras.utils.set_random_seed(0)
        built[name], rng = build(), np.random.default_rng(0)
        for weight in built[name].weights:
            if weight.dtype.startswith("float"):
                weight.assign(weight + rng.normal(scale=0.3, size=weight.shape))
    return built


def output(model: Any, inputs: Any) -> np.ndarray:
    return np.asarray(call_outputs(model, inputs, training=False)[0])


def generated(model: Any) -> np.ndarray:
    """Token ids that a model generates for two prompts, greedily and with its cache."""
    model.sampler = keras_hub.samplers.GreedySampler()
    tokens, mask = np.zeros((2, 7), np.int32), np.zeros((2, 7), np.int32)
    tokens[:, :3], mask[:, :3] = [[3, 7, 11], [20, 5, 9]], 1
    given = {name: keras.ops.convert_to_tensor(x) for name, x in (("token_ids", tokens), ("padding_mask", mask))}
    return np.asarray(model.generate_step(given, stop_token_ids=None)["token_ids"])  # `generate` without compiling it


def decoded(model: Any) -> np.ndarray:
    """The same by a forward pass of all tokens for each new one."""
    tokens = np.zeros((2, 7), np.int32)
    tokens[:, :3] = [[3, 7, 11], [20, 5, 9]]
    for step in range(3, 7):
        given = {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}
        tokens[:, step] = np.asarray(model(given, training=False))[:, step - 1].argmax(-1)
    return tokens


@pytest.mark.parametrize("name", SMALL)
def test_the_class_is_kept_and_outputs_are_those_of_the_masked_network(
    models: dict[str, Any], name: str, tmp_path: Path
) -> None:
    model = models[name]
    elements, inputs = dr.elements(model, ["neurons", "heads"]), inputs_of(model)
    selection = dr.Selection.random(elements, 0.4, seed=1)
    expected = np.asarray(MaskedNetwork(model, elements)(inputs, selection.kept[np.newaxis]))
    pruned = dr.remove(model, selection)
    small: Any = pruned.model
    assert pruned.other_class is None
    assert isinstance(small, type(model))
    assert small.count_params() < model.count_params()
    found = output(small, inputs)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    if name in CAUSAL:
        assert small.preprocessor is model.preprocessor
        np.testing.assert_array_equal(generated(small), decoded(small))
    small.save(tmp_path / "small.keras")
    loaded: Any = keras.saving.load_model(tmp_path / "small.keras")
    assert isinstance(loaded, type(model))
    np.testing.assert_array_equal(output(loaded, inputs), found)


def test_a_removed_block_leaves_the_settings_of_the_others() -> None:
    settings = families.GROUPED | {"num_layers": 7, "hidden_dim": 4, "intermediate_dim": 4}
    model = families.causal("Gemma3", **settings, head_dim=4, image_size=16, use_sliding_window_attention=True)()
    elements = dr.elements(model, "layers", include=["decoder_block_1"])
    small: Any = dr.remove(model, dr.Selection.dropping(elements, [0])).model
    names = ("use_sliding_window_attention", "rope_wavelength")
    of = [[[getattr(b.attention, n) for n in names] for b in m.backbone.transformer_layers] for m in (model, small)]
    assert of[1] == of[0][:1] + of[0][2:]
    assert of[1] != of[0][:6]


def test_it_trains_and_is_pruned_again(models: dict[str, Any]) -> None:
    model = models["Llama"]
    tokens = np.random.default_rng(0).integers(0, 50, (12, 8)).astype(np.int32)
    x = {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}
    recovery = dr.Recovery(epochs=1, batch_size=4, distill=1.0)
    elements = dr.elements(model, ["neurons", "heads"])
    pruned = dr.remove(model, dr.Selection.random(elements, 0.3, seed=1), data=(x, None), recovery=recovery)
    assert isinstance(pruned.model, type(model))
    assert pruned.recovered is not None
    again = dr.elements(pruned.model, ["neurons", "heads"])
    assert len(again) == pruned.selection.kept.sum()
    smaller: Any = dr.remove(pruned.model, dr.Selection.random(again, 0.3, seed=2)).model
    assert isinstance(smaller, type(model))
    np.testing.assert_array_equal(generated(smaller), decoded(smaller))
    smaller.fit(x, np.roll(tokens, -1, 1), shuffle=False, verbose=0)


def test_equal_shares_are_saved_as_a_preset(models: dict[str, Any], tmp_path: Path) -> None:
    model = models["Gemma"]
    elements, inputs = dr.elements(model, ["neurons", "heads"]), inputs_of(model)
    pruned = dr.remove(model, dr.Selection.random(elements, 0.5, floor=0.5, seed=1))
    assert type(pruned.model) is type(model)
    pruned.save_to_preset(tmp_path / "preset")
    assert "dropreg" not in (tmp_path / "preset" / "config.json").read_text()
    loaded: Any = keras_hub.models.GemmaBackbone.from_preset(str(tmp_path / "preset"))
    small: Any = pruned.model
    np.testing.assert_array_equal(output(loaded, inputs), output(small.backbone, inputs))


def test_what_a_preset_cannot_say_is_refused(models: dict[str, Any], tmp_path: Path) -> None:
    model = models["GPT-2"]
    elements = dr.elements(model, "heads")
    pruned = dr.remove(model, dr.Selection.dropping(elements, [0]))
    with pytest.raises(ModelError, match=r"received other sizes for 1 layers, such as .*self_attention.*floor=0\.75"):
        pruned.save_to_preset(tmp_path / "preset")
    branches = dr.elements(model, "branches")
    plain = dr.remove(model, dr.Selection.dropping(branches, [1]))
    assert plain.other_class is not None
    assert "branches are removed" in repr(plain)
    with pytest.raises(ModelError, match=r"must be of a class of KerasHub .* received a Functional model \(branches"):
        plain.save_to_preset(tmp_path / "preset")


def test_the_units_before_a_classifier_are_cut(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    backbone = keras_hub.models.BertBackbone(**ENCODER | TINY, **LENGTH)
    model = keras_hub.models.BertTextClassifier(backbone=backbone, num_classes=3, preprocessor=None)
    elements, inputs = dr.elements(model, "neurons"), inputs_of(model)
    selection = dr.Selection.random(elements, 0.4, seed=1)
    pruned = dr.remove(model, selection)
    assert isinstance(pruned.model, type(model)), pruned.other_class
    expected = np.asarray(MaskedNetwork(model, elements)(inputs, selection.kept[np.newaxis]))
    np.testing.assert_allclose(output(pruned.model, inputs), expected, atol=1e-5)
    pruned.model.save(tmp_path / "small.keras")
    loaded = keras.saving.load_model(tmp_path / "small.keras")
    np.testing.assert_array_equal(output(loaded, inputs), output(pruned.model, inputs))
