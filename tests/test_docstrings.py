"""Every public docstring describes parameters and results and has examples, and type checkers see the type hints."""

import importlib.resources
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from test_public_api import public_objects

import dropreg as dr

MADE_BY_FUNCTIONS = (dr.Record, dr.scorers.MaskedGame)
HOOKS = ("on_train_begin", "on_epoch_end", "on_train_end")
"""Of Keras' callbacks, whose documentation says what they are given."""


def methods(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Public methods that are defined in a class, but for overrides that say nothing new."""
    for name, value in vars(kind).items():
        function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        inherits = any(name in vars(base) for base in kind.__mro__[1:]) and not function.__doc__
        if inspect.isfunction(function) and not name.startswith("_") and name not in HOOKS and not inherits:
            yield f"{kind.__name__}.{name}", function


def public() -> dict[str, Callable[..., Any]]:
    """Functions and methods, by name."""
    found: dict[str, Callable[..., Any]] = {}
    rules = {f"layers.{name}": getattr(dr.layers, name) for name in ("register", "rule_for", "Carry", "Mix", "Rule")}
    for name, value in ({name: getattr(dr, name) for name in dr.__all__} | rules).items():
        if inspect.isclass(value):
            found |= dict(methods(value))
        elif inspect.isfunction(value):
            found[name] = value
    return found


def described(doc: str) -> set[str]:
    """Names at the beginning of the entries of a docstring."""
    entries = re.findall(r"^((?:\*{0,2}\w+,\s(?:\\\n)?)*\*{0,2}\w+)(?: : .*)?$", doc, re.MULTILINE)
    return {name.strip("* ") for entry in entries for name in re.split(r",\s(?:\\\n)?", entry)}


@pytest.mark.parametrize("name", public())
def test_parameters_and_results_are_described(name: str) -> None:
    function = public()[name]
    doc, signature = inspect.getdoc(function) or "", inspect.signature(function)
    assert doc
    shared = described(inspect.getdoc(dr.layers.Rule) or "") if name.startswith("Rule.") else set()
    missing = set(signature.parameters) - {"self", "cls"} - described(doc) - shared
    assert not missing, f"no entry for {sorted(missing)}"
    if signature.return_annotation not in (None, "None"):
        assert re.search(r"^(Returns|Yields)\n-{6,7}$", doc, re.MULTILINE), "nothing on what it returns"


@pytest.mark.parametrize(
    "kind",
    [value for name in dr.__all__ if inspect.isclass(value := getattr(dr, name)) and value not in MADE_BY_FUNCTIONS],
)
def test_every_field_of_a_class_is_described(kind: type) -> None:
    doc = inspect.getdoc(kind) or ""
    assert doc
    takes_a_text = issubclass(kind, Exception) and "__init__" not in vars(kind)
    made_from = () if takes_a_text else inspect.signature(kind).parameters
    missing = set(made_from) - described(doc)
    assert not missing, f"no entry for {sorted(missing)}"
    bare = [name for name, value in vars(kind).items() if isinstance(value, property) and not value.__doc__]
    assert not bare, f"no docstring of {bare}"


def test_every_public_function_and_class_has_examples() -> None:
    described = {name: value for name, value in public_objects().items() if inspect.isclass(value)}
    described |= {name: value for name, value in public_objects().items() if inspect.isfunction(value)}
    own = {name: inspect.cleandoc(value.__doc__ or "") for name, value in described.items()}
    missing = sorted(name for name, doc in own.items() if not re.search(r"^Examples\n-{8}$", doc, re.MULTILINE))
    assert not missing, f"{len(missing)} docstrings without a section Examples: {', '.join(missing)}"


def test_type_hints_are_for_users_too() -> None:
    assert (importlib.resources.files("dropreg") / "py.typed").is_file()
