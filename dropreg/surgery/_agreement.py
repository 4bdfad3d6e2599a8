"""Check that a smaller model computes what the masked network of the original model does."""

from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from ..data import Examples
from ..errors import ModelError
from ..graph import call_outputs
from ..network import MaskedNetwork, as_numbers, check_agreement, difference, few_inputs, tolerance
from ._original import Original
from ._rebuild import Rebuilt

if TYPE_CHECKING:
    from ..element import Selection


def check_cut(original: Original, selection: "Selection", rebuilt: Rebuilt, examples: Examples) -> None:
    """Raise ModelError, with the layer's name, unless the rebuilt model gives the outputs of the masked network."""
    inputs, model = few_inputs(original.graph, examples), original.model
    kept = tf.constant(selection.kept[np.newaxis], tf.float32)
    before = MaskedNetwork(original.graph, selection.elements).values(inputs, kept)
    with keras.StatelessScope(collect_losses=True):
        outputs = call_outputs(rebuilt.model, inputs, training=False)
    expected = [as_numbers(before[slot]) for slot in original.graph.outputs]
    found = max(difference(as_numbers(own), other) for own, other in zip(outputs, expected, strict=True))
    if found <= tolerance(model):
        return
    check_agreement(original.graph, selection.elements, examples)
    layer = _first_that_differs(rebuilt, before, tolerance(model))
    raise ModelError(
        f"{layer or f'smaller model {model.name!r}'} must compute the same in the smaller model as under a mask, "
        f"received outputs of the model that differ by {found:.2g} of the largest: its get_config does not name all "
        "that it computes with, or its rule (dropreg.layers.register) is not exact. Correct them, or exclude the "
        "layers around it with dropreg.elements(exclude=)."
    )


def _first_that_differs(rebuilt: Rebuilt, before: dict[int, Any], limit: float) -> str | None:
    """Return the first layer whose kept channels have other values in the smaller model; None if there is none."""
    after, plan = {slot: before[slot] for slot in rebuilt.before.inputs}, rebuilt.plan
    for old, new in rebuilt.pairs:
        with keras.StatelessScope(collect_losses=True):
            after.update(zip(new.outputs, new.run([after[slot] for slot in new.inputs]), strict=True))
        for slot in old.outputs:
            expected = as_numbers(before[slot])[..., plan.kept[slot]]
            if difference(as_numbers(after[slot]), expected) > limit:
                return f"layer '{old.name}' ({old.kind})"
    return None
