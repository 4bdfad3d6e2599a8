"""As much as can go within half a percentage point: how much that is, and whether the promise holds.

For each model, seed (a trained network of its own) and method: the largest fraction of the units whose removal, merged
by least squares, is shown on held-out images to lose less than --limit of accuracy (`dropreg.AccuracyLimit`, level
.95), and what the smaller network loses on the test images, which nothing is chosen on. "annealed for merging" is
`dropreg.prune(model, data=..., target=...)`; the others rank the units once and find the number by bisection.

Of the 10,000 estimation images, the first 4,000 choose and merge, the other 6,000 hold the promise to account.

Example: ``python experiments/promise.py --models mlp cnn --seeds 0 1 2``
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from anneal import accuracy, load
from common import new_parser, save_settings

import dropreg as dr

SCORERS: dict[str, Callable[..., dr.ImpactTable]] = {"random": dr.random, "spread": dr.spread, "estimate": dr.estimate}
METHODS = (*SCORERS, "annealed for merging")
Pair = tuple[np.ndarray, np.ndarray]


def by_bisection(model: Any, data: Pair, table: dr.ImpactTable, elements: dr.Elements, limit: dr.AccuracyLimit) -> Any:
    """The smaller model with the most units gone that keeps to the limit."""
    low, high = 0, round(len(elements) * 0.975)
    best = dr.prune(model, dr.Selection.dropping(elements, []))
    while high - low > 1:
        middle = (low + high) // 2
        small = dr.prune(model, dr.select(elements, table, fraction=middle / len(elements)), data)
        if limit.measure(small) <= limit.most:
            low, best = middle, small
        else:
            high = middle
    return best


def make(method: str, model: Any, data: Pair, elements: dr.Elements, limit: dr.AccuracyLimit, seed: int) -> Any:
    """One method's smaller model."""
    if method in SCORERS:
        table = SCORERS[method](model, data, elements, seed=seed)
        return by_bisection(model, data, table, elements, limit)
    try:
        return dr.prune(model, data=data, target=limit, seed=seed)
    except dr.TargetError as error:
        return dr.prune(model, error.best)


def measure(name: str, seed: int, methods: list[str], most: float, quick: bool) -> pd.DataFrame:
    """One row a method."""
    model = load(name, seed)
    elements = dr.elements(model)
    x, y = dr.examples.fashion_mnist("estimation")
    first, last = (1000, 3000) if quick else (4000, 10_000)
    choosing, held_out = (x[:first], y[:first]), (x[first:last], y[first:last])
    test = dr.examples.fashion_mnist("test")
    dense, limit, rows = accuracy(model, test), dr.AccuracyLimit(most, held_out), []
    for method in methods:
        start = time.perf_counter()
        small = make(method, model, choosing, elements, limit, seed)
        totals = small.report.totals()["ratio"]
        rows.append(
            {
                "model": name,
                "seed": seed,
                "method": method,
                "fraction": small.selection.fraction,
                "params": totals["params"],
                "macs": totals["macs"],
                "held_out_limit": limit.measure(small),
                "test_loss": dense - accuracy(small.model, test),
                "seconds": time.perf_counter() - start,
            }
        )
        print(*rows[-1].values(), flush=True)
    return pd.DataFrame(rows)


def main() -> None:
    parser = new_parser(__doc__, "promise")
    parser.add_argument("--models", nargs="+", choices=("mlp", "cnn", "resnet", "vit"), default=["mlp"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--limit", type=float, default=0.005, help="largest loss of accuracy (default: 0.005)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    frames: list[pd.DataFrame] = []
    for name in arguments.models:
        for seed in arguments.seeds:
            frames.append(measure(name, seed, arguments.methods, arguments.limit, arguments.quick))
            pd.concat(frames).to_csv(arguments.out / "promise.csv", index=False, float_format="%.5f")
    frame = pd.concat(frames).assign(held=lambda found: found["test_loss"] <= arguments.limit)
    groups = frame.groupby(["model", "method"], sort=False)
    summary = groups[["fraction", "params", "macs", "test_loss", "held", "seconds"]].mean()
    summary = summary.assign(fraction_sd=groups["fraction"].std(), test_loss_sd=groups["test_loss"].std())
    summary.to_csv(arguments.out / "summary.csv", float_format="%.4f")
    save_settings(arguments.out, arguments)
    print(summary.to_string(float_format=lambda value: f"{value:.4f}"))


if __name__ == "__main__":
    main()
