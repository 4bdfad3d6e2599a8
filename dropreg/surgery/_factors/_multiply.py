"""Multiply two consecutive linear layers where one layer is smaller."""

import keras

from ..._utils import check_type
from ...graph import Call, Graph
from .._original import trace_original
from ._matrices import NARROW, acts_on_positions, is_kernel_layer, is_linear, matrix_of, product_part, why_not
from ._rewrite import Part, rewrite


def multiply_back(model: keras.Model) -> keras.Model:
    """Replace pairs of layers by their product where that has no more parameters.

    Parameters
    ----------
    model : keras.Model
        A built model, such as one that `dropreg.factorize` and then `dropreg.remove` have made. It is not changed. A
        pair is a layer without bias and activation, m inputs and r units, followed by nothing but a layer of the same
        class with n units at the same positions. With r (m + n) >= m n it becomes one layer, with the name of
        the second.

    Returns
    -------
    keras.Model
        A model that computes the same up to rounding, compiled like the given one. A copy if there is no such pair.

    Raises
    ------
    ModelError
        If the model cannot be rebuilt.
    ParameterError
        If `model` is no Keras model.

    Examples
    --------
    >>> import dropreg as dr
    >>> model = dr.datasets.load_model("mlp")
    >>> found = dr.factorize(model)
    >>> found.model.count_params() > model.count_params()
    True
    >>> dr.surgery.multiply_back(found.model).count_params() == model.count_params()
    True
    """
    check_type("model", model, keras.Model, "pass a Keras model")
    original = trace_original(model)
    parts: dict[int, tuple[Part, ...]] = {}
    for first, second in _pairs(original.graph):
        (m, rank), n = matrix_of(first).shape, matrix_of(second).shape[1]
        if rank * (m + n) >= m * n and id(first.layer) not in parts:
            parts |= {id(first.layer): (), id(second.layer): (product_part(first, second),)}
    return rewrite(original, parts)


def _pairs(graph: Graph) -> list[tuple[Call, Call]]:
    """Return one pair of calls for each pair of layers of which the second consumes all that the first computes."""
    calls: dict[int, list[Call]] = {}
    for call in graph.calls:
        calls.setdefault(id(call.layer), []).append(call)
    found = []
    for same in calls.values():
        first = same[0]
        if not is_kernel_layer(first.layer) or not is_linear(first.layer):
            continue
        nexts = [[call for call in graph.calls if set(one.outputs) & set(call.inputs)] for one in same]
        if any(
            len(after) != 1 or set(one.outputs) & set(graph.outputs) for one, after in zip(same, nexts, strict=True)
        ):
            continue
        seconds = {id(after[0].layer): after[0] for after in nexts}
        second = next(iter(seconds.values()))
        if len(seconds) == 1 and len(calls[id(second.layer)]) == len(same) and _fit(graph, first, second):
            found.append((first, second))
    return found


def _fit(graph: Graph, first: Call, second: Call) -> bool:
    """Return whether two layers can be replaced by one that trains like them."""
    a, b = first.layer, second.layer
    return (
        type(a) is type(b)
        and acts_on_positions(b)
        and a.trainable == b.trainable
        and a.dtype_policy == b.dtype_policy
        and getattr(a, "equation", None) == getattr(b, "equation", None)
        and why_not(graph, first) in (None, NARROW)
        and why_not(graph, second) in (None, NARROW)
    )
