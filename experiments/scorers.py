"""Which scorer keeps most accuracy after removal, and how far do the rankings agree?

The shipped MLP and CNN with two more trainings each (experiments/models), neurons and filters, no
fine-tuning. Every scorer estimates on the estimation split and removes a fraction of the elements by
masking them; accuracy and loss are those of the 10,000 test images. Every layer keeps its best element.
Scorers run on equal budgets of at most --rows row-equivalents (a masked forward pass of one example is
one, a backward pass two); those that need less spend less, which the tables say. Random has five draws
for each model. "dropout regression" is dropreg.sample and OLS on the loss at the same
budget, "gradient-assisted" dropreg.estimate.

Rankings are compared by Spearman's correlation between all scorers, with leave one out on all examples,
and with a dropout regression of several million rows of another seed (drop rate 0.3, outcome loss).

Writes comparison.csv (one line a model, training seed, scorer, fraction and draw), summary.csv (mean and
SD over everything with the same model, scorer and fraction), ranks.csv (mean and SD over training seeds
of the correlation of each pair of scorers), NAME.png (bands), ranks-NAME.png and settings.json. A run
that was stopped resumes from the folder "runs" in --out, which is not needed afterwards.

Example: ``python experiments/scorers.py``; ``python experiments/scorers.py --quick --out scorers-quick``
"""

import argparse
import functools
import itertools
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from _lib.arguments import new_parser
from _lib.coar import ablation_regression
from _lib.gates import gates
from _lib.models import load
from _lib.results import save_settings
from _lib.shapley import shapley
from scipy import stats

import dropreg as dr
from dropreg.reporting import plot_comparison

if TYPE_CHECKING:
    import keras

FRACTIONS = (0.5, 0.6, 0.7, 0.8, 0.9)
REFERENCE = "dropout regression, reference"
REFERENCE_SEED = 1000
RANDOM_DRAWS = 5


def regression(model: "keras.Model", data: Any, elements: dr.Elements, *, rows: int, seed: int) -> dr.ImpactTable:
    """Dropout regression by OLS: forward passes only."""
    sampling = dr.Sampling(gradients=False, fidelity=None)
    record = dr.sample(model, data, elements, rows=rows, sampling=sampling, seed=seed, progress=False)
    return dr.regress(record, outcome="loss")


def assisted(model: "keras.Model", data: Any, elements: dr.Elements, *, rows: int, seed: int) -> dr.ImpactTable:
    """Gradient-assisted dropout regression, three row-equivalents a row."""
    sampling = dr.Sampling(flips=0)
    return dr.estimate(
        model, data, elements, outcome="loss", rows=rows // 3, sampling=sampling, seed=seed, progress=False
    )


def scorers_at(rows: int) -> dict[str, dr.scorers.Scorer]:
    """All scorers on a budget."""
    budget = {"rows": rows}
    return {
        "random": dr.scorers.Scorer(dr.scorers.random, draws=RANDOM_DRAWS),
        **{
            f"magnitude, {n}": dr.scorers.Scorer(dr.scorers.magnitude, {"norm": n})
            for n in ("incoming", "outgoing", "both")
        },
        **{
            f"activation, {m}": dr.scorers.Scorer(dr.scorers.activation, {"moment": m})
            for m in ("mean", "rms", "zeros")
        },
        "weight x activation": dr.scorers.Scorer(dr.scorers.weight_activation),
        "Taylor 1, signed": dr.scorers.Scorer(dr.scorers.taylor, budget),
        "Taylor 1, squared": dr.scorers.Scorer(dr.scorers.taylor, budget | {"statistic": "squared"}),
        "Taylor 1, spread": dr.scorers.Scorer(dr.scorers.spread, budget),
        "Taylor 1 + 2, signed": dr.scorers.Scorer(dr.scorers.taylor, budget | {"order": 2}),
        "Taylor 1 + 2, spread": dr.scorers.Scorer(dr.scorers.spread, budget | {"order": 2}),
        "OBD": dr.scorers.Scorer(dr.scorers.obd, budget),
        "leave one out": dr.scorers.Scorer(dr.scorers.leave_one_out, budget),
        "greedy": dr.scorers.Scorer(dr.scorers.greedy, budget),
        "gates": dr.scorers.Scorer(gates, budget, per_fraction=True),
        "ablation regression": dr.scorers.Scorer(ablation_regression, budget | {"examples": 1000, "outcome": "loss"}),
        "Shapley": dr.scorers.Scorer(shapley, budget),
        "dropout regression": dr.scorers.Scorer(regression, budget),
        "dropout regression, gradient-assisted": dr.scorers.Scorer(assisted, budget),
    }


def remembered(scorers: dict[str, dr.scorers.Scorer]) -> dict[str, dr.scorers.Scorer]:
    """The same scorers for one model, each of which computes once for the same settings."""

    def once(function: Callable[..., dr.ImpactTable]) -> Callable[..., dr.ImpactTable]:
        tables: dict[str, dr.ImpactTable] = {}

        @functools.wraps(function)
        def table(model: "keras.Model", data: Any, elements: dr.Elements, **settings: Any) -> dr.ImpactTable:
            key = repr(sorted(settings.items()))
            if key not in tables:
                tables[key] = function(model, data, elements, **settings)
            return tables[key]

        return table

    return {name: replace(scorer, function=once(scorer.function)) for name, scorer in scorers.items()}


