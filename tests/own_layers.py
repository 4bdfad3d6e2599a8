"""Layers of a user: with a rule, without one, and subclasses of Keras layers that compute something else."""

from typing import Any

import keras
from keras import layers

import dropreg as dr

ops: Any = keras.ops


@keras.saving.register_keras_serializable("tests")
class Squashed(layers.Layer):
    """Elementwise, and registered as such."""

    def call(self, inputs: Any) -> Any:
        return ops.tanh(inputs) + 0.3


@keras.saving.register_keras_serializable("tests")
class Scaled(layers.Layer):
    """A scale for each channel, registered as elementwise."""

    def build(self, input_shape: Any) -> None:
        self.scale = self.add_weight(shape=(input_shape[-1],), name="scale")

    def call(self, inputs: Any) -> Any:
        return ops.cast(inputs, self.compute_dtype) * self.scale + 0.2


@keras.saving.register_keras_serializable("tests")
class Blend(layers.Layer):
    """A sum of two inputs, registered with a rule of its own."""

    def call(self, first: Any, second: Any) -> Any:
        return 0.7 * first + 0.3 * second


class BlendRule(dr.layers.Rule):
    def flow(self, call: Any, index: int, inputs: Any, channels: Any) -> Any:
        return [channels.tie(inputs[0], inputs[1], "it is blended with channels that cannot be dropped")]

    def cut(self, call: Any, kept_in: Any, kept_out: Any) -> dr.layers.Cut:
        return dr.layers.unchanged(call)


dr.layers.register(Squashed, Scaled, rule=dr.layers.Carry())
dr.layers.register(Blend, rule=BlendRule())


@keras.saving.register_keras_serializable("tests")
class Composite(layers.Layer):
    """Layers inside, dropout and normalization among them, and no `training` argument; without a rule."""

    def __init__(self, units: int = 3, **options: Any) -> None:
        super().__init__(**options)
        self.units = units
        self.dense = layers.Dense(units, activation="tanh", dtype=self.dtype_policy)
        self.normalization = layers.BatchNormalization(dtype=self.dtype_policy)
        self.dropout = layers.Dropout(0.5, dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        self.dense.build(input_shape)
        self.normalization.build((*input_shape[:-1], self.units))

    def call(self, inputs: Any) -> Any:
        return self.dropout(self.normalization(self.dense(inputs)))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("tests")
class Mixture(layers.Layer):
    """A kernel of its own; without a rule."""

    def build(self, input_shape: Any) -> None:
        self.kernel = self.add_weight(shape=(input_shape[-1], input_shape[-1]), name="kernel")

    def call(self, inputs: Any) -> Any:
        return ops.matmul(inputs, self.kernel)


@keras.saving.register_keras_serializable("tests")
class CentredDense(layers.Dense):
    def call(self, inputs: Any, training: Any = None) -> Any:
        return ops.matmul(inputs, self.kernel - ops.mean(self.kernel, axis=0)) + self.bias


@keras.saving.register_keras_serializable("tests")
class StandardizedConv(layers.Conv1D):
    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        return super().convolution_op(inputs, kernel - ops.mean(kernel, axis=(0, 1)))


@keras.saving.register_keras_serializable("tests")
class StandardizedConv2D(layers.Conv2D):
    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        return super().convolution_op(inputs, kernel - ops.mean(kernel, axis=(0, 1, 2)))


@keras.saving.register_keras_serializable("tests")
class ScaledEmbedding(layers.Embedding):
    def call(self, inputs: Any) -> Any:
        return super().call(inputs) * self.output_dim**0.5


@keras.saving.register_keras_serializable("tests")
class ShiftedNormalization(layers.BatchNormalization):
    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        return super().call(inputs, training=training, mask=mask) - ops.mean(inputs, axis=-1, keepdims=True)


@keras.saving.register_keras_serializable("tests")
class CentredSum(layers.Add):
    def _merge_function(self, inputs: Any) -> Any:
        total = super()._merge_function(inputs)
        return total - ops.mean(total, axis=-1, keepdims=True)


@keras.saving.register_keras_serializable("tests")
class CentredReLU(layers.ReLU):
    def call(self, inputs: Any) -> Any:
        return super().call(inputs) - ops.mean(inputs, axis=-1, keepdims=True)


@keras.saving.register_keras_serializable("tests")
class SharpAttention(layers.MultiHeadAttention):
    """Multiplies each head by its number of heads."""

    def _compute_attention(self, query: Any, *arguments: Any, **options: Any) -> Any:
        return super()._compute_attention(query * self.num_heads, *arguments, **options)


@keras.saving.register_keras_serializable("tests")
class CentredGRU(layers.GRU):
    def call(self, sequences: Any, initial_state: Any = None, mask: Any = None, training: Any = None) -> Any:
        found = super().call(sequences, initial_state=initial_state, mask=mask, training=training)
        return found - ops.mean(found, axis=-1, keepdims=True)


@keras.saving.register_keras_serializable("tests")
class Halved(layers.Flatten):
    def call(self, inputs: Any) -> Any:
        return ops.multiply(0.5, super().call(inputs))


@keras.saving.register_keras_serializable("tests")
class PlainDense(layers.Dense):
    """Another configuration, the same computation: it has the rule of its class."""

    def get_config(self) -> dict[str, Any]:
        return super().get_config()
