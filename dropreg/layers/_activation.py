"""Activations and other layers that treat every entry by itself."""

from typing import Any

from keras import layers

from ..graph import Call
from ._channels import Channels, Labels
from ._common import Carry, Mix, Unknown, is_elementwise, pin_all
from ._registry import register, register_operations


class ActivationRule(Carry):
    """Carries channels if the function is elementwise, mixes them otherwise."""

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        if is_elementwise(call.layer.activation):
            return [inputs[0]]
        return pin_all(call, inputs, channels, "mixes")


class LambdaRule(Unknown):
    """Python code: what it reads stays."""

    def remake(self, call: Call, config: dict[str, Any]) -> Any:
        return type(call.layer).from_config(config, safe_mode=False)  # the function is already in this process


register(layers.Lambda, rule=LambdaRule())
register(layers.Activation, rule=ActivationRule())
register(layers.Softmax, rule=Mix())
register(
    layers.ReLU,
    layers.PReLU,
    layers.LeakyReLU,
    layers.ELU,
    layers.Identity,
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.AlphaDropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.ActivityRegularization,
    layers.Masking,
    rule=Carry(),
)
register_operations(
    *("Relu", "Relu6", "Sigmoid", "HardSigmoid", "Silu", "HardSilu", "Gelu", "Elu", "Selu", "Celu"),
    *("Softplus", "Softsign", "LeakyRelu", "Tanh", "Abs", "Absolute", "Negative", "Square", "Sqrt", "Exp"),
    rule=Carry(),
)
