"""The calls of a Keras model in the order in which they run, nested models written out.

A subclassed model, whose graph lies in Python code, is one opaque call.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from ..errors import ParameterError
from ._access import all_layers, takes_training
from ._timesteps import step_mask, with_step_mask

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Ref:
    """Stands for the value in slot `slot` among a call's arguments."""

    slot: int


@dataclass(frozen=True)
class Call:
    """One call of one layer.

    Attributes
    ----------
    layer : keras.layers.Layer or keras.Operation
        What is called; shared layers occur in several calls.
    args, kwargs : nested structure
        The arguments, with a `Ref` wherever a tensor was passed.
    inputs, outputs : tuple of int
        Slots read and written, in the order of the flattened arguments and results.
    input_shapes, output_shapes : tuple of Shape
        Shapes of those slots, batch axis included.
    name : str
        Of the layer, as in `Graph.names`.
    unmasked : tuple of int
        Slots among `inputs` that layers before have taken the masks of steps off, in the order of the model.
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

    @property
    def kind(self) -> str:
        return type(self.layer).__name__

    def layers(self) -> list[Any]:
        """What is called and all layers in it."""
        return all_layers(self.layer) if isinstance(self.layer, keras.layers.Layer) else [self.layer]

    def _as_given(self, slot: int, value: Any) -> Any:
        """The value that the layer gets: another tensor where it has a mask, which some layers take off."""
        mask = step_mask(value)
        if mask is None:
            return value
        return with_step_mask(tf.identity(value), None if slot in self.unmasked else mask)

    def positions_of(self, argument: str, place: int) -> list[int]:
        """Which of `inputs` were passed as one argument, by name or as number `place`."""
        value = self.kwargs.get(argument, self.args[place] if place < len(self.args) else None)
        return [self.inputs.index(leaf.slot) for leaf in keras.tree.flatten(value) if isinstance(leaf, Ref)]

    def run(self, values: Sequence[Any]) -> list[Any]:
        """Call the layer for inference on `values`, one tensor for each slot of `inputs`; gives a list of tensors."""
        return self.run_on({s: self._as_given(s, value) for s, value in zip(self.inputs, values, strict=True)})

    def run_on(self, by_slot: dict[int, Any]) -> list[Any]:
        """`run` on tensors by slot, which layers may take the masks of steps off."""

        def fill(leaf: Any) -> Any:
            return by_slot[leaf.slot] if isinstance(leaf, Ref) else leaf

        args: Any = keras.tree.map_structure(fill, self.args)
        kwargs: Any = keras.tree.map_structure(fill, self.kwargs)
        if takes_training(self.layer):
            kwargs = {**kwargs, "training": False}
        return keras.tree.flatten(self.layer(*args, **kwargs))


@dataclass(frozen=True)
class Inside:
    """One call of a layer inside an opaque model, in the order in which they ran.

    Attributes
    ----------
    layer : keras.layers.Layer
    input_shape, output_shape : Shape or None
        Batch axis included; None where the layer takes or gives several tensors.
    is_output : bool
        Whether the model hands this very tensor out.
    """

    layer: Any
    input_shape: Shape | None
    output_shape: Shape | None
    is_output: bool


@dataclass(frozen=True)
class Graph:
    """A model as a list of calls in single-assignment form.

    Attributes
    ----------
    calls : tuple of Call
        In an order in which they can run.
    inputs, outputs : tuple of int
        Slots of the model's inputs and outputs.
    shapes : tuple of Shape
        Shape of each slot, batch axis included.
    input_names, output_names : tuple of str
    input_dtypes : tuple of (str or None)
        None where any numbers will do.
    names : dict of int to str
        What each layer is called, by its ``id``: its name, behind those of the models and layers around it where
        several layers have the same one ("encoder/dense").
    mask_ranks : tuple of (int or None)
        Rank of Keras' mask of steps (`dropreg.graph`) that the value in each slot comes with; None without one.
    padded : frozenset of int
        Slots whose values come with a mask of steps wherever no layer before takes it off.
    inside : tuple of Inside or None
        The calls inside a subclassed model, which itself is the only call; None for other models.
    """

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
    inside: tuple[Inside, ...] | None = None

    def downstream(self, calls: Iterable[int]) -> list[int]:
        """Numbers of `calls` and of all calls that depend on them, in the order in which they run."""
        found, written = set(calls), set[int]()
        for number, call in enumerate(self.calls):
            if number in found or written.intersection(call.inputs):
                found.add(number)
                written.update(call.outputs)
        return sorted(found)

    def upstream(self, slots: Iterable[int], known: Collection[int] = ()) -> list[int]:
        """Numbers of the calls that compute `slots` from inputs and `known` slots, in the order in which they run."""
        wanted, found = set(slots).difference(known), list[int]()
        for number in reversed(range(len(self.calls))):
            call = self.calls[number]
            if wanted.intersection(call.outputs):
                found.append(number)
                wanted.update(set(call.inputs).difference(known))
        return found[::-1]

    def frontier(self, calls: Collection[int], outputs: Iterable[int]) -> tuple[int, ...]:
        """Slots that `calls` or `outputs` need and `calls` do not compute, in the order in which they are needed."""
        computed = {slot for number in calls for slot in self.calls[number].outputs}
        needed = [*(slot for number in calls for slot in self.calls[number].inputs), *outputs]
        return tuple(dict.fromkeys(slot for slot in needed if slot not in computed))

    def hides(self, output: int) -> bool:
        """Whether the model's mask of steps can hide positions of output number `output`."""
        slot = self.outputs[output]
        return 1 < (self.mask_ranks[slot] or 0) < len(self.shapes[slot])

    def output_number(self, output: int | str) -> int:
        """Position of an output given by its position or name.

        Raises
        ------
        ParameterError
            If there is no such output.
        """
        if isinstance(output, str) and output in self.output_names:
            return self.output_names.index(output)
        if isinstance(output, int) and not isinstance(output, bool) and 0 <= output < len(self.outputs):
            return output
        raise ParameterError(
            f"`output` must be one of {', '.join(self.output_names)} or its number from 0 to {len(self.outputs) - 1}, "
            f"received {output!r}."
        )
