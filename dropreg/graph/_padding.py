"""Steps that masks hide: what layers see of them, and where they are idle, so that nothing measured depends on them.

Keras hands masks on from layer to layer. Some layers take them off the tensors that they read, so that a layer which
runs later does not see them: that is part of what a model computes, and is observed in a run on symbols. Where a
padded step counts is another question: nowhere that a mask belongs to, if every way from there to the outputs leads
through a layer that leaves hidden steps out (a recurrent layer, a masked mean) or to an output that comes masked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import keras
import tensorflow as tf

from ._compile import compiled
from ._timesteps import step_mask, with_step_mask

if TYPE_CHECKING:
    from ._calls import Call


@dataclass(frozen=True)
class StepMasks:
    """What is known of the masks of a model.

    Attributes
    ----------
    ranks : dict of int to int
        Rank of the mask that the value in a slot comes with.
    taken_off : tuple of tuple of int
        `Call.unmasked` of each call.
    padded : frozenset of int
        `Graph.padded`.
    """

    ranks: dict[int, int]
    taken_off: tuple[tuple[int, ...], ...]
    padded: frozenset[int]


_OBSERVED: WeakKeyDictionary[Any, tuple[Any, StepMasks]] = WeakKeyDictionary()


def observe(
    model: keras.Model, calls: Sequence["Call"], inputs: Sequence[int], outputs: Sequence[int], specs: list[Any]
) -> StepMasks:
    """Run a model on symbols, and remember what was seen as long as it has the same calls."""
    structure = [(id(call.layer), call.inputs, call.outputs) for call in calls]
    known, found = _OBSERVED.get(model, (None, None))
    if found is None or known != structure:
        ranks, taken_off = _ranks(calls, inputs, specs, taking_off=True)
        intended, _ = _ranks(calls, inputs, specs, taking_off=False)
        found = StepMasks(ranks, taken_off, frozenset(intended))
        _OBSERVED[model] = structure, found
    return found


def with_same_masks(call: "Call", values: dict[int, Any]) -> dict[int, Any]:
    """What a call reads, as other tensors with the same masks."""
    return {slot: with_step_mask(tf.identity(values[slot]), step_mask(values[slot])) for slot in call.inputs}


def _ranks(
    calls: Sequence["Call"], inputs: Sequence[int], specs: list[Any], *, taking_off: bool
) -> tuple[dict[int, int], tuple[tuple[int, ...], ...]]:
    """Ranks of the masks by slot, and slots that each call reads without, where layers may take masks off or not."""
    ranks: dict[int, int] = {}
    missing: list[tuple[int, ...]] = []

    def run(given: list[Any]) -> None:
        values = dict(zip(inputs, given, strict=True))
        missing.clear()
        for call in calls:
            missing.append(tuple(slot for slot in call.inputs if slot in ranks and step_mask(values[slot]) is None))
            read = {slot: values[slot] for slot in call.inputs} if taking_off else with_same_masks(call, values)
            values.update(zip(call.outputs, call.run_on(read), strict=True))
            found = {slot: step_mask(values[slot]) for slot in call.outputs}
            ranks.update((slot, len(mask.shape)) for slot, mask in found.items() if mask is not None)

    with keras.StatelessScope(collect_losses=True):
        compiled(run).get_concrete_function(specs)
    return ranks, tuple(missing)
