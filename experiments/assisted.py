"""How much do gradients at the dropout states add to forward passes of the same cost?

For each model, outcome and seed: the Pearson correlation of the impacts with a reference, at several
budgets in row-equivalents (a backward pass counts as two rows). The reference of a seed is the mean of
the OLS estimates of the other seeds at the largest budget, forward passes only; "ceiling" is the
correlation that the true impacts would have with it, from its standard errors.

Example: ``python experiments/assisted.py --models mlp --seeds 0 1 2``
"""

import argparse
import time
from typing import Any

import numpy as np
import pandas as pd
from _lib.arguments import new_parser
from _lib.results import save_settings

import dropreg as dr

BUDGETS = (8_192, 24_576, 98_304, 499_712, 1_998_848)
BATCH = {"mlp": 128, "cnn": 128}
OUTCOMES = ("loss", "accuracy")
GRADIENT_SEED = 100


def runs(name: str, seed: int, largest: int) -> tuple[dr.Record, dict[str, dr.Record], dict[str, float]]:
    """The longest forward-only run, the longest run with gradients of each outcome, and their seconds."""
    model, data = dr.datasets.load_model(name), dr.datasets.fashion_mnist("estimation")
    elements = dr.elements(model)

    def sampling(gradients: bool) -> dr.Sampling:
        return dr.Sampling(gradients=gradients, flips=0, fidelity=None, batch_size=BATCH[name])

    start = time.perf_counter()
    forward = dr.sample(
        *(model, data, elements),
        rows=largest,
        outcomes=OUTCOMES,
        sampling=sampling(gradients=False),
        seed=seed,
        progress=False,
    )
    seconds = {"forward": time.perf_counter() - start}
    assisted = {}
    rows = largest // 3
    for outcome in OUTCOMES:
        start = time.perf_counter()
        assisted[outcome] = dr.sample(
            *(model, data, elements),
            rows=rows,
            outcomes=outcome,
            sampling=sampling(gradients=True),
            seed=GRADIENT_SEED + seed,
            progress=False,
        )
        seconds[outcome] = time.perf_counter() - start
    return forward, assisted, seconds


def impacts_at(record: dr.Record, budget: int, outcome: str, estimators: tuple[Any, ...]) -> dict[str, np.ndarray]:
    """Impacts from the first chunks of a run that cost `budget` row-equivalents."""
    n_chunks = max(round(budget / record.settings.row_cost / record.settings.chunk_rows), 1)
    head = record.head(n_chunks)
    return {kind: dr.regress(head, outcome=outcome, estimator=kind).impact for kind in estimators}


def estimate_all(name: str, seeds: list[int], budgets: tuple[int, ...]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Impacts of every seed, outcome, budget and estimator; and seconds of every run."""
    rows, times = [], []
    for seed in seeds:
        forward, assisted, seconds = runs(name, seed, budgets[-1])
        times += [{"model": name, "seed": seed, "run": run, "seconds": value} for run, value in seconds.items()]
        for outcome in OUTCOMES:
            for budget in budgets:
                found = impacts_at(forward, budget, outcome, ("ols", "ridge"))
                found |= impacts_at(assisted[outcome], budget, outcome, ("gradient", "assisted"))
                rows += [
                    {"model": name, "outcome": outcome, "seed": seed, "budget": budget, "estimator": kind, "impact": v}
                    for kind, v in found.items()
                ]
            table = dr.regress(forward, outcome=outcome, estimator="ols")
            rows.append(
                {"model": name, "outcome": outcome, "seed": seed, "estimator": "error", "impact": table.std_error}
            )
        print(name, "seed", seed, {k: round(v) for k, v in seconds.items()}, flush=True)
    return pd.DataFrame(rows), pd.DataFrame(times)


def correlations(found: pd.DataFrame, seeds: list[int], largest: int) -> pd.DataFrame:
    """Correlation of every estimate with the mean of the other seeds' largest OLS runs."""
    rows = []
    for (model, outcome), group in found.groupby(["model", "outcome"]):
        ols = group[(group["estimator"] == "ols") & (group["budget"] == largest)].set_index("seed")["impact"]
        errors = group[group["estimator"] == "error"].set_index("seed")["impact"]
        for seed in seeds:
            others = [other for other in seeds if other != seed]
            reference = np.mean([ols[other] for other in others], axis=0)
            noise = np.mean([errors[other] ** 2 for other in others]) / len(others)
            ceiling = float(np.sqrt(max(1 - noise / reference.var(), 0.0)))
            mine = group[(group["seed"] == seed) & (group["estimator"] != "error")]
            rows += [
                {
                    "model": model,
                    "outcome": outcome,
                    "seed": seed,
                    "ceiling": ceiling,
                    "budget": int(row["budget"]),
                    "estimator": row["estimator"],
                    "correlation": float(np.corrcoef(row["impact"], reference)[0, 1]),
                }
                for row in mine.to_dict("records")
            ]
    return pd.DataFrame(rows)


def plot(frame: pd.DataFrame, path: Any) -> None:
    """Correlation against the budget, one panel a model and outcome."""
    from matplotlib.figure import Figure

    panels = list(frame.groupby(["model", "outcome"]))
    figure = Figure(figsize=(4.2 * len(panels), 3.8), layout="constrained")
    for axes, (title, group) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for estimator, part in group.groupby("estimator"):
            at = part.groupby("budget")["correlation"].agg(["mean", "std"])
            axes.errorbar(at.index, at["mean"], at["std"].fillna(0), marker="o", label=estimator)
        axes.axhline(group["ceiling"].mean(), color="black", linestyle=":", label="ceiling")
        axes.set_xscale("log")
        axes.set_title(", ".join(map(str, title)))
        axes.set_xlabel("row-equivalents")
        axes.set_ylabel("correlation with the reference")
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = new_parser(__doc__, "assisted")
    parser.add_argument("--models", nargs="+", choices=sorted(BATCH), default=sorted(BATCH, reverse=True))
    parser.add_argument("--largest", type=int, default=BUDGETS[-1], help="largest budget (default: 1998848)")
    arguments: argparse.Namespace = parser.parse_args()
    seeds = arguments.seeds
    if len(seeds) < 2:
        parser.error("--seeds must name at least two: the others are a seed's reference")
    largest = BUDGETS[2] if arguments.quick else arguments.largest
    budgets = tuple(budget for budget in BUDGETS if budget <= largest)
    arguments.out.mkdir(parents=True, exist_ok=True)
    frames, times = [], []
    for name in arguments.models:
        found, seconds = estimate_all(name, seeds, budgets)
        frames.append(correlations(found, seeds, budgets[-1]))
        times.append(seconds)
        frame = pd.concat(frames)
        frame.to_csv(arguments.out / "assisted.csv", index=False, float_format="%.5f")
        pd.concat(times).to_csv(arguments.out / "seconds.csv", index=False, float_format="%.1f")
        keys = ["model", "outcome", "budget", "estimator"]
        summary = frame.groupby(keys)["correlation"].agg(["mean", "std"]).unstack("estimator")
        summary.columns = [f"{estimator}_{statistic}" for statistic, estimator in summary.columns]
        summary["ceiling"] = frame.groupby(["model", "outcome", "budget"])["ceiling"].mean()
        summary.to_csv(arguments.out / "summary.csv", float_format="%.4f")
        plot(frame, arguments.out / "assisted.png")
        save_settings(arguments.out, arguments)
        print(summary.to_string(), flush=True)


if __name__ == "__main__":
    main()
