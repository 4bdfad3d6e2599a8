"""Selections made in small steps, against those of other scorers, deleted and merged.

For each model, seed (a trained network of its own), method and fraction of the units removed: test accuracy of the
network as deletion leaves it (plain), and merged by least squares. No fine-tuning. Methods:

- one shot: random (five draws); taylor (squared first order); spread (SD of the loss change over examples); obd; loo
  (leave one out); dropout regression (OLS, forward passes at a drop rate of .7);
- iterated: "taylor, iterated" (squared), "signed taylor, iterated" and "spread, iterated" score again after each of 20
  removals, greedy leaves out one at a time, gates are trained by backpropagation for each fraction;
- "taylor, merged steps", "spread, merged steps" and "divergence, merged steps" (spread of the divergence from the
  model of the step before): score, remove, merge, 20 times (`dropreg.prune_iteratively`);
- `dropreg.anneal_path`: "annealed" (dropped units at zero, gradients), "annealed, forward" (forward passes alone),
  both also "on accuracy" in place of the accuracy on what the whole network decides right; "annealed for merging"
  (dropped units predicted from those that stay), also "first order" (without second derivatives), "500 rounds" and
  "1000 rounds" (for each fraction, in place of 200).

"dense" is the whole network. Methods see the first 5,000 estimation images, merging the other 5,000 (where methods
merge in each step, the first as well); accuracy is on the test images, which nothing is chosen on. Seconds and rows are
those of the selection; those of a path are divided equally among its fractions and added up.

Writes anneal.csv (also what every selection keeps, as the hexadecimal digits of the packed bits), summary.csv (mean
over draws, then mean and SD over seeds) and settings.json. What anneal.csv holds already is not computed again, so that
a killed run goes on and runs can be put together.

Example: ``python experiments/anneal.py --models mlp cnn --seeds 0 1 2``
"""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import new_parser, run_methods, save_settings

import dropreg as dr
from dropreg.baselines.question import spent

FRACTIONS = (0.3, 0.5, 0.7, 0.8, 0.9)
SHIPPED = ("mlp", "cnn", "resnet", "vit")
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
    "annealed for merging, first order": {"ablation": "merged", "schedule": dr.Annealing(second_order=False)},
    "annealed for merging, 500 rounds": {"ablation": "merged", "rounds": 500},
    "annealed for merging, 1000 rounds": {"ablation": "merged", "rounds": 1000},
}
SQUARED = dr.Scorer(dr.taylor, {"statistic": "squared"})
SIGNED = dr.Scorer(dr.taylor)
ONE_SHOT = {"taylor": SQUARED, "spread": dr.Scorer(dr.spread), "obd": dr.Scorer(dr.obd)}
ITERATED = {
    "taylor, iterated": SQUARED,
    "signed taylor, iterated": SIGNED,
    "spread, iterated": dr.Scorer(dr.spread),
}
IN_STEPS = {
    "taylor, merged steps": SQUARED,
    "spread, merged steps": dr.Scorer(dr.spread),
    "divergence, merged steps": dr.Scorer(dr.spread, {"outcome": "divergence"}),
}
METHODS = ("random", *ONE_SHOT, "loo", "dropout regression", *ITERATED, "greedy", "gates", *IN_STEPS, *OPTIONS)
Pair = tuple[np.ndarray, np.ndarray]
Made = list[tuple[dr.Selection, float, int]]
"""Selection, seconds and row-equivalents for each fraction."""


def load(name: str, seed: int) -> Any:
    """A trained network: seed 0 is the shipped one, of those that ship."""
    if seed == 0 and name in SHIPPED:
        return dr.examples.load_model(name)
    import keras

    return keras.saving.load_model(Path(__file__).parent / "models" / f"{name}-{seed}.keras", compile=False)


def accuracy(model: Any, data: Pair) -> float:
    return float((model.predict(data[0], batch_size=500, verbose=0).argmax(axis=1) == data[1]).mean())


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return function(), time.perf_counter() - start


def annealed(options: dict[str, Any], model: Any, data: Pair, elements: dr.Elements, seed: int, n: Any) -> Made:
    """Selections of one path."""
    fractions, rounds = n
    asked = {"rounds": rounds, **options}
    path, seconds = timed(lambda: dr.anneal_path(model, data, elements, fractions=fractions, seed=seed, **asked))
    shares = (np.arange(1, len(fractions) + 1) / len(fractions)).tolist()
    return [(s, seconds * share, round(path.rows * share)) for s, share in zip(path.selections, shares, strict=True)]


def iterated(
    scorer: dr.Scorer, model: Any, data: Pair, elements: dr.Elements, seed: int, fractions: Any
) -> Iterator[tuple[dr.Selection, float, int]]:
    """Selections of a scorer that scores what is left after each step."""
    kept, rows, start = np.ones(len(elements), dtype=bool), 0, time.perf_counter()
    for fraction in sorted({*np.linspace(0, max(fractions), STEPS + 1)[1:].round(6).tolist(), *fractions}):
        table = scorer.function(model, data, elements, seed=seed, kept=kept, **scorer.settings)
        scores = np.where(kept, table.impact, table.impact.min() - 1.0)
        selection = dr.select(elements, scores, fraction=fraction)
        kept, rows = selection.kept, rows + spent(table)
        if fraction in fractions:
            yield selection, time.perf_counter() - start, rows


def gated(model: Any, data: Pair, elements: dr.Elements, seed: int, fractions: Any) -> Made:
    """Selections of gates, which are trained for each fraction."""
    made: Made = []
    for fraction in fractions:
        table, seconds = timed(lambda at=fraction: dr.gates(model, data, elements, fraction=at, seed=seed))
        made.append((dr.select(elements, table, fraction=fraction), seconds, spent(table)))
    return made


