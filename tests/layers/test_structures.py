"""Structures in which it is easy to get a name, an axis or a layer's own state wrong."""

from typing import Any

import keras
import models
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import dropreg as dr
from dropreg.errors import ModelError
from dropreg.graph import trace_graph, traced
from dropreg.network._masked import MaskedNetwork
from dropreg.surgery._copying import copy_model


def functional(inputs: Any, outputs: Any) -> keras.Model:
    return keras.Model(inputs, outputs)


def check_cut(model: keras.Model, x: np.ndarray) -> dr.Pruned:
    """Remove a random half of the units: the smaller model computes the same as the masked one."""
    selection = dr.Selection.random(dr.elements(model), 0.5, seed=0)
    small = dr.remove(model, selection)
    masked = MaskedNetwork(model, selection.elements)([x], selection.kept[np.newaxis])
    np.testing.assert_allclose(small.model(x), masked, atol=1e-5)
    return small


def constant(value: Any) -> Any:
    return keras.initializers.Constant(value)


def padded() -> tuple[keras.Model, np.ndarray]:
    keras.utils.set_random_seed(0)
    parts = [keras.Input((7,), dtype="int32"), layers.Embedding(12, 5, mask_zero=True), layers.GRU(6, name="gru")]
    model = keras.Sequential([*parts, layers.Dense(3)])
    tokens = np.random.default_rng(0).integers(1, 12, size=(40, 7)).astype(np.int32)
    tokens[np.arange(40), np.arange(40) % 6 + 1] = 0
    return model, np.where(np.cumsum(tokens == 0, axis=1) > 0, 0, tokens)


def test_a_sequential_model_that_masks_its_padding_is_cut() -> None:
    model, tokens = padded()
    small = check_cut(model, tokens).model
    assert isinstance(small, keras.Sequential)
    shorter = np.concatenate([tokens, np.zeros((40, 2), np.int32)], axis=1)
    np.testing.assert_allclose(small(shorter), small(tokens), atol=1e-5, err_msg="padding must count nothing")


@pytest.mark.filterwarnings("ignore:.*does not support masking")
def test_a_nested_model_that_receives_a_mask_is_not_cut() -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((7,), dtype="int32")
    hidden = layers.Embedding(12, 5, mask_zero=True)(inputs)
    states = keras.Input((7, 5))
    encoder = functional(states, layers.GRU(6, return_sequences=True, name="inner")(states))
    model = functional(inputs, layers.Dense(3)(layers.GRU(4, name="outer")(encoder(hidden))))
    assert set(dr.elements(model).layers) == {"outer"}
    check_cut(model, padded()[1])


@pytest.mark.parametrize("name", ["u_net", "encoder_decoder", "two_inputs", "nested"])
def test_downstream_and_upstream_agree(name: str) -> None:
    graph = trace_graph(models.build(name))
    numbers = range(len(graph.calls))
    after = {(j, k) for j in numbers for k in graph.downstream([j])}
    assert after == {(j, k) for k in numbers for j in graph.upstream(graph.calls[k].outputs)}
    for k in numbers:
        suffix = graph.downstream([k])
        border = graph.frontier(suffix, graph.outputs)
        assert set(graph.upstream(graph.outputs, border)) <= set(suffix)
        assert not {*suffix} & {*graph.upstream(border)}


def twins(*, outer: bool) -> keras.Model:
    """Two nested models whose layers have the same name, and perhaps one beside them."""

    def part(name: str, size: float) -> keras.Model:
        dense = layers.Dense(4, kernel_initializer=constant(size), name="dense")
        return keras.Sequential([keras.Input((4,)), dense, layers.ReLU(name=f"relu_{name}")], name=name)

    inputs = keras.Input((4,))
    hidden = part("b", 2.0)(part("a", 1.0)(inputs))
    if outer:
        hidden = layers.Dense(4, kernel_initializer=constant(3.0), name="dense")(hidden)
    return functional(inputs, layers.Dense(3, name="out")(hidden))


