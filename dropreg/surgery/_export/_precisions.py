"""Precisions of exported models, whole or layer by layer."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from ..._utils import concatenate_names
from ...errors import ParameterError
from ...graph import Graph, all_layers

Precision = Literal["float32", "float16", "dynamic int8", "dynamic int4", "int8"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
STORED = {"float16": "float16", "dynamic int8": "int8", "dynamic int4": "int4", "int8": "int8"}
"""The type of the weights."""


def check_precision(precision: Any, kind: str, *, calibrated: bool) -> None:
    """Raise ParameterError unless files of a format can have this precision, and there is data if it needs data."""
    asked = list(precision.values()) if isinstance(precision, Mapping) else [precision]
    for value in asked:
        if value not in PRECISIONS:
            raise ParameterError(
                f"`precision` must be one of {', '.join(PRECISIONS)}, or a dict of layer names to these, received "
                f"{value!r}."
            )
    if kind != "LiteRT" and (isinstance(precision, Mapping) or precision != "float32"):
        raise ParameterError(
            f"`precision` must be 'float32' for {kind}, received {precision!r}: files of LiteRT (a path that ends in "
            "'.tflite') can have all precisions."
        )
    if "int8" in asked and not calibrated:
        raise ParameterError(
            "`data` must hold examples for precision 'int8', from which the ranges of activations are found, received "
            "None: pass data=(x, None), or precision='dynamic int8'."
        )


def layers_named(graph: Graph, precision: Mapping[str, str]) -> list[Any]:
    """Return the layer for each name; ParameterError if there is none, or there are several."""
    return [_layer_named(graph, name) for name in precision]


def _layer_named(graph: Graph, name: str) -> Any:
    layers = [layer for layer in all_layers(graph.model) if layer is not graph.model]
    unique = [layer for layer in layers if graph.names.get(id(layer)) == name]
    found = unique or [layer for layer in layers if name in (layer.name, layer.path)]
    if len(found) == 1:
        return found[0]
    weighted = [graph.names.get(id(layer), layer.path) for layer in layers if layer.variables]
    received = "which is no layer of it" if not found else f"which {len(found)} layers of it have"
    raise ParameterError(
        f"`precision` must name layers of model '{graph.model.name}', received '{name}', {received}: expected some of "
        f"{concatenate_names(weighted)}."
    )
