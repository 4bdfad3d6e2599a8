"""How much faster is a smaller network than the original?

For each model and fraction of the units removed (random units, every layer keeps some): parameters, multiply-adds and
bytes of the file relative to the original model, and the latency of a forward pass at batch sizes 1 and 64, median and
95th percentile, in a process of its own with a fixed number of threads, warmed up, the networks taking turns.
"speedup" is the median of the original model by that of the smaller; "macs_speedup" what the multiply-adds promise.

Example: ``python experiments/latency.py --models cnn --threads 1``
"""

import argparse
from typing import Any

import pandas as pd
from _lib.arguments import new_parser
from _lib.results import save_settings

import dropreg as dr

FRACTIONS = (0.5, 0.7, 0.8)
BATCHES = (1, 64)


def measure(name: str, seed: int, threads: int, repeats: int) -> list[dict[str, Any]]:
    """One row a fraction and batch size."""
    model = dr.datasets.load_model(name)
    elements = dr.elements(model)
    small = {fraction: dr.remove(model, dr.Selection.random(elements, fraction, seed=seed)) for fraction in FRACTIONS}
    models = {"whole": model, **{str(fraction): pruned.model for fraction, pruned in small.items()}}
    frame = dr.measure_latency(models, BATCHES, threads=threads, repeats=repeats)
    seconds: dict[tuple[str, int], dict[str, Any]] = {
        (str(row["model"]), int(row["batch"])): {str(name): value for name, value in row.items()}
        for row in frame.to_dict("records")
    }
    rows = []
    for fraction, pruned in small.items():
        ratios = pruned.report.totals()["ratio"]
        for batch in BATCHES:
            whole, mine = seconds["whole", batch], seconds[str(fraction), batch]
            rows.append(
                {
                    "model": name,
                    "seed": seed,
                    "fraction": fraction,
                    "batch": batch,
                    "params": ratios["params"],
                    "macs": ratios["macs"],
                    "bytes": ratios["bytes"],
                    "whole_median_ms": 1e3 * whole["median"],
                    "median_ms": 1e3 * mine["median"],
                    "whole_p95_ms": 1e3 * whole["p95"],
                    "p95_ms": 1e3 * mine["p95"],
                    "speedup": whole["median"] / mine["median"],
                    "macs_speedup": 1 / ratios["macs"],
                }
            )
    return rows


def plot(frame: pd.DataFrame, path: Any) -> None:
    """Measured speed-up against the one that multiply-adds promise."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 4.0), layout="constrained")
    axes = figure.subplots()
    for (model, batch), part in frame.groupby(["model", "batch"]):
        at = part.groupby("fraction")[["macs_speedup", "speedup"]].mean()
        axes.plot(at["macs_speedup"], at["speedup"], marker="o", label=f"{model}, batch {batch}")
    limits = [1.0, float(frame["macs_speedup"].max())]
    axes.plot(limits, limits, color="black", linestyle=":", label="as promised")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("times fewer multiply-adds")
    axes.set_ylabel("times faster")
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = new_parser(__doc__, "latency", seeds=(0,))
    parser.add_argument("--models", nargs="+", choices=dr.datasets.MODELS, default=["mlp", "cnn", "resnet"])
    parser.add_argument("--threads", type=int, default=1, help="default: 1")
    parser.add_argument("--repeats", type=int, default=300, help="passes timed (default: 300)")
    arguments: argparse.Namespace = parser.parse_args()
    repeats = 20 if arguments.quick else arguments.repeats
    rows: list[dict[str, Any]] = []
    for name in arguments.models:
        for seed in arguments.seeds:
            rows += measure(name, seed, arguments.threads, repeats)
    frame = pd.DataFrame(rows)
    save_settings(arguments.out, arguments)
    frame.to_csv(arguments.out / "latency.csv", index=False, float_format="%.4f")
    plot(frame, arguments.out / "latency.png")
    print(frame.to_string(index=False, float_format=lambda value: f"{value:.3f}"))


if __name__ == "__main__":
    main()
