"""Verbs that take the fields of options classes as arguments of their own, with quiet defaults for tests."""

from dataclasses import fields
from typing import Any

import dropreg as dr
from dropreg.pruning import fractions_by_step


def _options(kind: Any, given: dict[str, Any]) -> dict[str, Any]:
    """`given` without the fields of an options class, and those as an object of it under its name in lower case."""
    names = {field.name for field in fields(kind)}
    mine = {name: given.pop(name) for name in list(given) if name in names}
    return {**given, kind.__name__.lower(): kind(**mine)} if mine else given


def sample(*arguments: Any, **given: Any) -> dr.Record:
    defaults = {"outcomes": ("accuracy", "loss", "margin"), "gradients": False, "flips": 0, "progress": False}
    return dr.sample(*arguments, **_options(dr.Sampling, {**defaults, **given}))


def estimate(*arguments: Any, **given: Any) -> dr.ImpactTable:
    return dr.estimate(*arguments, **_options(dr.Sampling, {"outcome": "accuracy", "progress": False, **given}))


def anneal(*arguments: Any, **given: Any) -> dr.Selection:
    return dr.anneal(*arguments, **_options(dr.Annealing, {"progress": False, **given}))


def anneal_path(*arguments: Any, **given: Any) -> dr.SelectionPath:
    return dr.anneal_path(*arguments, **_options(dr.Annealing, {"progress": False, **given}))


def prune_iteratively(*arguments: Any, **given: Any) -> dr.Pruned:
    """With `fraction`, `steps` and `schedule` in place of `fractions`, and the fields of `FineTuning`."""
    if "fraction" in given:
        schedule = given.pop("schedule", "cubic")
        fractions = fractions_by_step(given.pop("fraction"), given.pop("steps", 10), schedule)
        n_elements = len(arguments[2])
        counts = sorted({round(fraction * n_elements) for fraction in fractions} - {0})
        given["fractions"] = [count / n_elements for count in counts] or fractions[-1:]
    if given.get("recovery") is not None or "tuning" in given:
        fields = {"data": given.pop("tuning"), "validation": given.pop("validation", None)}
        given["tuning"] = dr.FineTuning(**fields, recovery=given.pop("recovery", dr.Recovery()))
    return dr.prune_iteratively(*arguments, **given)
