"""Bad kinds of elements and unsuitable data are refused by name."""

from collections.abc import Callable
from typing import Any

import flat
import keras
import models
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from kinds import RELATIVE, inputs, reads_text, subclassed, two_outputs

import dropreg as dr
from dropreg.errors import DataError, ModelError, ParameterError
from dropreg.network._masked import MaskedNetwork


@pytest.mark.parametrize(
    ("kind", "options", "says"),
    [
        ("heads", {}, r"has none of heads that can be dropped .no attention layer.: expected a MultiHeadAttention"),
        (
            "cells",
            {},
            "`kind` must be one of neurons, embeddings, heads, layers, branches, weights, .*received 'cells'",
        ),
        (["neurons", "neurons"], {}, "`kind` must be one of .*, or several of them, received .'neurons', 'neurons'."),
        ("neurons", {"groups": "rows"}, "`groups` must go with kind='weights', received kind='neurons'"),
        (
            "weights",
            {"groups": "cells"},
            "`groups` must be 'rows', 'columns', 'layers', a dropreg.Block, .*received 'cells'",
        ),
        ("weights", {"groups": {"c": np.zeros((1, 1), int)}}, "`groups` names 'c', which is no layer with a kernel"),
        ("weights", {"groups": {"a": np.zeros((5, 6), int)}}, "must be integers of the kernel's shape .6, 5."),
        ("weights", {"groups": {"a": np.ones((2, 6, 5), bool)}}, "must not overlap, received 30 weights in more"),
        (
            "weights",
            {"include": ["d"]},
            "`include` names 'd', which is no layer with units: expected some of a, b, out",
        ),
    ],
)
def test_bad_kinds_and_groups_are_refused(kind: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises((ParameterError, ModelError), match=says):
        dr.elements(models.ready("mlp"), kind, **options)


def test_blocks_of_no_size_are_refused() -> None:
    with pytest.raises(ParameterError, match=r"`rows` must be an integer of at least 1, received 0"):
        dr.Block(0, 1)


def test_weights_of_a_quantized_layer_are_left_out_by_name() -> None:
    model = models.build("mlp")
    model.get_layer("a").quantize("int8")
    elements = dr.elements(model, "weights")
    assert "a" not in elements.layers
    assert dict(elements.left_out)["a"] == "its kernel is quantized (int8): drop weights before quantizing"
    with pytest.raises(ParameterError, match=r"`include` names 'a', whose units cannot be dropped: its kernel is"):
        dr.elements(model, "weights", include=["a"])
    x = models.inputs_for(model, 3)
    units = dr.elements(model)
    assert set(units.layers) == {"a", "b"}
    np.testing.assert_allclose(
        np.asarray(MaskedNetwork(model, units)(x, np.ones((3, len(units))))), np.asarray(model(x[0])), rtol=RELATIVE
    )


def test_branches_of_a_subclassed_model_are_refused() -> None:
    with pytest.raises(ModelError, match=r"'ours' is a subclassed model, .* ask for kind='layers', or rebuild it"):
        dr.elements(subclassed(), "branches")


def test_a_batch_size_with_weights_is_refused() -> None:
    model = models.ready("mlp")
    with pytest.raises(ParameterError, match=r"`batch_size` must be the 128 examples of a mask .*received 64"):
        flat.sample(
            *(model, models.data_for(model, 20), dr.elements(model, "weights")),
            rows=1280,
            batch_size=64,
            progress=False,
        )


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (
            lambda x, y: tf.data.Dataset.from_tensor_slices((x, y)).batch(4).repeat(),
            "repeats for ever: use dataset.take",
        ),
        (
            lambda x, y: tf.data.Dataset.from_tensor_slices((x, y)),
            "must come in batches, .* received a single EagerTensor",
        ),
        (lambda x, y: iter([(x, y.tolist())]), "received a single int: batch .* make lists arrays with np.asarray"),
        (lambda x, y: iter([(x, {"out": None})]), "received a single NoneType"),
        (lambda x, y: "heldout.npz", "must be a pair .x, y. or come in batches, received str"),
        (lambda x, y: {"x": x, "y": y}, "must be a pair .x, y. or come in batches, received dict"),
        (lambda x, y: iter([]), "must hold at least one example, received none: a generator can be read once only"),
        (lambda x, y: iter([(x[:0], y[:0])]), "must hold at least one example, received none"),
        (
            lambda x, y: iter([(x, y), (x,)]),
            r"same structure, received .'array',. after .'array', 'array'.: give every batch the same",
        ),
        (
            lambda x, y: iter([({"a": x, "b": x}, y), ({"a": x, "c": x}, y)]),
            "same structure, received .* 'c': 'array'.* after .* 'b': 'array'",
        ),
        (lambda x, y: iter([(x, y, y, y)]), "a batch must be .x, y., or .x, y, w. with weights, received 4 values"),
        (lambda x, y: iter([(x, y[:-1])]), "as many labels as examples, received lengths"),
        (lambda x, y: iter([(x, y), (x[:, :2], y)]), "must have the same shape, received .2,. after .6,."),
        (lambda x, y: iter([(x.astype(str), y)]), "must hold numbers, received dtype <U.*: pass text"),
        (lambda x, y: iter([np.full((3, 6), np.nan)]), "must be finite, received NaN or infinity in 3 examples"),
    ],
)
def test_unsuitable_batches_are_refused(data: Any, says: str) -> None:
    model = models.ready("mlp")
    x, y = models.data_for(model, 20)
    with pytest.raises(DataError, match=says):
        flat.sample(model, data(x, y), dr.elements(model), rows=64, outcomes="divergence", progress=False)


