"""How much accuracy does distillation without labels add to merging?

For each model, seed (a trained network of its own), method and fraction of the units removed: test accuracy of the
smaller network after least-squares merging, and after all its weights have learned the original model's predictions on
the same images and mixtures of them (``dropreg.remove(..., recovery="distill")``, which needs no labels). Selections
are those of ``anneal.py``, from its anneal.csv: made with 5,000 estimation images, merged and distilled with the other
5,000. No training image is used.

Writes distill.csv, summary.csv (mean and SD over seeds) and settings.json. What distill.csv holds already is not
computed again.

Example: ``python experiments/distill.py --models mlp --seeds 0 1 2``
"""

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _lib.arguments import RESULTS, new_parser
from _lib.models import accuracy, load
from _lib.results import run_methods, save_summary
from _lib.selections import METHODS, unpacked

import dropreg as dr

COMPARED = (
    "random",
    "spread",
    "obd",
    "taylor, iterated",
    "spread, iterated",
    "gates",
    "annealed",
    "annealed for merging",
)
FRACTIONS = (0.3, 0.5, 0.7, 0.8, 0.9)
VALUES = ("merged", "distilled", "divergence", "divergence_distilled", "seconds", "params")


def measure(name: str, seed: int, method: str, arguments: Any) -> pd.DataFrame:
    """One row for each fraction."""
    model, test = load(name, seed), dr.datasets.fashion_mnist("test")
    if method == "dense":
        row = {"fraction": 0.0, "merged": accuracy(model, test), "params": model.count_params()}
        return pd.DataFrame([{"model": name, "seed": seed, "method": method, **row}])
    x, y = dr.datasets.fashion_mnist("estimation")
    last = 6000 if arguments.quick else len(x)
    data = x[5000:last], y[5000:last]  # labels say that outputs are logits of classes; nothing learns from them
    made = pd.read_csv(arguments.selections).query("model == @name and seed == @seed and method == @method")
    rows = []
    for fraction in arguments.fractions[1:3] if arguments.quick else arguments.fractions:
        found = made[np.isclose(made["fraction"], fraction)]
        if found.empty:
            raise SystemExit(f"{arguments.selections} has no {method} of {name} {seed} at {fraction}: run anneal.py.")
        selection = unpacked(found["kept"].iloc[0], dr.elements(model))
        merged = dr.remove(model, selection, data=data)
        start = time.perf_counter()
        distilled = dr.remove(model, selection, data=data, recovery="distill")
        seconds = time.perf_counter() - start
        divergence = [small.measure((test[0], None))["after"].item() for small in (merged, distilled)]
        row = {"merged": accuracy(merged.model, test), "distilled": accuracy(distilled.model, test)}
        row |= dict(zip(VALUES[2:4], divergence, strict=True))
        row |= {"seconds": seconds, "params": distilled.model.count_params()}
        assert distilled.recovered is not None
        row |= {"learning_rate": distilled.recovered.learning_rate, "epoch": distilled.recovered.best_epoch}
        rows.append({"model": name, "seed": seed, "method": method, "fraction": fraction, **row})
        print(*rows[-1].values(), flush=True)
    return pd.DataFrame(rows)


def main() -> None:
    parser = new_parser(__doc__, "distill")
    parser.add_argument("--models", nargs="+", choices=("mlp", "cnn", "resnet", "vit", "lstm", "gru"), default=["mlp"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(COMPARED))
    parser.add_argument("--fractions", type=float, nargs="+", default=list(FRACTIONS))
    parser.add_argument(
        "--selections", type=Path, default=RESULTS / "anneal" / "anneal.csv", help="anneal.csv with the selections"
    )
    arguments = parser.parse_args()
    frame = run_methods(arguments, "distill", partial(measure, arguments=arguments))
    save_summary(arguments, frame, VALUES, 4)


if __name__ == "__main__":
    main()
