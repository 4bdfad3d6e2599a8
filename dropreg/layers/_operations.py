"""Rules of functions of ``keras.ops`` that do not combine channels of several tensors."""

from typing import Any

from ..graph import Call, Ref, Size, SizedOperation
from ._channels import Channels, Labels, fixed
from ._combine import TieRule
from ._common import Carry, Mix, n_channels, pin_all
from ._registry import register
from ._rule import Rule, unchanged


class ReduceRule(Carry):
    """A mean or another function of positions, which carries channels unless it runs over them."""

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        axis, rank = call.layer.axis, len(call.input_shapes[0])
        axes = range(rank) if axis is None else [axis] if isinstance(axis, int) else axis
        if any(number % rank in (0, rank - 1) for number in axes):
            return pin_all(call, inputs, channels, "mixes")
        return [inputs[0]]


class MoveRule(Carry):
    """A function that adds, removes or moves axes, which carries channels if the first and trailing axes remain."""

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        if not _keeps_outer_axes(call.layer, len(call.input_shapes[0]), len(call.output_shapes[0])):
            return pin_all(call, inputs, channels, "moves")
        return [inputs[0]]


def _keeps_outer_axes(layer: Any, before: int, after: int) -> bool:
    if hasattr(layer, "axes"):  # Transpose
        return layer.axes is not None and layer.axes[0] == 0 and layer.axes[-1] in (-1, before - 1)
    axis = layer.axis
    axes = [axis] if isinstance(axis, int) else axis or ()
    rank = max(before, after)
    return bool(axes) and all(number % rank not in (0, rank - 1) for number in axes)


class GetItemRule(Carry):
    """Indexing, which carries channels if it takes all of the first and of the trailing axis."""

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        rank, key = len(call.input_shapes[0]), call.args[1] if len(call.args) > 1 else call.kwargs.get("key")
        parts = list(key) if isinstance(key, tuple | list) else [key]
        if any(isinstance(part, Ref) or getattr(part, "shape", ()) for part in parts):
            return pin_all(call, inputs, channels, "selects entries by number of")
        if parts[0] not in (slice(None), Ellipsis):
            return pin_all(call, inputs, channels, "selects examples of")
        whole = len([part for part in parts if part is not None and part is not Ellipsis]) < rank
        if whole and (Ellipsis not in parts or parts[-1] is Ellipsis):
            return [inputs[0]]
        if parts[-1] == slice(None) and n_channels(call.output_shapes[0]) == len(inputs[0]):
            return [inputs[0]]
        return pin_all(call, inputs, channels, "selects some of")


class SizeRule(Rule):
    """The size of a tensor, which no channel that can be removed has an effect on."""

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        axis, rank = call.layer.axis, len(call.input_shapes[0])
        if axis % rank == rank - 1:
            return pin_all(call, inputs, channels, "counts")
        return [fixed(1)]

    def cut(self, call: Call, kept_in: Any, kept_out: Any) -> Any:
        return unchanged(call)


register(Size, rule=SizeRule())
register(SizedOperation, rule=Mix())
register("Mean", "Sum", "Max", "Min", "Prod", "Var", "Std", "Any", "All", rule=ReduceRule())
register("ExpandDims", "Squeeze", "Transpose", rule=MoveRule())
register("GetItem", rule=GetItemRule())
register("Cast", "Log", "Log1p", "Expm1", "Sin", "Cos", "Erf", "Rsqrt", "Reciprocal", "Sign", "Clip", rule=Carry())
register("StopGradient", "ZerosLike", "OnesLike", "LogicalNot", rule=Carry())
register("TrueDivide", "Divide", "Where", "Greater", "GreaterEqual", "Less", "LessEqual", rule=TieRule())
register("Equal", "NotEqual", "LogicalAnd", "LogicalOr", "Mod", "FloorDivide", "Power", rule=TieRule())
register("Softmax", "LogSoftmax", "Einsum", "Matmul", "Dot", "Split", "Stack", "Repeat", "Tile", "TopK", rule=Mix())
