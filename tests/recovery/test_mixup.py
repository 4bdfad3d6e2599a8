"""Laws of training on mixtures of examples that the teacher labels."""

from dataclasses import replace
from typing import Any

import keras
import models
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from test_distillation import assert_same, outputs_of, smaller, three_outputs, weights_of

import dropreg as dr
from dropreg.recovery import _trainer
from dropreg.recovery._mixup import continuous, mixed

MIXED = dr.Recovery(epochs=2, batch_size=16, distill=1.0, mixup=0.5, patience=None, seed=5)


def tokens_and_numbers() -> keras.Model:
    keras.utils.set_random_seed(0)
    tokens, numbers, codes = keras.Input((4,)), keras.Input((3,)), keras.Input((2,), dtype="int32")
    embedded = layers.Flatten()(layers.Embedding(9, 5)(tokens))
    coded = layers.Flatten()(layers.Embedding(9, 5)(codes))
    x = layers.Dense(12, activation="relu")(layers.Concatenate()([embedded, numbers, coded]))
    return keras.Model([tokens, numbers, codes], layers.Dense(3)(x))


def some_tokens(n_examples: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(n_examples, 3)).astype(np.float32)
    codes = rng.integers(0, 9, (n_examples, 2)).astype(np.int32)
    return [rng.integers(0, 9, (n_examples, 4)).astype(np.float32), numbers, codes]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 12), st.floats(0, 1), st.integers(0, 2**31))
def test_mixtures_lie_between_two_examples_of_the_batch(n_examples: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = np.eye(n_examples, dtype=np.float32)  # says which examples are in a mixture, and how much of each
    image = rng.normal(size=(n_examples, 2, 3)).astype(np.float16)
    tokens = rng.integers(0, 9, (n_examples, 4))
    given_inputs = [corners, image, tokens]
    before = [x.copy() for x in given_inputs]
    (parts, images, same), is_mixed = mixed(given_inputs, [True, True, False], share, np.random.default_rng(seed))
    assert_same(before, given_inputs)
    assert same is tokens
    np.testing.assert_array_equal(parts[~is_mixed], corners[~is_mixed])
    assert images.dtype == np.float16
    assert ((parts >= 0) & (parts <= 1)).all()
    assert ((parts > 0).sum(axis=1) <= 2).all()
    np.testing.assert_allclose(parts.sum(axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(images, np.einsum("ij,jkl->ikl", parts, image.astype(np.float32)), atol=0.01)
    if share == 0:
        assert_same(before[:2], [parts, images])


def test_the_share_of_mixtures_and_their_proportion() -> None:
    (parts,), _ = mixed([np.eye(4000, dtype=np.float32)], [True], 0.3, np.random.default_rng(0))
    own = np.diag(parts)
    assert np.mean(own < 1) == pytest.approx(0.3, abs=0.03)
    assert own[own < 1].mean() == pytest.approx(0.5, abs=0.03)
    assert own[own < 1].std() == pytest.approx(1.0 / np.sqrt(12.0), abs=0.03)


def test_tokens_are_distinguished_from_numbers() -> None:
    assert continuous(tokens_and_numbers(), some_tokens(3)) == [False, True, False]
    for name, expected in (("mlp", True), ("two_inputs", True), ("bidirectional", False), ("u_net", True)):
        inputs = models.inputs_for(model := models.ready(name), 3)
        assert continuous(model, inputs) == [expected] * len(inputs)


@pytest.mark.parametrize(("large", "share"), [(2**16, 1.0), (0, 1.0), (0, 0.5)])
@pytest.mark.parametrize("name", ["mlp", "two_inputs", "tagger", "tokens_and_numbers", "three_outputs"])
def test_a_student_equal_to_the_teacher_has_zero_loss_on_mixtures(
    name: str, large: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loss is 0 for mixtures only if the teacher was asked about the same ones, also where it knows the others."""
    monkeypatch.setattr(_trainer, "_LARGE", large)
    made: dict[str, Any] = {"tokens_and_numbers": tokens_and_numbers, "three_outputs": three_outputs}
    model = made[name]() if name in made else models.ready(name)
    x = some_tokens(50) if name == "tokens_and_numbers" else models.data_for(model, 50)[0]
    before = weights_of(model)
    still = dr.Recovery(learning_rate=1e-12, optimizer="sgd", epochs=1, distill=1.0, mixup=share)
    found = dr.recover(model, (x, None), teacher=model, recovery=still)
    assert abs(found.history["loss"][1]) < 1e-6
    assert_same(before, weights_of(model))


@pytest.mark.parametrize("name", ["cnn_bn", "two_inputs", "u_net"])
def test_the_same_seed_gives_the_same_model_and_mixing_another(name: str) -> None:
    teacher = models.ready(name)
    student, x = dr.remove(teacher, smaller(teacher)).model, models.data_for(teacher, 60)[0]

    def learned(**more: Any) -> list[np.ndarray]:
        return weights_of(dr.recover(student, (x, None), teacher=teacher, recovery=replace(MIXED, **more)).model)

    found = learned()
    assert_same(found, learned())
    assert any((a != b).any() for a, b in zip(found, learned(mixup=0.0), strict=True))


def test_tokens_are_never_mixed() -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,), dtype="int32")
    hidden = layers.Dense(8, activation="relu")(layers.Flatten()(layers.Embedding(9, 4)(inputs)))
    teacher = keras.Model(inputs, layers.Dense(3)(hidden))
    student, x = dr.remove(teacher, smaller(teacher)).model, np.random.default_rng(0).integers(0, 9, (40, 5))
    found = [
        dr.recover(student, (x, None), teacher=teacher, recovery=replace(MIXED, learning_rate=0.01, mixup=mixup))
        for mixup in (0.0, 1.0)
    ]
    assert_same(weights_of(found[0].model), weights_of(found[1].model))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_mixtures_help_where_examples_are_few(seed: int) -> None:
    keras.utils.set_random_seed(seed)
    hidden = layers.Dense(24, activation="tanh")
    teacher = keras.Sequential([keras.Input((6,)), hidden, layers.Dense(4, activation="softmax")])
    teacher.set_weights([2.0 * weight for weight in teacher.get_weights()])
    x = np.random.default_rng(0).normal(size=(1060, 6)).astype(np.float32)
    data, validation, unseen = (x[:60], None), (x[60:160], None), x[160:]
    student = dr.remove(teacher, smaller(teacher, 0.5), data=data).model

    def divergence(mixup: float) -> float:
        recovery = dr.Recovery(epochs=60, learning_rate=0.01, distill=1.0, mixup=mixup, batch_size=16, patience=None)
        found = dr.recover(student, data, teacher=teacher, validation=validation, recovery=recovery)
        q, p = (outputs_of(one, unseen)[0] for one in (teacher, found.model))
        return float((q * np.log(q / p)).sum(axis=1).mean())

    assert divergence(0.5) < divergence(0.0)
