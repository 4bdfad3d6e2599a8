"""Reports of smaller models tell zeros and distances by their names; the models are compiled like the original."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import models
import numpy as np
import pytest
from conftest import says
from keras import layers

import dropreg as dr

Data = tuple[Any, Any]


def compiled_model() -> keras.Model:
    model = models.build("mlp")
    schedule: Any = keras.optimizers.schedules.CosineDecay(0.02, 50)
    model.compile(
        keras.optimizers.Adam(schedule, beta_1=0.8),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="two")],
    )
    return model


def half(model: keras.Model) -> dr.Selection:
    return dr.Selection.random(dr.elements(model), 0.5)


def weights(model: keras.Model) -> dr.Selection:
    return dr.Selection.random(dr.elements(model, "weights"), 0.5)


FEW = dr.Recovery(epochs=1, learning_rate=0.01)
SMALLER: dict[str, Callable[[keras.Model, Data], keras.Model]] = {
    "remove": lambda model, data: dr.remove(model, half(model)).model,
    "merge": lambda model, data: dr.remove(model, half(model), data=data).model,
    "remove weights": lambda model, data: dr.remove(model, weights(model)).model,
    "remove and recover": lambda model, data: dr.remove(model, half(model), data=data, recovery=FEW).model,
    "recover": lambda model, data: dr.recover(dr.remove(model, half(model)).model, data, recovery=FEW).model,
    "in steps": lambda model, data: (
        dr.prune_iteratively(
            *(model, data, dr.elements(model)), fractions=(0.2, 0.4), scorer=dr.scorers.magnitude
        ).model
    ),
    "weights in steps": lambda model, data: (
        dr.prune_iteratively(
            *(model, data, dr.elements(model, "weights")), fractions=(0.2, 0.4), scorer=dr.scorers.magnitude
        ).model
    ),
}


@pytest.mark.parametrize("way", SMALLER)
def test_a_smaller_model_is_compiled_like_the_original(way: str) -> None:
    model, quiet = compiled_model(), {"verbose": 0, "return_dict": True}
    x, y = models.data_for(model, 40)
    before = model.evaluate(x, y, **quiet)
    smaller: Any = SMALLER[way](model, (x, y))
    found = smaller.evaluate(x, y, **quiet)
    assert found.keys() == before.keys() == {"accuracy", "two", "loss"}
    log_p: Any = np.asarray(keras.ops.log_softmax(smaller(x)))
    assert found["loss"] == pytest.approx(-log_p[np.arange(40), np.ravel(y)].mean(), rel=1e-4)
    assert smaller.optimizer is not model.optimizer
    assert smaller.optimizer.get_config() == model.optimizer.get_config()
    assert model.evaluate(x, y, **quiet) == before


def test_the_file_of_a_compiled_model_is_compiled(tmp_path: Path) -> None:
    model, quiet = compiled_model(), {"verbose": 0, "return_dict": True}
    x, y = models.data_for(model, 40)
    smaller: Any = dr.remove(model, half(model)).model
    smaller.save(tmp_path / "small.keras")
    loaded: Any = keras.saving.load_model(tmp_path / "small.keras")
    assert loaded.evaluate(x, y, **quiet) == smaller.evaluate(x, y, **quiet)


def test_what_is_compiled_by_output_finds_its_output() -> None:
    """The nested model is written out, so its output has another name."""
    inputs = keras.Input((6,))
    hidden = layers.Dense(9, activation="relu", name="hidden")(inputs)
    nested = keras.Sequential([keras.Input((9,)), layers.Dense(3, name="last")], name="nested")
    model = keras.Model(inputs, [nested(hidden), layers.Dense(2, name="other")(hidden)])
    model.compile("sgd", loss={"nested": "mse", "other": "mae"}, metrics={"nested": ["mae"]})
    smaller: Any = dr.remove(model, half(model)).model
    x, y = np.ones((4, 6), np.float32), [np.zeros((4, 3)), np.zeros((4, 2))]
    assert {"last_loss", "last_mae", "other_loss"} < smaller.evaluate(x, y, verbose=0, return_dict=True).keys()


def test_a_model_that_is_not_compiled_gives_one_that_is_not() -> None:
    model = models.build("mlp")
    assert not dr.remove(model, half(model)).model.compiled


def test_an_optimizer_without_a_configuration_is_told() -> None:
    class Own(keras.optimizers.SGD):
        def __init__(self, rate: float) -> None:
            super().__init__(rate)

    model = models.build("mlp")
    model.compile(Own(0.1), "mse")
    with pytest.raises(UserWarning, match=says("not compiled", "optimizer or metric", "compile it before")):
        dr.remove(model, half(model))


@pytest.mark.parametrize("in_steps", [False, True])
def test_removed_weights_are_reported(in_steps: bool) -> None:
    model = models.build("mlp")
    elements = dr.elements(model, "weights")
    kernels = len(elements)
    if in_steps:
        x = models.data_for(model, 40)
        small = dr.prune_iteratively(model, x, elements, fractions=(0.2, 0.5), scorer=dr.scorers.magnitude)
    else:
        small = dr.remove(model, weights(model))
    nonzero = small.report.totals().loc["nonzero"].to_dict()
    assert nonzero["before"] == sum(np.count_nonzero(w) for w in model.get_weights())
    assert nonzero["after"] == sum(np.count_nonzero(w) for w in small.model.get_weights())
    assert nonzero["before"] - nonzero["after"] == kernels - round(kernels / 2)
    assert f"nonzero params: {nonzero['before']:,.0f} -> {nonzero['after']:,.0f}" in repr(small.report)
    assert "nonzero" not in repr(dr.remove(model, half(model)).report)


@pytest.mark.parametrize(
    ("distill", "objective"),
    [(0.0, "loss"), (1.0, "distance from the teacher"), (0.25, "0.75 x loss + 0.25 x distance from the teacher")],
)
def test_what_was_minimized_is_named(distill: float, objective: str) -> None:
    model = models.build("mlp")
    smaller, settings = dr.remove(model, half(model)).model, dr.Recovery(epochs=1, learning_rate=0.01, distill=distill)
    teacher = model if distill else None
    found = dr.recover(smaller, models.data_for(model, 40), teacher=teacher, recovery=settings)
    assert found.objective == objective
    assert f"held-out {objective} {found.loss_before:.4g} -> {found.loss_after:.4g}" in repr(found)
