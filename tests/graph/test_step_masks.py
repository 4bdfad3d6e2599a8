"""Padded steps that a model masks do not count, as in the losses and metrics of Keras."""

from collections.abc import Callable
from typing import Any

import flat
import keras
import models
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import dropreg as dr
from dropreg.data._examples import check_data
from dropreg.errors import DataError, ModelError
from dropreg.graph import _compile
from dropreg.graph._timesteps import channel_means
from dropreg.graph._trace import trace_graph
from dropreg.network._masked import MaskedNetwork
from dropreg.network._padding import idle_slots

N, STEPS, VOCABULARY, N_CLASSES = 60, 6, 20, 3
ROUNDING = 1e-5  # sums over more rows of zeros, in float32
TRAINING = 2e-3  # the optimizer divides gradients by their size, however small


def tagger() -> keras.Model:
    """Classes of every step, from recurrent layers."""
    inputs = keras.Input((None,), dtype="int32")
    x = layers.Dense(6, activation="relu")(layers.Embedding(VOCABULARY, 5, mask_zero=True)(inputs))
    x = layers.GRU(6, return_sequences=True)(x)
    return keras.Model(inputs, layers.Dense(N_CLASSES, activation="softmax")(layers.Dense(4, activation="relu")(x)))


def pooled() -> keras.Model:
    """A classifier of sequences, read in both directions."""
    inputs = keras.Input((None,), dtype="int32")
    x = layers.Embedding(VOCABULARY, 5, mask_zero=True)(inputs)
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(x)
    x = layers.GlobalAveragePooling1D()(layers.Dense(6, activation="relu")(x))
    return keras.Model(inputs, layers.Dense(N_CLASSES, activation="softmax")(x))


def attention() -> keras.Model:
    """Classes of every step, from attention, which is given masks unseen."""
    inputs = keras.Input((None,), dtype="int32")
    x = layers.Dense(6, activation="relu")(layers.Embedding(VOCABULARY, 6, mask_zero=True)(inputs))
    normalized = layers.LayerNormalization()(x)
    x = layers.Add()([x, layers.MultiHeadAttention(2, 4)(normalized, normalized)])
    x = layers.BatchNormalization()(layers.Dense(6, activation="relu")(layers.LayerNormalization()(x)))
    return keras.Model(inputs, layers.Dense(N_CLASSES)(x))


def encoder() -> keras.Model:
    """A classifier of sequences: attention removes the mask before the sum, and the mean receives it again."""
    inputs = keras.Input((None,), dtype="int32")
    x = layers.Embedding(VOCABULARY, 6, mask_zero=True)(inputs)
    x = layers.LayerNormalization()(layers.Add()([x, layers.MultiHeadAttention(2, 4)(x, x)]))
    hidden = layers.Dense(6)(layers.Dense(8, activation="relu")(x))
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(layers.Add()([x, hidden])))
    return keras.Model(inputs, layers.Dense(N_CLASSES)(x))


def numbers() -> keras.Model:
    """A regression of several numbers at every step; steps of zeros are masked."""
    inputs = keras.Input((None, 3))
    x = layers.Dense(6, activation="relu")(layers.Masking()(inputs))
    return keras.Model(inputs, layers.Dense(2)(layers.SimpleRNN(6, return_sequences=True)(x)))


MODELS = [tagger, pooled, attention, encoder, numbers]
WHOLE = [pooled, encoder]
"""One label a sequence."""

Maker = Callable[[], keras.Model]


