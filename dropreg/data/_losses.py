"""What the loss that a model was compiled with says about its outputs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._tasks import TASKS, Task

if TYPE_CHECKING:
    from ..graph import Graph

_LABELS: tuple[Task, ...] = ("binary", "multilabel")
_BY_LOSS: dict[str, tuple[Task, ...]] = {
    **dict.fromkeys(("binarycrossentropy", "binaryfocalcrossentropy"), _LABELS),
    **dict.fromkeys(("categoricalcrossentropy", "categoricalfocalcrossentropy"), ("classes",)),
    **dict.fromkeys(("sparsecategoricalcrossentropy",), ("classes",)),
    **dict.fromkeys(("meansquarederror", "meanabsoluteerror", "meansquaredlogarithmicerror"), ("regression",)),
    **dict.fromkeys(("meanabsolutepercentageerror", "huber", "logcosh", "poisson"), ("regression",)),
    **dict.fromkeys(("hinge", "squaredhinge", "categoricalhinge"), ()),  # outputs are neither logits nor numbers
}
"""The tasks that losses of Keras can be for."""


@dataclass(frozen=True)
class CompiledLoss:
    """The loss that a model was compiled with for one output, if it is one that Keras defines.

    Attributes
    ----------
    name : str or None
        None where there is no loss, or one of another origin, which says nothing.
    tasks : tuple of str
        The tasks that it can be for, all where it says nothing.
    from_logits : bool or None
        Whether it expects logits; None if it does not say.
    """

    name: str | None = None
    tasks: tuple[Task, ...] = TASKS
    from_logits: bool | None = None


def compiled_loss(graph: "Graph", output: int) -> CompiledLoss:
    """Return what the loss of output number `output` says."""
    import keras

    given: Any = getattr(graph.model, "loss", None) if getattr(graph.model, "compiled", False) else None
    if isinstance(given, Mapping):
        given = given.get(graph.output_names[output])
    elif isinstance(given, list | tuple):
        given = given[output] if output < len(given) else None
    try:
        found: Any = keras.losses.get(given) if isinstance(given, str) else given
    except ValueError:
        found = None
    name = getattr(found, "__name__", type(found).__name__)
    tasks = _BY_LOSS.get(name.lower().replace("_", ""))
    kind = found if hasattr(found, "__name__") else type(found)
    if tasks is None or getattr(kind, "__module__", "").partition(".")[0] != "keras":
        return CompiledLoss()
    if tasks == ("regression",):
        return CompiledLoss(name, tasks)
    config = found.get_config() if isinstance(found, keras.losses.Loss) else {"from_logits": False}
    return CompiledLoss(name, tasks, config.get("from_logits") if tasks else None)
