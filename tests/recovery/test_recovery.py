"""Laws of fine-tuning: the best weights are kept, zeros stay, and the caller's model is unchanged."""

from pathlib import Path
from typing import Any, cast

import keras
import models
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from scipy.special import expit, log_softmax

import dropreg as dr
from dropreg.errors import ModelError, ParameterError
from dropreg.recovery import Recovered

FLOAT = 1e-4  # float32 sums of a few dozen rows against float64
GRID = ("mlp", "mlp_activations", "cnn_bn", "two_inputs", "nested")
FAST = dr.Recovery(epochs=3, learning_rate=0.02, batch_size=16)


def outputs_of(model: keras.Model, x: Any) -> np.ndarray:
    return np.asarray(model(x, training=False), np.float64)


def weights_of(model: keras.Model) -> list[np.ndarray]:
    return [np.array(weight) for weight in model.get_weights()]


def assert_same(before: list[np.ndarray], after: list[np.ndarray]) -> None:
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


def cross_entropy(outputs: np.ndarray, y: np.ndarray) -> float:
    log_p = np.log(outputs) if np.allclose(outputs.sum(axis=1), 1.0) else log_softmax(outputs, axis=1)
    return float(-log_p[np.arange(len(y)), y].mean())


def held_out(found: Recovered) -> np.ndarray:
    return found.history["held_out"].to_numpy()


@pytest.mark.parametrize("name", GRID)
def test_the_reported_loss_is_that_of_the_returned_model(name: str, tmp_path: Path) -> None:
    model = models.ready(name)
    x, y = models.data_for(model, 40, seed=3)
    before = weights_of(model)
    found = dr.recover(model, models.data_for(model, 60), validation=(x, y), recovery=FAST)
    assert_same(before, weights_of(model))
    assert found.original is model
    assert found.loss_before == pytest.approx(cross_entropy(outputs_of(model, x), y), rel=FLOAT)
    assert found.loss_after == pytest.approx(cross_entropy(outputs_of(found.model, x), y), rel=FLOAT)
    assert found.loss_after == held_out(found).min() < found.loss_before
    assert found.history["epoch"].to_list() == list(range(4))
    again = dr.recover(model, models.data_for(model, 60), validation=(x, y), recovery=FAST)
    assert_same(weights_of(found.model), weights_of(again.model))
    found.model.save(tmp_path / "model.keras")
    loaded: Any = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(outputs_of(loaded, x), outputs_of(found.model, x))


def test_the_result_depends_on_the_seed_and_not_on_the_global_one() -> None:
    model = models.ready("mlp_activations")  # it has dropout
    data = models.data_for(model, 40)
    found = []
    for ambient, seed in ((1, 0), (2, 0), (2, 1)):
        keras.utils.set_random_seed(ambient)
        found.append(weights_of(dr.recover(model, data, recovery=dr.Recovery(epochs=1, seed=seed)).model))
    assert_same(found[0], found[1])
    assert any((a != b).any() for a, b in zip(found[1], found[2], strict=True))


def test_the_best_weights_are_returned_and_patience_ends_training() -> None:
    model = models.ready("mlp")
    x, _ = models.data_for(model, 30)
    others = x, (np.argmax(outputs_of(model, x), axis=1) + 1) % models.N_CLASSES
    validation = models.data_for(model, 20, seed=8)
    wild = {"epochs": 12, "learning_rate": 0.3, "batch_size": 10}
    whole = dr.recover(model, others, validation=validation, recovery=dr.Recovery(patience=None, **wild))
    losses = held_out(whole)
    assert len(losses) == 13
    assert losses[-1] > losses.min()
    assert whole.best_epoch == losses.argmin()
    assert cross_entropy(outputs_of(whole.model, validation[0]), validation[1]) == pytest.approx(
        losses.min(), rel=FLOAT
    )
    stopped = dr.recover(model, others, validation=validation, recovery=dr.Recovery(patience=2, **wild))
    np.testing.assert_array_equal(held_out(stopped), losses[: len(stopped.history)])
    assert len(stopped.history) == stopped.best_epoch + 2 + 1 < 13


