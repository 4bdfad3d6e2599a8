"""Rule of EinsumDense layers that compute what a dense layer does, such as those of a feed-forward part."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers

from ..errors import ModelError
from ..graph import Call
from ._channels import Channels, Labels
from ._common import KernelRule, cut_trailing, n_channels, pin_all, positions
from ._kernels import Kernel, register_kernels
from ._registry import register
from ._rule import Array, Cut, Kept, unchanged


def matrix_axes(layer: Any) -> tuple[int, int] | None:
    """Return the axes of the kernel for the input channels and for the units; None unless it is a matrix of these.

    ``"btd,df->btf"`` has axes 0 and 1.
    """
    inputs, _, rest = layer.equation.replace(" ", "").partition(",")
    kernel, _, outputs = rest.partition("->")
    same = inputs[:-1].strip(".") == outputs[:-1].strip(".") and inputs[:-1] == outputs[:-1]
    if not same or inputs[-1] == outputs[-1] or sorted(kernel) != sorted((inputs[-1], outputs[-1])):
        return None
    return kernel.index(inputs[-1]), kernel.index(outputs[-1])


class EinsumDenseRule(KernelRule):
    """A product of the trailing axis with a matrix; other products mix their channels."""

    def units(self, layer: Any) -> tuple[int, str] | None:
        axes = matrix_axes(layer)
        return None if axes is None else (layer.kernel.shape[axes[1]], "neuron")

    def has_bias(self, call: Call) -> bool:
        return call.layer.bias is not None

    def uses(self, call: Call) -> tuple[int, int, float]:
        n_inputs, n_units = n_channels(call.input_shapes[0]), n_channels(call.output_shapes[0])
        return n_units, n_inputs, positions(call.input_shapes[0])

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        if matrix_axes(call.layer) is None:
            reason = f"its equation {call.layer.equation} has more than one axis of channels or units"
            return pin_all(call, inputs, channels, "mixes", reason)
        return super().flow(call, index, inputs, channels)

    def macs(self, call: Call) -> float:
        return float(np.prod(call.layer.kernel.shape)) * positions(call.input_shapes[0])

    def cut(self, call: Call, kept_in: Sequence[Kept], kept_out: Sequence[Kept]) -> Cut:
        original, axes = unchanged(call), matrix_axes(call.layer) or (0, 1)
        kernel, *bias = original.weights
        kernel = np.compress(kept_in[0], kernel, axes[0]).compress(kept_out[0], axes[1])
        shape = original.config["output_shape"]
        shape = (*((shape,) if isinstance(shape, int) else shape)[:-1], int(kept_out[0].sum()))
        config = {**original.config, "output_shape": shape}
        return Cut(config, [kernel, *(cut_trailing(b, kept_out[0]) for b in bias)])

    def kernel_rows(self, call: Call, weights: list[Array]) -> list[Array] | None:
        axes = matrix_axes(call.layer)
        return None if axes is None else [np.transpose(weights[0], axes)]

    def with_kernel_rows(self, call: Call, weights: list[Array], rows: list[Array]) -> list[Array]:
        return [np.transpose(rows[0], np.argsort(matrix_axes(call.layer) or (0, 1))), *weights[1:]]


def _kernel(layer: Any) -> Kernel:
    axes = matrix_axes(layer)
    if axes is None:
        raise ModelError(
            f"layer '{layer.name}' (EinsumDense) must multiply channels by a matrix, received the equation "
            f"{layer.equation}: exclude it."
        )
    squares = np.transpose(np.asarray(layer.kernel, np.float64) ** 2, axes)
    return Kernel(squares.sum(axis=0), squares.sum(axis=1), 1.0)


register(layers.EinsumDense, rule=EinsumDenseRule())
register_kernels(layers.EinsumDense, kernel=_kernel)
