"""The public names and their signatures are those of `public_api.txt`.

`PYTHONPATH=$PWD python tests/test_public_api.py` writes the file anew: do so where a change of the API is intended, and
name the change in CHANGELOG.md.
"""

import difflib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import dropreg as dr

SNAPSHOT = Path(__file__).with_name("public_api.txt")


def public_names(module: ModuleType) -> list[str]:
    """`__all__`, or the public names that a module without one defines."""
    defined = (name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__)
    return sorted(getattr(module, "__all__", None) or (name for name in defined if not name.startswith("_")))


def public_objects() -> dict[str, Any]:
    """All public objects by name, those of a namespace with the name of the namespace before a dot."""
    found: dict[str, Any] = {}
    for name in public_names(dr):
        value = getattr(dr, name)
        found[name] = value
        if isinstance(value, ModuleType):
            found |= {f"{name}.{inner}": getattr(value, inner) for inner in public_names(value)}
    return found


def signature_of(value: Any) -> str:
    """Names, kinds and defaults of parameters; annotations are left out, whose texts differ between versions."""
    if inspect.isclass(value) and issubclass(value, Exception) and "__init__" not in vars(value):
        return "(*args)"
    parameters = []
    for parameter in inspect.signature(value).parameters.values():
        default = parameter.default
        if inspect.isfunction(default):
            default = type("Named", (), {"__repr__": lambda _, name=default.__name__: name})()
        parameters.append(parameter.replace(annotation=parameter.empty, default=default))
    return re.sub(r"\d+\.\d{7,}(e-?\d+)?", lambda number: f"{float(number[0]):.4g}", str(inspect.Signature(parameters)))


def lines() -> Iterator[str]:
    """One line for each public name."""
    for name, value in public_objects().items():
        if isinstance(value, ModuleType):
            yield f"{name}: namespace"
        elif inspect.isclass(value) or inspect.isfunction(value):
            yield f"{name}{signature_of(value)}"
        else:
            yield f"{name}: {type(value).__name__}"


def test_the_public_api_is_that_of_the_snapshot() -> None:
    changes = [
        line
        for line in difflib.unified_diff(SNAPSHOT.read_text().splitlines(), list(lines()), lineterm="", n=0)
        if not line.startswith(("---", "+++", "@@"))
    ]
    assert not changes, (
        "the public API differs from tests/public_api.txt (- expected, + found):\n"
        + "\n".join(changes)
        + "\nWhere the change is intended, run `python tests/test_public_api.py` and name it in CHANGELOG.md."
    )


if __name__ == "__main__":
    SNAPSHOT.write_text("\n".join(lines()) + "\n")
    sys.stdout.write(SNAPSHOT.read_text())
