"""Rules of recurrent layers, whose units are consumed by later layers and, one step later, by the layer itself."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import layers

from ..graph import Call, counted_steps, measured_as, patched, with_counted
from ._channels import Channels, Labels, State
from ._common import LinearReader, add_gate, is_elementwise, pin_all, positions
from ._dense import DenseRule
from ._registry import register, rule_for
from ._rule import Array, Cut, Kept, unchanged

_STATELESS = "it is stateful: build it with stateful=False"
_GATES = {"SimpleRNN": 1, "GRU": 3, "LSTM": 4}


class RecurrentRule(LinearReader):
    """A recurrent layer; its units consume the input channels and the units' previous outputs, the *states*."""

    def units(self, layer: Any) -> tuple[int, str] | None:
        return layer.units, "recurrent unit"

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        if call.layer.stateful:
            return pin_all(call, inputs, channels, "is stateful and keeps", _STATELESS)
        return _follow(call, index, call.layer, inputs, len(call.outputs), channels)

    def cut(self, call: Call, kept_in: Sequence[Kept], kept_out: Sequence[Kept]) -> Cut:
        cut, kept = unchanged(call), kept_out[0]
        return Cut({**cut.config, "units": int(kept.sum())}, _cut_cell(cut.weights, kept_in[0], kept))

    def macs(self, call: Call) -> float:
        kernels = [k for part in self.parts(call.layer) for k in (part.cell.kernel, part.cell.recurrent_kernel)]
        return sum(math.prod(kernel.shape) for kernel in kernels) * positions(call.input_shapes[0])

    def parts(self, layer: Any) -> list[Any]:
        """Return the layers with one cell each."""
        return [layer]

    def has_bias(self, call: Call) -> bool:
        return self.parts(call.layer)[0].cell.bias is not None

    def kernel_rows(self, call: Call, weights: list[Array]) -> list[Array] | None:
        return [np.concatenate([kernel for kernel, *_ in self._cells(call, weights)], axis=1)]

    def with_kernel_rows(self, call: Call, weights: list[Array], rows: list[Array]) -> list[Array]:
        cells = self._cells(call, weights)
        kernels = np.split(rows[0], len(cells), axis=1)
        return [w for kernel, (_, *others) in zip(kernels, cells, strict=True) for w in (kernel, *others)]

    def respond(self, call: Call, config: dict[str, Any], weights: list[Array], batch: Array) -> Array:
        (rows,) = self.kernel_rows(call, weights) or []
        return np.asarray(batch @ rows, np.float64)

    def shifted(self, call: Call, weights: list[Array], shift: Array) -> list[Array]:
        cells = self._cells(call, weights)
        shifts = np.split(shift, len(cells))
        return [w for cell, more in zip(cells, shifts, strict=True) for w in _biased(cell, more, 0)]

    def state_rows(self, call: Call, weights: list[Array]) -> list[Array]:
        if any(not getattr(part, "reset_after", True) for part in self.parts(call.layer)):
            return []  # the candidate state depends on products of states and gates
        return [recurrent for _, recurrent, *_ in self._cells(call, weights)]

    def with_state_rows(self, call: Call, weights: list[Array], rows: list[Array], shifts: list[Array]) -> list[Array]:
        cells = zip(self._cells(call, weights), rows, shifts, strict=True)
        return [w for (kernel, _, *bias), row, more in cells for w in _biased([kernel, row, *bias], more, -1)]

    def states(self, call: Call, values: Sequence[Any]) -> list[Any]:
        """Return the states that each time step consumes, (rows, steps, units), for each cell."""
        begun = call.positions_of("initial_state", 1)
        found = []
        for part in self.parts(call.layer):
            with patched([(part, "return_sequences", True), (part, "return_state", False)]):
                after = replace(call, layer=part).run(values)[0]
            first = values[begun[0]] if begun else keras.ops.zeros_like(after[:, 0])
            before = keras.ops.concatenate([keras.ops.expand_dims(first, 1), after[:, :-1]], axis=1)
            counted = counted_steps(values[0])
            counted = counted[:, ::-1] if counted is not None and part.go_backwards else counted
            found.append(with_counted(measured_as(before, values[0]), counted))
        return found

    def of_states(self, call: Call, outputs: Sequence[Array]) -> list[Array]:
        return [outputs[0]]

    def _cells(self, call: Call, weights: list[Array]) -> list[list[Array]]:
        """Return the kernel, the recurrent kernel and the bias, if there is one, of each cell."""
        n = len(weights) // len(self.parts(call.layer))
        return [weights[k : k + n] for k in range(0, len(weights), n)]


