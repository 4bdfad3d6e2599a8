"""Bad arguments of scorers are refused by name."""

from dataclasses import replace
from typing import Any

import flat
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import says
from keras import layers
from scoring import Labelled

import dropreg as dr
from dropreg.errors import DataError, ModelError, ParameterError


class RoundLayer(layers.Layer):
    def call(self, inputs: Any) -> Any:
        return tf.round(inputs)


@pytest.mark.parametrize("scorer", [dr.scorers.taylor, dr.scorers.obd, dr.scorers.spread])
def test_a_layer_without_gradient_is_named(scorer: Any) -> None:
    keras.utils.set_random_seed(0)
    dr.layers.register(RoundLayer, rule=dr.layers.Carry())
    inputs = keras.Input((3,))
    x = layers.Dense(4, name="a")(inputs)
    through = RoundLayer(name="rounds")(layers.Dense(4, name="b")(x))  # a gradient is left on the other way
    model = keras.Model(inputs, layers.Dense(3, name="out")(layers.Concatenate()([x, through])))
    data = (np.ones((5, 3), np.float32), np.array([0, 1, 2, 0, 1]))
    with pytest.raises(ModelError, match=says("gradient", "'rounds' (RoundLayer)", "leave_one_out")):
        scorer(model, data, dr.elements(model))


def test_step_functions_have_no_expansion(model: keras.Model, data: Labelled, elements: dr.Elements) -> None:
    with pytest.raises(ParameterError, match=says("`outcome` must be differentiable", "'accuracy'", "'loss'")):
        dr.scorers.taylor(model, data, elements, outcome="accuracy")
    own = dr.outcomes.PerExample(lambda labels, outputs: outputs[:, 0], "first", greater_is_better=True)
    with pytest.raises(ParameterError, match=says("`outcome` must be differentiable", "'first'")):
        dr.scorers.taylor(model, data, elements, outcome=own)


@pytest.mark.parametrize("curvature", [dr.scorers.Exact(), dr.scorers.GaussNewton()])
@pytest.mark.parametrize("function", [tf.abs, tf.identity])
def test_an_outcome_without_second_derivatives_is_refused(curvature: Any, function: Any, data: Labelled) -> None:
    model = keras.Sequential([keras.Input((4,)), layers.Dense(5, "relu", name="first"), layers.Dense(3, name="out")])
    own = dr.outcomes.PerExample(
        lambda labels, outputs: function(outputs[:, 0]), "size", greater_is_better=True, differentiable=True
    )
    with pytest.raises(ModelError, match=says("'size' must have second derivatives", "piecewise linear", "order=1")):
        dr.scorers.obd(model, data, dr.elements(model), outcome=own, curvature=curvature)
    assert np.isfinite(dr.scorers.taylor(model, data, dr.elements(model), outcome=own).impact).all()


def test_a_saturated_loss_has_second_derivatives(data: Labelled) -> None:
    """A network that is sure has hardly any curvature, which is no reason to refuse it."""
    model = keras.Sequential([keras.Input((4,)), layers.Dense(5, "relu"), layers.Dense(3)])
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([kernel * 1e4, bias])
    assert np.isfinite(dr.scorers.obd(model, data, dr.elements(model)).impact).all()


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"order": 3}, says("`order` must be 1 or 2, received 3")),
        ({"statistic": "median"}, says("`statistic` must be one of mean, squared, sd", "received 'median'")),
        ({"curvature": dr.scorers.Exact()}, says("`curvature` must be None with order=1", "pass order=2")),
        ({"order": 2, "curvature": "exact"}, says("`curvature` must be GaussNewton()", "received 'exact'")),
        ({"outcome": "f1"}, says("`outcome` must be one of", "'f1'")),
        ({"rows": 2}, says("`rows` must pay for at least one example, 3 row-equivalents, received 2", "rows=3")),
        ({"rows": 1.5}, says("`rows` must be an integer of at least 1, received 1.5")),
        ({"seed": -1}, says("`seed` must be an integer from 0", "-1")),
        ({"kept": np.ones(4, bool)}, says("`kept` must be 9 booleans", "(4,)")),
        ({"kept": np.zeros(9, bool)}, says("`kept` must keep at least one element")),
    ],
)
def test_arguments_out_of_range(
    settings: dict, text: str, model: keras.Model, data: Labelled, elements: dr.Elements
) -> None:
    with pytest.raises(ParameterError, match=text):
        dr.scorers.taylor(model, data, elements, **settings)


