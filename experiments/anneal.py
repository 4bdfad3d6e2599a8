"""How much accuracy do annealed selections keep, against those of other scorers, deleted and merged?

For each model, seed (a trained network of its own), method and fraction of the units removed: test accuracy of the
network as deletion leaves it (plain), and merged by least squares. No fine-tuning. Methods:

- one shot: random (five draws); taylor (squared first order); spread (SD of the loss change over examples); obd; loo
  (leave one out); dropout regression (OLS, forward passes at a drop rate of .7);
- iterated: "taylor, iterated" (squared), "signed taylor, iterated" and "spread, iterated" score again after each of 20
  removals, greedy leaves out one at a time, gates are trained by backpropagation for each fraction;
- "taylor, merged steps", "spread, merged steps" and "divergence, merged steps" (spread of the divergence from the
  model of the step before): score, remove, merge, 20 times (`dropreg.prune_iteratively`);
- `dropreg.anneal_path`: "annealed" (dropped units at zero, gradients), "annealed, forward" (forward passes alone),
  both also "on accuracy" in place of the accuracy on what the original model classifies right; "annealed for merging"
  (dropped units predicted from the kept ones), also "first order" (without second derivatives), "500 rounds" and
  "1000 rounds" (for each fraction, in place of 200).

"dense" is the original model. Methods see the first 5,000 estimation images, merging the other 5,000 (where methods
merge in each step, the first as well); accuracy is on the test images, which nothing is chosen on. Seconds and rows are
those of the selection; those of a path are divided equally among its fractions and added up.

Writes anneal.csv (also what every selection keeps, as the hexadecimal digits of the packed bits), summary.csv (mean
over draws, then mean and SD over seeds) and settings.json. What anneal.csv holds already is not computed again, so that
a stopped run resumes and runs can be combined.

Example: ``python experiments/anneal.py --models mlp cnn --seeds 0 1 2``
"""

from functools import partial
from typing import Any

import pandas as pd
from _lib.arguments import new_parser
from _lib.models import SHIPPED, accuracy, load
from _lib.results import run_methods, save_settings, summarize
from _lib.selections import DRAWS, FRACTIONS, IN_STEPS, METHODS, in_steps, make, packed

import dropreg as dr


def measure(name: str, seed: int, method: str, fractions: tuple[float, ...], arguments: Any) -> pd.DataFrame:
    """One row for each fraction (and draw)."""
    model = load(name, seed)
    elements = dr.elements(model)
    x, y = dr.datasets.fashion_mnist("estimation")
    half = 500 if arguments.quick else 5000
    estimation, merging = (x[:half], y[:half]), (x[half : 2 * half], y[half : 2 * half])
    test = dr.datasets.fashion_mnist("test")
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
                plain, merged = dr.remove(model, selection), dr.remove(model, selection, data=merging)
                found = {"plain": accuracy(plain.model, test), "merged": accuracy(merged.model, test)}
                cost = {"params": merged.model.count_params(), "seconds": seconds, "rows": spent_rows}
                add(fraction, draw=draw, **found, **cost, kept=packed(selection.kept))
    return pd.DataFrame(rows)


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
