"""Single weights that are removed: zeros that stay zeros."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from ..graph import all_layers, variables_of

if TYPE_CHECKING:
    from ..element import Selection
    from ._rebuild import Rebuilt


class HoldZeros(keras.constraints.Constraint):
    """Multiplies a variable with a mask after every step of an optimizer.

    It sits on the variable, not in the layer's config: a model saves and reloads without it. `hold_zeros` puts it
    back on a model that was loaded.

    Parameters
    ----------
    mask : ndarray of bool, in the variable's shape
        True = stays.
    """

    def __init__(self, mask: npt.NDArray[np.bool_]) -> None:
        self.mask = mask

    def __call__(self, w: Any) -> Any:
        return w * keras.ops.cast(self.mask, w.dtype)

    def get_config(self) -> dict[str, Any]:
        return {"mask": self.mask.tolist()}


def as_array(variable: Any) -> npt.NDArray[Any]:
    """The value of a variable."""
    return np.asarray(keras.ops.convert_to_numpy(variable))


def hold_zeros(model: keras.Model) -> int:
    """Make the zeros in a model's kernels survive training, for example after it has been loaded.

    Parameters
    ----------
    model : keras.Model
        Constraints are put on its kernels (variables of rank 2 or more) that hold zeros and have no constraint.

    Returns
    -------
    int
        Zeros that are held.
    """
    held = 0
    for layer in all_layers(model):
        for variable in variables_of(layer):
            values = as_array(variable)
            if values.ndim > 1 and variable.constraint is None and not values.all():
                variable.constraint = HoldZeros(values != 0)
                held += int((values == 0).sum())
    return held


def drop_weights(model: keras.Model, rebuilt: "Rebuilt", selection: "Selection") -> None:
    """Set the weights that go to zero in the new model, and hold them there."""
    if not selection.elements.one_mask_a_batch:
        return
    twin = {}
    for old, new in rebuilt.pairs:
        if isinstance(old.layer, keras.layers.Layer):
            twin.update({id(a): b for a, b in zip(all_layers(old.layer), all_layers(new.layer), strict=True)})
    for variable, mask in kernel_masks([twin.get(id(layer)) for layer in all_layers(model)], selection):
        hold_at(variable, mask)


def hold_at(variable: Any, mask: npt.NDArray[np.bool_]) -> None:
    """Set what goes of a variable (False in `mask`, in its shape) to zero and hold it there, with what is held."""
    if isinstance(variable.constraint, HoldZeros):
        mask = mask & variable.constraint.mask
    variable.assign(as_array(variable) * mask)
    variable.constraint = HoldZeros(mask)


def kernel_masks(layers: Sequence[Any], selection: "Selection") -> list[tuple[Any, npt.NDArray[np.bool_]]]:
    """The kernels that weights belong to, and what stays of each (True) in its shape.

    Parameters
    ----------
    layers : sequence of Layer
        In the order of ``all_layers``, of the model of the elements or of one made from it.
    selection : Selection
        Of weights, or groups of them, alone.

    Raises
    ------
    ModelError
        If there are elements of another kind.
    """
    gates = selection.elements.inner_gates
    if selection.elements.gates or any(gate.where != "kernel" for gate in gates):
        raise ModelError(
            "a selection of weights must hold no other kind, received "
            f"{', '.join(sorted(set(selection.elements.kinds)))}: prune one kind after the other."
        )
    stays = np.append(selection.kept, [True])
    kernels = [variables_of(layers[gate.layer])[gate.variable] for gate in gates]
    return [(v, stays[gate.columns].reshape(v.shape)) for v, gate in zip(kernels, gates, strict=True)]