@pytest.mark.parametrize("outer", [False, True])
def test_layers_of_the_same_name_are_distinguished(outer: bool) -> None:
    elements = dr.elements(model := twins(outer=outer))
    expected = ["a/dense", "b/dense", *(["dense"] if outer else [])]
    assert list(dict.fromkeys(elements.layers)) == expected
    assert len(set(elements.names)) == len(elements)
    norms = dr.scorers.magnitude(model, None, elements).impact
    np.testing.assert_allclose(norms, np.repeat([2.0, 4.0, 6.0][: len(expected)], 4))
    scores = np.arange(len(elements))[::-1]
    kept = dr.select(elements, scores, fraction=0.75, floor=1).kept
    assert kept.reshape(-1, 4).any(axis=1).all(), "every layer keeps one"
    assert set(dr.elements(model, include=["b/dense"]).layers) == {"b/dense"}
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    selection = dr.Selection(elements, kept)
    masked = MaskedNetwork(model, elements)([x], kept[np.newaxis])
    np.testing.assert_allclose(dr.remove(model, selection).model(x), masked, rtol=1e-5)


def test_flattening_channels_first_is_not_cut() -> None:
    inputs = keras.Input((6, 6, 2))
    first = layers.Conv2D(4, 3, activation="relu", name="first")(inputs)
    second = layers.Conv2D(3, 3, activation="relu", name="second")(first)
    model = functional(inputs, layers.Dense(3)(layers.Flatten(data_format="channels_first")(second)))
    elements = dr.elements(model)
    assert set(elements.layers) == {"first"}
    assert "data_format='channels_first'" in dict(elements.left_out)["second"]


@pytest.mark.parametrize("units", [6, 8])
@pytest.mark.parametrize("called", [False, True])
def test_a_layer_as_activation_is_kept(units: int, called: bool) -> None:
    inputs = keras.Input((4,))
    hidden = layers.Dense(units, activation=layers.PReLU(), name="learned")(inputs)
    model = functional(inputs, layers.Dense(3)(layers.Dense(5, activation=layers.LeakyReLU(0.2), name="fixed")(hidden)))
    x = np.ones((2, 4), np.float32)
    if called:
        model(x)
    n_params = model.count_params()
    elements = dr.elements(model)
    assert set(elements.layers) == {"fixed"}
    assert model.count_params() == n_params
    assert np.asarray(model(x)).shape == (2, 3)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [(layers.Dense, (6,)), (layers.Dense, (5, 6)), (layers.Conv1D, (5, 6)), (layers.SeparableConv1D, (5, 6))],
)
def test_a_layer_whose_activation_has_weights_loses_inputs_and_is_refitted(kind: Any, shape: tuple[int, ...]) -> None:
    keras.utils.set_random_seed(0)
    options: dict[str, Any] = {} if kind is layers.Dense else {"kernel_size": 2}
    slope = constant(0.3)
    inputs = keras.Input(shape)
    hidden = layers.Dense(8, activation="relu", name="before")(inputs)
    activation = layers.PReLU(slope)
    hidden = kind(7, **options, activation=activation, bias_initializer="normal", name="own")(hidden)
    model = functional(inputs, layers.Dense(3)(layers.Flatten()(hidden)))
    x = np.random.default_rng(0).normal(size=(300, *shape)).astype(np.float32)
    expected = np.asarray(model(x))
    small = check_cut(model, x)
    merged = dr.remove(model, small.selection, data=(x, None)).model
    np.testing.assert_allclose(merged.get_layer("own").get_weights()[-1], 0.3, err_msg="slopes are not biases")
    errors = [np.mean((np.asarray(other(x)) - expected) ** 2) for other in (small.model, merged)]
    assert errors[1] < 0.8 * errors[0]


def test_weights_of_a_layer_that_no_output_needs_are_not_looked_for() -> None:
    inner = keras.Input((4,))
    outputs = [layers.Dense(4, name="used")(inner), layers.Dense(2, name="unused")(inner)]
    inputs = keras.Input((4,))
    nested: Any = functional(inner, outputs)
    model = functional(inputs, layers.Dense(3, name="out")(nested(inputs)[0]))
    elements = dr.elements(model, "weights")
    assert "unused" in elements.layers
    selection = dr.Selection.random(elements, 0.5)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    masked = MaskedNetwork(model, elements)([x], selection.kept[np.newaxis])
    np.testing.assert_allclose(dr.remove(model, selection).model(x), masked, atol=1e-5)


