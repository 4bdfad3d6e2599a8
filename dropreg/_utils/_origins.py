"""Where functions, classes and modules come from, and what they name."""

import dis
import site
import sys
import sysconfig
import warnings
from functools import cache
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any


def is_installed(value: Any) -> bool:
    """Return whether a function, class or module belongs to Python, to dropreg or to another installed package."""
    return origin_of(module_of(value)) is not None


def keras_config(value: Any) -> dict[str, Any] | None:
    """Return the configuration of an object of Keras, None if its class does not say it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about lambdas, whose code is compared by itself
        try:
            return value.get_config()
        except (NotImplementedError, AttributeError):
            return None


def own_functions(value: Any) -> dict[str, FunctionType]:
    """Return the attributes of an object that are Python functions of the user's."""
    return {k: v for k, v in vars(value).items() if isinstance(v, FunctionType) and not is_installed(v)}


@cache
def used_names(code: CodeType) -> tuple[set[str], set[str], set[str]]:
    """Return the global variables, attributes and imported modules that code names, functions inside it included."""
    globals_, attributes, imported = set[str](), set(code.co_names), set[str]()
    before: list[Any] = [None, None]
    for instruction in dis.get_instructions(code):
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"):
            globals_.add(instruction.argval)
        elif instruction.opname == "IMPORT_NAME":
            imported.add("." * int(before[0] or 0) + instruction.argval)
        before = [before[1], instruction.argval]
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            for names, inner in zip((globals_, attributes, imported), used_names(constant), strict=True):
                names.update(inner)
    return globals_, attributes, imported


def module_of(value: Any) -> str:
    """Return the name of the module of a function (whatever a decorator says), class or module."""
    if isinstance(value, FunctionType):
        return str(value.__globals__.get("__name__"))
    return value.__name__ if isinstance(value, ModuleType) else str(getattr(value, "__module__", None))


@cache
def origin_of(module: str) -> str | None:
    """Return "python", or the package of a module and its version; None for modules of the user's."""
    root = str(module).partition(".")[0]
    if root.startswith("_cython_"):  # the type of compiled functions, made at run time
        return root
    if root in sys.stdlib_module_names or root in ("keras", "numpy", "tensorflow", __name__.partition(".")[0]):
        return "python" if root in sys.stdlib_module_names else root  # a run records these versions anyway
    package = sys.modules.get(root)
    places = [getattr(package, "__file__", None), *getattr(package, "__path__", ())]
    for place in places:
        if place and any(Path(place).is_relative_to(folder) for folder in _installed_folders()):
            return f"{root} {getattr(package, '__version__', '')}"
    return None


@cache
def _installed_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    return paths["purelib"], paths["platlib"], *site.getsitepackages(), site.getusersitepackages()
