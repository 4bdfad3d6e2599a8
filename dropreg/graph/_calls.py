"""Data classes for a Keras model as a list of layer calls, with nested models expanded."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import tensorflow as tf

from ..errors import ParameterError
from ._access import all_layers
from ._sharing import SharedWeights
from ._timesteps import step_mask, with_step_mask

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Ref:
    """A placeholder, among a call's arguments, for the tensor in slot number `slot`."""

    slot: int


@dataclass(frozen=True)
class Call:
    """One call of one layer.

    Attributes
    ----------
    layer : keras.layers.Layer or keras.Operation
        A shared layer occurs in several calls.
    args, kwargs : nested structure
        The arguments, with a `Ref` in place of every tensor.
    inputs, outputs : tuple of int
        Slots (numbers of tensors) that the call consumes and computes, in the order of its flattened arguments and
        results.
    input_shapes, output_shapes : tuple of Shape
        Shapes of these tensors, batch axis included.
    name : str
        Name of the layer, as in `Graph.names`.
    unmasked : tuple of int
        Those of `inputs` whose time step mask an earlier layer has removed.
    dtypes : tuple of str
        Data types of the inputs.
    """

    layer: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_shapes: tuple[Shape, ...]
    output_shapes: tuple[Shape, ...]
    name: str
    unmasked: tuple[int, ...] = ()
    dtypes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        return type(self.layer).__name__

    def layers(self) -> list[Any]:
        """Return the called layer and all layers inside it."""
        return all_layers(self.layer) if isinstance(self.layer, keras.layers.Layer) else [self.layer]

    def _as_given(self, slot: int, value: Any) -> Any:
        """Return the tensor to pass to the layer: a copy if it has a mask, which some layers remove in place."""
        mask = step_mask(value)
        if mask is None:
            return value
        return with_step_mask(tf.identity(value), None if slot in self.unmasked else mask)

    def positions_of(self, argument: str, place: int) -> list[int]:
        """Return the positions among `inputs` of the tensors in one argument, passed by name or at position `place`."""
        value = self.kwargs.get(argument, self.args[place] if place < len(self.args) else None)
        return [self.inputs.index(leaf.slot) for leaf in keras.tree.flatten(value) if isinstance(leaf, Ref)]

    def run(self, values: Sequence[Any]) -> list[Any]:
        """Call the layer in inference mode on `values`, one tensor per slot of `inputs`; returns a list of tensors."""
        return self.run_on({s: self._as_given(s, value) for s, value in zip(self.inputs, values, strict=True)})

    def run_on(self, by_slot: dict[int, Any]) -> list[Any]:
        """Call the layer on tensors by slot, without copies, so that it may remove their masks."""

        def fill(leaf: Any) -> Any:
            return by_slot[leaf.slot] if isinstance(leaf, Ref) else leaf

        args: Any = keras.tree.map_structure(fill, self.args)
        kwargs: Any = keras.tree.map_structure(fill, self.kwargs)
        if isinstance(self.layer, keras.layers.Layer):  # also without the argument: layers inside it may have it
            kwargs = {**kwargs, "training": False}
        return keras.tree.flatten(self.layer(*args, **kwargs))


@dataclass(frozen=True)
class Inside:
    """One layer call inside a subclassed model.

    The shapes include the batch axis; they are None where the layer takes or returns several tensors. `is_output` says
    whether the model returns the call's result.
    """

    layer: Any
    input_shape: Shape | None
    output_shape: Shape | None
    is_output: bool


