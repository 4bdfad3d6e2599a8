"""Rules of activations and other layers that compute each entry from the same entry of the input."""

from typing import Any

from keras import layers

from ..graph import Call
from ._channels import Channels, Labels
from ._common import Carry, Mix, Unknown, is_elementwise, pin_all
from ._registry import register, register_operations


class ActivationRule(Carry):
    """An activation layer, which carries channels if its function is elementwise and mixes them otherwise."""

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        if is_elementwise(call.layer.activation):
            return [inputs[0]]
        return pin_all(call, inputs, channels, "mixes")


class LambdaRule(Unknown):
    """A Python function, whose input channels cannot be removed."""

    def remake(self, call: Call, config: dict[str, Any]) -> Any:
        return type(call.layer).from_config(config, safe_mode=False)  # the function already runs in this process


register(layers.Lambda, rule=LambdaRule())
register(layers.Activation, rule=ActivationRule())
register(layers.Softmax, rule=Mix())
register(
    *(layers.ReLU, layers.PReLU, layers.LeakyReLU, layers.ELU, layers.Identity, layers.Masking),
    *(layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D),
    *(layers.AlphaDropout, layers.GaussianDropout, layers.GaussianNoise, layers.ActivityRegularization),
    rule=Carry(),
)
register_operations(
    *("Relu", "Relu6", "Sigmoid", "HardSigmoid", "Silu", "HardSilu", "Gelu", "Elu", "Selu", "Celu"),
    *("Softplus", "Softsign", "LeakyRelu", "Tanh", "Abs", "Absolute", "Negative", "Square", "Sqrt", "Exp"),
    rule=Carry(),
)