def test_decay_lowers_the_learning_rate() -> None:
    """Two epochs of one batch each: the second step has half the rate of the first."""
    model = models.ready("mlp")
    data, validation = models.data_for(model, 30), models.data_for(model, 30, seed=8)

    def run(start: keras.Model, **settings: Any) -> Recovered:
        recovery = dr.Recovery(optimizer="sgd", batch_size=30, **settings)
        return dr.recover(start, data, validation=validation, recovery=recovery)

    first = run(model, epochs=1, learning_rate=0.2)
    second = run(first.model, epochs=1, learning_rate=0.1)
    both = run(model, epochs=2, learning_rate=0.2, decay="cosine")
    assert both.best_epoch == 2
    assert held_out(both)[1:] == pytest.approx([first.loss_after, second.loss_after], rel=FLOAT)
    steady = run(model, epochs=2, learning_rate=0.2, decay="none")
    assert held_out(steady)[1] == pytest.approx(first.loss_after, rel=FLOAT)
    assert held_out(steady)[2] != pytest.approx(second.loss_after, rel=FLOAT)


def test_weights_are_unchanged_where_training_only_hurts() -> None:
    model = models.ready("mlp")
    x, _ = models.data_for(model, 30)
    right = np.argmax(outputs_of(model, x), axis=1)
    data = x[:20], (right[:20] + 1) % models.N_CLASSES
    found = dr.recover(model, data, validation=(x[20:], right[20:]), recovery=dr.Recovery(epochs=3, learning_rate=0.5))
    assert found.best_epoch == 0
    assert_same(weights_of(model), weights_of(found.model))


def test_each_example_is_either_trained_on_or_held_out() -> None:
    """With steps of no size, the mean losses of the two parts add up to that of all examples."""
    model = models.ready("mlp")
    x, y = models.data_for(model, 40)
    found = dr.recover(model, (x, y), recovery=dr.Recovery(epochs=1, learning_rate=1e-12, held_out=0.25))
    trained = found.history["loss"].to_numpy()[1]
    assert trained != found.loss_before
    assert 0.75 * trained + 0.25 * found.loss_before == pytest.approx(cross_entropy(outputs_of(model, x), y), rel=FLOAT)


def test_zeros_of_removed_weights_survive_reloading(tmp_path: Path) -> None:
    model = models.ready("cnn")
    selection = dr.Selection.random(dr.elements(model, "weights"), 0.6)
    small = dr.remove(model, selection).model
    small.save(tmp_path / "small.keras")
    loaded = cast(keras.Model, keras.saving.load_model(tmp_path / "small.keras"))
    x, y = models.data_for(model, 40)
    for given in (small, loaded):
        found = dr.recover(given, (x, y), validation=(x.copy(), y), recovery=FAST)
        assert found.best_epoch > 0
        for old, new in zip(weights_of(given), weights_of(found.model), strict=True):
            assert (new[old == 0] == 0).all()
            assert (new != old).any()
        again = dr.recover(found.model, (x, y), recovery=FAST)
        assert sum(int((weight == 0).sum()) for weight in weights_of(again.model)) == (~selection.kept).sum()


def test_frozen_layers_are_unchanged() -> None:
    model = models.build("mlp")
    model.get_layer("a").trainable = False
    found = dr.recover(model, models.data_for(model, 40), recovery=FAST)
    assert_same(model.get_layer("a").get_weights(), found.model.get_layer("a").get_weights())
    assert (model.get_layer("b").get_weights()[0] != found.model.get_layer("b").get_weights()[0]).any()
    model.trainable = False
    with pytest.raises(ModelError, match="must have trainable weights, received none"):
        dr.recover(model, models.data_for(model, 40), recovery=FAST)


@pytest.mark.parametrize("name", ["mlp", "mlp_activations"])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_distillation_alone_needs_no_labels(name: str, temperature: float) -> None:
    """Its loss is T^2 KL(teacher, student) at temperature T, and the student comes closer to the teacher."""
    teacher = models.ready(name)
    x, y = models.data_for(teacher, 80)
    student = dr.remove(teacher, dr.Selection.dropping(dr.elements(teacher), [0, 1])).model
    settings = dr.Recovery(epochs=4, learning_rate=0.02, batch_size=16, distill=1.0, temperature=temperature)
    found = dr.recover(student, (x[:60], None), teacher=teacher, validation=(x[60:], None), recovery=settings)

    def divergence(model: keras.Model) -> float:
        scores = [outputs_of(one, x[60:]) for one in (teacher, model)]
        if name == "mlp_activations":
            scores = [np.log(p) for p in scores]
        log_q, log_p = (log_softmax(s / temperature, axis=1) for s in scores)
        return float(temperature**2 * (np.exp(log_q) * (log_q - log_p)).sum(axis=1).mean())

    assert found.loss_before == pytest.approx(divergence(student), rel=1e-3)
    assert found.loss_after == pytest.approx(divergence(found.model), rel=1e-3)
    assert found.loss_after < 0.8 * found.loss_before
    with_labels = dr.recover(student, (x[:60], y[:60]), teacher=teacher, validation=(x[60:], None), recovery=settings)
    assert_same(weights_of(found.model), weights_of(with_labels.model))


