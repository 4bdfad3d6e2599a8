"""How many rows do impacts need, with one mask a row and with one mask per 1,000 examples?

The shipped MLP (400 neurons), its estimation split, drop rate 0.3, outcome loss. Each run is compared
with a reference of several million rows and another seed: the Pearson correlation over the 400
impacts. "one mask a row" is dropreg.sample and dropreg.regress. "one mask per 1,000 examples" spends
the same number of forward passes as methods are published: rows/1000 random masks, each measured on
1,000 random examples as the mean loss minus the unmasked loss of the same examples, regressed on the
masks (a) by OLS, or ridge with the fixed penalty 1 while there are no more masks than elements plus
one, and (b) by ridge with the penalty of the largest marginal likelihood.

Runs of one seed are nested: the first 20,000 rows of a longer run are the run of 20,000.

Writes rows.csv (one line a run), summary.csv (mean and SD over seeds), reference.csv (its impact
table), rows.png and settings.json (with the quality of the reference).

Example: ``python experiments/rows.py``; ``python experiments/rows.py --quick --out rows-quick``
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from _lib.arguments import new_parser
from _lib.models import Shipped, load_shipped
from _lib.results import save_settings
from sklearn.linear_model import BayesianRidge, LinearRegression, Ridge

import dropreg as dr

EXAMPLES_PER_MASK = 1_000
FIXED_PENALTY = 1.0
ONE, MANY, MANY_RIDGE = "one mask a row", "one mask per 1,000 examples", "one mask per 1,000 examples, ridge"
TARGETS = {100_000: 0.75, 500_000: 0.92}
EVIDENCE = {  # the prototype on another training run of the same network, one seed
    ONE: {20_000: 0.524, 100_000: 0.801, 500_000: 0.938, 2_000_000: 0.977},
    MANY: {20_000: 0.236, 100_000: 0.363, 500_000: 0.657, 2_000_000: 0.883},
}


@dataclass(frozen=True)
class Clock:
    """Wall-clock and processor seconds since it was made; the latter count all threads."""

    wall: float
    processor: float

    @classmethod
    def start(cls) -> "Clock":
        return cls(time.perf_counter(), time.process_time())

    def read(self, step: str) -> dict[str, float]:
        """Columns ``STEP_seconds`` and ``STEP_cpu_seconds``."""
        return {
            f"{step}_seconds": time.perf_counter() - self.wall,
            f"{step}_cpu_seconds": time.process_time() - self.processor,
        }


@dataclass(frozen=True)
class Measured:
    """Masks and what each did.

    Attributes
    ----------
    dropped : ndarray of bool, shape (n_masks, n_elements)
        True = dropped.
    effects : ndarray of float64, shape (n_masks,)
        Mean loss under the mask minus the unmasked one of the same examples.
    """

    dropped: npt.NDArray[np.bool_]
    effects: npt.NDArray[np.float64]


def one_mask_a_row(shipped: Shipped, rows: int, rate: float, seed: int) -> tuple[dr.ImpactTable, dict[str, float]]:
    """Impacts on the loss by OLS with HC1 standard errors, and the seconds of both steps."""
    clock = Clock.start()
    record = dr.sample(
        *(shipped.model, shipped.data, shipped.elements),
        rows=rows,
        sampling=dr.Sampling(design=dr.designs.Bernoulli(rate), gradients=False),
        seed=seed,
        progress=False,
    )
    seconds = clock.read("sampling")
    clock = Clock.start()
    table = dr.regress(record, outcome="loss")
    return table, seconds | clock.read("regression")


def loss_of(shipped: Shipped) -> Callable[[npt.NDArray[np.int64], npt.NDArray[np.bool_]], npt.NDArray[Any]]:
    """A function of (examples, kept) that gives the losses of these examples under one mask."""
    import tensorflow as tf

    from dropreg.network import MaskedNetwork

    network, (x, y) = MaskedNetwork(shipped.model, shipped.elements), shipped.data
    forward = tf.function(lambda x, masks: network([x], masks))

    def losses(chosen: npt.NDArray[np.int64], kept: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
        logits = forward(x[chosen], np.broadcast_to(kept, (len(chosen), len(kept))))
        return tf.nn.sparse_softmax_cross_entropy_with_logits(y[chosen], logits).numpy()

    return losses


def measure_masks(shipped: Shipped, n_masks: int, rate: float, seed: int) -> Measured:
    """Draw `n_masks` masks and measure each on 1,000 random examples."""
    rng = np.random.default_rng(seed)
    dropped = rng.random((n_masks, len(shipped.elements))) < rate
    losses, n_examples = loss_of(shipped), len(shipped.data[1])
    unmasked = losses(np.arange(n_examples), np.ones(len(shipped.elements), dtype=bool))
    effects = np.empty(n_masks)
    for number, mask in enumerate(dropped):
        chosen = rng.choice(n_examples, EXAMPLES_PER_MASK, replace=False)
        effects[number] = losses(chosen, ~mask).mean() - unmasked[chosen].mean()
    return Measured(dropped, effects)


def as_published(measured: Measured) -> npt.NDArray[np.float64]:
    """OLS coefficients, or ridge ones with penalty 1 where the masks cannot identify the elements."""
    n_masks, n_elements = measured.dropped.shape
    estimator = LinearRegression() if n_masks > n_elements + 1 else Ridge(FIXED_PENALTY)
    return estimator.fit(measured.dropped.astype(float), measured.effects).coef_


def by_evidence(measured: Measured) -> npt.NDArray[np.float64]:
    """Ridge coefficients with the penalty that the marginal likelihood chooses."""
    return BayesianRidge().fit(measured.dropped.astype(float), measured.effects).coef_


def pearson(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> float:
    return float(np.corrcoef(first, second)[0, 1])


def error_variance(table: dr.ImpactTable) -> float:
    """Mean squared standard error over the elements."""
    return float((table.std_error**2).mean())


def reliability(table: dr.ImpactTable) -> float:
    """Fraction of the variance of estimated impacts that is not their own noise."""
    return 1.0 - error_variance(table) / float(table.impact.var())


def expected_correlation(table: dr.ImpactTable, reference: dr.ImpactTable) -> float:
    """Correlation of two independent estimates that their standard errors predict.

    s / sqrt((s + e1)(s + e2)), where s is the variance of the true impacts (the reference's less its
    noise) and e1, e2 the mean squared standard errors.
    """
    e1, e2 = error_variance(table), error_variance(reference)
    signal = float(reference.impact.var()) - e2
    return signal / np.sqrt((signal + e1) * (signal + e2))


def quality(reference: dr.ImpactTable, seconds: dict[str, float]) -> dict[str, float]:
    """What bounds the correlations from above: an estimate without noise would reach the ceiling."""
    return {
        "rows": reference.rows,
        "seed": reference.seed,
        "sd_of_impacts": float(reference.impact.std()),
        "root_mean_squared_std_error": error_variance(reference) ** 0.5,
        "reliability": reliability(reference),
        "noise_ceiling": max(reliability(reference), 0.0) ** 0.5,
        **seconds,
    }


def run_one(shipped: Shipped, reference: dr.ImpactTable, rows: int, rate: float, seed: int) -> dict[str, Any]:
    """One line of rows.csv for one mask a row."""
    table, seconds = one_mask_a_row(shipped, rows, rate, seed)
    return {
        "method": ONE,
        "rows": rows,
        "seed": seed,
        "correlation": pearson(table.impact, reference.impact),
        "expected_correlation": expected_correlation(table, reference),
        "root_mean_squared_std_error": error_variance(table) ** 0.5,
        **seconds,
    }


def run_many(
    shipped: Shipped, reference: dr.ImpactTable, rows: int, rate: float, seed: int
) -> Iterator[dict[str, Any]]:
    """Two lines of rows.csv for one mask per 1,000 examples, from the same measurements."""
    clock = Clock.start()
    measured = measure_masks(shipped, rows // EXAMPLES_PER_MASK, rate, seed)
    sampling = clock.read("sampling")
    for method, estimator in ((MANY, as_published), (MANY_RIDGE, by_evidence)):
        clock = Clock.start()
        impact = estimator(measured)
        correlation = pearson(impact, reference.impact)
        yield (
            {"method": method, "rows": rows, "seed": seed, "correlation": correlation}
            | sampling
            | clock.read("regression")
        )


def run_all(
    shipped: Shipped, reference: dr.ImpactTable, levels: list[int], rate: float, seeds: list[int]
) -> pd.DataFrame:
    """All runs, one line each, printed as they finish."""
    lines = []
    for seed in seeds:
        for rows in levels:
            new = [run_one(shipped, reference, rows, rate, seed), *run_many(shipped, reference, rows, rate, seed)]
            for line in new:
                seconds = line["sampling_seconds"] + line["regression_seconds"]
                text = f"{line['method']}, {rows:,} rows, seed {seed}"
                print(f"{text}: {line['correlation']:.3f} ({seconds:.1f} s)", flush=True)
            lines += new
    frame = pd.DataFrame(lines)
    frame["total_seconds"] = frame["sampling_seconds"] + frame["regression_seconds"]
    return frame


def summarize(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean and SD over seeds for each method and number of rows."""
    values = ["correlation", "expected_correlation", "sampling_seconds", "regression_seconds", "total_seconds"]
    groups = runs.groupby(["method", "rows"], sort=False)
    means, deviations = groups[values].mean(), groups[values].std()
    frame = groups.size().to_frame("seeds")
    for name in values:
        frame[f"{name}_mean"], frame[f"{name}_sd"] = means[name], deviations[name]
    return frame.sort_index().reset_index()


