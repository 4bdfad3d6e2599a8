"""Outcomes of causal language models are means over the unpadded positions, by hand and by the package."""

import importlib
from typing import Any

import keras
import numpy as np
import pytest

import dropreg as dr
from dropreg.data import check_data

pytest.importorskip("keras_hub", reason="KerasHub is not installed (dropreg[kerashub])", exc_type=ImportError)
families: Any = importlib.import_module("families")
BATCH = tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def model() -> Any:
    keras.utils.set_random_seed(0)
    model, rng = families.FAMILIES["GPT-2"][0](), np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(weight + rng.normal(scale=0.3, size=weight.shape))
    return model


@pytest.fixture(scope="module")
def batch() -> Any:
    """Examples as the preprocessor of KerasHub returns them: inputs, next tokens, and which of them are no padding."""
    rng = np.random.default_rng(0)
    mask = np.arange(9) < rng.integers(3, 10, 20)[:, None]
    tokens = np.where(mask, rng.integers(1, 50, mask.shape), 0).astype(np.int32)
    return {"token_ids": tokens[:, :-1], "padding_mask": mask[:, :-1]}, tokens[:, 1:], mask[:, 1:]


def log_probabilities(model: Any, x: dict[str, np.ndarray]) -> np.ndarray:
    given = {name: values.astype(np.int32) for name, values in x.items()}
    logits = np.asarray(model(given, training=False), np.float64)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def by_hand(model: Any, original: Any, batch: BATCH) -> list[float]:
    """Loss, accuracy and divergence of the next token, means over the unpadded ones."""
    x, y, w = batch
    found, reference = log_probabilities(model, x), log_probabilities(original, x)
    loss = -np.take_along_axis(found, y[..., None], axis=-1)[..., 0]
    divergence = (np.exp(reference) * (reference - found)).sum(axis=-1)
    return [float(values[w].mean()) for values in (loss, found.argmax(axis=-1) == y, divergence)]


def test_outcomes_are_means_over_unpadded_positions(model: Any, batch: BATCH) -> None:
    assert check_data(model, batch).task == "classes"
    elements = dr.elements(model, ["neurons", "heads"])
    pruned = dr.remove(model, dr.Selection.random(elements, 0.4, seed=1))
    table = pruned.measure(batch, ["loss", "accuracy", "divergence"])
    np.testing.assert_allclose(table["before"], by_hand(model, model, batch), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(table["after"], by_hand(pruned.model, model, batch), rtol=1e-4, atol=1e-6)
    without_labels = pruned.measure((batch[0], None, batch[2]), "divergence")
    np.testing.assert_allclose(without_labels["after"], table["after"][2:], rtol=1e-4)