def _biased(cell: list[Array], shift: Array, place: int) -> list[Array]:
    """Add `shift` to the bias of a cell; to its row `place` if input and state have separate biases."""
    kernel, recurrent, *bias = cell
    if not bias:
        return cell
    larger = bias[0].copy()
    larger[... if larger.ndim == 1 else place] += shift.astype(larger.dtype)
    return [kernel, recurrent, larger]


def _cut_cell(weights: list[Array], kept_in: Kept, kept: Kept) -> list[Array]:
    """Return the kept parts of a cell's kernel, recurrent kernel and bias, whose columns are gates times units."""
    kernel, recurrent, *bias = weights
    columns = np.tile(kept, kernel.shape[1] // len(kept))
    return [kernel[kept_in][:, columns], recurrent[kept][:, columns], *(b[..., columns] for b in bias)]


def _follow(call: Call, index: int, layer: Any, inputs: list[Labels], n_out: int, channels: Channels) -> list[Labels]:
    """Return the labels of the outputs (sequence or last step, then states) of one recurrent layer."""
    kind = next(name for parent in type(layer).__mro__ if (name := parent.__name__) in _GATES)
    gates, n_inputs, units = _GATES[kind], len(inputs[0]), layer.units
    steps = float(call.input_shapes[0][1] or np.nan)
    add_gate(call, index, 0, inputs[0], channels)
    is_new = not any(state.cell is layer.cell for state in channels.states)
    labels = channels.units(layer, units, "recurrent unit")
    for activation in (layer.activation, getattr(layer, "recurrent_activation", layer.activation)):
        if not is_elementwise(activation):
            channels.pin(labels, f"an activation of layer '{layer.name}' mixes its units")
    reason = f"layer '{call.name}' ({call.kind}) starts from a state that cannot be dropped"
    for state in call.positions_of("initial_state", 1):
        channels.tie(labels, inputs[state], reason)
    if is_new:
        channels.states.append(State(layer.cell, labels))
        bias = 0 if layer.cell.bias is None else math.prod(layer.cell.bias.shape)
        channels.charge(inputs[0], params=gates * units)
        # of the recurrent kernel, the unit's own columns and its row in the columns of the other units
        channels.charge(labels, params=gates * (n_inputs + 2 * units - 1) + bias / units)
    channels.charge(inputs[0], macs=steps * gates * units)
    channels.charge(labels, macs=steps * gates * (n_inputs + 2 * units - 1))
    return [labels] * n_out


class BidirectionalRule(RecurrentRule):
    """Two recurrent layers, one per direction, whose outputs are concatenated or combined."""

    def units(self, layer: Any) -> tuple[int, str] | None:
        return None

    def parts(self, layer: Any) -> list[Any]:
        return [layer.forward_layer, layer.backward_layer]

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        layer = call.layer
        parts = self.parts(layer)
        if unknown := [part for part in parts if type(rule_for(part)) is not RecurrentRule]:
            wrong = f"wraps {type(unknown[0]).__name__}, which has no rule"
            reason = f"it {wrong}: register one with dropreg.layers.register"
            return pin_all(call, inputs, channels, f"{wrong} for", reason)
        if any(part.stateful for part in parts):
            return pin_all(call, inputs, channels, "is stateful and keeps", _STATELESS)
        if any(part.return_state for part in parts) or call.positions_of("initial_state", 1):
            reason = "it returns or takes states: build it with return_state=False, without initial states"
            return pin_all(call, inputs, channels, "returns or takes the states of", reason)
        forward, backward = (_follow(call, index, part, inputs, 1, channels)[0] for part in parts)
        # both directions consume the same input, so one gate is enough
        channels.reads.pop()
        if layer.merge_mode in ("concat", None):
            forward_name, backward_name = (channels.names.get(id(part), part.name) for part in parts)
            channels.equal[forward_name, backward_name] = None
            return [forward, backward] if layer.merge_mode is None else [np.concatenate([forward, backward])]
        return [channels.tie(forward, backward, f"layer '{call.name}' combines both directions")]

    def blocked(self, call: Call, kept_out: Sequence[Kept] = ()) -> str | None:
        counts = [int(kept.sum()) for kept in _directions(call, kept_out)] if kept_out else []
        if call.layer.merge_mode in ("concat", None) and len(set(counts)) > 1:
            return f"Keras requires as many units in both directions, which would keep {counts[0]} and {counts[1]}"
        return super().blocked(call, kept_out)

    def cut(self, call: Call, kept_in: Sequence[Kept], kept_out: Sequence[Kept]) -> Cut:
        layer, original = call.layer, unchanged(call)
        parts = self.parts(layer)
        kept = _directions(call, kept_out)
        config, weights = dict(original.config), []
        for name, part, stay in zip(("layer", "backward_layer"), parts, kept, strict=True):
            inner = {**config[name]["config"], "units": int(stay.sum())}
            config[name] = {**config[name], "config": inner, "build_config": None}
            weights += _cut_cell(part.get_weights(), kept_in[0], stay)
        return Cut(config, weights)

    def of_states(self, call: Call, outputs: Sequence[Array]) -> list[Array]:
        return _directions(call, outputs)


def _directions(call: Call, outputs: Sequence[Array]) -> list[Array]:
    """Split arrays about the outputs' trailing axes into one array for each direction."""
    if call.layer.merge_mode == "concat":
        return np.split(outputs[0], [call.layer.forward_layer.units])
    return [*outputs, outputs[0]][:2]


class TimeDistributedRule(LinearReader):
    """A wrapped dense layer, for which time steps are positions; other wrapped layers are not supported."""

    def flow(self, call: Call, index: int, inputs: list[Labels], channels: Channels) -> list[Labels]:
        if not self._is_dense(call):
            kind = type(call.layer.layer).__name__
            reason = f"it wraps {kind}, and only Dense is known inside it: register a rule with dropreg.layers.register"
            return pin_all(call, inputs, channels, f"distributes {kind} over", reason)
        rule, inner = self._inner(call)
        return rule.flow(inner, index, inputs, channels)

    def cut(self, call: Call, kept_in: Sequence[Kept], kept_out: Sequence[Kept]) -> Cut:
        rule, inner = self._inner(call)
        config, cut = unchanged(call).config, rule.cut(inner, kept_in, kept_out)
        wrapped = {**config["layer"], "config": cut.config, "build_config": None}
        return Cut({**config, "layer": wrapped}, cut.weights)

    def has_bias(self, call: Call) -> bool:
        return self._is_dense(call) and call.layer.layer.use_bias

    def kernel_rows(self, call: Call, weights: list[Array]) -> list[Array] | None:
        return [weights[0]] if self._is_dense(call) else None

    def linear_copy(self, call: Call, config: dict[str, Any]) -> Any:
        rule, inner = self._inner(call)
        return rule.linear_copy(inner, config["layer"]["config"])

    def macs(self, call: Call) -> float:
        rule, inner = self._inner(call)
        return rule.macs(inner)

    def _is_dense(self, call: Call) -> bool:
        return isinstance(rule_for(call.layer.layer), DenseRule)

    def _inner(self, call: Call) -> tuple[Any, Call]:
        """Return the wrapped layer's rule and call."""
        inner = replace(call, layer=call.layer.layer)
        return rule_for(inner.layer), inner


register(layers.SimpleRNN, layers.GRU, layers.LSTM, rule=RecurrentRule())
register(layers.Bidirectional, rule=BidirectionalRule())
register(layers.TimeDistributed, rule=TimeDistributedRule())