def draw(summary: pd.DataFrame, ceiling: float, rate: float, path: Path) -> None:
    """Correlation against rows for the three methods, beside the prototype's and the targets."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for number, method in enumerate((ONE, MANY, MANY_RIDGE)):
        lines = summary[summary["method"] == method]
        deviations = lines["correlation_sd"].fillna(0.0)
        label = f"{method}, penalty by evidence" if method == MANY_RIDGE else method
        axes.errorbar(
            *(lines["rows"], lines["correlation_mean"], deviations),
            marker="os^"[number],
            color=f"C{number}",
            capsize=3,
            label=label,
        )
        if method in EVIDENCE:
            rows, values = zip(*EVIDENCE[method].items(), strict=True)
            axes.plot(
                *(rows, values), ":", marker="os"[number], mfc="white", color=f"C{number}", label=f"{method}, prototype"
            )
    axes.plot(list(TARGETS), list(TARGETS.values()), "k_", markersize=16, label="target")
    axes.axhline(ceiling, color="gray", linewidth=0.8, linestyle="--", label=f"noise ceiling {ceiling:.3f}")
    axes.set_xscale("log")
    axes.set_ylim(0.0, 1.02)
    axes.set_xlabel("rows (masked forward passes of one example)")
    axes.set_ylabel("correlation with the reference")
    axes.set_title(f"MLP, 400 neurons, drop rate {rate:g}, outcome loss; bars: SD over seeds", fontsize="medium")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", loc="lower right")
    figure.savefig(path, dpi=130)


def parse_arguments() -> argparse.Namespace:
    parser = new_parser(__doc__, "rows")
    parser.add_argument(
        "--rows", nargs="+", type=int, default=[20_000, 100_000, 500_000, 2_000_000], help="rows of the runs"
    )
    parser.add_argument("--rate", type=float, default=0.3, help="drop rate (default: 0.3)")
    parser.add_argument("--reference-rows", type=int, default=4_000_000, help="default: 4,000,000")
    parser.add_argument("--reference-seed", type=int, default=1000, help="default: 1000")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rows, arguments.seeds, arguments.reference_rows = [20_000, 100_000], arguments.seeds[:1], 200_000
    if arguments.reference_seed in arguments.seeds:
        parser.error(f"--reference-seed must differ from --seeds, received {arguments.reference_seed} in both.")
    if min(arguments.rows) < EXAMPLES_PER_MASK * 2:
        parser.error(f"--rows must be at least {EXAMPLES_PER_MASK * 2}, received {min(arguments.rows)}.")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    shipped = load_shipped("mlp")
    print(shipped.elements, flush=True)
    one_mask_a_row(shipped, 10_000, arguments.rate, arguments.reference_seed)  # warm-up: compiles, imports
    reference, seconds = one_mask_a_row(shipped, arguments.reference_rows, arguments.rate, arguments.reference_seed)
    found = quality(reference, seconds)
    print("reference: " + ", ".join(f"{name} {value:.4g}" for name, value in found.items()), flush=True)
    reference.to_csv(arguments.out / "reference.csv")
    runs = run_all(shipped, reference, arguments.rows, arguments.rate, arguments.seeds)
    summary = summarize(runs)
    runs.round(5).to_csv(arguments.out / "rows.csv", index=False)
    summary.round(4).to_csv(arguments.out / "summary.csv", index=False)
    draw(summary, found["noise_ceiling"], arguments.rate, arguments.out / "rows.png")
    save_settings(arguments.out, arguments, reference=found)
    print(summary.to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    sys.exit(main())
