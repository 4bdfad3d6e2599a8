"""Bad settings of fine-tuning and distillation, and arguments that exclude each other, are refused by name."""

from collections.abc import Callable
from typing import Any

import keras
import models
import numpy as np
import pytest
from keras import layers

import dropreg as dr
from dropreg.errors import DataError, DropregError, ModelError, ParameterError

HALF = dr.Recovery(distill=0.5)
Use = Callable[[keras.Model, Any, np.ndarray], object]


def removed(model: keras.Model, **options: Any) -> dr.Pruned:
    return dr.remove(model, dr.Selection.random(dr.elements(model), 0.4), **options)


def wider() -> keras.Model:
    return keras.Sequential([keras.Input((6,)), layers.Dense(5)])


CASES: list[tuple[Use, type[DropregError], str]] = [
    (
        lambda m, x, y: removed(m, data=(x, y), recovery="x"),
        ParameterError,
        "`recovery` must be one of distill, none or a Recovery, received 'x'",
    ),
    (
        lambda m, x, y: removed(m, recovery="distill"),
        ParameterError,
        r"`recovery` must have examples to learn from, received none: pass",
    ),
    (
        lambda m, x, y: removed(m, data=(x[:1], None), merge="none", recovery="distill"),
        DataError,
        r"at least two examples to learn from.*received one.*recovery='none'",
    ),
    (
        lambda m, x, y: removed(m, data=(x, None), recovery=dr.Recovery()),
        DataError,
        r"`data` must have labels where distill is below 1",
    ),
    (
        lambda m, x, y: dr.Recovery(learning_rate=()),
        ParameterError,
        r"`learning_rate` must be positive and finite, received \(\)",
    ),
    (
        lambda m, x, y: dr.Recovery(learning_rate=(0.1, -1)),
        ParameterError,
        r"`learning_rate` must be positive and finite, received \(0.1, -1\)",
    ),
    (
        lambda m, x, y: dr.Recovery(trial_epochs=0),
        ParameterError,
        "`trial_epochs` must be an integer of at least 1, received 0",
    ),
    (
        lambda m, x, y: dr.Recovery(distill=1.0, mixup=1.5),
        ParameterError,
        r"`mixup` must lie in \[0, 1\], received 1.5: 0 mixes no examples",
    ),
    (
        lambda m, x, y: dr.Recovery(distill=0.5, mixup=0.5),
        ParameterError,
        r"`mixup` must go with distill=1, received distill=0.5: mixtures have",
    ),
    (
        lambda m, x, y: dr.recover(m, (x, y), recovery=HALF),
        ParameterError,
        r"`teacher` must be the original model.*received none with distill=0.5",
    ),
    (
        lambda m, x, y: dr.recover(m, (x, y), teacher=m),
        ParameterError,
        r"`teacher` must go with distill above 0.*or leave it out",
    ),
    (
        lambda m, x, y: dr.recover(m, (x, None), teacher=m, recovery=HALF),
        DataError,
        r"`data` must have labels.*received y=None with distill=0.5",
    ),
    (
        lambda m, x, y: dr.recover(m, (x, y), validation=(x.copy(), None)),
        DataError,
        r"`validation` must have labels where distill is below 1",
    ),
    (
        lambda m, x, y: dr.recover(m, (x, y), validation=(x[5:], y[5:])),
        DataError,
        r"`data` and `validation` must be different examples.*share memory",
    ),
    (lambda m, x, y: dr.recover(m, (x[:1], y[:1])), DataError, r"must hold at least two examples.*pass validation="),
    (
        lambda m, x, y: dr.recover(m, (x, y), teacher=models.build("cnn"), recovery=HALF),
        DataError,
        r"must have shape \(any, 8, 8, 2\)",
    ),
    (
        lambda m, x, y: dr.recover(m, (x, y), teacher=wider(), recovery=HALF),
        ModelError,
        r"outputs of shape \(3,\), as model .*, received \(5,\)",
    ),
]


@pytest.mark.parametrize(("use", "error", "text"), CASES)
def test_bad_recoveries(use: Use, error: type[DropregError], text: str) -> None:
    model = models.ready("mlp")
    x, y = models.data_for(model, 40)
    with pytest.raises(error, match=text):
        use(model, x, y)