def test_labels_and_teacher_are_mixed() -> None:
    teacher, student = models.ready("mlp", seed=1), models.build("mlp")
    data, validation = models.data_for(student, 40), models.data_for(student, 30, seed=2)

    def loss(distill: float) -> float:
        settings = dr.Recovery(epochs=1, distill=distill)
        given = teacher if distill else None
        return dr.recover(student, data, teacher=given, validation=validation, recovery=settings).loss_before

    assert loss(0.3) == pytest.approx(0.7 * loss(0.0) + 0.3 * loss(1.0), rel=FLOAT)


@pytest.mark.parametrize("activation", ["linear", "sigmoid"])
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_several_labels_and_regressions(activation: str, n_outputs: int) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(8, activation="relu"), layers.Dense(n_outputs, activation=activation)]
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 3)).astype(np.float32)
    y = x[:, :n_outputs] > 0 if activation == "sigmoid" else x[:, :n_outputs] * 2.0
    y = y.astype(np.float32)
    if activation == "sigmoid":
        y[0] = 1.0  # rows that are not one-hot
    settings = dr.Recovery(epochs=5, learning_rate=0.05, batch_size=16)
    found = dr.recover(model, (x[:60], y[:60]), validation=(x[60:], y[60:]), recovery=settings)
    for which, told in ((model, found.loss_before), (found.model, found.loss_after)):
        p = outputs_of(which, x[60:])
        log_likelihood = (
            np.where(y[60:] > 0, np.log(p), np.log1p(-p)) if activation == "sigmoid" else -((p - y[60:]) ** 2)
        )
        assert told == pytest.approx(-log_likelihood.mean(), rel=1e-3)
    assert found.loss_after < 0.6 * found.loss_before


def test_logits_of_several_labels_are_told_from_probabilities() -> None:
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    x = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
    y = (x[:, :2] > 0).astype(np.float32)
    found = dr.recover(model, (x[:30], y[:30]), validation=(x[30:], y[30:]), recovery=dr.Recovery(epochs=1))
    p = expit(outputs_of(model, x[30:]))
    assert found.loss_before == pytest.approx(-np.where(y[30:] > 0, np.log(p), np.log1p(-p)).mean(), rel=FLOAT)


def test_the_model_is_unchanged_when_something_raises() -> None:
    model = models.ready("cnn_bn")
    before = weights_of(model)
    settings = dr.Recovery(epochs=50, learning_rate=1e30, optimizer="sgd")
    with pytest.raises(ParameterError, match=r"held-out loss must be finite.*pass a smaller `learning_rate`"):
        dr.recover(model, models.data_for(model, 20), recovery=settings)
    assert_same(before, weights_of(model))
    assert not model.compiled


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"epochs": 0}, "`epochs` must be an integer of at least 1, received 0"),
        ({"batch_size": 2.5}, "`batch_size` must be an integer of at least 1, received 2.5"),
        ({"patience": 0}, "`patience` must be an integer of at least 1, received 0"),
        ({"seed": -1}, "`seed` must be an integer of at least 0, received -1"),
        ({"learning_rate": 0.0}, "`learning_rate` must be positive and finite, received 0.0"),
        ({"decay": "linear"}, "`decay` must be one of cosine, none, received 'linear'."),
        ({"temperature": -1.0}, "`temperature` must be positive and finite, received -1.0"),
        ({"distill": 1.5}, r"`distill` must lie in \[0, 1\], received 1.5"),
        ({"held_out": 1.0}, "`held_out` must lie strictly between 0 and 1, received 1.0"),
        (
            {"optimizer": "adm"},
            "`optimizer` must be the name of a Keras optimizer, such as 'adam' or 'sgd', received 'adm'",
        ),
    ],
)
def test_bad_settings(more: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        dr.Recovery(**more)


def test_subclassed_models_are_refused() -> None:
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, inputs: Any) -> Any:
            return self.dense(tf.identity(inputs))

    model = Own()
    x, y = models.data_for(models.ready("mlp"), 20)
    model(x)
    with pytest.raises(ModelError, match=r"\(Own\) is a subclassed model.*cannot be copied. Use functions of"):
        dr.recover(model, (x, y))


def test_the_result_describes_the_training() -> None:
    model = models.ready("mlp")
    found = dr.recover(model, models.data_for(model, 30), recovery=FAST)
    assert f"(best epoch {found.best_epoch} of 3)" in repr(found)
