"""Count what keeps the package easy to find one's way in, and fail where a limit is passed.

Run ``python .ci/house.py`` in the repository. Layers and circles of imports are checked by ``lint-imports``.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dropreg"
LOADS_TENSORFLOW = ("graph", "layers", "network", "surgery", "recovery", "pruning")
"""Packages whose modules may import TensorFlow and Keras when they are imported."""
PRIVATE_KERAS = "graph/_access.py"
LIMITS = {
    "Python files in the top folder": 8,
    "first-level packages": 13,
    "names in dropreg.__all__": 49,
    "arguments of the longest signature": 13,
    "lines of the package": 31_000,
    "imports from a file of another package": 0,
    "modules that load TensorFlow where none may": 0,
    "modules that read private parts of Keras": 0,
}


def trees() -> Iterator[tuple[Path, ast.Module]]:
    """Every module of the package, by its path relative to the package, parsed."""
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE), ast.parse(path.read_text(encoding="utf-8"))


def n_arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Arguments of a function without `self` and `cls`."""
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def target_of(path: Path, node: ast.ImportFrom) -> list[str]:
    """Parts of the module that a relative import names, from the package on; empty for other imports."""
    if node.level == 0:
        return []
    package = list(path.parts[:-1])
    base = package[: len(package) - (node.level - 1)] if node.level <= len(package) + 1 else []
    return [*base, *(node.module.split(".") if node.module else [])]


def reaches_inside(path: Path, node: ast.ImportFrom) -> bool:
    """Whether an import names a file of another first-level package instead of the package."""
    target = target_of(path, node)
    return len(target) > 1 and target[0] != path.parts[0] and (PACKAGE / target[0]).is_dir()


def imports_tensorflow(tree: ast.Module) -> bool:
    """Whether a module imports TensorFlow or Keras when it is imported itself."""
    names = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom) and node.level == 0]
    return any(name.split(".")[0] in ("tensorflow", "keras") for name in names)


def public_names() -> list[str]:
    """The entries of ``dropreg.__all__``."""
    for node in ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__":
            return ast.literal_eval(node.value)
    return []


def counts() -> dict[str, int]:
    """The figures that `LIMITS` bounds."""
    functions, inside, loading, private = [0], 0, 0, 0
    for path, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                functions.append(n_arguments(node))
            if isinstance(node, ast.ImportFrom):
                inside += reaches_inside(path, node)
                private += (node.module or "").startswith("keras.src") and str(path) != PRIVATE_KERAS
        loading += imports_tensorflow(tree) and path.parts[0] not in LOADS_TENSORFLOW
    folders = [path for path in PACKAGE.iterdir() if (path / "__init__.py").exists()]
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py"))
    figures = (len(list(PACKAGE.glob("*.py"))), len(folders), len(public_names()), max(functions), lines)
    return dict(zip(LIMITS, (*figures, inside, loading, private), strict=True))


def main() -> int:
    """Print every figure beside its limit; 1 if one is passed."""
    figures = counts()
    for name, figure in figures.items():
        print(f"{'over' if figure > LIMITS[name] else 'ok':>4}  {name}: {figure:,} (at most {LIMITS[name]:,})")
    return int(any(figure > LIMITS[name] for name, figure in figures.items()))


if __name__ == "__main__":
    sys.exit(main())
