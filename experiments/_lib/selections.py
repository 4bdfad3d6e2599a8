"""Every method that selects units, with the options of the annealed ones."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import dropreg as dr
from dropreg.pruning import Schedule, fractions_by_step

from .gates import gates
from .models import Pair

FRACTIONS = (0.3, 0.5, 0.7, 0.8, 0.9)
STEPS = 20
DRAWS = 5
ACCURACY = {"outcome": "accuracy"}
FORWARD = {"gradients": False}
OPTIONS: dict[str, dict[str, Any]] = {
    "annealed": {},
    "annealed, forward": FORWARD,
    "annealed on accuracy": ACCURACY,
    "annealed on accuracy, forward": {**ACCURACY, **FORWARD},
    "annealed for merging": {"ablation": "merged"},
    "annealed for merging, first order": {"ablation": "merged", "schedule": Schedule(second_order=False)},
    "annealed for merging, 500 rounds": {"ablation": "merged", "rounds": 500},
    "annealed for merging, 1000 rounds": {"ablation": "merged", "rounds": 1000},
}
SQUARED = dr.scorers.Scorer(dr.scorers.taylor, {"statistic": "squared"})
SIGNED = dr.scorers.Scorer(dr.scorers.taylor)
ONE_SHOT = {"taylor": SQUARED, "spread": dr.scorers.Scorer(dr.scorers.spread), "obd": dr.scorers.Scorer(dr.scorers.obd)}
ITERATED = {
    "taylor, iterated": SQUARED,
    "signed taylor, iterated": SIGNED,
    "spread, iterated": dr.scorers.Scorer(dr.scorers.spread),
}
IN_STEPS = {
    "taylor, merged steps": SQUARED,
    "spread, merged steps": dr.scorers.Scorer(dr.scorers.spread),
    "divergence, merged steps": dr.scorers.Scorer(dr.scorers.spread, {"outcome": "divergence"}),
}
METHODS = ("random", *ONE_SHOT, "loo", "dropout regression", *ITERATED, "greedy", "gates", *IN_STEPS, *OPTIONS)
Made = list[tuple[dr.Selection, float, int]]
"""Selection, seconds and row-equivalents for each fraction."""


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return function(), time.perf_counter() - start


def annealed(options: dict[str, Any], model: Any, data: Pair, elements: dr.Elements, seed: int, n: Any) -> Made:
    """Selections of one path."""
    fractions, rounds = n
    asked = {"rounds": rounds, **options}
    ablation = asked.pop("ablation", "zero")
    common: dict[str, Any] = {"ablation": ablation, "annealing": dr.Annealing(**asked), "seed": seed}
    path, seconds = timed(lambda: dr.anneal_path(model, data, elements, fractions=fractions, **common))
    shares = (np.arange(1, len(fractions) + 1) / len(fractions)).tolist()
    return [(s, seconds * share, round(path.rows * share)) for s, share in zip(path.selections, shares, strict=True)]


def iterated(
    scorer: dr.scorers.Scorer, model: Any, data: Pair, elements: dr.Elements, seed: int, fractions: Any
) -> Iterator[tuple[dr.Selection, float, int]]:
    """Selections of a scorer that scores the kept units again after each step."""
    kept, rows, start = np.ones(len(elements), dtype=bool), 0, time.perf_counter()
    for fraction in sorted({*np.linspace(0, max(fractions), STEPS + 1)[1:].round(6).tolist(), *fractions}):
        table = scorer.function(model, data, elements, seed=seed, kept=kept, **scorer.settings)
        scores = np.where(kept, table.impact, table.impact.min() - 1.0)
        selection = dr.select(elements, scores, fraction=fraction)
        kept, rows = selection.kept, rows + dr.scorers.spent(table)
        if fraction in fractions:
            yield selection, time.perf_counter() - start, rows


def gated(model: Any, data: Pair, elements: dr.Elements, seed: int, fractions: Any) -> Made:
    """Selections of gates, which are trained for each fraction."""
    made: Made = []
    for fraction in fractions:
        table, seconds = timed(lambda at=fraction: gates(model, data, elements, fraction=at, seed=seed))
        made.append((dr.select(elements, table, fraction=fraction), seconds, dr.scorers.spent(table)))
    return made


def regression(model: Any, data: Pair, elements: dr.Elements, rows: int, seed: int) -> dr.ImpactTable:
    """Dropout regression at one rate, forward passes alone."""
    sampling = dr.Sampling(design=dr.designs.Bernoulli(0.7), gradients=False, fidelity=None)
    record = dr.sample(model, data, elements, rows=rows, sampling=sampling, seed=seed, progress=False)
    return dr.regress(record, outcome="loss")


def make(
    method: str, model: Any, data: Pair, elements: dr.Elements, seed: int, fractions: Any, rounds: int | None, rows: int
) -> Made:
    """One method's selections; `rounds` is for annealing, `rows` the budget of greedy, leave one out and regression."""
    if method in OPTIONS:
        return annealed(OPTIONS[method], model, data, elements, seed, (fractions, rounds))
    if method in ITERATED:
        return list(iterated(ITERATED[method], model, data, elements, seed, fractions))
    if method == "gates":
        return gated(model, data, elements, seed, fractions)
    if method == "random":
        return [(dr.Selection.random(elements, fraction, seed=seed), 0.0, 0) for fraction in fractions]
    jobs: dict[str, Callable[[], dr.ImpactTable]] = {
        "loo": lambda: dr.scorers.leave_one_out(model, data, elements, rows=rows, seed=seed),
        "greedy": lambda: dr.scorers.greedy(model, data, elements, rows=rows, seed=seed),
        "dropout regression": lambda: regression(model, data, elements, rows, seed),
        **{n: lambda s=s: s.function(model, data, elements, seed=seed, **s.settings) for n, s in ONE_SHOT.items()},
    }
    table, seconds = timed(jobs[method])
    return [(dr.select(elements, table, fraction=fraction), seconds, dr.scorers.spent(table)) for fraction in fractions]


def in_steps(method: str, model: Any, data: Pair, seed: int, fractions: Any) -> list[tuple[Any, float]]:
    """Smaller models that were merged in every step, each made from the one before, and seconds."""
    made: list[tuple[Any, float]] = []
    gone, seconds = 0.0, 0.0
    for fraction in fractions:
        steps = max(round(STEPS * (fraction - gone) / max(fractions)), 1)
        of_kept = 1.0 - (1.0 - fraction) / (1.0 - gone)
        in_between = fractions_by_step(of_kept, steps, "linear")
        asked: dict[str, Any] = {"scorer": IN_STEPS[method], "fractions": in_between, "seed": seed}
        small, more = timed(
            lambda model=model, asked=asked: dr.prune_iteratively(model, data, dr.elements(model), **asked)
        )
        model, gone, seconds = small.model, fraction, seconds + more
        made.append((model, seconds))
    return made


def packed(kept: np.ndarray) -> str:
    """Hexadecimal digits of the packed bits of the kept elements."""
    return np.packbits(kept).tobytes().hex()


def unpacked(digits: str, elements: dr.Elements) -> dr.Selection:
    """The selection of such digits."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8), count=len(elements))
    return dr.Selection(elements, bits.astype(bool))
