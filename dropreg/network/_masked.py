"""The masked network: outputs of a model under masks.

Masks multiply the inputs of the layers that consume an element, not the output of the layer that computes it: in
between, a normalization, a padding or an activation with f(0) != 0 could turn a zero into another value. Elements
inside a layer (heads, recurrent states, whole layers, layers of a subclassed model) are masked by replacing the
layer's ``call`` while the network runs, weights by replacing the values of variables in a stateless scope.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from ..element import Elements, Gate, InnerGate, check_fits
from ..graph import (
    MOST_FLOATS,
    Call,
    Graph,
    all_layers,
    batch_size_of,
    call_name,
    floats_per_row,
    patched,
    rows_that_fit,
    run_batches,
    size_of,
    step_mask,
    trace_graph,
    with_position_weights,
    with_row_weights,
    with_step_mask,
)
from ._gating import apply_mask, change_state, masked_call, masked_variable
from ._padding import idle_masks

if TYPE_CHECKING:
    from ..data import Examples
    from ._last_layer import LastLayer


_PREFIX_BYTES = 2**30
"""Largest memory for values that are computed once per example and reused in every row."""


class MaskedNetwork:
    """A model whose elements are masked for each row.

    The calls that no mask can affect (all before the first masked input) form the *prefix*, which is computed once per
    example; the other calls form the *suffix*, which is computed once per row. The model is not changed.

    Parameters
    ----------
    model : keras.Model or Graph
    elements : Elements
        From ``dropreg.elements(model)``.
    output : int or str
        The model's output to return.

    Attributes
    ----------
    frontier : tuple of int
        Slots that the suffix takes from the prefix.
    output : int
        Slot of the output.
    takes_groups : bool
        Whether consecutive rows share a mask, so that masks have shape (groups, n_elements).
    last : LastLayer or None
        The last layer's weights if they are refitted jointly, else None.
    recurrent : sequence of ndarray of int64
        Elements of each recurrent cell whose states are merged.

    It raises ModelError if `elements` belong to another model, ParameterError if the model has no such output.
    """

    takes_groups: ClassVar[bool] = False
    last: "LastLayer | None" = None
    recurrent: Sequence[npt.NDArray[np.int64]] = ()

    def __init__(self, model: keras.Model | Graph, elements: Elements, output: int | str = 0) -> None:
        self.graph: Graph = trace_graph(model)
        self.model: keras.Model = self.graph.model
        self.elements = elements
        check_fits(elements, self.graph, self.model.name)
        self._gates: dict[tuple[int, int], list[Gate]] = {}
        for gate in elements.gates:
            self._gates.setdefault((gate.call, gate.position), []).append(gate)
        self._layers = all_layers(self.model)
        self.output: int = self.graph.outputs[self.graph.output_number(output)]
        self._bypasses = _bypasses(self.graph, self._layers, elements)
        self._suffix = self.graph.downstream(number for number, *_ in self.entries())
        self._prefix = sorted(set(range(len(self.graph.calls))).difference(self._suffix))
        self.frontier: tuple[int, ...] = self.graph.frontier(
            self._suffix, [self.output, *(slots[0] for found in self._bypasses.values() for slots, _ in found)]
        )
        self._suffix = self.graph.with_rowless(self._suffix)
        self.is_idle = self.output in self.frontier  # whether no element has an effect on the output

    def entries(self) -> list[tuple[int, int | None, npt.NDArray[np.int64]]]:
        """Return where masks act: the number of a call, the position of its input (None: its outputs), the elements."""
        found: list[tuple[int, int | None, npt.NDArray[np.int64]]] = [
            (gate.call, gate.position, gate.columns) for gate in self.elements.gates
        ]
        found += [(k, None, columns) for k, bypasses in self._bypasses.items() for _, columns in bypasses]
        inside = [(id(self._layers[gate.layer]), gate.columns) for gate in self.elements.inner_gates]
        for number, call in enumerate(self.graph.calls if inside else ()):
            layers = set(map(id, call.layers()))
            found += [(number, None, columns) for layer, columns in inside if layer in layers]
        return found

    def floats_per_row(self, n_examples: int) -> int:
        """Return the size of the activations for one row, or of masks and masked inputs where it is larger.

        The prefix counts where its values for `n_examples` are too many to be kept.
        """
        activations = floats_per_row(self.graph, self._suffix)
        if sum(size_of(self.graph.shapes[slot]) for slot in self.frontier) * 4 * n_examples > _PREFIX_BYTES:
            activations += floats_per_row(self.graph, self._prefix)
        if self.elements.one_mask_a_batch:
            return activations
        masked = [self.graph.shapes[self.graph.calls[call].inputs[position]] for call, position in self._gates]
        return max(activations, len(self.elements) + sum(map(size_of, masked)))

    def prefix(self, inputs: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Return the values (examples, ...) in the slots of the frontier, then their step masks."""
        values = dict(zip(self.graph.inputs, inputs, strict=True))
        self._run({i: self.graph.calls[i] for i in self._prefix}, values, None)
        masked = [slot for slot in self.frontier if self.graph.mask_ranks[slot] is not None]
        return [values[slot] for slot in self.frontier] + [tf.cast(step_mask(values[slot]), tf.bool) for slot in masked]

    def suffix(self, frontier: Sequence[tf.Tensor], masks: tf.Tensor | None) -> tf.Tensor:
        """Return the model's output (rows, ...) for values from `prefix` and masks.

        `masks` have shape (rows, n_elements) or (1, n_elements), 1 = kept; None keeps all elements. There must be one
        mask for all rows if ``elements.one_mask_a_batch``.
        """
        found = iter(frontier[len(self.frontier) :])
        values = {
            slot: value if self.graph.mask_ranks[slot] is None else with_step_mask(tf.identity(value), next(found))
            for slot, value in zip(self.frontier, frontier, strict=False)
        }
        self._run({i: self.graph.calls[i] for i in self._suffix}, values, masks)
        output = values[self.output]
        if masks is None or not self.is_idle:
            return output
        # the derivatives by the masks are zero, not undefined
        return with_step_mask(output + tf.cast(0.0 * tf.reduce_sum(masks), output.dtype), step_mask(output))

    def _run(self, calls: dict[int, Call], values: dict[int, Any], masks: tf.Tensor | None) -> None:
        changes, weights = [], []
        if masks is not None:
            changes, weights = self._inner_changes(masks, tf.shape(next(iter(values.values())))[0])
        with patched(changes), keras.StatelessScope(weights, collect_losses=True):
            for index, call in calls.items():
                inputs = [
                    self._gated(index, position, values[slot], masks) for position, slot in enumerate(call.inputs)
                ]
                values.update(zip(call.outputs, call.run(inputs), strict=True))
                for (before, after), columns in self._bypasses.get(index, ()):
                    if masks is None:
                        continue
                    value, kept = values[before], np.repeat(columns, values[after].shape[-1])
                    values[after] = value + apply_mask(values[after] - value, masks, kept)

    def _inner_changes(
        self, masks: tf.Tensor, n_rows: tf.Tensor
    ) -> tuple[list[tuple[Any, str, Any]], list[tuple[Any, tf.Tensor]]]:
        """Return attributes of layers to replace and values of variables to replace, for masks and `n_rows` rows."""
        calls: dict[int, Callable[..., Any]] = {}
        weights = []
        for gate in self.elements.inner_gates:
            layer = self._layers[gate.layer]
            if gate.where == "bypass" and any(call.layer is layer for call in self.graph.composites):
                continue
            if gate.where == "kernel":
                weights.append(masked_variable(layer, gate, masks))
                continue
            original: Any = calls.get(gate.layer, getattr(layer, call_name(layer)))
            calls[gate.layer] = self._inner_call(gate, original, masks, n_rows)
        changes = [(self._layers[k], call_name(self._layers[k]), call) for k, call in calls.items()]
        # a fused kernel would bypass the cells, whose calls mask the states
        changes += [(layer, "use_cudnn", False) for layer in self._layers if "use_cudnn" in vars(layer) and calls]
        return changes, weights

    def _inner_call(self, gate: InnerGate, original: Callable[..., Any], masks: tf.Tensor, n_rows: tf.Tensor) -> Any:
        """Return a layer's `original` call with the mask of a gate inside it."""
        if gate.where == "state":
            return partial(change_state, original, partial(apply_mask, masks=masks, columns=gate.columns))
        return partial(masked_call(gate), original, gate.columns, masks)

    def _gated(self, call: int, position: int, value: tf.Tensor, masks: tf.Tensor | None) -> tf.Tensor:
        if masks is None or (call, position) not in self._gates:
            return value
        gated = value
        for gate in self._gates[call, position]:
            gated = apply_mask(gated, masks, gate.columns)
        return with_step_mask(gated, step_mask(value))

    def __call__(self, inputs: Sequence[Any], masks: Any) -> tf.Tensor:
        """Return the model's output (rows, ...) for arrays of inputs (rows, ...) and masks as in `suffix`."""
        tensors = [tf.convert_to_tensor(x, dtype=t) for x, t in zip(inputs, self.graph.input_dtypes, strict=True)]
        kept = None if masks is None else tf.cast(tf.convert_to_tensor(masks), tf.float32)
        return self.suffix(self.prefix(tensors), kept)

    def values(self, inputs: Sequence[tf.Tensor], masks: tf.Tensor | None) -> dict[int, Any]:
        """Return the values (rows, ...) in all slots for inputs (rows, ...) and masks as in `suffix`."""
        values = dict(zip(self.graph.inputs, inputs, strict=True))
        self._run(dict(enumerate(self.graph.calls)), values, masks)
        return values

    def average(
        self, function: Callable[[dict[int, Any]], list[tf.Tensor]], examples: "Examples", batch_size: int
    ) -> list[npt.NDArray[np.float64]]:
        """Return the means over examples of tensors that `function` computes from the original model's activations.

        `function` takes the activations of a batch by slot, with `counted_steps` and `row_weights`, and returns
        (weighted) means over its rows.
        """

        def of_batch(*batch: tf.Tensor) -> list[tf.Tensor]:
            n_inputs = len(self.graph.inputs)
            inputs, rest = batch[:n_inputs], iter(batch[n_inputs:])
            of_rows, of_positions = (None if each is None else next(rest) for each in weights)
            values = self.values(inputs, None)
            masks = idle_masks(self.graph, inputs)
            for slot, value in values.items():
                with_row_weights(with_position_weights(value, masks.get(slot), of_positions), of_rows)
            return function(values)

        totals: list[Any] = []
        weights = examples.weights, examples.position_weights
        given = [each for each in weights if each is not None]
        batch_size = min(batch_size, batch_size_of(self.graph))
        starts = range(0, len(examples), batch_size)
        batches = run_batches(of_batch, [*examples.inputs, *given], batch_size)
        for start, means in zip(starts, batches, strict=True):
            share = min(batch_size, len(examples) - start) / len(examples)
            if (of_all := examples.weights) is not None:
                share = float(of_all[start : start + batch_size].sum(dtype=np.float64) / of_all.sum(dtype=np.float64))
            parts = [share * np.asarray(mean, np.float64) for mean in means]
            totals = [a + b for a, b in zip(totals, parts, strict=True)] if totals else parts
        return totals

    def cached_prefix(
        self, examples: "Examples", batch_size: int, most_bytes: int = _PREFIX_BYTES
    ) -> list[tf.Tensor] | None:
        """Return `prefix` for all examples, or None if this would need more than `most_bytes` of memory."""
        parts: list[list[tf.Tensor]] = []
        floats = floats_per_row(self.graph, self._prefix)
        batch_size = rows_that_fit(floats, budget=MOST_FLOATS, least=1, most=batch_size)
        for values in run_batches(lambda *inputs: self.prefix(inputs), examples.inputs, batch_size):
            parts.append(values)
            used = sum(value.shape.num_elements() * value.dtype.size for value in parts[0])
            if used / min(batch_size, len(examples)) * len(examples) > most_bytes:
                return None
        return [tf.concat(values, axis=0) for values in zip(*parts, strict=True)]


Bypasses = dict[int, list[tuple[tuple[int, int], npt.NDArray[np.int64]]]]


def _bypasses(graph: Graph, layers: Sequence[Any], elements: Elements) -> Bypasses:
    """Return the composite layers that masks replace by the identity, by the number of the last call inside.

    Each is given by the slots of its input and of its output, and its element.
    """
    writer = {slot: number for number, call in enumerate(graph.calls) for slot in call.outputs}
    columns = {id(layers[gate.layer]): gate.columns for gate in elements.inner_gates if gate.where == "bypass"}
    found: Bypasses = {}
    for call in graph.composites:
        if id(call.layer) in columns:
            slots = call.inputs[0], call.outputs[0]
            found.setdefault(writer[slots[1]], []).append((slots, columns[id(call.layer)]))
    return found
