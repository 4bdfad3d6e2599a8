"""How much accuracy do annealed selections of single weights keep, against those of other scorers?

The MLP of each seed, .5 to .95 of its weights. Methods:

- one shot: random (five draws); magnitude; weight x activation norm; taylor (squared first order); spread (SD over
  examples of the loss change); obd (second order, Gauss-Newton sketched with two directions an example);
- iterated: "taylor, iterated" and "spread, iterated" score again after each of 20 removals; gates are trained by
  backpropagation for each fraction;
- annealed: `dropreg.anneal_path` with its defaults, which start at the magnitudes.

Taylor scores, spread and OBD, iterated ones included, see 2,000 estimation images, others all 10,000; accuracy is on
the test images, which nothing is chosen on. Seconds of a path or of iterated scores are those up to the fraction.

Writes sparsity.csv, summary.csv (mean over draws, then mean and SD over seeds) and settings.json. What sparsity.csv
holds already is not computed again.

Example: ``python experiments/sparsity.py --seeds 0 1 2``
"""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import pandas as pd
from _lib.arguments import new_parser
from _lib.models import accuracy, load
from _lib.results import run_jobs, save_settings
from _lib.selections import DRAWS, Made, annealed, gated, iterated, timed

import dropreg as dr

FRACTIONS = (0.5, 0.7, 0.8, 0.9, 0.95)
SCORED_EXAMPLES = 2_000
"""Examples of a score: one backward pass each, of the second order three."""
SQUARED = dr.scorers.Scorer(dr.scorers.taylor, {"statistic": "squared"})
ITERATED = {"taylor, iterated": SQUARED, "spread, iterated": dr.scorers.Scorer(dr.scorers.spread)}
METHODS = (*("random", "magnitude", "weight x activation", "taylor", "spread", "obd"), *ITERATED, "gates", "annealed")


def make(method: str, model: Any, data: Any, elements: dr.Elements, seed: int, quick: bool) -> Made:
    """One method's selections, seconds and rows."""
    if method == "random":
        return [(dr.Selection.random(elements, fraction, seed=seed), 0.0, 0) for fraction in FRACTIONS]
    if method == "annealed":
        return annealed({}, model, data, elements, seed, (FRACTIONS, 5 if quick else None))
    few = data[0][:SCORED_EXAMPLES], data[1][:SCORED_EXAMPLES]
    if method in ITERATED:
        return list(iterated(ITERATED[method], model, few, elements, seed, FRACTIONS))
    if method == "gates":
        return gated(model, data, elements, seed, FRACTIONS)
    jobs: dict[str, Callable[[], dr.ImpactTable]] = {
        "magnitude": lambda: dr.scorers.magnitude(model, None, elements),
        "weight x activation": lambda: dr.scorers.weight_activation(model, data, elements),
        "taylor": lambda: dr.scorers.taylor(model, few, elements, statistic="squared", seed=seed),
        "spread": lambda: dr.scorers.spread(model, few, elements, seed=seed),
        "obd": lambda: dr.scorers.obd(model, few, elements, curvature=dr.scorers.GaussNewton(2), seed=seed),
    }
    table, seconds = timed(jobs[method])
    return [(dr.select(elements, table, fraction=fraction), seconds, dr.scorers.spent(table)) for fraction in FRACTIONS]


def measure(seed: int, method: str, quick: bool) -> pd.DataFrame:
    """One row for each fraction."""
    data, test = dr.datasets.fashion_mnist("estimation"), dr.datasets.fashion_mnist("test")
    if quick:
        data = data[0][:500], data[1][:500]
    model = load("mlp", seed)
    if method == "dense":
        return pd.DataFrame([{"seed": seed, "method": method, "fraction": 0.0, "accuracy": accuracy(model, test)}])
    rows: list[dict[str, Any]] = []
    for draw in range(DRAWS if method == "random" else 1):
        made = make(method, model, data, dr.elements(model, "weights"), seed + 1000 * draw, quick)
        for fraction, (selection, seconds, spent_rows) in zip(FRACTIONS, made, strict=True):
            found = {"accuracy": accuracy(dr.remove(model, selection).model, test), "seconds": seconds}
            job = {"seed": seed, "method": method, "fraction": fraction, "draw": draw}
            rows.append({**job, **found, "rows": spent_rows})
            print(*rows[-1].values(), flush=True)
    return pd.DataFrame(rows)


def main() -> None:
    parser = new_parser(__doc__, "sparsity")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    arguments = parser.parse_args()
    frame = run_jobs(
        arguments.out / "sparsity.csv",
        ["seed", "method"],
        product(arguments.seeds, ["dense", *arguments.methods]),
        partial(measure, quick=arguments.quick),
    )
    values = ["accuracy", "seconds", "rows"]
    frame = frame.groupby(["method", "fraction", "seed"], sort=False)[values].mean()
    groups = frame.groupby(["method", "fraction"], sort=False)
    summary = groups[values].mean()
    summary.insert(1, "accuracy_sd", groups["accuracy"].std())
    summary.to_csv(arguments.out / "summary.csv", float_format="%.4f")
    save_settings(arguments.out, arguments)
    print(summary.to_string(float_format=lambda value: f"{value:.4f}"))


if __name__ == "__main__":
    main()
