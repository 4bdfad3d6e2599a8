"""Do the intervals of the default estimator cover on trained networks, and what does it gain over regression?

One long run for each network and outcome, at a drop rate of .3. Its chunks are replications of about
the same cost (--cost row-equivalents); the truth of a replication is the mean of all the others. The
coverage of 95 % intervals is reported over all elements whose outcome ever changes, over the tenth of
truly largest impact, and over the tenth of largest estimated impact, there also for intervals adjusted
for the selection (false coverage rate). "gain" is the variance of OLS on forward passes at the same cost,
from one run of its own, over the variance of the estimator over replications, both means over elements.
"gain_by_errors" is over the mean squared standard error instead, where elements that show little have
the errors of OLS, and "gain_median" the same of the median element. Correlations are with measured
outcomes of unseen masks, for tables of the --table cost.

Example: ``python experiments/intervals.py --models mlp cnn --seeds 0``
"""

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from _lib.arguments import new_parser
from _lib.models import load
from _lib.results import save_settings
from scipy import stats

import dropreg as dr

RATE = 0.3
OUTCOMES = ("loss", "accuracy")
BATCHES = 16
"""Batches of a chunk, so that a replication has 16 times the batch size in rows."""


def single(record: dr.Record, chunk: int) -> dr.Record:
    """The record of one chunk."""
    one = record.head(chunk + 1)
    one._chunks = [chunk]
    return one


def replicated(case: tuple[Any, ...], outcome: str, cost: int, replications: int, seed: int) -> dict[str, Any]:
    """Coverage over the chunks of a long run."""
    batch = max(cost // 7 // BATCHES, 8)
    sampling = dr.Sampling(design=dr.designs.Bernoulli(RATE), fidelity=None, batch_size=batch)
    rows = batch * BATCHES
    start = time.perf_counter()
    record = dr.sample(*case, rows=rows * replications, outcomes=outcome, sampling=sampling, seed=seed, progress=False)
    seconds = time.perf_counter() - start
    assert record.settings.chunk_rows == rows
    tables = [dr.regress(single(record, k), outcome=outcome) for k in range(replications)]
    impacts = np.array([table.impact for table in tables])
    errors = np.array([table.std_error for table in tables])
    truth, between = impacts.mean(axis=0), impacts.var(axis=0, ddof=1)
    others = (impacts.sum(axis=0) - impacts) / (replications - 1)
    z = np.abs(impacts - others) / np.sqrt(errors**2 + between / (replications - 1))
    live = record.flip_sums(outcome).squares > 0
    n_top = max(int(live.sum()) // 10, 1)
    largest = np.argsort(-np.abs(truth))[:n_top]
    known = np.where(np.isfinite(z), 1.0, np.nan)  # an element that changed nothing in a replication has no interval
    covered = known * (z < stats.norm.ppf(0.975))
    chosen = np.argsort(-np.abs(impacts), axis=1)[:, :n_top]
    adjusted = known * (z < stats.norm.ppf(1 - 0.025 * n_top / live.sum()))
    by_replication = np.nanmean(covered[:, live], axis=1)
    return {
        "elements": len(truth),
        "rows": rows,
        "replications": replications,
        "coverage": np.nanmean(covered[:, live]),
        "coverage_se": by_replication.std(ddof=1) / np.sqrt(replications),
        "truly_largest": np.nanmean(covered[:, largest]),
        "truly_largest_se": np.nanstd(np.nanmean(covered[:, largest], axis=1), ddof=1) / np.sqrt(replications),
        "estimated_largest": np.nanmean(np.take_along_axis(covered, chosen, axis=1)),
        "estimated_largest_adjusted": np.nanmean(np.take_along_axis(adjusted, chosen, axis=1)),
        "squared_error_over_variance": np.nanmean(errors[:, live] ** 2) / between[live].mean(),
        "seconds": seconds,
        "_errors": errors[:, live],
        "_live": live,
    }


def compared(case: tuple[Any, ...], outcome: str, cost: int, seed: int) -> dict[str, Any]:
    """Correlations with unseen masks and seconds of the default, of assisted regression and of OLS."""
    found: dict[str, Any] = {}
    common = dr.Sampling(design=dr.designs.Bernoulli(RATE), fidelity=dr.designs.Fidelity(masks=100, examples=500))
    for name, price, sampling in (
        ("corrected", 7, common),
        ("assisted", 3, replace(common, flips=0)),
        ("ols", 1, replace(common, gradients=False)),
    ):
        start = time.perf_counter()
        record = dr.sample(*case, rows=cost // price, outcomes=outcome, sampling=sampling, seed=seed, progress=False)
        estimator: Any = name
        table = dr.regress(record, outcome=outcome, estimator=estimator)
        found[f"{name}_seconds"] = time.perf_counter() - start
        assert table.fidelity is not None
        found[f"{name}_unseen"] = table.fidelity["correlation"].iloc[1]
        found["ceiling"] = table.fidelity["ceiling"].iloc[1]
        if name == "ols":
            found["_ols"] = table.std_error**2 * record.rows
    return found


def main() -> None:
    parser = new_parser(__doc__, "intervals", seeds=(0,))
    parser.add_argument("--models", nargs="+", default=["mlp", "cnn", "vit"], help="default: mlp cnn vit")
    parser.add_argument("--replications", type=int, default=100, help="default: 100")
    parser.add_argument("--cost", type=int, default=14_336, help="row-equivalents of a replication (default: 14,336)")
    parser.add_argument("--table", type=int, default=200_000, help="row-equivalents of a table (default: 200,000)")
    arguments = parser.parse_args()
    models = ["mlp"] if arguments.quick else arguments.models
    replications, table = (10, 20_000) if arguments.quick else (arguments.replications, arguments.table)
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = []
    for name in models:
        for seed in arguments.seeds:
            model = load(name, seed)
            case = model, dr.datasets.fashion_mnist("estimation"), dr.elements(model)
            for outcome in OUTCOMES:
                row = {"model": name, "seed": seed, "outcome": outcome}
                row |= replicated(case, outcome, arguments.cost, replications, seed)
                row |= compared(case, outcome, table, seed + 1)
                errors, live = row.pop("_errors"), row.pop("_live")
                ols = row.pop("_ols")[live] / (7 * row["rows"])
                row["gain"] = ols.mean() / np.nanmean(errors**2) * row["squared_error_over_variance"]
                row["gain_by_errors"] = ols.mean() / np.nanmean(errors**2)
                row["gain_median"] = float(np.nanmedian(ols / np.nanmean(errors**2, axis=0)))
                found.append(row)
                frame = pd.DataFrame(found)
                frame.to_csv(arguments.out / "summary.csv", index=False, float_format="%.5g")
                print(frame.iloc[-1].to_string(), flush=True)
    save_settings(arguments.out, arguments)


if __name__ == "__main__":
    main()
