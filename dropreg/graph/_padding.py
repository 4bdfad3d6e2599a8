"""Find out, by one run on symbolic tensors, which tensors of a model have time step masks.

Keras passes masks on from layer to layer. Some layers remove the mask of their input in place, so that later consumers
of the same tensor do not see it: this belongs to what the model computes. Measurements need to know more: which padded
steps have no effect on the outputs, also where a mask was removed. Therefore the model runs twice, with and without the
removal of masks.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import keras
import tensorflow as tf

from ._compile import compiled
from ._timesteps import step_mask, with_step_mask

if TYPE_CHECKING:
    from ._calls import Call


class StepMasks(NamedTuple):
    """The rank of the mask of each slot that has one, `Call.unmasked` of each call, and `Graph.padded`."""

    ranks: dict[int, int]
    removed: tuple[tuple[int, ...], ...]
    padded: frozenset[int]


_OBSERVED: WeakKeyDictionary[Any, tuple[Any, StepMasks]] = WeakKeyDictionary()


def observe(model: keras.Model, calls: Sequence["Call"], inputs: Sequence[int], specs: list[Any]) -> StepMasks:
    """Run a model on symbolic tensors; the result is cached while the model has the same calls."""
    structure = [(id(call.layer), call.inputs, call.outputs) for call in calls]
    known, found = _OBSERVED.get(model, (None, None))
    if found is None or known != structure:
        ranks, removed = _ranks(calls, inputs, specs, removing=True)
        intended, _ = _ranks(calls, inputs, specs, removing=False)
        found = StepMasks(ranks, removed, frozenset(intended))
        _OBSERVED[model] = structure, found
    return found


def with_same_masks(call: "Call", values: dict[int, Any]) -> dict[int, Any]:
    """Return copies of the input tensors of a call, with the same masks."""
    return {slot: with_step_mask(tf.identity(values[slot]), step_mask(values[slot])) for slot in call.inputs}


def _ranks(
    calls: Sequence["Call"], inputs: Sequence[int], specs: list[Any], *, removing: bool
) -> tuple[dict[int, int], tuple[tuple[int, ...], ...]]:
    """Return mask ranks by slot, and the inputs of each call that have lost their mask; with or without removal."""
    ranks: dict[int, int] = {}
    missing: list[tuple[int, ...]] = []

    def run(given: list[Any]) -> None:
        values = dict(zip(inputs, given, strict=True))
        missing.clear()
        for call in calls:
            missing.append(tuple(slot for slot in call.inputs if slot in ranks and step_mask(values[slot]) is None))
            read = {slot: values[slot] for slot in call.inputs} if removing else with_same_masks(call, values)
            values.update(zip(call.outputs, call.run_on(read), strict=True))
            found = {slot: step_mask(values[slot]) for slot in call.outputs}
            ranks.update((slot, len(mask.shape)) for slot, mask in found.items() if mask is not None)

    with keras.StatelessScope(collect_losses=True):
        compiled(run).get_concrete_function(specs)
    return ranks, tuple(missing)