@pytest.mark.parametrize(
    ("scorer", "settings", "text"),
    [
        (dr.scorers.magnitude, {"norm": "L1"}, says("`norm` must be one of incoming, outgoing, both, received 'L1'")),
        (dr.scorers.activation, {"moment": "max"}, says("`moment` must be one of mean, rms, zeros, received 'max'")),
        (dr.scorers.greedy, {"step": 0}, says("`step` must be a fraction above 0", "received 0")),
        (dr.scorers.random, {"seed": -3}, says("`seed` must be an integer from 0 to 2**64 - 1, received -3")),
        (
            dr.scorers.leave_one_out,
            {"outcome": dr.outcomes.PerMask(lambda y, p: 0.0, "f1", True)},
            says("one of single examples", "'f1'"),
        ),
    ],
)
def test_other_arguments_out_of_range(
    scorer: Any, settings: dict, text: str, model: keras.Model, data: Labelled, elements: dr.Elements
) -> None:
    with pytest.raises(ParameterError, match=text):
        scorer(model, data, elements, **settings)


def test_missing_labels_are_refused(model: keras.Model, data: Labelled, elements: dr.Elements) -> None:
    with pytest.raises(DataError, match=says("outcome 'loss' must have labels", "'divergence'")):
        dr.scorers.taylor(model, (data[0], None), elements)
    assert np.isfinite(dr.scorers.obd(model, (data[0], None), elements, outcome="divergence").impact).all()


SCORERS_OF_MASKS = [dr.scorers.leave_one_out, dr.scorers.greedy]


@pytest.mark.parametrize(
    ("scorer", "outcome"),
    [
        *((scorer, outcome) for scorer in SCORERS_OF_MASKS for outcome in ("accuracy", "retained", "margin")),
        (dr.scorers.taylor, "margin"),
    ],
)
def test_a_regression_has_no_classes(scorer: Any, outcome: str, data: Labelled) -> None:
    model = regression()
    with pytest.raises(ParameterError, match=says(f"'{outcome}' must have classes, received a regression task")):
        scorer(model, (data[0], data[0].sum(axis=1)), dr.elements(model), outcome=outcome)


def regression() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential([keras.Input((4,)), layers.Dense(3, "relu", name="first"), layers.Dense(1, name="out")])


@pytest.mark.parametrize("scorer", SCORERS_OF_MASKS)
@pytest.mark.parametrize("function", [lambda y, p: p, lambda y, p: p[:1, 0]])
def test_a_metric_of_another_shape_is_refused(
    scorer: Any, function: Any, model: keras.Model, data: Labelled, elements: dr.Elements
) -> None:
    own = dr.outcomes.PerExample(function, "own", greater_is_better=True, differentiable=True)
    with pytest.raises(ParameterError, match=says("'own' must return one number for each row", "received shape")):
        scorer(model, data, elements, outcome=own)


@pytest.mark.parametrize("scorer", SCORERS_OF_MASKS)
@pytest.mark.parametrize("function", [tf.math.log, lambda values: -1.0 / tf.nn.relu(values)])
def test_outcomes_that_are_not_finite_are_refused(
    scorer: Any, function: Any, model: keras.Model, data: Labelled, elements: dr.Elements
) -> None:
    own = dr.outcomes.PerExample(
        lambda labels, outputs: function(outputs[:, 0]), "own", greater_is_better=True, differentiable=True
    )
    with pytest.raises(ModelError, match=says("outcome 'own' must be finite, received NaN or infinity")):
        scorer(model, data, elements, outcome=own)


def test_gradients_that_are_not_finite_are_refused(model: keras.Model, data: Labelled, elements: dr.Elements) -> None:
    norm = dr.outcomes.PerExample(
        lambda labels, outputs: tf.norm(tf.nn.relu(outputs - 5.0), axis=-1), "norm", False, differentiable=True
    )
    with pytest.raises(ModelError, match=says("derivatives of outcome 'norm' must be finite", "forward passes")):
        dr.scorers.taylor(model, data, elements, outcome=norm, rows=300)


def test_refusals_while_tensorflow_traces_keep_their_text(
    model: keras.Model, data: Labelled, elements: dr.Elements
) -> None:
    step = dr.outcomes.PerExample(
        lambda labels, outputs: tf.cast(tf.argmax(outputs, -1) == labels, tf.float32),
        *("step", True),
        differentiable=True,
    )
    with pytest.raises(
        ModelError, match=says("outcome 'step' must be differentiable", "dropreg.Sampling(gradients=False)")
    ):
        flat.sample(model, data, elements, rows=40, outcomes=step, gradients=("step",), progress=False)


def test_exact_curvature_of_many_elements_asks_for_a_budget(make_model: Any) -> None:
    model, elements = make_model(), dr.elements(make_model())
    x = np.zeros((300_000, 4), np.float32)
    with pytest.raises(ParameterError, match=says("would cost 24,300,000 row-equivalents", "pass rows=")):
        dr.scorers.obd(model, (x, np.zeros(300_000, int)), elements, curvature=dr.scorers.Exact())


def test_other_kinds_have_no_magnitude(model: keras.Model, data: Labelled, elements: dr.Elements) -> None:
    heads = replace(elements, kinds=("head",) * len(elements))
    for scorer in (dr.scorers.magnitude, dr.scorers.activation, dr.scorers.weight_activation):
        with pytest.raises(ParameterError, match=says("defined for neurons", "filters", "kind head", "taylor")):
            scorer(model, data, heads)
