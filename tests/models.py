"""The grid of small models that the laws are tested on."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

N_CLASSES = 3


def mlp() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(5, activation="relu", name="a"),
            layers.Dense(4, activation="tanh", name="b"),
            layers.Dense(N_CLASSES, name="out"),
        ]
    )


def mlp_activations() -> keras.Model:
    """Activations with f(0) != 0 and a softmax output."""
    x = inputs = keras.Input((6,))
    x = layers.Dense(5, activation="sigmoid", name="a")(x)
    x = layers.Dense(4, name="b")(x)
    x = layers.Activation("softplus")(x)
    x = layers.Dropout(0.5)(x)
    return keras.Model(inputs, layers.Dense(N_CLASSES, activation="softmax", name="out")(x))


def cnn() -> keras.Model:
    x = inputs = keras.Input((8, 8, 2))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="c1")(x)
    x = layers.MaxPooling2D()(x)
    x = layers.Conv2D(5, 3, dilation_rate=1, name="c2")(x)
    x = layers.ZeroPadding2D(1)(x)
    x = layers.LeakyReLU()(x)
    x = layers.Flatten()(x)
    x = layers.Dense(4, activation="elu", name="d")(x)
    return keras.Model(inputs, layers.Dense(N_CLASSES, name="out")(x))


def cnn_1d() -> keras.Model:
    x = inputs = keras.Input((9, 2))
    x = layers.Conv1D(4, 3, strides=2, activation="gelu", name="c1")(x)
    x = layers.UpSampling1D(2)(x)
    x = layers.Conv1DTranspose(3, 2, name="c2")(x)
    x = layers.GlobalMaxPooling1D()(x)
    return keras.Model(inputs, layers.Dense(N_CLASSES, name="out")(x))


def cnn_bn() -> keras.Model:
    x = inputs = keras.Input((6, 6, 1))
    x = layers.Conv2D(4, 3, use_bias=False, name="c1")(x)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    x = layers.Conv2D(3, 3, padding="same", name="c2")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Activation("sigmoid")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(N_CLASSES, name="out")(x))


def residual() -> keras.Model:
    inputs = keras.Input((6, 6, 1))
    x = layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    y = layers.BatchNormalization()(x)
    y = layers.Conv2D(3, 3, padding="same", activation="relu", name="branch_1")(y)
    y = layers.Conv2D(4, 3, padding="same", name="branch_2")(y)
    x = layers.ReLU()(layers.Add()([x, y]))
    z = layers.Conv2D(4, 1, name="gate")(x)
    x = layers.Multiply()([x, layers.Activation("sigmoid")(z)])
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(N_CLASSES, name="out")(x))


def residual_operator() -> keras.Model:
    """A residual add written as `x + y`."""
    inputs = keras.Input((5,))
    x = layers.Dense(4, activation="relu", name="stem")(inputs)
    y = layers.Dense(4, activation="relu", name="branch")(x)
    return keras.Model(inputs, layers.Dense(N_CLASSES, name="out")(x + y))


def concatenating() -> keras.Model:
    inputs = keras.Input((6, 6, 2))
    a = layers.Conv2D(3, 1, activation="relu", name="a")(inputs)
    b = layers.Conv2D(2, 3, padding="same", activation="tanh", name="b")(inputs)
    x = layers.Concatenate()([a, inputs, b])
    x = layers.BatchNormalization()(x)
    x = layers.AveragePooling2D(2)(x)
    x = layers.Reshape((9, 7))(x)
    x = layers.Flatten()(x)
    x = layers.Dense(4, activation="relu", name="d")(x)
    x = layers.Concatenate()([x, layers.GlobalAveragePooling2D()(a)])
    return keras.Model(inputs, layers.Dense(N_CLASSES, name="out")(x))


def separable() -> keras.Model:
    x = inputs = keras.Input((7, 7, 2))
    x = layers.Conv2D(4, 3, padding="same", name="c1")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same", name="depthwise")(x)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU(max_value=6.0)(x)
    x = layers.Conv2D(3, 1, name="pointwise")(x)
    x = layers.SeparableConv2D(4, 3, depth_multiplier=2, activation="relu", name="separable")(x)
    x = layers.Cropping2D(1)(x)
    x = layers.GlobalMaxPooling2D()(x)
    return keras.Model(inputs, layers.Dense(N_CLASSES, name="out")(x))


def grouped() -> keras.Model:
    x = inputs = keras.Input((5, 5, 2))
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="c1")(x)
    x = layers.Conv2D(6, 3, groups=2, padding="same", activation="relu", name="groups")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(N_CLASSES, name="out")(x))


def two_inputs() -> keras.Model:
    image, extra = keras.Input((5, 5, 1), name="image"), keras.Input((3,), name="extra")
    x = layers.Conv2D(3, 3, activation="relu", name="c")(image)
    x = layers.Flatten()(x)
    y = layers.Dense(4, activation="relu", name="d")(extra)
    x = layers.Concatenate()([x, y])
    x = layers.Dense(4, activation="relu", name="joint")(x)
    return keras.Model([image, extra], layers.Dense(N_CLASSES, name="out")(x))


def shared() -> keras.Model:
    """One layer on two branches, and one that reads two sources."""
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    encode = layers.Dense(4, activation="relu", name="encode")
    mix = layers.Dense(3, activation="relu", name="mix")
    a, b = encode(left), encode(right)
    x = layers.Concatenate()([mix(a), mix(layers.Dense(4, activation="relu", name="other")(b))])
    return keras.Model([left, right], layers.Dense(N_CLASSES, name="out")(x))


def nested() -> keras.Model:
    inner_in = keras.Input((5,))
    inner_out = layers.Dense(4, activation="tanh", name="inner_b")(
        layers.Dense(3, activation="tanh", name="inner_a")(inner_in)
    )
    inner = keras.Model(inner_in, inner_out, name="inner")
    block = keras.Sequential([keras.Input((4,)), layers.Dense(4, activation="tanh", name="block_a")], name="block")
    inputs = keras.Input((5,))
    return keras.Model(inputs, layers.Dense(N_CLASSES, name="out")(block(inner(inputs))))


def transformer_block() -> keras.Model:
    inputs = keras.Input((4, 6))
    y = layers.LayerNormalization()(inputs)
    x = layers.Add()([inputs, layers.MultiHeadAttention(2, 3)(y, y)])
    y = layers.LayerNormalization()(x)
    y = layers.Dense(5, activation="gelu", name="ffn_1")(y)
    x = layers.Add()([x, layers.Dense(6, name="ffn_2")(y)])
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(N_CLASSES, name="out")(x))


def recurrent() -> keras.Model:
    x = inputs = keras.Input((5, 3))
    x = layers.LSTM(4, return_sequences=True, name="lstm")(x)
    x = layers.TimeDistributed(layers.Dense(3, activation="tanh", name="each"))(x)
    x = layers.SimpleRNN(4, return_sequences=True, go_backwards=True, name="simple")(x)
    x = layers.GRU(3, name="gru")(x)
    return keras.Model(inputs, layers.Dense(N_CLASSES, name="out")(x))


def bidirectional() -> keras.Model:
    x = inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(10, 4, mask_zero=True, name="embed")(x)
    x = layers.Bidirectional(layers.GRU(3, return_sequences=True, reset_after=False, name="gru"))(x)
    x = layers.Bidirectional(layers.LSTM(2, name="lstm"), merge_mode="sum")(x)
    return keras.Model(inputs, layers.Dense(N_CLASSES, name="out")(x))


def encoder_decoder() -> keras.Model:
    """The last state of one recurrent layer begins another."""
    inputs = keras.Input((4, 3))
    _, *states = layers.LSTM(3, return_state=True, name="encoder")(inputs)
    x = layers.LSTM(3, name="decoder")(inputs, initial_state=states)
    return keras.Model(inputs, layers.Dense(N_CLASSES, name="out")(x))


def preprocessing() -> keras.Model:
    x = inputs = keras.Input((6, 6, 2))
    x = layers.Rescaling(0.5, offset=-0.1)(x)
    x = layers.Normalization(mean=[0.1, 0.2], variance=[1.5, 0.5])(x)
    x = layers.RandomFlip()(x)
    x = layers.Conv2D(4, 3, activation="relu", name="c1")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(N_CLASSES, name="out")(x))


def u_net() -> keras.Model:
    """A class for every pixel."""
    inputs = keras.Input((4, 4, 2))
    a = layers.Conv2D(4, 3, padding="same", activation="relu", name="down")(inputs)
    x = layers.MaxPooling2D()(a)
    x = layers.Conv2D(3, 3, padding="same", activation="tanh", name="bottom")(x)
    x = layers.Conv2DTranspose(3, 2, strides=2, name="up")(x)
    x = layers.Concatenate()([a, x])
    x = layers.Conv2D(4, 3, padding="same", activation="relu", name="joint")(x)
    return keras.Model(inputs, layers.Conv2D(N_CLASSES, 1, name="out")(x))


def tagger() -> keras.Model:
    """Probabilities of the classes of every token."""
    x = inputs = keras.Input((5, 3))
    x = layers.Conv1D(4, 3, padding="same", activation="relu", name="c")(x)
    x = layers.Dense(4, activation="gelu", name="d")(x)
    return keras.Model(inputs, layers.Dense(N_CLASSES, activation="softmax", name="out")(x))


BUILDERS: dict[str, Callable[[], keras.Model]] = {
    build.__name__: build
    for build in (
        *(mlp, mlp_activations, cnn, cnn_1d, cnn_bn, residual, residual_operator, concatenating),
        *(separable, grouped, two_inputs, shared, nested, transformer_block),
        *(recurrent, bidirectional, encoder_decoder, preprocessing, u_net, tagger),
    )
}


def build(name: str, seed: int = 0) -> keras.Model:
    """A model of the grid with random weights, biases and normalization statistics."""
    keras.utils.set_random_seed(seed)
    model = BUILDERS[name]()
    rng = np.random.default_rng(seed)
    for layer in model._flatten_layers():
        for weight in layer._trainable_variables + layer._non_trainable_variables:
            if "seed" in weight.path or not weight.dtype.startswith("float"):
                continue
            values = rng.normal(scale=0.6, size=weight.shape)
            weight.assign(np.abs(values) + 0.5 if "variance" in weight.path else values)
    return model


NO_JIT: Any = False
"""For `compile`, whose types know nothing but "auto"."""

_READY: dict[tuple[str, int], tuple[keras.Model, list[np.ndarray]]] = {}


def ready(name: str, seed: int = 0) -> keras.Model:
    """`build`, once for all tests, which must leave it as it is."""
    keras.utils.set_random_seed(seed)
    if (name, seed) not in _READY:
        model = build(name, seed)
        _READY[name, seed] = model, model.get_weights()
    model, weights = _READY[name, seed]
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old, f"an earlier test changed {name}")
    assert not model.compiled, f"an earlier test compiled {name}"
    assert all(layer.trainable for layer in model._flatten_layers()), f"an earlier test froze {name}"
    return model


def inputs_for(model: keras.Model, n_examples: int, seed: int = 0) -> list[np.ndarray]:
    """Random inputs of a model, one array each."""
    rng = np.random.default_rng(seed)
    return [
        rng.normal(size=(n_examples, *tensor.shape[1:])).astype(np.float32)
        if str(tensor.dtype).startswith("float")
        else rng.integers(0, 10, (n_examples, *tensor.shape[1:])).astype(np.int32)
        for tensor in model.inputs
    ]


def data_for(model: keras.Model, n_examples: int, seed: int = 0) -> tuple[Any, np.ndarray]:
    """Random (x, y) for a model of the grid."""
    arrays = inputs_for(model, n_examples, seed)
    labels = np.random.default_rng(seed + 1).integers(0, N_CLASSES, (n_examples, *model.outputs[0].shape[1:-1]))
    return (arrays if len(arrays) > 1 else arrays[0]), labels


def classifier() -> Any:
    keras.utils.set_random_seed(0)
    hidden = [layers.Dense(24, activation="relu", name="a"), layers.Dense(12, activation="relu", name="b")]
    model = keras.Sequential([keras.Input((6,)), *hidden, layers.Dense(4, name="out")])
    out = model.get_layer("out")
    out.set_weights([3.0 * out.get_weights()[0], out.get_weights()[1]])
    return model


def examples(model: Any, n: int = 400) -> tuple[Any, Any]:
    x = np.random.default_rng(0).normal(size=(n, *model.input_shape[1:])).astype(np.float32)
    return x, np.argmax(model(x), axis=1)
