"""How many units can be removed within half a percentage point of accuracy, and does the limit hold?

For each model, seed (a trained network of its own) and method: the largest fraction of the units whose removal, merged
by least squares, is shown on held-out images to lose at most --limit of accuracy (`dropreg.AccuracyLimit`, level
.95), and what the smaller network loses on the test images, which nothing is chosen on. "annealed for merging,
distilled" is what `dropreg.prune(model, data=..., target=...)` does, "annealed for merging" the same without
distillation, "first order" without second derivatives either. The others remove a twentieth of the units at a time
until one step fails: in the order of one ranking (random, spread, squared first order, gates trained for .5,
gradient-assisted regression), or scored again in each step ("taylor, iterated"); "distilled" as the default is.

Of the 10,000 estimation images, the first 4,000 choose, merge and distil, the other 6,000 hold the promise to account.

Writes promise.csv, summary.csv (mean and SD over seeds) and settings.json. What promise.csv holds already is not
computed again.

Example: ``python experiments/promise.py --models mlp cnn --seeds 0 1 2``
"""

import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from _lib.arguments import new_parser
from _lib.gates import gates
from _lib.models import accuracy, load
from _lib.results import run_jobs, save_settings
from _lib.selections import ITERATED, iterated

import dropreg as dr
from dropreg.pruning import Schedule

FRACTIONS = (np.arange(1, 20) / 20).tolist()
ONCE: dict[str, Callable[..., dr.ImpactTable]] = {
    "random": dr.scorers.random,
    "spread": dr.scorers.spread,
    "taylor": partial(dr.scorers.taylor, statistic="squared"),
    "gates": partial(gates, fraction=0.5),
    "gradient-assisted regression": partial(dr.estimate, outcome="accuracy", progress=False),
}
AGAIN = "taylor, iterated"
ANNEALED = {"annealed for merging": None, "annealed for merging, first order": Schedule(second_order=False)}
DISTILLED = ", distilled"
DEFAULT = "annealed for merging" + DISTILLED
USUAL = (*ONCE, AGAIN, "annealed for merging", DEFAULT)
METHODS = (*ONCE, *(name + DISTILLED for name in ONCE), AGAIN, *ANNEALED, DEFAULT)
Pair = tuple[np.ndarray, np.ndarray]


def selections(method: str, model: Any, data: Pair, elements: dr.Elements, seed: int) -> Iterable[dr.Selection]:
    """Selections of rising fractions, for as long as somebody asks for them."""
    if method == AGAIN:
        return (made[0] for made in iterated(ITERATED[AGAIN], model, data, elements, seed, FRACTIONS))
    table = ONCE[method](model, data, elements, seed=seed)
    return (dr.select(elements, table, fraction=fraction) for fraction in FRACTIONS)


def make(method: str, model: Any, data: Pair, elements: dr.Elements, limit: dr.AccuracyLimit, seed: int) -> Any:
    """One method's smaller model: the last before the first that fails."""
    if method == DEFAULT:
        return dr.prune(model, data=data, target=limit, seed=seed)
    if method in ANNEALED:
        annealing = dr.Annealing(schedule=ANNEALED[method])
        try:
            selection = dr.anneal(
                model, data, elements, target=limit, ablation="merged", annealing=annealing, seed=seed
            )
            return dr.remove(model, selection, data=data)
        except dr.errors.TargetError as error:
            return dr.remove(model, error.best)
    best = dr.remove(model, dr.Selection.dropping(elements, []))
    recovery = "distill" if method.endswith(DISTILLED) else "none"
    for selection in selections(method.removesuffix(DISTILLED), model, data, elements, seed):
        small = dr.remove(model, selection, data=data, recovery=recovery, seed=seed)
        if limit.measure(small) > limit.most:
            break
        best = small
    return best


def measure(name: str, seed: int, method: str, most: float, quick: bool) -> pd.DataFrame:
    """One row."""
    model = load(name, seed)
    elements = dr.elements(model)
    x, y = dr.datasets.fashion_mnist("estimation")
    first, last = (1000, 3000) if quick else (4000, 10_000)
    choosing, held_out = (x[:first], y[:first]), (x[first:last], y[first:last])
    test, limit = dr.datasets.fashion_mnist("test"), dr.AccuracyLimit(most, held_out)
    start = time.perf_counter()
    small = make(method, model, choosing, elements, limit, seed)
    seconds, totals = time.perf_counter() - start, small.report.totals()["ratio"]
    row = {
        "model": name,
        "seed": seed,
        "method": method,
        "fraction": small.selection.fraction,
        "params": totals["params"],
        "macs": totals["macs"],
        "held_out_limit": limit.measure(small),
        "test_loss": accuracy(model, test) - accuracy(small.model, test),
        "seconds": seconds,
    }
    print(*row.values(), flush=True)
    return pd.DataFrame([row])


def main() -> None:
    parser = new_parser(__doc__, "promise")
    parser.add_argument("--models", nargs="+", choices=("mlp", "cnn", "resnet", "vit"), default=["mlp"])
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=[*ONCE, AGAIN, "annealed for merging", DEFAULT]
    )
    parser.add_argument("--limit", type=float, default=0.005, help="largest loss of accuracy (default: 0.005)")
    arguments = parser.parse_args()
    frame = run_jobs(
        arguments.out / "promise.csv",
        ["model", "seed", "method"],
        product(arguments.models, arguments.seeds, arguments.methods),
        partial(measure, most=arguments.limit, quick=arguments.quick),
    )
    frame = frame.assign(held=lambda found: found["test_loss"] <= arguments.limit)
    groups = frame.groupby(["model", "method"], sort=False)
    summary = groups[["fraction", "params", "macs", "test_loss", "held", "seconds"]].mean()
    summary = summary.assign(fraction_sd=groups["fraction"].std(), test_loss_sd=groups["test_loss"].std())
    summary.to_csv(arguments.out / "summary.csv", float_format="%.4f")
    save_settings(arguments.out, arguments)
    print(summary.to_string(float_format=lambda value: f"{value:.4f}"))


if __name__ == "__main__":
    main()
