"""Finding the elements of each kind: one file a family."""

from typing import TYPE_CHECKING

from ..elements import Choice, Found, Kind
from ..errors import ModelError
from ..graph import Graph
from ..groups import Groups
from . import blocks, heads, opaque, units, weights

if TYPE_CHECKING:
    import keras

EXPECTED: dict[Kind, str] = {
    "neurons": "at least one hidden Dense, convolution or recurrent layer",
    "embeddings": "an Embedding whose dimensions Dense, convolution or recurrent layers read",
    "heads": "a MultiHeadAttention or GroupedQueryAttention",
    "layers": "a layer with weights whose output has the shape of its input",
    "branches": "an Add whose branches compute something",
    "weights": "a layer with a kernel",
}
MISSING: dict[Kind, str] = {
    "neurons": "no Dense, convolution or recurrent layer",
    "embeddings": "no Embedding",
    "heads": "no attention layer",
    "layers": "no such layer",
    "branches": "no such Add",
    "weights": "no kernel",
}


def find(model: "keras.Model", graph: Graph, kind: Kind, choice: Choice, groups: Groups | None) -> Found:
    """Elements of one kind among the layers chosen.

    Parameters
    ----------
    model : keras.Model
    graph : Graph
        Of `model`.
    kind : str
    choice : Choice
    groups : see `dropreg.elements`
    """
    if kind == "weights":
        return weights.find(model, choice, groups)
    if kind == "heads":
        return heads.find(model, graph, choice)
    if kind == "layers":
        return blocks.find_layers(model, graph, choice)
    if graph.inside is not None and kind == "branches":
        raise ModelError(
            f"model '{model.name}' is a subclassed model, whose graph lies in Python code, so its branches cannot be "
            "found: ask for kind='layers', or rebuild it as keras.Model(inputs, outputs)."
        )
    if graph.inside is not None:
        return opaque.find(model, graph, kind, choice)
    if kind == "branches":
        return blocks.find_branches(graph, choice)
    return units.find(model, graph, kind, choice)
