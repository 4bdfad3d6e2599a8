"""Laws of pruning while a model trains: masked elements remain zero and can be removed."""

from itertools import pairwise
from typing import Any

import keras
import models
import numpy as np
import pytest
from keras import layers

import dropreg as dr
from dropreg.errors import ModelError, ParameterError

ROUNDING = 1e-4  # float32, relative to the largest output
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def train(model: keras.Model, callbacks: list[Any], epochs: int = 4, optimizer: Any = "adam") -> None:
    x, y = models.data_for(model, 40, seed=5)
    if not model.compiled:
        model.compile(optimizer, LOSS)
    model.fit(x, y, epochs=epochs, verbose=0, callbacks=callbacks)  # type: ignore[arg-type]


def callback_for(model: keras.Model, kind: Any = "neurons", **changes: Any) -> dr.PruningCallback:
    settings: dict[str, Any] = {"fraction": 0.5, "scorer": dr.scorers.random, "start_epoch": 1, "end_epoch": 2}
    return dr.PruningCallback(dr.elements(model, kind), models.data_for(model, 20), **(settings | changes))


def assert_cut_is_the_same(model: keras.Model, selection: dr.Selection) -> None:
    x, _ = models.data_for(model, 6)
    whole, small = (np.asarray(one(x, training=False)) for one in (model, dr.remove(model, selection).model))
    assert np.abs(whole - small).max() <= ROUNDING * np.abs(whole).max()


class Watching(keras.callbacks.Callback):
    """Keeps the selection and the weights after every epoch."""

    def __init__(self, watched: dr.PruningCallback) -> None:
        super().__init__()
        self.watched, self.kept, self.weights = watched, [watched.selection.kept], []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        model: Any = self.model
        self.kept.append(self.watched.selection.kept)
        self.weights.append([np.array(weight) for weight in model.get_weights()])


@pytest.mark.parametrize(
    ("name", "kind"),
    [("mlp", "weights"), ("residual", "neurons"), ("grouped", "neurons")]
    + [("nested", "weights"), ("transformer_block", "heads")],
)
def test_the_smaller_model_computes_what_the_trained_one_does(name: str, kind: Any) -> None:
    model = models.build(name)
    callback = callback_for(model, kind)
    watching = Watching(callback)
    train(model, [callback, watching])
    kept = callback.selection.kept
    assert (~kept).sum() == round(0.5 * len(kept))
    assert_cut_is_the_same(model, callback.selection)
    assert not any((later & ~earlier).any() for earlier, later in pairwise(watching.kept))
    gone = [int((~kept).sum()) for kept in watching.kept]
    assert gone[:2] == [0, 0] < gone[2:3] <= gone[3:4] == gone[4:]
    assert any((a != b).any() for a, b in zip(watching.weights[-2], watching.weights[-1], strict=True))
    for earlier, later in zip(watching.weights[-2], watching.weights[-1], strict=True):
        assert earlier.ndim == 1 or (later[earlier == 0] == 0).all()


@pytest.mark.parametrize("kind", ["neurons", "weights"])
def test_zeros_survive_further_training(kind: Any) -> None:
    model = models.build("mlp")
    train(model, [])  # a training step is compiled before there are constraints
    callback = callback_for(model, kind)
    train(model, [callback])
    train(model, [])
    assert_cut_is_the_same(model, callback.selection)
    more = callback_for(model, kind, fraction=0.6, scorer=dr.scorers.magnitude)
    train(model, [more])
    for selection in (callback.selection, more.selection):
        assert_cut_is_the_same(model, selection)


def test_restored_weights_are_masked_again() -> None:
    model = models.build("mlp")
    first = model.get_weights()
    restoring = keras.callbacks.LambdaCallback(on_train_end=lambda logs: model.set_weights(first))
    callback = callback_for(model)
    train(model, [restoring, callback])
    np.testing.assert_array_equal(first[0], model.get_weights()[0])
    assert_cut_is_the_same(model, callback.selection)


def test_scores_are_of_the_current_model() -> None:
    seen = []

    def watching(model: Any, data: Any, elements: Any, *, kept: Any = None, seed: int) -> dr.ImpactTable:
        seen.append((seed, None if kept is None else int((~kept).sum()), model.get_weights()[0].copy()))
        return dr.scorers.random(model, data, elements, seed=seed)

    model = models.build("mlp")
    callback = callback_for(model, scorer=watching, start_epoch=0, end_epoch=3, every=2, schedule="linear", seed=7)
    train(model, [callback])
    assert [(seed, gone) for seed, gone, _ in seen] == [(7, None), (8, 2), (9, 3)]
    assert (seen[0][2] != seen[1][2]).any()
    assert (~callback.selection.kept).sum() == round(0.5 * 9)


def test_one_shot_prunes_in_the_first_epoch() -> None:
    model = models.build("mlp")
    callback = callback_for(model, schedule="one_shot")
    watching = Watching(callback)
    train(model, [callback, watching])
    assert [int((~kept).sum()) for kept in watching.kept] == [0, 0, 4, 4, 4]


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("recurrent", "neurons", r"received lstm\[0\].*consumed by the inside of layer 'lstm_cell'"),
        ("transformer_block", "branches", r"received multi_head_attention.*consumed by layer 'add"),
        ("separable", "neurons", r"consumed by layer 'separable' \(SeparableConv2D\): exclude their layers"),
        ("transformer_block", "layers", r"consumed by the inside of layer 'layer_norm.*use dropreg.prune_iteratively"),
    ],
)
def test_scorers_that_do_not_read_weights_alone_are_refused(name: str, kind: Any, text: str) -> None:
    model = models.build(name)
    with pytest.raises(ModelError, match=text):
        train(model, [callback_for(model, kind)])
    assert all(variable.constraint is None for variable in model.variables)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"start_epoch": -1}, "`start_epoch` must be an integer of at least 0, received -1"),
        ({"every": 0}, "`every` must be an integer of at least 1, received 0"),
        ({"start_epoch": 3}, "`end_epoch` must not be before `start_epoch`, received 2 and 3: swap them"),
        ({"fraction": 0.0}, "`fraction` must lie strictly between 0 and 1, received 0.0"),
        ({"schedule": "square"}, "`schedule` must be one of cubic, linear, one_shot"),
        ({"floor": 4}, "leaves 5 of 9 elements, which would empty a layer"),
    ],
)
def test_bad_arguments(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ParameterError, match=text):
        callback_for(models.build("mlp"), **changes)


def test_unsupported_training_is_refused() -> None:
    model = models.build("mlp")
    with pytest.raises(ParameterError, match=r"`end_epoch` must be below the 2 epochs of fit, received 2.*at most 1"):
        train(model, [callback_for(model)], epochs=2)
    with pytest.raises(ModelError, match="`elements` were found in another model"):
        train(model, [callback_for(models.build("cnn"))])
    averaging = models.build("mlp")
    with pytest.raises(ParameterError, match=r"must not average weights.*use_ema=True: pass use_ema=False"):
        train(averaging, [callback_for(averaging)], optimizer=keras.optimizers.Adam(use_ema=True))
    inputs = keras.Input((6,))
    x = layers.Dense(5, kernel_constraint="non_neg", name="a")(layers.Dense(4, name="free")(inputs))
    own = keras.Model(inputs, layers.Dense(3, name="out")(x))
    with pytest.raises(ModelError, match=r"weight 'a/kernel' must have no constraint of its own.*received NonNeg"):
        train(own, [callback_for(own, "weights")])
    assert own.get_layer("free").kernel.constraint is own.get_layer("out").kernel.constraint is None
