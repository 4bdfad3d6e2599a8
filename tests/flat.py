"""Verbs that take the fields of `Sampling` and `Annealing` as arguments of their own, with quiet defaults for tests."""

from dataclasses import fields
from typing import Any

import dropreg as dr


def _options(kind: Any, given: dict[str, Any]) -> dict[str, Any]:
    """`given` without the fields of an options class, and those as an object of it under its name in lower case."""
    names = {field.name for field in fields(kind)}
    mine = {name: given.pop(name) for name in list(given) if name in names}
    return {**given, kind.__name__.lower(): kind(**mine)} if mine else given


def sample(*arguments: Any, **given: Any) -> dr.Record:
    defaults = {"outcomes": ("accuracy", "loss", "margin"), "gradients": False, "progress": False}
    return dr.sample(*arguments, **_options(dr.Sampling, {**defaults, **given}))


def estimate(*arguments: Any, **given: Any) -> dr.ImpactTable:
    return dr.estimate(*arguments, **_options(dr.Sampling, {"outcome": "accuracy", "progress": False, **given}))


def anneal(*arguments: Any, **given: Any) -> dr.Selection:
    return dr.anneal(*arguments, **_options(dr.Annealing, {"progress": False, **given}))


def anneal_path(*arguments: Any, **given: Any) -> dr.SelectionPath:
    return dr.anneal_path(*arguments, **_options(dr.Annealing, {"progress": False, **given}))