def test_heads_whose_attention_scores_are_read_are_left_out() -> None:
    inputs = keras.Input((6, 4))
    mixed, scores = layers.MultiHeadAttention(4, 3, name="read")(inputs, inputs, return_attention_scores=True)
    again, _ = layers.MultiHeadAttention(4, 3, name="unread")(mixed, mixed, return_attention_scores=True)
    both = layers.Concatenate()([layers.Flatten()(again), layers.Flatten()(keras.ops.mean(scores, axis=1))])
    model = functional(inputs, layers.Dense(3)(both))
    elements = dr.elements(model, "heads")
    assert set(elements.layers) == {"unread"}
    assert "attention scores" in dict(elements.left_out)["read"]
    selection = dr.Selection.dropping(elements, [0, 1])
    x = np.random.default_rng(0).normal(size=(5, 6, 4)).astype(np.float32)
    masked = MaskedNetwork(model, elements)([x], selection.kept[np.newaxis])
    np.testing.assert_allclose(dr.remove(model, selection).model(x), masked, atol=1e-5)


def test_layers_with_array_initializers_are_cut() -> None:
    inputs = keras.Input((4,))
    hidden = layers.Dense(6, activation="relu", bias_initializer=constant(np.arange(6.0)))(inputs)
    model = functional(inputs, layers.Dense(3)(hidden))
    check_cut(model, np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32))


def test_given_means_are_cut_with_their_channels() -> None:
    inputs = keras.Input((4,))
    hidden = layers.Dense(6, activation="relu")(inputs)
    known = layers.Normalization(mean=np.arange(6.0), variance=np.arange(1.0, 7.0))(hidden)
    model = functional(inputs, layers.Dense(3)(known))
    check_cut(model, np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32))


class Scale(layers.Layer):
    """A layer that is not made anew from its config: it takes no name, or does not tell its argument."""

    def __init__(self, factor: Any) -> None:
        super().__init__(name="mine")
        self.factor = factor

    def call(self, inputs: Any) -> Any:
        return inputs * self.factor


@pytest.mark.parametrize(
    ("factor", "says"),
    [(2.0, "must be rebuilt from its config, received the error"), (np.ones(1), "must say how it was made")],
)
def test_layers_that_cannot_be_recreated_are_named(factor: Any, says: str) -> None:
    inputs = keras.Input((4,))
    hidden = layers.Dense(6, activation="relu", name="first")(inputs)
    model = functional(inputs, layers.Dense(3)(layers.Dense(5)(Scale(factor)(hidden))))
    selection = dr.Selection.random(dr.elements(model), 0.5, seed=0)
    with pytest.raises(ModelError, match=rf"layer 'mine' \(Scale\) {says}.*get_config"):
        dr.remove(model, selection)
    with pytest.raises(ModelError, match=r"must have layers that can be rebuilt from their config.*get_config"):
        copy_model(model)


@pytest.mark.parametrize("factor", [2.0, np.ones(1)])
def test_units_of_activations_that_cannot_be_recreated_are_not_cut(factor: Any) -> None:
    inputs = keras.Input((4,))
    hidden = layers.Dense(6, activation=Scale(factor), name="left")(inputs)
    model = functional(inputs, layers.Dense(3)(layers.Dense(5, activation="relu", name="taken")(hidden)))
    assert set(dr.elements(model).layers) == {"taken"}


@pytest.mark.parametrize("name", ["read", "out"])
def test_merging_does_not_refit_constrained_kernels(name: str) -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    bound = {name: "non_neg"}
    hidden = layers.Dense(12, activation="relu")(inputs)
    again = layers.Dense(8, activation="relu", kernel_constraint=bound.get("read"), name="read")(hidden)
    model = functional(inputs, layers.Dense(3, kernel_constraint=bound.get("out"), name="out")(again))
    kernel = model.get_layer(name).kernel
    kernel.assign(np.abs(kernel.numpy()))
    x = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    selection = dr.Selection.random(dr.elements(model), 0.5, seed=0)
    small = dr.remove(model, selection, data=(x, None)).model
    plain = dr.remove(model, selection).model
    assert small.get_layer(name).kernel.numpy().min() >= 0.0
    other = "out" if name == "read" else "read"
    assert np.abs(small.get_layer(other).kernel.numpy() - plain.get_layer(other).kernel.numpy()).max() > 1e-3