@dataclass(frozen=True)
class Graph:
    """A model as a list of calls in which every slot is computed by one call or is an input of the model.

    A subclassed model whose ``call`` cannot be traced is a single call.

    Attributes
    ----------
    model : keras.Model
        The traced model.
    calls : tuple of Call
        In an order in which they can run.
    inputs, outputs : tuple of int
        Slots of the model's inputs and outputs.
    shapes : tuple of Shape
        Shape of each slot, batch axis included.
    input_names, output_names : tuple of str
    input_dtypes : tuple of (str or None)
        None where the model accepts any numeric type.
    names : dict of int to str
        Name of each layer by its ``id``, with the names of the layers around it ("encoder/dense") if it is not unique.
    mask_ranks : tuple of (int or None)
        Rank of the time step mask of each slot; None without a mask.
    padded : frozenset of int
        Slots that have a time step mask, or would have one if no earlier layer removed it.
    traced_dtype : str
        Type of the inputs that a subclassed model was traced with.
    inside : tuple of Inside or None
        The calls inside a subclassed model that is a single call, in the order in which they ran; None otherwise.
    shared : SharedWeights
        The weights that several called layers use.
    composites : tuple of Call
        The calls of composite layers that are written out, inner ones first.
    rowless : frozenset of int
        Slots without an axis of rows: sizes, and what is computed from sizes alone. They cannot be divided into rows,
        so they are computed anew wherever they are needed.
    whole : Call or None
        A subclassed model as a single call; None for other models.
    """

    model: keras.Model
    calls: tuple[Call, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    shapes: tuple[Shape, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    input_dtypes: tuple[str | None, ...]
    names: dict[int, str]
    mask_ranks: tuple[int | None, ...]
    padded: frozenset[int] = frozenset()
    traced_dtype: str = "float32"
    inside: tuple[Inside, ...] | None = None
    shared: SharedWeights = field(default_factory=SharedWeights)
    composites: tuple[Call, ...] = ()
    rowless: frozenset[int] = frozenset()
    whole: Call | None = None

    def downstream(self, calls: Iterable[int]) -> list[int]:
        """Return the numbers of `calls` and of all calls that depend on them, in running order."""
        found, written = set(calls), set[int]()
        for number, call in enumerate(self.calls):
            if number in found or written.intersection(call.inputs):
                found.add(number)
                written.update(call.outputs)
        return sorted(found)

    def upstream(self, slots: Iterable[int], known: Collection[int] = ()) -> list[int]:
        """Return the numbers of the calls that compute `slots` from the inputs and `known` slots, in running order."""
        wanted, found = set(slots).difference(known), list[int]()
        for number in reversed(range(len(self.calls))):
            call = self.calls[number]
            if wanted.intersection(call.outputs):
                found.append(number)
                wanted.update(set(call.inputs).difference(known))
        return found[::-1]

    def with_rowless(self, calls: Collection[int]) -> list[int]:
        """Return `calls` and those that compute the `rowless` slots that they consume, in running order."""
        wanted, found = {slot for number in calls for slot in self.calls[number].inputs}, set(calls)
        for number in reversed(range(len(self.calls)) if self.rowless else ()):
            call = self.calls[number]
            if self.rowless.intersection(call.outputs) & wanted:
                found.add(number)
                wanted.update(call.inputs)
        return sorted(found)

    def frontier(self, calls: Collection[int], outputs: Iterable[int]) -> tuple[int, ...]:
        """Return the slots in `outputs` or consumed by `calls` that `calls` do not compute, in order of first use.

        Slots without rows are not among them: they are computed from those that are (`with_rowless`).
        """
        calls = self.with_rowless(calls)
        computed = {slot for number in calls for slot in self.calls[number].outputs}
        needed = [*(slot for number in calls for slot in self.calls[number].inputs), *outputs]
        return tuple(dict.fromkeys(slot for slot in needed if slot not in computed))

    def hides(self, output: int) -> bool:
        """Return whether a time step mask can hide positions of output number `output`."""
        slot = self.outputs[output]
        return 1 < (self.mask_ranks[slot] or 0) < len(self.shapes[slot])

    def output_number(self, output: int | str) -> int:
        """Return the number of an output given by number or name; ParameterError if there is no such output."""
        if isinstance(output, str) and output in self.output_names:
            return self.output_names.index(output)
        if isinstance(output, int) and not isinstance(output, bool) and 0 <= output < len(self.outputs):
            return output
        raise ParameterError(
            f"`output` must be one of {', '.join(self.output_names)} or its number from 0 to {len(self.outputs) - 1}, "
            f"received {output!r}."
        )