def rank_tables(
    *case: Any, scorers: dict[str, dr.scorers.Scorer], rows: int, reference_rows: int, out: Path
) -> pd.DataFrame:
    """Impacts of every element of a case (model, data, elements) by every scorer and both references; kept in `out`."""
    model, data, elements = case
    path = out / f"impacts-{rows}-{reference_rows}.csv"
    frame = pd.read_csv(path) if path.exists() else pd.DataFrame({"element": elements.names})
    jobs: dict[str, Callable[[], dr.ImpactTable]] = {
        REFERENCE: lambda: regression(model, data, elements, rows=reference_rows, seed=REFERENCE_SEED),
        "leave one out, all examples": lambda: dr.scorers.leave_one_out(model, data, elements),
    }
    for name, scorer in scorers.items():
        jobs[name] = lambda scorer=scorer: scorer.function(model, data, elements, seed=0, **scorer.settings)
    for name, job in jobs.items():
        if name not in frame:
            frame[name] = job().impact
            frame.to_csv(path, index=False)
    return frame[list(jobs)]


def correlations(impacts: pd.DataFrame) -> pd.DataFrame:
    """Spearman's correlation of each pair of columns, one line a pair."""
    lines = []
    for first, second in itertools.product(impacts.columns, repeat=2):
        value = stats.spearmanr(impacts[first], impacts[second]).statistic
        lines.append({"first": first, "second": second, "spearman": float(value)})
    return pd.DataFrame(lines)


def draw_ranks(ranks: pd.DataFrame, name: str, path: Path) -> None:
    """Mean correlation of all pairs as a table of colours."""
    from matplotlib.figure import Figure

    order = list(dict.fromkeys(ranks["first"]))
    table = ranks.pivot(index="first", columns="second", values="mean").loc[order, order]
    figure = Figure(figsize=(12, 11), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(table, vmin=-1, vmax=1, cmap="RdBu")
    axes.set_xticks(range(len(order)), order, rotation=90, fontsize="small")
    axes.set_yticks(range(len(order)), order, fontsize="small")
    for (row, column), value in np.ndenumerate(table.to_numpy()):
        axes.text(column, row, f"{value:.1f}", ha="center", va="center", fontsize=5)
    figure.colorbar(image, shrink=0.6, label="Spearman's correlation, mean over training seeds")
    axes.set_title(f"{name}: agreement of scorers")
    figure.savefig(path, dpi=130)


def summarize(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and SD over training seeds and draws."""
    groups = frame.groupby(["model", "scorer", "fraction"], sort=False)
    parts = {"runs": groups.size()}
    for value in ("accuracy", "loss", "params", "macs", "rows", "seconds"):
        parts |= {f"{value}_mean": groups[value].mean(), f"{value}_sd": groups[value].std()}
    return pd.DataFrame(parts).reset_index()


def run_model(name: str, arguments: argparse.Namespace) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Comparison and correlations of all trainings of one architecture."""
    data, test = dr.datasets.fashion_mnist("estimation"), dr.datasets.fashion_mnist("test")
    if arguments.quick:
        data, test = (data[0][:2_000], data[1][:2_000]), (test[0][:1_000], test[1][:1_000])
    frames, ranks = [], []
    for seed in arguments.seeds:
        print(f"{name}, training seed {seed}", flush=True)
        model = load(name, seed)
        elements, out = dr.elements(model), arguments.out / "runs" / f"{name}-{seed}"
        scorers = remembered(scorers_at(arguments.rows))
        frame = dr.compare(
            *(model, data, elements), scorers=scorers, fractions=arguments.fractions, test_data=test, out=out
        )
        frames.append(frame.assign(model=name, training=seed))
        rows = {"rows": arguments.rows, "reference_rows": arguments.reference_rows}
        impacts = rank_tables(model, data, elements, scorers=scorers, out=out, **rows)
        ranks.append(correlations(impacts).assign(model=name, training=seed))
    return pd.concat(frames, ignore_index=True), pd.concat(ranks, ignore_index=True)


def parse_arguments() -> argparse.Namespace:
    parser = new_parser(__doc__, "scorers")
    parser.add_argument("--models", nargs="+", choices=("mlp", "cnn", "resnet"), default=["mlp", "cnn"])
    parser.add_argument("--rows", type=int, default=1_000_000, help="budget of a scorer (default: 1,000,000)")
    parser.add_argument("--reference-rows", type=int, default=4_000_000, help="default: 4,000,000")
    parser.add_argument("--fractions", nargs="+", type=float, default=list(FRACTIONS))
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.models, arguments.seeds, arguments.fractions = arguments.models[:1], arguments.seeds[:1], [0.5, 0.8]
        arguments.rows, arguments.reference_rows = 60_000, 100_000
    return arguments


def main() -> None:
    arguments = parse_arguments()
    results = [run_model(name, arguments) for name in arguments.models]
    frame, ranks = (pd.concat(parts, ignore_index=True) for parts in zip(*results, strict=True))
    summary = summarize(frame)
    groups = ranks.groupby(["model", "first", "second"], sort=False)["spearman"]
    agreement = groups.agg(mean="mean", sd="std", trainings="size").reset_index()
    frame.to_csv(arguments.out / "comparison.csv", index=False)
    summary.round(4).to_csv(arguments.out / "summary.csv", index=False)
    agreement.round(4).to_csv(arguments.out / "ranks.csv", index=False)
    for name in arguments.models:
        lines = frame[frame["model"] == name]
        title = f"{name}: test accuracy, mean and SD over trainings and draws (runs), no fine-tuning"
        plot_comparison(lines, arguments.out / f"{name}.png", title=title)
        draw_ranks(agreement[agreement["model"] == name], name, arguments.out / f"ranks-{name}.png")
    save_settings(arguments.out, arguments)
    shown = summary.pivot_table(index=["model", "scorer"], columns="fraction", values="accuracy_mean", sort=False)
    print(shown.to_string(float_format="%.3f"))


if __name__ == "__main__":
    sys.exit(main())
