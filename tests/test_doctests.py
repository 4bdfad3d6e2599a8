"""Examples in docstrings run and print what they show; slow ones are marked ``# doctest: +SKIP`` in the docstring."""

import doctest
import importlib
import pkgutil
from functools import cache
from pathlib import Path

import pytest

import dropreg as dr

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@cache
def examples() -> dict[str, doctest.DocTest]:
    """The examples of each docstring in the package, by the name of what it describes."""
    names = [dr.__name__, *(module.name for module in pkgutil.walk_packages(dr.__path__, f"{dr.__name__}."))]
    modules = (importlib.import_module(name) for name in names if not name.endswith("__main__"))
    return {test.name: test for module in modules for test in doctest.DocTestFinder().find(module) if test.examples}


@pytest.mark.usefixtures("few_rounds")
@pytest.mark.parametrize("name", examples())
def test_examples_print_what_they_show(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an empty folder, in which examples may write files."""
    monkeypatch.chdir(tmp_path)
    report: list[str] = []
    failed, _ = doctest.DocTestRunner(optionflags=FLAGS).run(examples()[name], out=report.append, clear_globs=False)
    assert not failed, "".join(report)