def regression(model: Any, data: Pair, elements: dr.Elements, rows: int, seed: int) -> dr.ImpactTable:
    """Dropout regression at one rate, forward passes alone."""
    asked: dict[str, Any] = {"design": dr.Bernoulli(0.7), "outcomes": ("loss",), "fidelity": None, "progress": False}
    return dr.regress(dr.sample(model, data, elements, rows=rows, seed=seed, **asked), outcome="loss")


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
        "loo": lambda: dr.leave_one_out(model, data, elements, rows=rows, seed=seed),
        "greedy": lambda: dr.greedy(model, data, elements, rows=rows, seed=seed),
        "dropout regression": lambda: regression(model, data, elements, rows, seed),
        **{n: lambda s=s: s.function(model, data, elements, seed=seed, **s.settings) for n, s in ONE_SHOT.items()},
    }
    table, seconds = timed(jobs[method])
    return [(dr.select(elements, table, fraction=fraction), seconds, spent(table)) for fraction in fractions]


def in_steps(method: str, model: Any, data: Pair, seed: int, fractions: Any) -> list[tuple[Any, float]]:
    """Smaller models that were merged in every step, each made from the one before, and seconds."""
    made: list[tuple[Any, float]] = []
    gone, seconds = 0.0, 0.0
    for fraction in fractions:
        steps = max(round(STEPS * (fraction - gone) / max(fractions)), 1)
        asked = {"scorer": IN_STEPS[method], "steps": steps, "schedule": "linear", "seed": seed}
        asked["fraction"] = 1.0 - (1.0 - fraction) / (1.0 - gone)  # of what is left
        small, more = timed(
            lambda model=model, asked=asked: dr.prune_iteratively(model, data, dr.elements(model), **asked)
        )
        model, gone, seconds = small.model, fraction, seconds + more
        made.append((model, seconds))
    return made


def packed(kept: np.ndarray) -> str:
    """Hexadecimal digits of what stays."""
    return np.packbits(kept).tobytes().hex()


def unpacked(digits: str, elements: dr.Elements) -> dr.Selection:
    """The selection of such digits."""
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(digits), np.uint8), count=len(elements))
    return dr.Selection(elements, bits.astype(bool))


def measure(name: str, seed: int, method: str, fractions: tuple[float, ...], arguments: Any) -> pd.DataFrame:
    """One row for each fraction (and draw)."""
    model = load(name, seed)
    elements = dr.elements(model)
    x, y = dr.examples.fashion_mnist("estimation")
    half = 500 if arguments.quick else 5000
    estimation, merging = (x[:half], y[:half]), (x[half : 2 * half], y[half : 2 * half])
    test = dr.examples.fashion_mnist("test")
    rows: list[dict[str, Any]] = []

    def add(fraction: float, **found: Any) -> None:
        rows.append({"model": name, "seed": seed, "method": method, "fraction": fraction, **found})
        print(*list(rows[-1].values())[:9], flush=True)

    if method == "dense":
        dense = accuracy(model, test)
        add(0.0, draw=0, plain=dense, merged=dense, params=model.count_params())
    elif method in IN_STEPS:
        for fraction, (small, seconds) in zip(
            fractions, in_steps(method, model, estimation, seed, fractions), strict=True
        ):
            add(fraction, draw=0, merged=accuracy(small, test), params=small.count_params(), seconds=seconds)
    else:
        budget = 5 if arguments.quick else None, arguments.rows // (100 if arguments.quick else 1)
        for draw in range(DRAWS if method == "random" else 1):
            made = make(method, model, estimation, elements, seed + 1000 * draw, fractions, *budget)
            for fraction, (selection, seconds, spent_rows) in zip(fractions, made, strict=True):
                plain, merged = dr.prune(model, selection), dr.prune(model, selection, merging)
                found = {"plain": accuracy(plain.model, test), "merged": accuracy(merged.model, test)}
                cost = {"params": merged.model.count_params(), "seconds": seconds, "rows": spent_rows}
                add(fraction, draw=draw, **found, **cost, kept=packed(selection.kept))
    return pd.DataFrame(rows)


def summarize(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and SD over seeds of the mean over draws."""
    values = ["plain", "merged", "params", "seconds", "rows"]
    by_seed = frame.groupby(["model", "method", "fraction", "seed"], sort=False)
    frame = by_seed.mean(numeric_only=True).reindex(columns=values)
    groups = frame.groupby(["model", "method", "fraction"], sort=False)
    columns = {}
    for value in ("plain", "merged"):
        columns |= {value: groups[value].mean(), f"{value}_sd": groups[value].std()}
    columns["params"] = groups["params"].mean()
    return pd.DataFrame({**columns, "seconds": groups["seconds"].mean(), "rows": groups["rows"].mean()})


def main() -> None:
    parser = new_parser(__doc__, "anneal")
    parser.add_argument("--models", nargs="+", choices=(*SHIPPED, "lstm", "gru"), default=["mlp"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--rows", type=int, default=2_000_000, help="of greedy, loo, regression (default: 2,000,000)")
    arguments = parser.parse_args()
    fractions = FRACTIONS[2:4] if arguments.quick else FRACTIONS
    frame = run_methods(arguments, "anneal", partial(measure, fractions=fractions, arguments=arguments))
    summary = summarize(frame)
    summary.to_csv(arguments.out / "summary.csv", float_format="%.4f")
    save_settings(arguments.out, arguments)
    print(summary.to_string(float_format=lambda value: f"{value:.4f}"))


if __name__ == "__main__":
    main()
