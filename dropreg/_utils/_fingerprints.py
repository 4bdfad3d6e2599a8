"""Identify functions and objects by what they compute, in every process alike."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from ..errors import ParameterError
from ._origins import is_installed, keras_config, module_of, origin_of, own_functions, used_names

_PLAIN = (str, bytes, int, float, complex, type(None), type(...), type(NotImplemented))
_NOT_COMPUTED = {
    *("__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__annotate__", "__annotate_func__"),
    *("__annotations_cache__", "__static_attributes__", "__firstlineno__", "__qualname__", "__match_args__"),
    *("__abstractmethods__", "_abc_impl", "__dataclass_fields__", "__dataclass_params__", "__parameters__"),
    "__slotnames__",
}
"""Entries of a class that do not change what its methods compute."""


class Versioned:
    """Base class of what users may identify by a version of their own, instead of by its code and data."""

    version: str | None = None


@dataclass(frozen=True)
class Identity:
    """What identifies a value.

    Attributes
    ----------
    digest : str
        Hash of the code and data that the value uses.
    unknown : tuple of str
        The parts that cannot be compared, and are in the hash by their type only.
    """

    digest: str
    unknown: tuple[str, ...] = ()


def identify(value: Any) -> Identity:
    """Return what identifies a function, object or plain value.

    Functions are hashed by their bytecode, their defaults, and the values of their closure and of the global variables
    that they use, also inside helper functions and modules of the user's; objects by their class and state, arrays by
    their values, functions and classes of installed packages by name and version. The hash depends on the version of
    Python.
    """
    walk = _Walk()
    try:
        return Identity(walk.digest(value), tuple(dict.fromkeys(walk.unknown)))
    except RecursionError:
        return Identity(_hash(["nested"]), (f"{type(value).__name__} nested too deeply",))


def fingerprint(value: Any) -> str:
    """Return the hash of `identify`."""
    return identify(value).digest


def check_version(version: Any) -> None:
    """Raise ParameterError unless `version` is None or a string that is not empty."""
    if version is not None and (not isinstance(version, str) or not version):
        raise ParameterError(f"`version` must be a string such as '1' or None, received {version!r}.")


def check_identified(what: str, value: Any) -> None:
    """Raise ParameterError if a value, called `what`, cannot be identified by a later call on the same folder."""
    if unknown := identify(value).unknown:
        raise ParameterError(
            f"{what} must be one that can be recognized where results are stored in a folder (`out`), because only the "
            f"same one may resume them, received one that uses {', '.join(unknown[:3])}: pass version='1' (for a class "
            "of your own, set the attribute `version`), and another string whenever its values change; or leave out "
            "`out`."
        )


class _Walk:
    """One walk through a value and all that it uses."""

    def __init__(self) -> None:
        self.unknown: list[str] = []
        self._path: list[str] = []
        self._inside: dict[int, int] = {}  # depth of the values around the present one, which may contain themselves
        self._known: dict[int, tuple[Any, str]] = {}  # values are kept, so that none takes the id of another

    def digest(self, value: Any, name: str = "") -> str:
        """Return the hash of a value, which is called `name` in messages."""
        if isinstance(value, _PLAIN):
            return _hash([type(value).__name__, repr(value)])
        key = id(value)
        if key in self._known:
            return self._known[key][1]
        if key in self._inside:
            return f"{len(self._inside) - self._inside[key]} levels above"
        self._inside[key] = len(self._inside)
        with self._called(name):
            found = _hash([type(value).__name__, *self._parts(_unwrapped(value))])
        del self._inside[key]
        self._known[key] = value, found
        return found

    @contextmanager
    def _called(self, name: str) -> Iterator[None]:
        self._path.append(name)
        yield
        self._path.pop()

    def _parts(self, value: Any) -> Iterable[str]:
        """Return the strings to hash for a value."""
        for kinds, parts in _KINDS:
            if isinstance(value, kinds):
                return parts(self, value)
        return self._object(value)

    def _all(self, values: Iterable[Any]) -> Iterator[str]:
        for value in values:
            yield self.digest(value)

    def _set(self, values: Iterable[Any]) -> list[str]:
        return sorted(self._all(values))

    def _dict(self, values: Any) -> Iterator[str]:
        for key, value in values.items():
            yield self.digest(key)
            yield self.digest(value, str(key))

    def _array(self, values: Any) -> Iterator[str]:
        array = np.asarray(values)
        yield f"{array.dtype.str} {array.shape}"
        yield self.digest(array.tolist()) if array.dtype.hasobject else hashlib.sha256(array.tobytes()).hexdigest()

    def _code(self, code: CodeType) -> Iterator[str]:
        n_named = code.co_argcount + code.co_kwonlyargcount
        yield f"{code.co_argcount} {code.co_kwonlyargcount} {code.co_flags} {code.co_varnames[:n_named]}"
        yield f"{code.co_code.hex()} {code.co_exceptiontable.hex()} {code.co_names}"
        yield from self._all(code.co_consts)

    def _function(self, function: FunctionType) -> Iterator[str]:
        code, installed = function.__code__, is_installed(function)
        if installed and "<" not in code.co_qualname:
            yield f"{module_of(function)}.{code.co_qualname} {origin_of(module_of(function))}"
            return
        yield from self._all([code, function.__defaults__, function.__kwdefaults__])
        attributes = used_names(code)[1]
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
            yield from self._variable(name, _content(cell), attributes)
        if not installed:
            yield from self._globals(function)
        yield from self._dict({k: v for k, v in vars(function).items() if not k.startswith("_") and k[-2:] != "__"})

    def _globals(self, function: FunctionType) -> Iterator[str]:
        """Yield the hashes of the global variables and imported modules that a function uses."""
        names, attributes, imported = used_names(function.__code__)
        scope = function.__globals__
        for name in sorted(names & scope.keys()):
            yield from self._variable(name, scope[name], attributes)
        for name in sorted(imported):
            try:
                module = importlib.import_module(importlib.util.resolve_name(name, scope.get("__package__") or ""))
            except ImportError:
                self._cannot(f"module {name}", name)
            else:
                yield from self._variable(name, module, attributes)

    def _variable(self, name: str, value: Any, attributes: set[str]) -> Iterator[str]:
        """Yield the hashes of a variable; of a user's module only what is among `attributes`, names in the code."""
        yield name
        if not isinstance(value, ModuleType) or is_installed(value):
            yield self.digest(value, name)
        elif id(value) not in self._inside:
            self._inside[id(value)] = len(self._inside)
            for attribute in sorted(attributes & vars(value).keys()):
                with self._called(name):
                    yield from self._variable(attribute, vars(value)[attribute], attributes)
            del self._inside[id(value)]

    def _method(self, method: MethodType) -> Iterator[str]:
        return self._all([method.__func__, method.__self__])

    def _partial(self, value: Any) -> Iterator[str]:
        return self._all([value.func, value.args, value.keywords])

    def _descriptor(self, value: Any) -> Iterator[str]:
        parts = (getattr(value, name, None) for name in ("__func__", "fget", "fset"))
        return self._all(part for part in parts if part is not None)

    def _module(self, module: ModuleType) -> Iterator[str]:
        if not is_installed(module):
            self._cannot("module", module.__name__)
        yield f"{module.__name__} {origin_of(module.__name__)}"

    def _class(self, kind: type) -> Iterator[str]:
        origin = origin_of(kind.__module__)
        yield f"{kind.__qualname__}" if origin is None else f"{kind.__module__}.{kind.__qualname__} {origin}"
        if origin is None:
            yield from self._all(kind.__bases__)
            yield from self._dict({k: v for k, v in sorted(vars(kind).items()) if k not in _NOT_COMPUTED})

    def _builtin(self, function: Any) -> Iterator[str]:
        """Yield the name of a compiled function that an installed package has under this name."""
        name = getattr(function, "__qualname__", getattr(function, "__name__", ""))
        for module in (getattr(function, "__module__", None), "builtins", "numpy", "scipy.special"):
            if module in sys.modules and origin_of(module) and getattr(sys.modules[module], name, None) is function:
                yield f"{module}.{name} {origin_of(module)}"
                return
        owner = getattr(function, "__self__", None)
        yield name
        if owner is None or isinstance(owner, ModuleType):
            self._cannot("compiled function", name)
        else:
            yield self.digest(owner)

    def _object(self, value: Any) -> Iterator[str]:
        kind = type(value)
        if isinstance(value, Versioned) and value.version is not None:
            yield f"{kind.__qualname__} {getattr(value, 'name', '')} version {value.version}"
            return
        yield self.digest(kind)
        if any(base.__module__.partition(".")[0] == "keras" for base in kind.__mro__) and hasattr(value, "get_config"):
            yield from self._keras(value)
            return
        try:
            is_array = hasattr(value, "__array__") and hasattr(value, "dtype") and not hasattr(value, "index")
            reduced = np.asarray(value) if is_array else value.__reduce_ex__(4)
        except Exception:  # any object may refuse, by an error of its own
            self._cannot(f"{kind.__module__}.{kind.__qualname__}", "")
            return
        if isinstance(reduced, str):
            yield from self._builtin(value)
        elif isinstance(reduced, np.ndarray):
            yield from self._array(reduced)
        else:
            function, arguments, *state = reduced
            yield from self._all([function, arguments])
            yield from self._all(part if part is None or k == 0 else list(part) for k, part in enumerate(state[:3]))

    def _keras(self, value: Any) -> Iterator[str]:
        """Yield the configuration and weights of an object of Keras, and its functions, which have only names there."""
        config = keras_config(value)
        if config is None:
            config = {k: v for k, v in vars(value).items() if isinstance(v, _PLAIN) and k[0] != "_"}
        yield from self._dict({**config, "name": None})  # Keras counts names up
        if hasattr(value, "get_weights"):
            yield from self._all(value.get_weights())
        yield from self._dict(own_functions(value))

    def _cannot(self, what: str, name: str) -> None:
        where = ".".join(part for part in (*self._path, name) if part)
        self.unknown.append(f"'{where}' ({what})" if where else what)


_KINDS: Any = (
    ((tuple, list), _Walk._all),
    ((set, frozenset), _Walk._set),
    (dict, _Walk._dict),
    ((np.ndarray, np.generic), _Walk._array),
    (CodeType, _Walk._code),
    (FunctionType, _Walk._function),
    (MethodType, _Walk._method),
    (partial, _Walk._partial),
    ((staticmethod, classmethod, property), _Walk._descriptor),
    (ModuleType, _Walk._module),
    (type, _Walk._class),
    ((BuiltinFunctionType, np.ufunc), _Walk._builtin),
)
"""What is hashed in which way."""


def _hash(parts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _unwrapped(value: Any) -> Any:
    """Return the Python function inside a compiled or cached one, else the value."""
    for name in ("python_function", "py_func", "__wrapped__"):
        inner = None if isinstance(value, FunctionType | type | ModuleType) else getattr(value, name, None)
        if isinstance(inner, FunctionType):
            return inner
    return value


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # the cell is still empty
        return None