@pytest.mark.parametrize(
    ("first", "later", "remedy"),
    [
        (np.array([[0, 1]]), np.array([[0.5, 1.9]]), "float64"),
        (np.array([[0, 1]]), np.array([[np.nan, 1.0]]), "float64"),
        (np.array([[0, 1]], np.uint8), np.array([[300, 2]]), "int64"),
        (np.array([[0, 1]], np.uint64), np.array([[-1, 2]]), "float64"),
        (np.array([[0.0, 1.0]]), np.array([[2**53 + 1, 2]]), "float64"),
        (np.array([[True]]), np.array([[2]]), "int64"),
        (np.array([[0.5]], np.float32), np.array([[0.1]]), "float64"),
    ],
)
def test_batches_are_not_rounded_to_the_first_one(first: np.ndarray, later: np.ndarray, remedy: str) -> None:
    says = rf"received {later.dtype} after {first.dtype}, which cannot hold its values: .*x.astype.'{remedy}'"
    with pytest.raises(DataError, match=says):
        dr.datasets.stream(iter([(first, np.zeros(1)), (later, np.zeros(1))]))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda x: np.where(x == 3, 0.5, x), r"must be whole numbers .int32., received fractions .* such as 0.5"),
        (lambda x: x.astype(np.int64) + 2**32, r"must be whole numbers .int32., .*out of range such as 42949673"),
        *[
            (
                lambda x, number=number: np.where(np.arange(20)[:, None] == 7, number, x),
                "must be numbers from 0 to 9, the size of its embedding being 10, "
                f"received {number} at example 7: number the tokens as in",
            )
            for number in (10, -1)
        ],
    ],
    ids=["fractions", "out of range", "too large", "negative"],
)
def test_bad_tokens(change: Callable[[np.ndarray], np.ndarray], says: str) -> None:
    model = models.ready("bidirectional")
    x, y = models.data_for(model, 20)
    with pytest.raises(DataError, match=says):
        flat.sample(model, (change(x), y), dr.elements(model), rows=64, progress=False)


@pytest.mark.parametrize(
    ("word", "says"),
    [(None, "None .NoneType."), (np.nan, "nan .float."), (3, "3 .int.")],
    ids=["None", "nan", "number"],
)
def test_values_other_than_text_are_refused(word: Any, says: str) -> None:
    model = reads_text()
    x = np.array([["a"], ["b c"], [word]], dtype=object)
    with pytest.raises(DataError, match=rf"must be text, received {says} at example 2: convert or remove it"):
        flat.sample(model, (x, np.arange(3)), dr.elements(model), rows=64, progress=False)


def test_elements_that_nothing_depends_on_are_refused_with_a_remedy() -> None:
    model = models.build("mlp")
    kernel, bias = model.get_layer("out").get_weights()
    model.get_layer("out").set_weights([np.zeros_like(kernel), bias])
    data, elements = models.data_for(model, 20), dr.elements(model)
    record = flat.sample(model, data, elements, rows=640, gradients=True, progress=False)
    for outcome in ("accuracy", "loss"):  # the loss changes by rounding only
        for estimator in ("assisted", "gradient", "ols", "ridge", "marginal"):
            with pytest.raises(ParameterError, match=f"outcome '{outcome}' must change with the masks"):
                dr.regress(record, outcome=outcome, estimator=estimator)


def test_an_unknown_output_is_refused() -> None:
    model = two_outputs()
    with pytest.raises(ParameterError, match=r"`output` must be one of first, second or its number .*received 'third'"):
        flat.sample(model, (inputs(model, 5), None), dr.elements(model), rows=64, output="third", progress=False)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda layer: layer._output_dense.quantize("int8"), r"it is quantized .int8.: prune first, then quantize\."),
        (lambda layer: layer._value_dense.enable_lora(2), r"it has a low-rank adapter: merge the adapter into its ker"),
    ],
)
def test_attention_that_holds_a_quantized_or_adapted_projection_is_refused(change: Any, reason: str) -> None:
    inputs = keras.Input((4, 6))
    x = layers.Dense(6, name="read")(layers.Dense(5, activation="relu", name="units")(inputs))
    x = layers.MultiHeadAttention(3, 2, name="attention")(x, x)
    model = keras.Model(inputs, layers.Dense(2, name="out")(layers.Flatten()(x)))
    change(model.get_layer("attention"))
    both = dr.elements(model), dr.elements(model, "heads")
    for elements, verb in zip(both, ("be rebuilt from its config", "lose heads"), strict=True):
        selection = dr.Selection.dropping(elements, [1])
        with pytest.raises(
            ModelError, match=rf"layer 'attention' .MultiHeadAttention. cannot {verb}, because {reason}"
        ):
            dr.remove(model, selection)
