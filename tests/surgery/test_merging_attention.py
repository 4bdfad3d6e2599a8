"""Laws of merging inside attention layers: copies of heads are folded exactly, projections are refitted."""

import inspect
from typing import Any

import keras
import models
import numpy as np
import pytest
from keras import layers

import dropreg as dr
from dropreg.layers._attention import AttentionRule

KINDS: dict[str, tuple[type, tuple[int, ...], dict[str, Any]]] = {
    "plain": (layers.MultiHeadAttention, (4, 3), {}),
    "other size of values": (layers.MultiHeadAttention, (4, 3), {"value_dim": 2}),
    "without biases": (layers.MultiHeadAttention, (4, 3), {"use_bias": False}),
    "output of two axes": (layers.MultiHeadAttention, (4, 3), {"output_shape": (2, 3)}),
    "grouped queries": (layers.GroupQueryAttention, (3, 4, 2), {}),
}
if "use_gate" in inspect.signature(layers.MultiHeadAttention.__init__).parameters:  # since Keras 3.14
    KINDS["gated"] = (layers.MultiHeadAttention, (4, 3), {"use_gate": True})


def run(model: keras.Model, x: Any) -> np.ndarray:
    return np.asarray(model(x, training=False), np.float64)


def randomized(model: keras.Model, seed: int = 0) -> keras.Model:
    rng = np.random.default_rng(seed)
    for weight in model.trainable_variables:
        weight.assign(rng.normal(scale=0.7, size=weight.shape))
    return model


def attending(kind: str, **more: Any) -> keras.Model:
    """One attention layer and a last layer without a bias, whose scores are no logarithms of anything."""
    cls, arguments, options = KINDS[kind]
    inputs = keras.Input((5, 6))
    x = cls(*arguments, **options, **more, name="attention")(inputs, inputs)
    return randomized(keras.Model(inputs, layers.Dense(3, use_bias=False, name="out")(layers.Flatten()(x))))


def projections(model: keras.Model, name: str = "attention") -> dict[str, Any]:
    found = AttentionRule().projections(model.get_layer(name))
    return {part: projection.layer for part, projection in found.items()}


def examples(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 5, 6)).astype(np.float32)


def merged(model: keras.Model, dropped: list[int], x: np.ndarray, merge: Any = None) -> keras.Model:
    selection = dr.Selection.dropping(dr.elements(model, "heads"), dropped)
    merge = dr.merging.LeastSquares(predictions=False) if merge is None else merge
    return dr.remove(model, selection, data=(x, None), merge=merge).model


@pytest.mark.parametrize("kind", KINDS)
def test_copies_of_kept_heads_are_folded_exactly(kind: str) -> None:
    """Also on examples that merging never saw: a head and a multiple of it, each written out in its own way."""
    model, unseen = attending(kind), examples(20, seed=1)
    parts = projections(model)
    for part, projection in parts.items():
        if part == "output" or projection.kernel.shape[1] < 4:  # keys and values that heads 0 and 1 share anyway
            continue
        for weight in projection.weights:
            values = weight.numpy()
            values[..., 1, :] = values[..., 0, :] * (2.0 if part == "value" else 1.0)
            weight.assign(values)
    whole = run(model, unseen)
    small = run(merged(model, [1], examples(60)), unseen)
    deleted = run(merged(model, [1], examples(60), merge="none"), unseen)
    np.testing.assert_allclose(small, whole, rtol=2e-3, atol=2e-3 * np.abs(whole).max())
    assert np.abs(small - whole).max() < np.abs(deleted - whole).max() / 20


@pytest.mark.parametrize("kind", KINDS)
def test_merging_heads_approximates_the_original_model_better_than_deletion(kind: str) -> None:
    model, x = attending(kind), examples(400)
    whole = run(model, x)
    errors = {
        merge: np.square(run(merged(model, [0, 2], x, merge), x) - whole).mean() for merge in ("none", "least_squares")
    }
    assert errors["least_squares"] < errors["none"]


