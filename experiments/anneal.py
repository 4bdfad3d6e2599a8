"""Selections made in small steps, against selections made in one, before and after merging.

For each model, seed (a trained network of its own), method and fraction of the units removed: test accuracy of the
network as deletion leaves it (plain), and merged by least squares. No fine-tuning. Methods: random units; spread of
the loss change over examples; gates trained by backpropagation; `dr.anneal_path` with dropped units at zero, with the
gradient's help (zero) and by forward passes alone (forward), and with dropped units predicted from those that stay
(merged). "dense" is the whole network. Methods see the first 5,000 estimation images, merging the other 5,000;
accuracy is on the test images, which nothing is chosen on. Seconds and rows are those of the selection; those
of a path are divided equally among its fractions, whose stages have equally many rounds, and added up.

Example: ``python experiments/anneal.py --models mlp --seeds 0 1 2``
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import new_parser, save_settings

import dropreg as dr

FRACTIONS = (0.5, 0.7, 0.8, 0.9)
ROUNDS = {"zero": 50, "forward": 50, "merged": 50}
OPTIONS: dict[str, dict[str, Any]] = {
    "zero": {},
    "forward": {"gradients": False},
    "merged": {"ablation": "merged"},
}
METHODS = ("random", "spread", "gates", *OPTIONS)
Pair = tuple[np.ndarray, np.ndarray]
Made = list[tuple[dr.Selection, float, int]]
"""Selection, seconds and row-equivalents for each fraction."""


def load(name: str, seed: int) -> Any:
    """A trained network: seed 0 is the shipped one."""
    if seed == 0:
        return dr.examples.load_model(name)
    import keras

    return keras.saving.load_model(Path(__file__).parent / "models" / f"{name}-{seed}.keras", compile=False)


def accuracy(model: Any, data: Pair) -> float:
    return float((model.predict(data[0], batch_size=500, verbose=0).argmax(axis=1) == data[1]).mean())


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return function(), time.perf_counter() - start


def make(method: str, model: Any, data: Pair, elements: dr.Elements, seed: int, fractions: Any, rounds: int) -> Made:
    """One method's selections."""
    if method in OPTIONS:
        path, seconds = timed(
            lambda: dr.anneal_path(
                model, data, elements, fractions=fractions, rounds=rounds, seed=seed, **OPTIONS[method]
            )
        )
        shares = (np.arange(1, len(fractions) + 1) / len(fractions)).tolist()
        return [
            (s, seconds * share, round(path.rows * share)) for s, share in zip(path.selections, shares, strict=True)
        ]
    if method == "gates":
        made: Made = []
        for fraction in fractions:
            table, seconds = timed(lambda at=fraction: dr.gates(model, data, elements, fraction=at, seed=seed))
            made.append((dr.select(elements, table, fraction=fraction), seconds, table.rows))
        return made
    if method == "random":
        return [(dr.Selection.random(elements, fraction, seed=seed), 0.0, 0) for fraction in fractions]
    table, seconds = timed(lambda: dr.spread(model, data, elements, seed=seed))
    return [(dr.select(elements, table, fraction=fraction), seconds, table.rows) for fraction in fractions]


def measure(name: str, seed: int, methods: list[str], fractions: tuple[float, ...], quick: bool) -> pd.DataFrame:
    """One row for each method and fraction."""
    model = load(name, seed)
    elements = dr.elements(model)
    x, y = dr.examples.fashion_mnist("estimation")
    half = 500 if quick else 5000
    estimation, merging = (x[:half], y[:half]), (x[half : 2 * half], y[half : 2 * half])
    test = dr.examples.fashion_mnist("test")
    dense = accuracy(model, test)
    rows: list[dict[str, Any]] = [{"method": "dense", "fraction": 0.0, "plain": dense, "merged": dense}]
    for method in methods:
        rounds = 5 if quick else ROUNDS.get(method, 0)
        made = make(method, model, estimation, elements, seed, fractions, rounds)
        for fraction, (selection, seconds, spent) in zip(fractions, made, strict=True):
            plain = dr.prune(model, selection)
            merged = dr.prune(model, selection, merging)
            rows.append(
                {
                    "method": method,
                    "fraction": fraction,
                    "plain": accuracy(plain.model, test),
                    "merged": accuracy(merged.model, test),
                    "params": merged.report.totals().loc["params", "after"],
                    "seconds": seconds,
                    "rows": spent,
                }
            )
            print(name, seed, *rows[-1].values(), flush=True)
    return pd.DataFrame(rows).assign(model=name, seed=seed)


def summarize(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and SD over seeds."""
    groups = frame.groupby(["model", "method", "fraction"], sort=False)
    columns = {}
    for value in ("plain", "merged"):
        columns |= {value: groups[value].mean(), f"{value}_sd": groups[value].std()}
    return pd.DataFrame({**columns, "seconds": groups["seconds"].mean(), "rows": groups["rows"].mean()})


def main() -> None:
    parser = new_parser(__doc__, "anneal")
    parser.add_argument("--models", nargs="+", choices=("mlp", "cnn", "resnet"), default=["mlp"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    arguments = parser.parse_args()
    fractions = FRACTIONS[1:3] if arguments.quick else FRACTIONS
    arguments.out.mkdir(parents=True, exist_ok=True)
    frames: list[pd.DataFrame] = []
    for name in arguments.models:
        for seed in arguments.seeds:
            frames.append(measure(name, seed, arguments.methods, fractions, arguments.quick))
            pd.concat(frames).to_csv(arguments.out / "anneal.csv", index=False, float_format="%.5f")
    summary = summarize(pd.concat(frames))
    summary.to_csv(arguments.out / "summary.csv", float_format="%.4f")
    save_settings(arguments.out, arguments, rounds=ROUNDS)
    print(summary.to_string(float_format=lambda value: f"{value:.4f}"))


if __name__ == "__main__":
    main()
