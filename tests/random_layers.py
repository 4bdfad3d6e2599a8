"""Families of layers for random models: each adds one or a few layers to a tensor, with drawn arguments."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
import own_layers as own
from hypothesis import strategies as st
from keras import layers, ops

ELEMENTWISE = ("relu", "tanh", "sigmoid", "gelu", "softplus", "elu", "linear")


@dataclass
class Growing:
    """A model that is being drawn: its tensors, and the families used so far."""

    draw: Callable[[Any], Any]
    dtype: str
    only: frozenset[str] = frozenset()
    tensors: list[Any] = field(default_factory=list)
    families: list[str] = field(default_factory=list)
    shared: dict[tuple[int, int], Any] = field(default_factory=dict)
    count: int = 0

    def one(self, *options: Any) -> Any:
        """One of the options; the first is the simplest."""
        return self.draw(st.sampled_from(options))

    def layer(self, kind: Any, *arguments: Any, **options: Any) -> Any:
        """A new layer with a name of its own in the model."""
        self.count += 1
        return kind(*arguments, **options, dtype=self.dtype, name=f"{kind.__name__.lower()}_no_{self.count}")

    def constant(self, *shape: int) -> Any:
        """Numbers that are the same in every run."""
        self.count += 1
        values = np.random.default_rng(self.count).uniform(0.5, 1.5, shape)
        return values.astype(keras.DTypePolicy(self.dtype).compute_dtype)

    def activation(self) -> str:
        return self.one(*ELEMENTWISE, "softmax")

    def data_format(self) -> str:
        return self.one("channels_last", "channels_last", "channels_first")

    def size(self) -> int:
        return self.one(3, 4, 2, 5)


Family = Callable[[Growing, Any], Any]
ANY: dict[str, Family] = {}
FLAT: dict[str, Family] = {}
SEQUENCES: dict[str, Family] = {}
IMAGES: dict[str, Family] = {}


def family(*tables: dict[str, Family]) -> Callable[[Family], Family]:
    def add(function: Family) -> Family:
        for table in tables:
            table[function.__name__] = function
        return function

    return add


def simple(table: dict[str, Family], **kinds: Callable[[Growing], Any]) -> None:
    """Families of one layer on one tensor."""
    for name, make in kinds.items():
        table[name] = lambda g, x, make=make: make(g)(x)


def channels(x: Any) -> int:
    return x.shape[-1]


simple(
    ANY,
    dense=lambda g: g.layer(*(layers.Dense, g.size()), activation=g.activation(), use_bias=g.one(True, False)),
    batch_normalization=lambda g: g.layer(
        layers.BatchNormalization, scale=g.one(True, False), center=g.one(True, False), epsilon=g.one(1e-3, 0.5)
    ),
    layer_normalization=lambda g: g.layer(layers.LayerNormalization, axis=g.one(-1, 1), epsilon=g.one(1e-3, 0.5)),
    rms_normalization=lambda g: g.layer(layers.RMSNormalization, epsilon=g.one(1e-3, 0.5)),
    unit_normalization=lambda g: g.layer(layers.UnitNormalization),
    activation=lambda g: g.layer(layers.Activation, g.activation()),
    relu=lambda g: g.layer(layers.ReLU, max_value=g.one(None, 1.0), negative_slope=g.one(0.0, 0.2)),
    leaky_relu=lambda g: g.layer(layers.LeakyReLU, g.one(0.3, 0.1)),
    elu=lambda g: g.layer(layers.ELU, g.one(1.0, 0.5)),
    prelu=lambda g: g.layer(layers.PReLU, shared_axes=g.one(None, [1])),
    softmax=lambda g: g.layer(layers.Softmax, axis=g.one(-1, 1)),
    dropout=lambda g: g.layer(g.one(layers.Dropout, layers.GaussianDropout, layers.AlphaDropout), 0.4),
    noise=lambda g: g.layer(layers.GaussianNoise, 0.4),
    identity=lambda g: g.layer(layers.Identity),
    activity=lambda g: g.layer(layers.ActivityRegularization, l2=0.1),
    rescaling=lambda g: g.layer(layers.Rescaling, g.one(0.5, 2.0), offset=g.one(0.0, 0.4)),
    squashed=lambda g: g.layer(own.Squashed),
    scaled=lambda g: g.layer(own.Scaled),
    composite=lambda g: g.layer(own.Composite, g.size()),
    mixture=lambda g: g.layer(own.Mixture),
    centred_dense=lambda g: g.layer(own.CentredDense, g.size()),
    plain_dense=lambda g: g.layer(own.PlainDense, g.size(), activation="tanh"),
    shifted_normalization=lambda g: g.layer(own.ShiftedNormalization),
    centred_relu=lambda g: g.layer(own.CentredReLU),
    learned_activation=lambda g: g.layer(layers.Dense, g.size(), activation=layers.PReLU(dtype=g.dtype)),
    flatten=lambda g: g.layer(g.one(layers.Flatten, own.Halved)),
)


@family(ANY)
def normalization(g: Growing, x: Any) -> Any:
    given = {"mean": g.constant(channels(x)), "variance": g.constant(channels(x))}
    return g.layer(layers.Normalization, **given)(x)


@family(ANY)
def group_normalization(g: Growing, x: Any) -> Any:
    groups = g.one(*(n for n in (1, channels(x), 2) if channels(x) % n == 0))
    return g.layer(layers.GroupNormalization, groups)(x)


@family(ANY)
def spectral_normalization(g: Growing, x: Any) -> Any:
    return g.layer(layers.SpectralNormalization, layers.Dense(g.size(), dtype=g.dtype))(x)


@family(ANY)
def einsum_dense(g: Growing, x: Any) -> Any:
    before = "abcde"[: len(x.shape)]
    return g.layer(
        *(layers.EinsumDense, f"{before},{before[-1]}z->{before[:-1]}z"),
        output_shape=(*x.shape[1:-1], g.size()),
        bias_axes="z",
        activation=g.one("tanh", "relu"),
    )(x)


@family(ANY)
def operation(g: Growing, x: Any) -> Any:
    """A function of keras.ops of one tensor, elementwise."""
    return g.one(ops.tanh, ops.relu, ops.sigmoid, ops.abs, ops.negative, ops.square, ops.softplus, ops.sin)(x)


@family(ANY)
def operation_across(g: Growing, x: Any) -> Any:
    """A function of keras.ops along an axis."""
    axis = g.one(-1, 1)
    return g.one(
        lambda: ops.softmax(x, axis=axis),
        lambda: ops.cumsum(x, axis=axis),
        lambda: ops.flip(x, axis=axis),
        lambda: x - ops.mean(x, axis=axis, keepdims=True),
        lambda: x * ops.max(x, axis=axis, keepdims=True),
        lambda: ops.concatenate([x, ops.tanh(x)], axis=axis),
        lambda: ops.matmul(x, g.constant(channels(x), 3)),
        lambda: ops.stack([x, -x], axis=1) if len(x.shape) < 4 else x,
        lambda: ops.roll(x, 1, axis=axis),
    )()


@family(ANY)
def constants(g: Growing, x: Any) -> Any:
    """Arithmetic with numbers and arrays."""
    c, second = channels(x), x.shape[1]
    array = g.one(lambda: 1.5, lambda: g.constant(c), lambda: g.constant(1), lambda: g.constant(second, *x.shape[2:]))()
    return g.one(lambda: x + array, lambda: ops.subtract(array, x), lambda: x * array, lambda: ops.maximum(x, array))()


@family(ANY)
def sliced(g: Growing, x: Any) -> Any:
    return x[..., 1:] if channels(x) > 2 else x[..., :1]


@family(ANY)
def constant_reshape(g: Growing, x: Any) -> Any:
    """Reshape to pairs of channels, by a layer or an operation."""
    if channels(x) % 2 or len(x.shape) > 3:
        return g.layer(layers.Reshape, (-1, channels(x)))(x)
    shape = (*x.shape[1:-1], channels(x) // 2, 2)
    return g.one(lambda: g.layer(layers.Reshape, shape)(x), lambda: ops.reshape(x, (-1, *shape)))()


@family(ANY)
def shared_layer(g: Growing, x: Any) -> Any:
    """One layer on tensors of the same width and rank."""
    key = len(x.shape), channels(x)
    if key not in g.shared:
        g.shared[key] = g.layer(layers.Dense, g.one(channels(x), 3), activation="tanh")
    return g.shared[key](x)


@family(ANY)
def nested(g: Growing, x: Any) -> Any:
    """A model as a layer, called once or twice, with or without an output that nothing uses."""
    inner = keras.Input(x.shape[1:], dtype=x.dtype)
    a = g.layer(layers.Dense, channels(x), activation="tanh")(inner)
    b = g.layer(layers.BatchNormalization)(a)
    unused = g.layer(layers.Dense, 2)(a)
    name = f"nested_{g.count}"
    if g.one(False, True):
        return keras.Model(inner, [b, unused], name=name)(x)[0]
    model = keras.Model(inner, b, name=name)
    return model(model(x)) if g.one(False, True) else model(x)


@family(ANY)
def nested_sequential(g: Growing, x: Any) -> Any:
    parts = [g.layer(layers.Dense, g.size(), activation="relu"), g.layer(layers.Dense, g.size())]
    return keras.Sequential([keras.Input(x.shape[1:], dtype=x.dtype), *parts], name=f"sequential_{g.count}")(x)


@family(FLAT)
def repeat(g: Growing, x: Any) -> Any:
    return g.layer(layers.RepeatVector, 3)(x)


@family(FLAT)
def steps(g: Growing, x: Any) -> Any:
    return g.layer(layers.Reshape, (channels(x), 1))(g.layer(layers.Dense, channels(x))(x))


def recurrent_layer(g: Growing, **options: Any) -> Any:
    kind = g.one(layers.LSTM, layers.GRU, layers.SimpleRNN, own.CentredGRU)
    if kind is layers.GRU:
        options["reset_after"] = g.one(True, False)
    return g.layer(kind, g.size(), use_bias=g.one(True, False), go_backwards=g.one(False, True), **options)


@family(SEQUENCES)
def recurrent(g: Growing, x: Any) -> Any:
    return recurrent_layer(g, return_sequences=g.one(True, False))(x)


@family(SEQUENCES)
def recurrent_states(g: Growing, x: Any) -> Any:
    """Unused states, or states that begin another layer."""
    units = g.size()
    output, *states = g.layer(layers.LSTM, units, return_sequences=True, return_state=True)(x)
    return g.layer(layers.LSTM, units)(x, initial_state=states) if g.one(False, True) else output


@family(SEQUENCES)
def cells(g: Growing, x: Any) -> Any:
    if g.dtype != "float32":  # Keras cannot run it
        return recurrent_layer(g)(x)
    inner = [layers.LSTMCell(3, dtype=g.dtype), layers.GRUCell(2, dtype=g.dtype)][: g.one(1, 2)]
    return g.layer(layers.RNN, inner if len(inner) > 1 else inner[0], return_sequences=True)(x)


@family(SEQUENCES)
def bidirectional(g: Growing, x: Any) -> Any:
    kind = g.one(layers.GRU, layers.LSTM, layers.SimpleRNN)
    inner = kind(g.size(), return_sequences=g.one(True, False), dtype=g.dtype)
    return g.layer(layers.Bidirectional, inner, merge_mode=g.one("concat", "sum", "mul", "ave"))(x)


@family(SEQUENCES)
def conv_1d(g: Growing, x: Any) -> Any:
    groups = g.one(*(n for n in (1, 2) if channels(x) % n == 0))
    kind = g.one(layers.Conv1D, own.StandardizedConv)
    options = {"padding": g.one("same", "causal"), "strides": g.one(1, 2), "activation": g.activation()}
    return g.layer(kind, 2 * g.size(), g.one(3, 1), groups=groups, use_bias=g.one(True, False), **options)(x)


simple(
    SEQUENCES,
    conv_1d_transpose=lambda g: g.layer(layers.Conv1DTranspose, g.size(), 2, strides=g.one(1, 2), activation="relu"),
    separable_1d=lambda g: g.layer(
        layers.SeparableConv1D, g.size(), 2, padding="same", depth_multiplier=g.one(1, 2), activation="tanh"
    ),
    depthwise_1d=lambda g: g.layer(
        layers.DepthwiseConv1D, 2, padding="same", depth_multiplier=g.one(1, 2), use_bias=g.one(True, False)
    ),
    pool_1d=lambda g: g.layer(g.one(layers.MaxPooling1D, layers.AveragePooling1D), 2, padding="same"),
    upsample_1d=lambda g: g.layer(layers.UpSampling1D, 2),
    pad_1d=lambda g: g.layer(layers.ZeroPadding1D, g.one(1, (0, 2))),
    global_1d=lambda g: g.layer(
        g.one(layers.GlobalAveragePooling1D, layers.GlobalMaxPooling1D), keepdims=g.one(False, True)
    ),
    spatial_dropout_1d=lambda g: g.layer(layers.SpatialDropout1D, 0.4),
    permute_1d=lambda g: g.layer(layers.Permute, (2, 1)),
    masking=lambda g: g.layer(layers.Masking),
)


@family(SEQUENCES)
def crop_1d(g: Growing, x: Any) -> Any:
    return g.layer(layers.Cropping1D, (1, 0))(x) if x.shape[1] > 1 else x


@family(SEQUENCES)
def time_distributed(g: Growing, x: Any) -> Any:
    inner = g.one(
        lambda: layers.Dense(g.size(), activation=g.activation(), dtype=g.dtype),
        lambda: layers.BatchNormalization(dtype=g.dtype),
        lambda: layers.LayerNormalization(dtype=g.dtype),
        lambda: own.CentredDense(3, dtype=g.dtype),
    )()
    return g.layer(layers.TimeDistributed, inner)(x)


@family(SEQUENCES)
def self_attention(g: Growing, x: Any) -> Any:
    kind = g.one(layers.MultiHeadAttention, own.SharpAttention)
    options = {"value_dim": g.one(None, 3), "use_bias": g.one(True, False), "output_shape": g.one(None, 3)}
    attended = g.layer(kind, g.one(2, 3), 2, **options)(x, x, use_causal_mask=g.one(False, True))
    return g.layer(layers.Add)([x, attended]) if attended.shape == x.shape and g.one(False, True) else attended


@family(SEQUENCES)
def grouped_attention(g: Growing, x: Any) -> Any:
    return g.layer(layers.GroupQueryAttention, 2, 4, g.one(2, 1, 4))(x, x)


@family(SEQUENCES)
def cross_attention(g: Growing, x: Any) -> Any:
    other = g.layer(layers.Dense, 3, activation="tanh")(x)
    return g.one(
        lambda: g.layer(layers.MultiHeadAttention, 2, 3)(x, value=other),
        lambda: g.layer(layers.Attention)([other, other]),
        lambda: g.layer(layers.AdditiveAttention)([other, other]),
    )()


@family(SEQUENCES)
def einsum_over_steps(g: Growing, x: Any) -> Any:
    return g.layer(layers.EinsumDense, "abc,bd->adc", output_shape=(3, channels(x)), bias_axes="c")(x)


@family(SEQUENCES)
def einsum_heads(g: Growing, x: Any) -> Any:
    """Out to two axes and back."""
    heads = g.layer(layers.EinsumDense, "abc,cde->abde", output_shape=(x.shape[1], 2, 3), bias_axes="de")(x)
    return g.layer(layers.EinsumDense, "abde,def->abf", output_shape=(x.shape[1], g.size()), bias_axes="f")(heads)


@family(IMAGES)
def conv_2d(g: Growing, x: Any) -> Any:
    groups = g.one(*(n for n in (1, 2) if channels(x) % n == 0))
    kind = g.one(layers.Conv2D, own.StandardizedConv2D)
    options = {"padding": "same", "strides": g.one(1, 2), "activation": g.activation()}
    return g.layer(kind, 2 * g.size(), g.one(3, 1), groups=groups, use_bias=g.one(True, False), **options)(x)


simple(
    IMAGES,
    conv_2d_transpose=lambda g: g.layer(layers.Conv2DTranspose, g.size(), 2, strides=g.one(1, 2), activation="relu"),
    separable_2d=lambda g: g.layer(
        layers.SeparableConv2D, g.size(), 2, padding="same", depth_multiplier=g.one(1, 2), activation="tanh"
    ),
    depthwise_2d=lambda g: g.layer(
        layers.DepthwiseConv2D, 2, padding="same", depth_multiplier=g.one(1, 2), use_bias=g.one(True, False)
    ),
    depthwise_first=lambda g: g.layer(
        layers.DepthwiseConv2D, 2, padding="same", depth_multiplier=g.one(1, 2), data_format="channels_first"
    ),
    separable_first=lambda g: g.layer(
        layers.SeparableConv2D, g.size(), 2, padding="same", data_format="channels_first"
    ),
    pool_2d=lambda g: g.layer(
        g.one(layers.MaxPooling2D, layers.AveragePooling2D), 2, padding="same", data_format=g.data_format()
    ),
    upsample_2d=lambda g: g.layer(
        layers.UpSampling2D, 2, interpolation=g.one("nearest", "bilinear"), data_format=g.data_format()
    ),
    pad_2d=lambda g: g.layer(layers.ZeroPadding2D, g.one(1, ((0, 1), (2, 0))), data_format=g.data_format()),
    global_2d=lambda g: g.layer(
        *(g.one(layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D),),
        keepdims=g.one(False, True),
        data_format=g.data_format(),
    ),
    spatial_dropout_2d=lambda g: g.layer(layers.SpatialDropout2D, 0.4),
    permute_2d=lambda g: g.layer(layers.Permute, g.one((2, 1, 3), (3, 1, 2))),
    flatten_first=lambda g: g.layer(layers.Flatten, data_format="channels_first"),
    normalization_first=lambda g: g.layer(layers.BatchNormalization, axis=1),
    flip=lambda g: g.layer(layers.RandomFlip),
    rotation=lambda g: g.layer(g.one(layers.RandomRotation, layers.RandomZoom), 0.3),
    resizing=lambda g: g.layer(layers.Resizing, 3, 3),
    distributed_conv=lambda g: g.layer(
        layers.TimeDistributed, layers.Conv1D(g.size(), 2, padding="same", dtype=g.dtype)
    ),
    recurrent_conv=lambda g: g.layer(
        layers.ConvLSTM1D, g.size(), 2, padding="same", return_sequences=g.one(True, False)
    ),
)


@family(IMAGES)
def crop_2d(g: Growing, x: Any) -> Any:
    return g.layer(layers.Cropping2D, ((1, 0), (0, 1)))(x) if min(x.shape[1:3]) > 1 else x


@family(IMAGES)
def squeeze_and_excite(g: Growing, x: Any) -> Any:
    """One factor for each channel, or one for each position."""
    if g.one(False, True):
        return g.layer(layers.Multiply)([x, g.layer(layers.Conv2D, 1, 1, activation="sigmoid")(x)])
    mean = g.layer(layers.GlobalAveragePooling2D, keepdims=True)(x)
    hidden = g.layer(layers.Dense, 3, activation="relu")(mean)
    return g.layer(layers.Multiply)([x, g.layer(layers.Dense, channels(x), activation="sigmoid")(hidden)])


@family(IMAGES)
def to_sequence(g: Growing, x: Any) -> Any:
    return g.layer(layers.Reshape, (x.shape[1] * x.shape[2], channels(x)))(x)


BY_RANK = {2: {**ANY, **FLAT}, 3: {**ANY, **SEQUENCES}, 4: {**ANY, **IMAGES}}

WRITERS = {
    *("dense", "plain_dense", "shared_layer", "nested", "nested_sequential", "recurrent", "recurrent_states"),
    *("bidirectional", "conv_1d", "conv_1d_transpose", "separable_1d", "time_distributed", "cross_attention"),
    *("conv_2d", "conv_2d_transpose", "separable_2d", "squeeze_and_excite"),
}
"""Families whose units are elements."""
CARRIERS = {
    *("batch_normalization", "activation", "relu", "leaky_relu", "elu", "prelu", "dropout", "noise", "identity"),
    *("activity", "rescaling", "squashed", "scaled", "flatten", "normalization", "operation", "constants", "repeat"),
    *("depthwise_1d", "pool_1d", "upsample_1d", "pad_1d", "global_1d", "spatial_dropout_1d", "masking", "crop_1d"),
    *("depthwise_2d", "pool_2d", "upsample_2d", "pad_2d", "global_2d", "spatial_dropout_2d", "permute_2d", "flip"),
    *("rotation", "resizing", "crop_2d", "to_sequence", "constant_reshape", "sliced"),
}
"""Families that may carry units on; the others mix them, or have no rule."""