@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("use_bias", [True, False])
def test_the_output_projection_is_the_regression(calls: int, use_bias: bool) -> None:
    """Merging agrees with least squares of NumPy on the kept heads of all calls, up to the smallest penalty."""
    inputs = [keras.Input((5, 6)) for _ in range(calls)]
    attention = layers.MultiHeadAttention(4, 3, use_bias=use_bias, name="attention")
    given = layers.Concatenate()([attention(each, each) for each in inputs] * 2)
    model = randomized(keras.Model(inputs, layers.Dense(3, use_bias=False, name="out")(layers.Flatten()(given))))
    x = [examples(300, seed=k) for k in range(calls)]
    strategy = dr.merging.LeastSquares(ridges=(1e-9,), predictions=False)
    selection = dr.Selection.dropping(dr.elements(model, "heads"), [1, 2])
    small = dr.remove(model, selection, data=(x if calls > 1 else x[0], None), merge=strategy).model
    rows = np.concatenate(x)
    query, key, value = (np.asarray(projections(model)[part](rows), np.float64) for part in ("query", "key", "value"))
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) / np.sqrt(3)
    weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    heads = np.einsum("bhqk,bkhd->bqhd", weights, value)[:, :, [0, 3]].reshape(-1, 6)
    design = np.column_stack([heads, np.ones(len(heads))]) if use_bias else heads
    expected = np.linalg.lstsq(design, np.asarray(attention(rows, rows)).reshape(-1, 6), rcond=None)[0]
    kernel, *bias = projections(small)["output"].get_weights()
    np.testing.assert_allclose(kernel.reshape(6, 6), expected[:6], rtol=2e-3, atol=1e-3)
    for one, other in zip(bias, expected[6:], strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "without biases"])
def test_the_mean_output_of_attention_is_preserved(kind: str) -> None:
    model, x = attending(kind), examples(100)
    small = merged(model, [0], x)
    before, after = (np.asarray(each.get_layer("attention")(x, x)) for each in (model, small))
    np.testing.assert_allclose(after.mean(axis=(0, 1)), before.mean(axis=(0, 1)), rtol=1e-3, atol=1e-4)


def crossing() -> keras.Model:
    """Attention to the output of another layer and to the input."""
    inputs, other = keras.Input((4, 6), name="first"), keras.Input((3, 5), name="second")
    x = layers.Dense(6, activation="tanh", name="read")(layers.Dense(8, activation="tanh", name="units")(other))
    x = layers.MultiHeadAttention(2, 3, name="cross")(inputs, x)
    x = layers.MultiHeadAttention(2, 3, name="self")(inputs, layers.Add()([inputs, x]))
    return randomized(keras.Model([inputs, other], layers.Dense(3, name="out")(layers.Flatten()(x))))


def test_projections_compensate_for_units_removed_before_them() -> None:
    """Keys and values whose inputs lost units are refitted; queries whose inputs lost none are not."""
    model = crossing()
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(400, *tensor.shape[1:])).astype(np.float32) for tensor in model.inputs]
    selection = dr.Selection.dropping(dr.elements(model, "neurons"), [0, 1, 2, 3, 4])
    strategy = dr.merging.LeastSquares(predictions=False)
    small = dr.remove(model, selection, data=(x, None), merge=strategy)
    table = small.merged
    assert table is not None
    parts = [f"{name} ({part})" for name in ("cross", "self") for part in ("query", "key", "value", "output")]
    assert table["layer"].tolist() == ["read", *parts, "out"]
    unexplained = table.set_index("layer")["unexplained"].to_dict()
    for name in ("cross", "self"):
        before, after = projections(model, name)["query"], projections(small.model, name)["query"]
        for one, other in zip(before.weights, after.weights, strict=True):
            np.testing.assert_array_equal(one.numpy(), other.numpy())
        assert unexplained[f"{name} (query)"] == 1
        assert max(unexplained[f"{name} ({part})"] for part in ("key", "value", "output")) < 1


def test_unaffected_attention_is_not_refitted() -> None:
    model, x = models.ready("transformer_block"), examples(50)[:, :4]
    small = dr.remove(model, dr.Selection.dropping(dr.elements(model), [0, 1]), data=(x, None))
    assert small.merged is not None
    assert not small.merged["layer"].str.contains("attention").any()
    name = next(layer.name for layer in model.layers if isinstance(layer, layers.MultiHeadAttention))
    for one, other in zip(model.get_layer(name).get_weights(), small.model.get_layer(name).get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_constrained_kernels_are_only_cut() -> None:
    model, x = attending("plain", kernel_constraint="non_neg"), examples(50)
    for projection in projections(model).values():
        projection.kernel.assign(np.abs(projection.kernel.numpy()))
    small = merged(model, [1], x).get_layer("attention")
    whole = projections(model)["output"].kernel.numpy()
    np.testing.assert_array_equal(AttentionRule().projections(small)["output"].layer.kernel.numpy(), whole[[0, 2, 3]])
