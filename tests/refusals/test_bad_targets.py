"""Bad fractions, budgets and accuracy limits are refused by name."""

from collections.abc import Callable
from typing import Any

import flat
import keras
import numpy as np
import pytest
from conftest import Labelled
from keras import layers

import dropreg as dr
from dropreg.errors import DataError, DropregError, ModelError, ParameterError

untyped: Any = dr  # takes what a type checker refuses
HALF = dr.Budget("params", 0.5)


def of_a_regression(data: Labelled) -> dr.Pruned:
    limit = dr.AccuracyLimit(0.5, (data[0], np.linspace(0, 1, len(data[0]))))
    one = keras.Sequential([keras.Input((data[0].shape[1],)), layers.Dense(4), layers.Dense(1)])
    return dr.prune(one, data=(data[0] + 1.0, None), target=limit)


def of_names(model: keras.Model, data: Labelled) -> dr.Pruned:
    limit = dr.AccuracyLimit(0.5, (data[0], np.array(["a", "b"])[data[1] % 2]))
    return dr.prune(model, data=(data[0] + 1.0, None), target=limit)


def of_images_of_any_size() -> dr.Pruned:
    any_size = keras.Input((None, None, 3))
    hidden = layers.GlobalAveragePooling2D()(layers.Conv2D(5, 3, activation="relu")(any_size))
    images = np.random.default_rng(0).random((64, 6, 6, 3)).astype(np.float32), np.arange(64) % 3
    return dr.prune(keras.Model(any_size, layers.Dense(3)(hidden)), data=images, target=dr.Budget("macs", 0.5))


Use = Callable[[keras.Model, Labelled, dr.Elements], object]
CASES: list[tuple[Use, type[DropregError], str]] = [
    (flat.anneal, ParameterError, r"exactly one of `fraction` and `target`.*received none"),
    (
        lambda m, d, e: flat.anneal(m, d, e, fraction=0.5, target=HALF),
        ParameterError,
        r"exactly one of `fraction` and `target`.*received both",
    ),
    (lambda m, d, e: untyped.Budget("x", 0.5), ParameterError, r"`quantity` must be one of params, .*, received 'x'"),
    (
        lambda m, d, e: dr.Budget("params", 1.5),
        ParameterError,
        r"`at_most` must lie strictly between 0 and 1, received 1.5",
    ),
    (lambda m, d, e: dr.AccuracyLimit(0, d), ParameterError, r"`most` must lie strictly between 0 and 1, received 0"),
    (
        lambda m, d, e: dr.AccuracyLimit(0.1, d, 0.1),
        ParameterError,
        r"`level` must lie strictly between 0.5 and 1, received 0.1",
    ),
    (
        lambda m, d, e: dr.AccuracyLimit(0.005, (d[0][:10], d[1][:10])),
        DataError,
        r"at least 598 examples to show an accuracy loss of at most 0.50%.*received 10",
    ),
    (lambda m, d, e: dr.AccuracyLimit(0.005, (d[0], None)), DataError, r"must be a pair \(x, y\) with labels"),
    (lambda m, d, e: of_a_regression(d), DataError, r"accuracy limit must have classes.*pass dropreg.OutcomeLimit"),
    (lambda m, d, e: of_names(m, d), DataError, r"of a limit do not fit the model: `y` must be integer classes"),
    (
        lambda m, d, e: dr.prune(m, data=d, target=dr.AccuracyLimit(0.5, (d[0][:20], d[1][:20]))),
        DataError,
        r"`data` and `target.data` must be different examples",
    ),
    (
        lambda m, d, e: flat.anneal(m, d, dr.elements(m, "weights"), target=HALF),
        ParameterError,
        r"`target` must be an accuracy limit where single weights are removed",
    ),
    (
        lambda m, d, e: untyped.prune(m, data=d, target=0.5),
        ParameterError,
        r"`target` must be a Budget, an AccuracyLimit or an OutcomeLimit, received 0.5: pass f",
    ),
    (
        lambda m, d, e: untyped.prune(m, data=d, fraction="half"),
        ParameterError,
        r"`fraction` must .*between 0 and 1, received .half.",
    ),
    (
        lambda m, d, e: dr.prune(m, data=d, fraction=0.001),
        ParameterError,
        r"`fraction` must remove at least one of the .* elements, received 0.001",
    ),
    (
        lambda m, d, e: dr.prune(m, data=(d[0][:1], d[1][:1]), fraction=0.5),
        DataError,
        r"`data` must hold at least two examples to merge by least squares",
    ),
    (
        lambda m, d, e: dr.AccuracyLimit(0.1, (d[0], {"a": d[1], "b": d[1]})),
        DataError,
        r"must have labels of one output, received those of 2",
    ),
    (
        lambda m, d, e: dr.AccuracyLimit(0.1, (d[0], [d[1], d[1]])),
        DataError,
        r"must have labels of one output, received those of 2",
    ),
    (
        lambda m, d, e: of_images_of_any_size(),
        ModelError,
        r"must have known sizes for a budget of macs.*'params' or 'latency'",
    ),
    (
        lambda m, d, e: dr.prune(m, d),
        ParameterError,
        r"exactly one of `fraction` and `target` must be given, received none",
    ),
    (
        lambda m, d, e: dr.prune(m, d, fraction=0.5, target=HALF),
        ParameterError,
        r"exactly one of `fraction` and `target` must be given, received both",
    ),
]


@pytest.mark.parametrize(("use", "error", "text"), CASES)
def test_bad_targets(
    model: keras.Model, data: Labelled, elements: dr.Elements, use: Use, error: type[DropregError], text: str
) -> None:
    with pytest.raises(error, match=text):
        use(model, data, elements)
