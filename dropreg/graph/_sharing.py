"""Find the weights that several layers of a model use, such as the table of an embedding in a tied head.

Most layers hold the weights that they use. Others, such as a Lambda layer around the table of an embedding, read
weights that only another layer holds: these are found by one run on symbolic tensors.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

import keras

from ._access import all_layers, variables_of
from ._compile import compiled
from ._padding import with_same_masks

if TYPE_CHECKING:
    from ._calls import Call


class SharedWeights(NamedTuple):
    """Weights that several called layers use.

    `users` are the names of these layers by the ``id`` of the variable. `borrowed` are the variables that a layer or
    operation uses although only other layers hold them, by the ``id`` of the borrower.
    """

    users: Mapping[int, tuple[str, ...]] = {}
    borrowed: Mapping[int, tuple[Any, ...]] = {}

    def other(self, layer: Any, name: str) -> str | None:
        """Return a layer that uses some weight of `layer`, whose own name is `name`, too; None if there is none."""
        used = [*_held(layer), *self.borrowed.get(id(layer), ())]
        return next((user for v in used for user in self.users.get(id(v), ()) if user != name), None)

    def lender(self, layer: Any, name: str) -> str | None:
        """Return a layer whose weights `layer` uses without holding them; None if there is none."""
        borrowed = self.borrowed.get(id(layer), ())
        return next((user for v in borrowed for user in self.users[id(v)] if user != name), None)


class Reads(keras.StatelessScope):
    """A scope that collects the variables that are read in it."""

    def __init__(self) -> None:
        super().__init__(collect_losses=True)
        self.found: dict[int, Any] = {}

    def get_current_value(self, variable: Any) -> Any:
        self.found[id(variable)] = variable
        return super().get_current_value(variable)


_OBSERVED: WeakKeyDictionary[Any, tuple[Any, dict[int, tuple[Any, ...]]]] = WeakKeyDictionary()


def shared_weights(
    model: keras.Model, calls: Sequence["Call"], inputs: Sequence[int], specs: list[Any]
) -> SharedWeights:
    """Return the weights that several of the called layers use."""
    layers = {id(call.layer): call for call in calls}
    used = {key: {id(v): v for v in _held(call.layer)} for key, call in layers.items()}
    held = {number for own in used.values() for number in own}
    borrowed: dict[int, tuple[Any, ...]] = {}
    for key, read in _read_by(model, calls, inputs, specs).items():
        others = [v for v in read if id(v) in held and id(v) not in used[key]]
        if others:
            borrowed[key] = tuple(others)
            used[key].update((id(v), v) for v in others)
    users: dict[int, list[str]] = {}
    for key, own in used.items():
        for number in own:
            users.setdefault(number, []).append(layers[key].name)
    return SharedWeights({number: tuple(names) for number, names in users.items() if len(names) > 1}, borrowed)


def _held(layer: Any) -> list[Any]:
    """Return the variables of a layer and of the layers inside it; none for an operation."""
    return [v for part in all_layers(layer) for v in variables_of(part)] if isinstance(layer, keras.Layer) else []


def _may_borrow(call: "Call") -> bool:
    """Return whether a call may use variables that its layer does not hold: it runs code of the user, or is given some.

    Layers of Keras itself, but Lambda, use only what they hold.
    """
    parts = call.layers()
    own_code = any(isinstance(p, keras.layers.Lambda) or not type(p).__module__.startswith("keras.src.") for p in parts)
    return own_code or any(isinstance(leaf, keras.Variable) for leaf in keras.tree.flatten((call.args, call.kwargs)))


def _read_by(
    model: keras.Model, calls: Sequence["Call"], inputs: Sequence[int], specs: list[Any]
) -> dict[int, tuple[Any, ...]]:
    """Return the variables that layers read which may borrow some, by the ``id`` of the layer; cached by the calls."""
    borrowers = {number for number, call in enumerate(calls) if _may_borrow(call)}
    if not borrowers:
        return {}
    structure = [(id(call.layer), call.inputs, call.outputs) for call in calls]
    known, found = _OBSERVED.get(model, (None, {}))
    if known == structure:
        return found
    read: dict[int, dict[int, Any]] = {}

    def run(given: list[Any]) -> None:
        values = dict(zip(inputs, given, strict=True))
        for number, call in enumerate(calls):
            with Reads() as scope:
                values.update(zip(call.outputs, call.run_on(with_same_masks(call, values)), strict=True))
            if number in borrowers:
                read.setdefault(id(call.layer), {}).update(scope.found)

    compiled(run).get_concrete_function(specs)
    result = {key: tuple(variables.values()) for key, variables in read.items()}
    _OBSERVED[model] = structure, result
    return result
