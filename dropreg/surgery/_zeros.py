"""Remove single weights: replace them by zeros or other values, and keep them there."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from ..graph import all_layers, variables_of
from ._holding import Hold, hold_values

if TYPE_CHECKING:
    from ..element import Selection
    from ._rebuild import Rebuilt


class HoldZeros(Hold):
    """Constraint that multiplies a variable with a mask after every optimizer step.

    It is a property of the variable, not of the layer's config, so models save and load without it; `hold_zeros`
    restores it on a loaded model.

    Parameters
    ----------
    mask : ndarray of bool, in the variable's shape
        True = kept.
    """

    def __init__(self, mask: npt.NDArray[np.bool_]) -> None:
        self.mask = mask

    def __call__(self, w: Any) -> Any:
        return keras.ops.where(self.mask, w, keras.ops.zeros_like(w))  # a product would give negative zeros

    def get_config(self) -> dict[str, Any]:
        return {"mask": self.mask.tolist()}


def as_array(variable: Any) -> npt.NDArray[Any]:
    """Return the value of a variable."""
    return np.asarray(keras.ops.convert_to_numpy(variable))


def hold_zeros(model: keras.Model) -> int:
    """Make the zeros in a model's kernels survive training, for example after a pruned model has been loaded.

    Parameters
    ----------
    model : keras.Model
        It is changed: every kernel (variable of rank 2 or more, except biases) that contains zeros and has no
        constraint gets one that sets these entries to zero after every optimizer step.

    Returns
    -------
    int
        Number of zeros that this call has constrained. Kernels that had a constraint, also from an earlier call, are
        left alone and not counted.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> kernel, bias = model.layers[-1].get_weights()
    >>> kernel[:3] = 0.0
    >>> model.layers[-1].set_weights([kernel, bias])
    >>> dr.hold_zeros(model) == 3 * kernel.shape[1]
    True
    """
    held = 0
    for layer in all_layers(model):
        for variable in variables_of(layer):
            values = as_array(variable)
            is_kernel = values.ndim > 1 and variable.name != "bias"
            if is_kernel and variable.constraint is None and not values.all():
                variable.constraint = HoldZeros(values != 0)
                held += int((values == 0).sum())
    return held


def drop_weights(model: keras.Model, rebuilt: "Rebuilt", selection: "Selection") -> None:
    """Replace the removed weights in the new model, and constrain them to stay what they have become."""
    if any(gate.where == "rounding" for gate in selection.elements.inner_gates):
        raise ModelError(
            "rounded activations must be built by an exporter, received a selection of them to build a Keras model of: "
            "pass the precision of each layer to dropreg.export."
        )
    if not selection.elements.one_mask_a_batch:
        return
    new_layers = {}
    for old, new in rebuilt.pairs:
        if isinstance(old.layer, keras.layers.Layer):
            pairs = zip(all_layers(old.layer), all_layers(new.layer), strict=True)
            new_layers.update({id(before): after for before, after in pairs})
    layers = [new_layers.get(id(layer)) for layer in all_layers(model)]
    gates = [gate for gate in selection.elements.inner_gates if layers[gate.layer] is not None]
    for gate, (variable, mask) in zip(gates, kernel_masks(layers, selection), strict=True):
        if gate.replacement is None:
            hold_at(variable, mask)
        else:
            kernel, replacement = as_array(variable), gate.replacement
            hold_values(variable, replacement.values(kernel), replacement.codes(kernel), replacement, mask)


def hold_at(variable: Any, mask: npt.NDArray[np.bool_]) -> None:
    """Zero the entries of a variable where `mask` is False, and constrain these and earlier zeros to stay zero."""
    if isinstance(variable.constraint, HoldZeros):
        mask = mask & variable.constraint.mask
    variable.assign(as_array(variable) * mask)
    variable.constraint = HoldZeros(mask)


def kernel_masks(layers: Sequence[Any], selection: "Selection") -> list[tuple[Any, npt.NDArray[np.bool_]]]:
    """Return the kernels that the selection's weights belong to, each with its mask (True = kept).

    `layers` are those of the elements' model, or of a model made from it, in the order of ``all_layers``; None for one
    that the other model lacks, because no output depends on it. Raises ModelError if some elements are not weights or
    groups of weights.
    """
    gates = selection.elements.inner_gates
    if selection.elements.gates or any(gate.where != "kernel" for gate in gates):
        raise ModelError(
            "a selection of weights must hold no other kind, received "
            f"{', '.join(sorted(set(selection.elements.kinds)))}: remove one kind after the other."
        )
    kept = np.append(selection.kept, [True])
    present = [gate for gate in gates if layers[gate.layer] is not None]
    kernels = [variables_of(layers[gate.layer])[gate.variable] for gate in present]
    return [(v, kept[gate.columns].reshape(v.shape)) for v, gate in zip(kernels, present, strict=True)]
