"""Which output channels need precision? Accuracy against average bits, by scores of recorded masks and others.

All kernels are rounded to 4 bits; the output channels with the lowest score per weight then go to 2 bits, each kernel
rounded to the nearest value. No training. Scores of a channel, from the estimation images:

- "random";
- "weight error": squared change of its weights;
- "fisher": squared first-order Taylor estimate of the change of the loss by example, summed, as Hessian-aware methods
  weigh errors;
- "taylor": signed first-order estimate;
- "one at a time": divergence with that channel alone at 2 bits, in forward passes;
- "masks": absolute impact on the loss over --masks random assignments at rate .5, 64 examples each, from gradients;
- "masks, divergence": the same for the divergence from the original network;
- "annealed": `dropreg.anneal` on the divergence.

Writes quantized.csv (test accuracy and average bits), summary.csv (mean and SD over seeds), unseen.csv (correlation of
predictions from "masks, divergence" with outcomes of unseen assignments, beside its ceiling) and settings.json.

Example: ``python experiments/quantized.py --models cnn --seeds 0``
"""

import time
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from _lib.arguments import new_parser
from _lib.models import accuracy, load
from _lib.results import run_jobs, save_settings

import dropreg as dr

HIGH, LOW = dr.Quantized(4), dr.Quantized(2)
SHARES = (0.0, 0.25, 0.5, 0.7, 0.85, 1.0)
METHODS = ("random", "weight error", "fisher", "taylor", "one at a time", "masks", "masks, divergence", "annealed")


def scores(method: str, model: Any, elements: dr.Elements, data: Any, arguments: Any, seed: int) -> np.ndarray:
    """A score for each channel; low = goes to few bits first, before division by its weights."""
    if method == "random":
        return np.random.default_rng(seed).random(len(elements)) * elements.params
    if method == "weight error":
        return dr.scorers.magnitude(model, None, elements).impact ** 2
    if method in ("fisher", "taylor"):
        statistic: Any = "squared" if method == "fisher" else "mean"
        return dr.scorers.taylor(model, data, elements, statistic=statistic, seed=seed).impact
    if method == "one at a time":
        part = data[0][:500], data[1][:500]
        return dr.scorers.leave_one_out(model, part, elements, outcome="divergence", seed=seed).impact
    sampling = dr.Sampling(dr.designs.Bernoulli(0.5, examples_per_mask=64), flips=0, fidelity=None)
    outcome = "divergence" if "divergence" in method else "loss"
    rows = arguments.masks * 64
    table = dr.estimate(model, data, elements, outcome=outcome, rows=rows, sampling=sampling, seed=seed, progress=False)
    return np.abs(table.impact)


def measure(name: str, seed: int, method: str, arguments: Any) -> pd.DataFrame:
    """Rows of one method: share of weights at few bits, average bits, test accuracy."""
    dense = load(name, seed)
    model = dr.quantize(dense, HIGH).model
    x, y = dr.datasets.fashion_mnist("estimation")
    data, test = (x[: arguments.images], y[: arguments.images]), dr.datasets.fashion_mnist("test")
    elements = dr.elements(model, "weights", groups="columns", replacement=LOW)
    start, rows = time.perf_counter(), []
    order, weights = np.arange(len(elements)), np.zeros(len(elements))
    if method != "annealed":
        order = np.argsort(scores(method, model, elements, data, arguments, seed) / elements.params)
        weights = np.cumsum(elements.params[order]) / elements.params.sum()
    seconds = time.perf_counter() - start
    for share in SHARES:
        kept = np.ones(len(elements), bool)
        if method == "annealed" and 0 < share < 1:
            fraction = float(np.mean(weights_below(elements, share)))
            kept = dr.anneal(model, data, elements, fraction=fraction, seed=seed, progress=False).kept
        elif method == "annealed":
            kept[:] = share == 0
        else:
            kept[order[weights <= share + 1e-9]] = False
        low = float(elements.params[~kept].sum() / elements.params.sum())
        small = dr.remove(model, dr.Selection(elements, kept)).model
        row = {"model": name, "seed": seed, "method": method, "share": share, "low": low, "bits": 4 - 2 * low}
        rows.append(row | {"accuracy": accuracy(small, test), "dense": accuracy(dense, test), "seconds": seconds})
    frame = pd.DataFrame(rows)
    print(frame.to_string(), flush=True)
    return frame


def weights_below(elements: dr.Elements, share: float) -> np.ndarray:
    """A random share of the weights, as elements: where annealing counts elements, not weights."""
    order = np.random.default_rng(0).permutation(len(elements))
    chosen = np.zeros(len(elements), bool)
    chosen[order[np.cumsum(elements.params[order]) <= share * elements.params.sum()]] = True
    return chosen


def unseen(name: str, seed: int, arguments: Any) -> pd.DataFrame:
    """Correlation of predictions with outcomes of unseen assignments."""
    model = dr.quantize(load(name, seed), HIGH).model
    x, y = dr.datasets.fashion_mnist("estimation")
    elements = dr.elements(model, "weights", groups="columns", replacement=LOW)
    design = dr.designs.Bernoulli(0.5, examples_per_mask=64)
    sampling, rows = dr.Sampling(design, flips=0), arguments.masks * 64
    data = x[: arguments.images], y[: arguments.images]
    table = dr.estimate(model, data, elements, outcome="divergence", rows=rows, sampling=sampling, seed=seed)
    frame = table.fidelity if isinstance(table.fidelity, pd.DataFrame) else pd.DataFrame(table.fidelity)
    print(frame, flush=True)
    return frame.assign(model=name, seed=seed)


def main() -> None:
    parser = new_parser(__doc__, "quantized")
    parser.add_argument("--models", nargs="+", default=["mlp", "cnn"], help="default: mlp cnn")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--masks", type=int, default=1_500, help="random assignments (default: 1,500)")
    parser.add_argument("--images", type=int, default=5_000, help="estimation images (default: 5,000)")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.models, arguments.seeds, arguments.masks, arguments.images = ["mlp"], [0], 20, 300
        arguments.methods = ["random", "weight error", "fisher", "masks"]
    jobs = [
        (name, seed, method) for name in arguments.models for seed in arguments.seeds for method in arguments.methods
    ]
    columns = ["model", "seed", "method"]
    frame = run_jobs(arguments.out / "quantized.csv", columns, jobs, partial(measure, arguments=arguments))
    groups = frame.groupby(["model", "method", "share"], sort=False)[["bits", "accuracy", "dense", "seconds"]]
    summary = groups.mean().join(groups[["accuracy"]].std().add_suffix("_sd"))
    summary.to_csv(arguments.out / "summary.csv", float_format="%.5g")
    jobs = [(name, seed) for name in arguments.models for seed in arguments.seeds]
    run_jobs(arguments.out / "unseen.csv", ["model", "seed"], jobs, partial(unseen, arguments=arguments))
    save_settings(arguments.out, arguments)
    print(summary["accuracy"].unstack("share").to_string())


if __name__ == "__main__":
    main()
