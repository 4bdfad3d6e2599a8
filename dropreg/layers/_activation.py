"""Rules of activations and other layers that compute each entry from the same entry of the input."""

from typing import Any

import keras
from keras import layers

from ..graph import Call, Graph
from ._channels import Channels, Labels
from ._common import Carry, Mix, Unknown, is_elementwise, pin_all
from ._registry import register


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
register(
    *("Relu", "Relu6", "Sigmoid", "HardSigmoid", "Silu", "HardSilu", "Gelu", "Elu", "Selu", "Celu"),
    *("Softplus", "Softsign", "LeakyRelu", "Tanh", "Abs", "Absolute", "Negative", "Square", "Sqrt", "Exp"),
    rule=Carry(),
)


def last_activation(graph: Graph, output: int) -> str | None:
    """Return the name of the last activation before an output; None if no layer defines it."""
    writer = {slot: call for call in graph.calls for slot in call.outputs}
    call = writer.get(graph.outputs[output])
    while call is not None and _is_identity(call.layer):
        call = writer.get(call.inputs[0])
    layer = None if call is None else call.layer
    while isinstance(layer, keras.layers.TimeDistributed):
        layer = layer.layer
    kind = type(layer).__name__
    if kind in ("Softmax", "Sigmoid"):
        return kind.lower() if getattr(layer, "axis", -1) == -1 else None
    known = (keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Activation, keras.layers.Conv1D)
    if isinstance(layer, (*known, keras.layers.Conv2D, keras.layers.Conv3D)):
        return getattr(layer.activation, "__name__", None)
    return None


def _is_identity(layer: Any) -> bool:
    """Return whether a layer is the identity, up to precision."""
    if isinstance(layer, keras.layers.Activation):
        return layer.activation is keras.activations.linear
    return isinstance(layer, keras.layers.Identity)