def examples(maker: Maker, more: int = 0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Sequences of different lengths and their labels, padded by so many steps more than they need."""
    rng = np.random.default_rng(seed)
    there = np.arange(STEPS) < rng.integers(1, STEPS + 1, N)[:, np.newaxis]
    there[0] = True  # one of full length
    x: np.ndarray = rng.integers(1, VOCABULARY, (N, STEPS)).astype(np.int32)
    y: np.ndarray = rng.integers(0, N_CLASSES, N if maker in WHOLE else (N, STEPS))
    if maker is numbers:
        x, y = rng.normal(size=(N, STEPS, 3)).astype(np.float32), rng.normal(size=(N, STEPS, 2))
    x[~there] = 0

    def longer(values: np.ndarray) -> np.ndarray:
        return np.pad(values, [(0, 0), (0, more), *((0, 0) for _ in values.shape[2:])])

    return longer(x), y if maker in WHOLE else longer(y)


def made(maker: Maker, seed: int = 0) -> keras.Model:
    """The model with random weights and statistics."""
    keras.utils.set_random_seed(seed)
    model, rng = maker(), np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.5, 1.5, w.shape) if "var" in v.path else w + rng.normal(0, 0.1, w.shape)
                       for v, w in zip(model.weights, model.get_weights(), strict=True)])  # fmt: skip
    return model


def there(x: np.ndarray) -> np.ndarray:
    return x != 0 if x.ndim == 2 else (x != 0).any(axis=-1)


def half(model: keras.Model) -> dr.Selection:
    elements = dr.elements(model)
    return dr.Selection.dropping(elements, list(range(0, len(elements), 2)))


def joined(model: keras.Model) -> np.ndarray:
    return np.concatenate([weight.ravel() for weight in model.get_weights()])


def estimated(model: keras.Model, data: Any) -> np.ndarray:
    return flat.estimate(model, data, dr.elements(model), outcome="loss", rows=1000).impact


def expanded(model: keras.Model, data: Any) -> np.ndarray:
    return dr.scorers.taylor(model, data, dr.elements(model), order=2, outcome="loss").impact


def diverging(model: keras.Model, data: Any) -> np.ndarray:
    return dr.scorers.leave_one_out(model, data, dr.elements(model), outcome="divergence").impact


def without_heads(model: keras.Model, data: Any) -> np.ndarray:
    has_heads = any(isinstance(layer, layers.MultiHeadAttention) for layer in model.layers)
    elements = dr.elements(model, "heads" if has_heads else "neurons")
    return dr.scorers.leave_one_out(model, data, elements, outcome="loss").impact


def active(model: keras.Model, data: Any) -> np.ndarray:
    dense = {layer.name for layer in model.layers if isinstance(layer, layers.Dense)}
    named = [layer for layer in dict.fromkeys(dr.elements(model).layers) if layer in dense]
    units, weights = (dr.elements(model, kind, include=named) for kind in ("neurons", "weights"))
    tables = [dr.scorers.activation(model, data, units), dr.scorers.weight_activation(model, data, weights)]
    return np.concatenate([table.impact for table in tables])


def merged(model: keras.Model, data: Any) -> np.ndarray:
    return joined(dr.remove(model, half(model), data=data, recovery="none").model)


def merged_heads(model: keras.Model, data: Any) -> np.ndarray:
    """Output projections are refitted after heads are removed."""
    selection = dr.Selection.dropping(dr.elements(model, "heads"), [0])
    merge = dr.merging.LeastSquares(ridges=(1e-3,))  # of several, rounding decides between almost equal ones
    return joined(dr.remove(model, selection, data=data, merge=merge, recovery="none").model)


def distilled(model: keras.Model, data: Any) -> np.ndarray:
    recovery = dr.Recovery(distill=1.0, epochs=1, learning_rate=0.01, mixup=0.5)
    return joined(dr.remove(model, half(model), data=data, recovery=recovery).model)


def tuned(model: keras.Model, data: Any) -> np.ndarray:
    return joined(dr.recover(model, data, recovery=dr.Recovery(epochs=1, learning_rate=0.01)).model)


def annealed(model: keras.Model, data: Any) -> np.ndarray:
    schedule = dr.pruning.Schedule(second_order=False)  # whose random signs would go by steps
    elements = dr.elements(model)
    chosen = flat.anneal(model, data, elements, fraction=0.5, ablation="merged", schedule=schedule, rounds=3)
    return chosen.kept.astype(float)


def changed(model: keras.Model, data: Any) -> np.ndarray:
    values = dr.remove(model, half(model)).measure(data, outcomes=["loss", "divergence"])
    return values[["before", "after", "change", "std_error"]].to_numpy(float)


RESULTS = [
    estimated,
    merged_heads,
    expanded,
    diverging,
    without_heads,
    active,
    merged,
    distilled,
    tuned,
    annealed,
    changed,
]


ONLY = {
    estimated: [attention, numbers],
    without_heads: [tagger, encoder],
    active: [pooled, attention],
    changed: [tagger, numbers],
    expanded: [attention],
    diverging: [encoder],
    merged_heads: [encoder],
    annealed: [encoder],
    distilled: [tagger],
    tuned: [attention, numbers],
}
"""The models of slow or special results."""

CASES = [(maker, result) for maker in MODELS for result in RESULTS if maker in ONLY.get(result, MODELS)]


@pytest.mark.parametrize(("maker", "result"), CASES)
def test_more_padding_changes_nothing(maker: Maker, result: Callable[..., np.ndarray]) -> None:
    model = made(maker)
    found = [result(model, examples(maker, more)) for more in (0, 5)]
    tolerance = TRAINING if result in (distilled, tuned) else ROUNDING
    np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=tolerance)
    assert np.abs(found[0]).max() > 0


def test_compiled_and_eager_runs_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few batches run as they are, many in a graph: the same comes of it."""
    model, data, found = made(attention), examples(attention), []
    for few in (0, 1000):
        monkeypatch.setattr(_compile, "_FEW", few)
        found.append([result(model, data) for result in (changed, merged, estimated)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("maker", MODELS)
def test_timestep_masks_reach_the_suffix(maker: Maker) -> None:
    model, (x, y) = made(maker), examples(maker)
    elements = dr.elements(model, "heads" if maker in (attention, encoder) else "neurons")
    network, whole = MaskedNetwork(model, elements), model.predict(x, verbose="0")
    frontier = network.cached_prefix(check_data(model, (x, y)), batch_size=7, most_bytes=2**20)
    assert frontier is not None
    np.testing.assert_allclose(network.suffix(frontier, None), whole, atol=1e-6)
    np.testing.assert_allclose(network.suffix(frontier, tf.ones((N, len(elements)))), whole, atol=1e-6)


@pytest.mark.parametrize("number", range(3))
def test_layers_without_a_mask_after_attention_do_not_depend_on_execution_order(number: int) -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((STEPS,), dtype="int32")
    memory = layers.Embedding(VOCABULARY, 6, mask_zero=True)(inputs)
    queries = layers.Dense(6, activation="relu")(memory)
    read = [
        layers.MultiHeadAttention(2, 4, name=f"mha_{k}")(q, memory) for k, q in enumerate((memory, queries, queries))
    ]
    model = keras.Model(inputs, layers.Dense(N_CLASSES)(layers.Add()(read)))
    x, y = examples(tagger)
    elements = dr.elements(model, "heads", include=[f"mha_{number}"])
    found = MaskedNetwork(model, elements)([x], np.ones((1, 2), bool))
    np.testing.assert_allclose(found, model.predict(x, verbose="0"), atol=1e-6)
    assert dr.scorers.leave_one_out(model, (x, y), elements, outcome="loss").impact.any()


@pytest.mark.parametrize("readers", [1, 2])
def test_padding_counts_where_attention_reads_it_without_a_mask(readers: int) -> None:
    inputs = keras.Input((STEPS,), dtype="int32")
    memory = layers.Embedding(VOCABULARY, 6, mask_zero=True, name="memory")(inputs)
    queries = layers.Dense(6)(memory)
    read = [layers.MultiHeadAttention(2, 4)(queries, memory) for _ in range(readers)]  # the second sees no mask
    x = layers.GlobalAveragePooling1D()(layers.Add()([*read, queries]))
    graph = trace_graph(keras.Model(inputs, layers.Dense(N_CLASSES)(x)))
    slot = next(call.outputs[0] for call in graph.calls if call.name == "memory")
    assert (slot in idle_slots(graph)) == (readers == 1)


@pytest.mark.parametrize("maker", [tagger, attention])
def test_accuracy_is_that_of_unpadded_steps(maker: Maker) -> None:
    model, (x, y) = made(maker), examples(maker)
    right = (model.predict(x, verbose="0").argmax(axis=-1) == y) & there(x)
    small = dr.remove(model, dr.Selection.dropping(dr.elements(model), [0]))
    accuracy = small.measure((x, y), outcomes="accuracy")["before"].item()
    assert accuracy == pytest.approx((right.sum(axis=1) / there(x).sum(axis=1)).mean(), abs=1e-6)
    same_length = there(x).sum(axis=1) == 4
    few = x[same_length], y[same_length]
    logits = maker is attention
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
    model.compile(loss=loss, metrics=["accuracy"], jit_compile=models.NO_JIT)
    loss, accuracy = model.evaluate(*few, verbose="0")
    measured = small.measure(few, outcomes=["loss", "accuracy"])["before"]
    np.testing.assert_allclose(measured, [loss, accuracy], rtol=1e-5, err_msg="as Keras measures it")


@pytest.mark.parametrize("form", ["minus one", "one-hot", "column"])
def test_labels_of_padded_steps_may_be_anything(form: str) -> None:
    model, (x, y) = made(tagger), examples(tagger)
    other = np.where(there(x), y, -1)
    if form == "one-hot":
        other = np.eye(N_CLASSES)[y] * there(x)[..., np.newaxis]
    elif form == "column":
        other = other[..., np.newaxis]
    before = other.copy()
    found, expected = (check_data(model, (x, labels)) for labels in (other, y))
    assert found.task == "classes"
    np.testing.assert_array_equal(found.counted, there(x))
    np.testing.assert_array_equal(found.labels, np.where(there(x), y, 0))
    np.testing.assert_array_equal(found.labels, expected.labels)
    np.testing.assert_array_equal(other, before, err_msg="labels that are given stay")


def test_all_steps_count_without_padding() -> None:
    model, (x, y) = made(tagger), examples(tagger)
    assert check_data(model, (np.maximum(x, 1), y)).counted is None


def test_a_sequence_of_padding_alone_is_refused() -> None:
    model, (x, y) = made(tagger), examples(tagger)
    x[[3, 5]] = 0
    with pytest.raises(DataError, match=r"at least one step that model '.*' does not mask, received 2 without") as e:
        flat.estimate(model, (x, y), dr.elements(model), rows=100)
    assert "(examples 3, 5): leave them out." in str(e.value)
    kept = there(x).any(axis=1)
    flat.estimate(model, (x[kept], y[kept]), dr.elements(model), outcome="loss", rows=1000)


def convolved(x: Any) -> Any:
    return layers.Conv1D(4, 3, padding="same", activation="relu")(x)


def flattened(x: Any) -> Any:
    return layers.Flatten()(x)


def averaged_as_they_are(x: Any) -> Any:
    return keras.ops.mean(x, axis=1)


@pytest.mark.filterwarnings("ignore:.*does not support masking")
@pytest.mark.parametrize("reads", [convolved, flattened, averaged_as_they_are])
def test_padding_counts_where_a_layer_reads_it_as_data(reads: Callable[[Any], Any]) -> None:
    """Layers before it are refitted on all steps, as without a mask."""
    x, y = examples(tagger)
    y = y if reads is convolved else y[:, 0]
    found = []
    for masks in (True, False):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((STEPS,), dtype="int32")
        hidden = layers.Embedding(VOCABULARY, 5, mask_zero=masks)(inputs)
        hidden = layers.Dense(6, activation="tanh")(layers.Dense(8, activation="relu")(hidden))
        model = keras.Model(inputs, layers.Dense(N_CLASSES)(reads(hidden)))
        assert check_data(model, (x, y)).counted is None
        found.append(merged(model, (x, y)))
    np.testing.assert_allclose(found[0], found[1], atol=ROUNDING)


@pytest.mark.parametrize("steps", [STEPS, None])
def test_a_masked_recurrent_layer_can_be_removed_if_sizes_are_known(steps: int | None) -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((steps,), dtype="int32")
    x = layers.GRU(5, return_sequences=True, name="gru")(layers.Embedding(VOCABULARY, 5, mask_zero=True)(inputs))
    model = keras.Model(inputs, layers.Dense(N_CLASSES)(layers.GlobalAveragePooling1D()(x)))
    if steps is None:
        with pytest.raises(ModelError, match=r"'gru': its input has unknown sizes, \(None, None, 5\)"):
            dr.elements(model, "layers")
        return
    elements = dr.elements(model, "layers")
    assert elements.names == ("gru",)
    x, _ = examples(tagger)
    small = dr.remove(model, dr.Selection.dropping(elements, [0]))
    masked = MaskedNetwork(model, elements)([x], np.array([[False]]))
    np.testing.assert_allclose(small.model(x), masked, atol=ROUNDING)


def test_a_batch_of_padding_alone_leaves_means_finite() -> None:
    """Where one label is given for a sequence it may be all padding; the last one is a batch by itself here."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None,), dtype="int32")
    x = layers.GRU(6, return_sequences=True)(layers.Embedding(VOCABULARY, 5, mask_zero=True)(inputs))
    model = keras.Model(inputs, layers.Dense(N_CLASSES)(layers.GRU(4)(x)))
    x, y = examples(pooled)
    x[-1] = 0
    network = MaskedNetwork(model, dr.elements(model))
    slot = max(idle_slots(network.graph))
    means = network.average(lambda values: [channel_means(values[slot])], check_data(model, (x, y)), batch_size=N - 1)
    assert np.isfinite(means[0]).all()
    assert np.isfinite(merged(model, (x, y))).all()


def test_examples_without_finite_activations_cannot_be_merged_with() -> None:
    """A masked mean over no step is NaN, in Keras itself."""
    model, (x, y) = made(pooled), examples(pooled)
    x[-1] = 0
    with pytest.raises(DataError, match=r"must give finite activations to merge with, received NaN .* padding alone"):
        merged(model, (x, y))
