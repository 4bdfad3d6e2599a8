"""How much accuracy is kept when directions of kernels are removed, by which order of directions?

For each model, seed (a trained network of its own), method and fraction of the directions removed: test accuracy and
number of parameters. Hidden layers are written as products of two (`dropreg.factorize`); the directions of all of them
are the elements. No fine-tuning but where said. Methods:

- svd: singular vectors of the kernels, those of least energy removed first;
- data: directions of the layers' outputs on the estimation images, those of least energy removed first;
- svd annealed, data annealed: selected by `dropreg.anneal_path` on the divergence, dropped directions at zero;
- data merged: as data, then consumers refitted by least squares;
- data distilled, data annealed distilled: then trained for a few epochs on the original model's predictions.

Energy of a direction is its share of the second moment of the layer's linear output. "dense" is the original model.
Selections and distillation see the first 5,000 estimation images, merging the other 5,000. Parameters are those after
`dropreg.surgery.multiply_back`.

Writes low_rank.csv, summary.csv (mean and SD over seeds) and settings.json. What low_rank.csv holds already is not
computed again.

Example: ``python experiments/low_rank.py --models mlp --seeds 0 1 2``
"""

import time
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from _lib.arguments import new_parser
from _lib.models import HALF, SHIPPED, accuracy, load
from _lib.results import run_methods, save_settings

import dropreg as dr

METHODS = ("svd", "data", "data merged", "svd annealed", "data annealed", "data distilled", "data annealed distilled")
FRACTIONS = (0.8, 0.9, 0.95)


def selections(found: Any, data: Any, method: str, seed: int, rounds: int | None) -> list[dr.Selection]:
    """One selection for each fraction."""
    elements = dr.elements(found.model, include=found.directions)
    if "annealed" not in method:
        energy = np.concatenate([found.energy[name] for name in found.directions])
        return [dr.select(elements, energy, fraction=fraction) for fraction in FRACTIONS]
    annealing = dr.Annealing(rounds=rounds, outcome="divergence")
    path = dr.anneal_path(found.model, data, elements, fractions=FRACTIONS, annealing=annealing, seed=seed)
    return list(path.selections)


def measure(name: str, seed: int, method: str, arguments: Any) -> pd.DataFrame:
    """One row for each fraction."""
    model, test = load(name, seed), dr.datasets.fashion_mnist("test")
    x, y = dr.datasets.fashion_mnist("estimation")
    half = 500 if arguments.quick else HALF
    first = {"model": name, "seed": seed, "method": method}
    if method == "dense":
        return pd.DataFrame(
            [{**first, "fraction": 0.0, "accuracy": accuracy(model, test), "params": model.count_params()}]
        )
    start = time.perf_counter()
    found = dr.factorize(model, None if method.startswith("svd") else (x[:half], None))
    rounds = 5 if arguments.quick else arguments.rounds
    chosen = selections(found, (x[:half], y[:half]), method, seed, rounds)
    rows = []
    for fraction, selection in zip(FRACTIONS, chosen, strict=True):
        merging = (x[half : 2 * half], None) if "merged" in method else None
        small = dr.remove(found.model, selection, data=merging).model
        if "distilled" in method:
            recovery = dr.Recovery(epochs=arguments.epochs, distill=1.0, mixup=0.5, seed=seed)
            small = dr.recover(small, (x[:half], None), teacher=model, recovery=recovery).model
        small = dr.surgery.multiply_back(small)
        rows.append({**first, "fraction": fraction, "accuracy": accuracy(small, test), "params": small.count_params()})
        print(*rows[-1].values(), flush=True)
    return pd.DataFrame(rows).assign(seconds=(time.perf_counter() - start) / len(rows))


def main() -> None:
    parser = new_parser(__doc__, "low_rank")
    parser.add_argument("--models", nargs="+", choices=SHIPPED, default=["mlp", "cnn", "vit"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--rounds", type=int, help="of annealing (default: as many as dropreg.anneal_path takes)")
    parser.add_argument("--epochs", type=int, default=5, help="of distillation (default: 5)")
    arguments = parser.parse_args()
    frame = run_methods(arguments, "low_rank", partial(measure, arguments=arguments))
    groups = frame.groupby(["model", "method", "fraction"], sort=False)
    summary = pd.DataFrame(
        {
            "accuracy": groups["accuracy"].mean(),
            "accuracy_sd": groups["accuracy"].std(),
            "params": groups["params"].mean(),
            "seeds": groups["seed"].nunique(),
        }
    )
    summary.to_csv(arguments.out / "summary.csv", float_format="%.4f")
    save_settings(arguments.out, arguments)
    print(summary.to_string(float_format=lambda value: f"{value:.4f}"))


if __name__ == "__main__":
    main()
