"""Write layers as products of two, through directions that are orthogonal in their outputs.

With a kernel W (m, n), the second moment C of its input, and V the eigenvectors of W'CW in descending order, the layer
computes the same as A = W V, without bias and activation, followed by B = V' with the old bias and activation. The
columns of A are directions that are orthogonal in the layer's linear output on the data, and neurons of a layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import keras
import numpy as np
import pandas as pd

from ..._utils import Array, check_several, check_type, concatenate_names, one_blas_thread
from ...data import Data, Task, check_data
from ...errors import DataError, ModelError, ParameterError
from ...graph import Call, Graph
from .._original import trace_original
from ._matrices import is_kernel_layer, last_part, linear_part, matrix_of, why_not
from ._moments import second_moments
from ._rewrite import rewrite

_TIES = 1e-9
"""Weight of the kernel itself in the order of directions: it orders those that the data never use."""


@dataclass(frozen=True, repr=False, eq=False)
class Factorized:
    """A model whose layers are products of two.

    Attributes
    ----------
    model : keras.Model
        An equal model, compiled like the original. Each factorized layer "dense" follows a new layer
        "dense_directions", whose units are the directions in descending order of `energy`.
    original : keras.Model
        The original model, unchanged.
    directions : tuple of str
        Names of the new layers, for ``dr.elements(model, include=directions)``.
    energy : dict of str to ndarray, shape (directions,)
        For each new layer, the share of the second moment of the layer's linear output along each direction; it sums
        to 1. Without data inputs are taken to be uncorrelated, with equal second moments.
    layers : DataFrame
        One row for each factorized layer: layer, directions (name of the new layer), inputs and units (shape of the
        kernel as a matrix), rank (number of directions), params (of the kernel) and pays_below (the two factors have
        fewer parameters than the kernel with fewer directions than this).
    left_out : tuple of (str, str)
        Layers with a kernel that are not factorized, and why.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> x, y = dr.datasets.fashion_mnist("estimation")
    >>> dr.factorize(model, (x[:500], None)).layers[["layer", "inputs", "units", "rank"]]
         layer  inputs  units  rank
    0  dense_1     784    300   300
    1  dense_2     300    100   100
    """

    model: keras.Model
    original: keras.Model
    directions: tuple[str, ...]
    energy: dict[str, Array]
    layers: pd.DataFrame
    left_out: tuple[tuple[str, str], ...]

    def __repr__(self) -> str:
        lines = [
            f"Factorized model '{self.model.name}'",
            self.layers.to_string(index=False, float_format="{:.1f}".format),
        ]
        return "\n".join([*lines, *(f"left out: '{layer}': {reason}" for layer, reason in self.left_out)])


def factorize(
    model: keras.Model,
    data: Data | None = None,
    *,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    task: Task | None = None,
) -> Factorized:
    """Write layers as products of two, whose directions can be measured and removed like neurons.

    The result computes the same up to rounding. It is larger at first: remove directions, then call
    `dropreg.surgery.multiply_back`, which undoes the factorizations that do not pay.

    Parameters
    ----------
    model : keras.Model
        A built Sequential or Functional model. It is not changed.
    data : (x, y), dataset or iterable of batches, optional
        Examples; labels are not used. Directions are those of the layers' linear outputs on them. Without data they
        are the singular vectors of the kernels.
    include : sequence of str, optional
        Names of layers to factorize: Dense, EinsumDense with one axis of channels, Conv1D, Conv2D, Conv3D. By default
        all of them that can be, except those whose outputs reach the model's output without another layer with weights.
    exclude : sequence of str
        Names of layers to leave as they are.
    task : str, optional
        As in `dropreg.sample`.

    Returns
    -------
    dropreg.surgery.Factorized

    Raises
    ------
    ModelError
        If the model cannot be rebuilt, no layer can be factorized, or a layer in `include` cannot be.
    ParameterError
        If a name is not that of a layer with a kernel.
    DataError
        If the data do not fit the model, or a layer's outputs on them are not finite.

    Notes
    -----
    The inputs' second moment is never inverted: where data do not use all of a kernel's row space, directions of the
    rest of it are added, so that the outputs are the same for all inputs. A penalty on the kernel (regularizer) is put
    on the first factor; for L2 it has the same value. Frozen layers have frozen factors. A layer that is called several
    times is factorized once, for all of its inputs.

    Examples
    --------
    Nine tenths of the directions removed, those with the least energy first:

    >>> import dropreg as dr, numpy as np
    >>> model = dr.datasets.load_model("mlp")
    >>> x, y = dr.datasets.fashion_mnist("estimation")
    >>> found = dr.factorize(model, (x[:2000], None))
    >>> elements = dr.elements(found.model, include=found.directions)
    >>> energy = np.concatenate([found.energy[name] for name in found.directions])
    >>> small = dr.remove(found.model, dr.select(elements, energy, fraction=0.9)).model
    >>> small.count_params() < 0.2 * model.count_params()
    True
    """
    check_type("model", model, keras.Model, "pass a Keras model")
    for name, value in (("include", include or ()), ("exclude", exclude)):
        check_several(name, value)
    original = trace_original(model)
    examples = None if data is None else check_data(original.graph, data, task, measured=False)
    chosen, left_out = _choose(original.graph, include, exclude)
    moments: dict[int, Array] = {}
    if examples is not None:
        linear = {id(call.layer): linear_part(call, call.layer.name, matrix_of(call)) for call in chosen}
        moments = second_moments(original.graph, examples, linear)
    parts, rows, energy = {}, [], {}
    for call in chosen:
        matrix, name = matrix_of(call), f"{call.layer.name}_directions"
        directions, share = _directions(matrix, moments.get(id(call.layer)), call.name)
        parts[id(call.layer)] = (linear_part(call, name, matrix @ directions), last_part(call, directions.T))
        (m, n), rank = matrix.shape, len(share)
        rows.append([call.name, name, m, n, rank, m * n, m * n / (m + n)])
        energy[name] = share
    columns = ["layer", "directions", "inputs", "units", "rank", "params", "pays_below"]
    new = rewrite(original, parts)
    return Factorized(new, original.model, tuple(energy), energy, pd.DataFrame(rows, columns=columns), left_out)


def _choose(
    graph: Graph, include: Sequence[str] | None, exclude: Sequence[str]
) -> tuple[list[Call], tuple[tuple[str, str], ...]]:
    """Return one call of each layer to factorize, and the names of other layers with kernels, with reasons."""
    calls = {call.name: call for call in reversed(graph.calls) if is_kernel_layer(call.layer)}
    calls = dict(reversed(calls.items()))
    if unknown := [name for name in (*(include or ()), *exclude) if name not in calls]:
        raise ParameterError(
            f"`include` and `exclude` must name layers with a kernel ({concatenate_names(list(calls)) or 'none'}), "
            f"received {unknown[0]!r}."
        )
    chosen, left_out = [], []
    for name, call in calls.items():
        reason = why_not(graph, call)
        if name in exclude or (include is not None and name not in include):
            reason = "it is excluded"
        elif include is not None and reason is not None:
            raise ModelError(f"layer '{name}' ({call.kind}) cannot be factorized, because {reason}: exclude it.")
        elif include is None and reason is None and any(_reaches_output(graph, slot) for slot in call.outputs):
            reason = "it computes an output: name it in include"
        if reason is None:
            chosen.append(call)
        else:
            left_out.append((name, reason))
    if not chosen:
        why = "; ".join(f"'{name}': {reason}" for name, reason in left_out[:3]) or "it has no layer with a kernel"
        raise ModelError(f"model '{graph.model.name}' must have a layer that can be factorized, received none ({why}).")
    return chosen, tuple(left_out)


def _reaches_output(graph: Graph, slot: int) -> bool:
    """Return whether a tensor reaches the output of the model without another layer with weights."""
    if slot in graph.outputs:
        return True
    light = [call for call in graph.calls if slot in call.inputs and not getattr(call.layer, "weights", ())]
    return any(_reaches_output(graph, output) for call in light for output in call.outputs)


@one_blas_thread
def _directions(matrix: Array, moment: Array | None, name: str) -> tuple[Array, Array]:
    """Return V (units, rank), whose columns are orthonormal and span the rows of the matrix, and their energy."""
    _, values, rows = np.linalg.svd(matrix, full_matrices=False)
    rank = max(1, int(np.sum(values > values[0] * max(matrix.shape) * np.finfo(np.float32).eps)))
    basis, squares = rows[:rank].T, values[:rank] ** 2
    if moment is None:
        return basis, squares / max(squares.sum(), np.finfo(np.float64).tiny)
    if not np.isfinite(moment).all():
        raise DataError(f"layer '{name}' must have finite outputs on the data, received others: check the inputs.")
    inside = basis.T @ moment @ basis
    scale = np.trace(inside) / max(squares.sum(), np.finfo(np.float64).tiny)
    _, vectors = np.linalg.eigh(inside + _TIES * np.diag(squares) * (scale or 1.0))
    vectors = vectors[:, ::-1]
    energy = np.maximum(np.einsum("ij,ik,kj->j", vectors, inside, vectors, optimize=True), 0.0)
    return basis @ vectors, energy / max(energy.sum(), np.finfo(np.float64).tiny)