def test_the_floor_of_a_tied_layer_holds_where_numbers_are_rounded() -> None:
    inputs = keras.Input((6,))
    model = functional(inputs, layers.Dense(3)(layers.Dense(8, name="c")(inputs) + layers.Dense(8, name="d")(inputs)))
    elements = dr.elements(model)
    scores = np.arange(8.0)
    for floor, expected in ((1, 4), ({"c": 5}, 8), ({"d": 5}, 8)):
        assert dr.select(elements, scores, fraction=0.375, floor=floor, round_to=4).kept.sum() == expected


def test_floors_of_both_directions_hold_where_numbers_are_rounded() -> None:
    inputs = keras.Input((5, 3))
    model = functional(inputs, layers.Dense(3)(layers.Bidirectional(layers.GRU(9))(inputs)))
    elements = dr.elements(model)
    scores = np.tile(np.arange(9.0), 2)
    for floor in ({elements.equal[0][0]: 5}, {elements.equal[0][1]: 5}):
        selection = dr.select(elements, scores, fraction=0.5, floor=floor, round_to=4)
        assert selection.by_layer()["kept"].tolist() == [8, 8]
        dr.remove(model, selection)


def test_magnitudes_of_a_layer_that_is_wrapped() -> None:
    inputs = keras.Input((5, 3))
    x = layers.TimeDistributed(layers.Dense(6, name="inner"))(inputs)
    model = functional(inputs, layers.Dense(3, name="out")(layers.Flatten()(x)))
    table = dr.scorers.magnitude(model, None, dr.elements(model))
    expected = np.linalg.norm(model.layers[1].get_weights()[0], axis=0)
    np.testing.assert_allclose(table.impact, expected, rtol=1e-6)


@pytest.mark.parametrize("can_be_traced", [True, False])
def test_a_subclassed_model_has_taylor_scores_and_magnitudes_if_it_can_be_traced(can_be_traced: bool) -> None:
    class Mine(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.out = layers.Dense(5, activation="relu"), layers.Dense(3)

        def call(self, values: Any) -> Any:
            return self.out(self.hidden(values if can_be_traced else tf.identity(values)))

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    data = rng.normal(size=(50, 4)).astype(np.float32), rng.integers(0, 3, 50)
    model = Mine()
    model(data[0])
    inputs = keras.Input((4,))
    same = functional(inputs, model.out(model.hidden(inputs)))
    for scorer in (dr.scorers.taylor, dr.scorers.spread, dr.scorers.obd):
        found, expected = (scorer(m, data, dr.elements(m)).impact for m in (model, same))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    for scorer in (dr.scorers.magnitude, dr.scorers.activation, dr.scorers.weight_activation):
        if can_be_traced:
            found, expected = (scorer(m, data, dr.elements(m)).impact for m in (model, same))
            np.testing.assert_allclose(found, expected, rtol=1e-4)
            continue
        with pytest.raises(ModelError, match=r"must know which layers consume a unit.*keras.Model\(inputs, outputs\)"):
            scorer(model, data, dr.elements(model))


def test_copies_are_not_compiled_and_sizes_leave_the_optimizer_out() -> None:
    inputs = keras.Input((20,))
    model = functional(inputs, layers.Dense(3)(layers.Dense(60, activation="relu")(inputs)))
    x, y = np.random.default_rng(0).normal(size=(64, 20)).astype(np.float32), np.arange(64) % 3
    plain = copy_model(model)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    silent: Any = 0
    model.fit(x, y, verbose=silent)
    assert model.compiled
    assert not copy_model(model).compiled
    one_less = [dr.remove(m, dr.Selection.dropping(dr.elements(m), [0])).report.totals() for m in (plain, model)]
    assert one_less[1].loc["bytes", "ratio"] == pytest.approx(one_less[0].loc["bytes", "ratio"], rel=1e-3)


@pytest.mark.parametrize(
    ("runs", "rows", "plain"), [(2, 100, True), (3, 100, False), (None, 100, False), (1, 300, False)]
)
def test_only_short_runs_are_eager(runs: int | None, rows: int, *, plain: bool) -> None:
    run = traced(double := lambda arrays: 2 * arrays[0], [np.zeros((rows, 60), np.float32)], runs=runs)
    assert (run is double) == plain
