"""Elements that nothing consumes can be removed; a model that has no others cannot be measured, and says so."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flat
import keras
import models
import numpy as np
import pytest
from keras import layers

import dropreg as dr
from dropreg.errors import ParameterError, UnidentifiedError
from dropreg.network import MaskedNetwork


def without_live_elements() -> tuple[keras.Model, Any]:
    """The measured output has no hidden units, the other one has; its data."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    hidden = layers.Dense(5, activation="relu", name="hidden")(inputs)
    outputs = {"measured": layers.Dense(3, name="a")(inputs), "other": layers.Dense(1, name="b")(hidden)}
    model = keras.Model(inputs, outputs)
    x = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    return model, (x, {"measured": np.random.default_rng(1).integers(0, 3, 60)})


def regression(**options: Any) -> Callable[..., dr.ImpactTable]:
    return partial(flat.estimate, outcome="loss", rows=256, fidelity=None, **options)


SCORERS: dict[str, Callable[..., dr.ImpactTable]] = {
    "taylor": dr.scorers.taylor,
    "obd": dr.scorers.obd,
    "spread": dr.scorers.spread,
    "leave one out": dr.scorers.leave_one_out,
    "greedy": partial(dr.scorers.greedy, step=0.5),
    "corrected": regression(gradients=True),
    "assisted": regression(gradients=True, flips=0),
    "OLS": regression(gradients=False),
}


@pytest.mark.parametrize("name", SCORERS)
@pytest.mark.parametrize("kind", ["neurons", "weights"])
def test_a_model_of_idle_elements_alone_is_refused(name: str, kind: Any) -> None:
    """By all scorers that measure an outcome, also where it changes by rounding."""
    model, data = without_live_elements()
    elements = dr.elements(model, kind, exclude=[] if kind == "neurons" else ["a"])
    text = r"outcome 'loss' must change with the (elements|masks), received .*(zero|no change).*another outcome"
    with pytest.raises((ParameterError, UnidentifiedError), match=text):
        SCORERS[name](model, data, elements)


def test_annealing_by_an_outcome_that_never_changes_is_refused() -> None:
    model = models.ready("mlp")
    constant = dr.outcomes.PerExample(lambda labels, outputs: 0.0 * outputs[:, 0], "nothing", True, differentiable=True)
    for gradients in (True, False):
        with pytest.raises(ParameterError, match="outcome 'nothing' must change with the masks, received no change"):
            flat.anneal(
                *(model, models.data_for(model, 20), dr.elements(model)),
                fraction=0.5,
                outcome=constant,
                gradients=gradients,
                rounds=2,
            )


@pytest.mark.parametrize("ablation", ["zero", "merged"])
def test_idle_elements_can_be_annealed_and_removed(ablation: Any) -> None:
    """None is better than another, and no outcome depends on which are removed."""
    model, data = without_live_elements()
    selection = flat.anneal(model, data, dr.elements(model), fraction=0.4, ablation=ablation, rounds=2)
    small = dr.remove(model, selection)
    np.testing.assert_allclose(small.model(data[0])["measured"], model(data[0])["measured"], atol=1e-6)
    assert small.model.count_params() == model.count_params() - 2 * (6 + 1 + 1)


class Both(layers.Layer):
    """Returns two tensors of its input's shape."""

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight(shape=(6, 6), name="kernel")

    def call(self, x: Any) -> Any:
        return keras.ops.matmul(x, self.kernel), x + 1


def test_a_layer_that_returns_several_tensors_is_left_out() -> None:
    inputs = keras.Input((6,))
    first, second = Both(name="both")(inputs)
    model = keras.Model(inputs, layers.Dense(3, name="out")(layers.Dense(6, name="same")(first + second)))
    elements = dr.elements(model, "layers")
    assert elements.names == ("same",)
    reasons = dict(elements.left_out)
    assert reasons["both"] == "it returns several tensors, so the identity cannot replace it"
    data = models.examples(model, 40)
    assert np.isfinite(flat.estimate(model, data, elements, outcome="loss", rows=200, fidelity=None).impact).all()


def test_a_layer_of_a_list_is_replaced_by_its_first_tensor() -> None:
    x = inputs = keras.Input((4, 6))
    x = layers.Attention(use_scale=True, name="mixes")([x, x])
    model = keras.Model(inputs, layers.Dense(3, name="out")(x))
    elements = dr.elements(model, "layers")
    assert elements.names == ("mixes",)
    given = models.inputs_for(model, 5)
    found = MaskedNetwork(model, elements)(given, np.zeros((1, 1), bool))
    np.testing.assert_allclose(found, model.get_layer("out")(given[0]), atol=1e-6)
    small = dr.remove(model, dr.Selection.dropping(elements, [0])).model
    np.testing.assert_allclose(np.asarray(small(given[0])), np.asarray(found), atol=1e-6)
