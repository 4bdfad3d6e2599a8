"""Do the intervals of the default estimator cover where the truth is known exactly?

Networks whose impacts are enumerated; every second unit has no effect at all and is left out. Each
replication has --rows rows of its own on the same examples, or, for "new examples", 100 examples of its
own, with the truth of a large pool. Situations: drop rates .1 to .9, one label in twenty, outgoing weights
with heavy tails. Coverage is that of 95 % intervals over all elements that have one, and over the tenth of
truly largest impact; "without" is the share of elements without an interval, because nothing changed.

Example: ``python experiments/enumerated.py --replications 300``
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from _lib.arguments import new_parser
from _lib.enumerable import examples, network, true_impacts
from _lib.results import save_settings

import dropreg as dr

N_ELEMENTS, N_EXAMPLES, DRAWN, POOL = 60, 100, 100, 2_000
OUTCOMES = ("loss", "accuracy", "divergence")
HEAVY = (-12.0, -3.0, -1.0, -1.0, -1.0, 1.0, 1.0, 1.0, 3.0, 12.0)
SITUATIONS: dict[str, dict[str, Any]] = {
    "rate .1": {"rate": 0.1},
    "rate .3": {"rate": 0.3},
    "rate .5": {"rate": 0.5},
    "rate .9": {"rate": 0.9},
    "imbalanced labels": {"rate": 0.3, "rare": 0.05},
    "heavy tails": {"rate": 0.3, "weights": HEAVY},
    "new examples": {"rate": 0.3, "new": True},
}


def judged(tables: list[dr.ImpactTable], truth: np.ndarray) -> dict[str, float]:
    """Coverage over replications and elements with an effect."""
    live = np.flatnonzero(truth != 0)
    largest = live[np.argsort(-np.abs(truth[live]))[: max(len(live) // 10, 1)]]
    impacts, errors, low, high = (
        np.array([table.frame[name].to_numpy(float) for table in tables])
        for name in ("impact", "std_error", "ci_low", "ci_high")
    )
    known = np.isfinite(low)
    covered = np.where(known, (low <= truth) & (truth <= high), np.nan)
    by_replication = np.nanmean(covered[:, live], axis=1)
    found: dict[str, float] = {
        "coverage": float(np.nanmean(covered[:, live])),
        "coverage_se": float(np.nanstd(by_replication, ddof=1) / np.sqrt(len(tables))),
        "truly_largest": float(np.nanmean(covered[:, largest])),
        "truly_largest_se": float(np.nanstd(np.nanmean(covered[:, largest], 1), ddof=1) / np.sqrt(len(tables))),
        "without": float(1.0 - known[:, live].mean()),
        "largest_bias_in_errors": float(
            np.abs((impacts - truth)[:, live].mean(axis=0)).max() / np.nanmean(errors[:, live])
        ),
        "variance_ratio": float(np.nanmean(errors[:, live] ** 2) / ((impacts - truth)[:, live] ** 2).mean()),
    }
    return found


def replicated(situation: dict[str, Any], rows: int, replications: int, seed: int) -> dict[str, dict[str, float]]:
    """One run of all replications."""
    model = network(N_ELEMENTS, seed, **({"weights": situation["weights"]} if "weights" in situation else {}))
    elements, design = dr.elements(model), dr.designs.Bernoulli(situation["rate"])
    sampling = dr.Sampling(design=design, fidelity=None, batch_size=rows // 16)
    if situation.get("new"):
        x, y = examples(model, POOL, seed)
        truth = true_impacts(model, (x, y), situation["rate"])
        rng, tables = np.random.default_rng(seed), {name: [] for name in OUTCOMES}
        for first in range(0, replications, 30):
            chosen = rng.integers(0, POOL, 30 * DRAWN)
            record = dr.sample(
                *(model, (x[chosen], y[chosen]), elements),
                rows=30 * rows,
                outcomes=OUTCOMES,
                sampling=replace(sampling, batch_size=rows),
                by=np.repeat(np.arange(30), DRAWN),
                seed=seed + first,
                progress=False,
            )
            for name in OUTCOMES:
                slices = dr.regress(record, outcome=name, by="slice", covariance="cluster").slices
                assert slices is not None
                tables[name] += list(slices.tables.values())
        return {name: judged(tables[name][:replications], truth[name]) for name in OUTCOMES}
    data = examples(
        model, N_EXAMPLES if "rare" not in situation else 4 * N_EXAMPLES, seed, rare=situation.get("rare", 1.0)
    )
    truth = true_impacts(model, data, situation["rate"])
    record = dr.sample(
        *(model, data, elements),
        rows=rows * replications,
        outcomes=OUTCOMES,
        sampling=sampling,
        seed=seed,
        progress=False,
    )
    assert record.settings.chunk_rows == rows
    tables = {name: [] for name in OUTCOMES}
    for k in range(replications):
        one = record.head(k + 1)
        one._chunks = [k]
        for name in OUTCOMES:
            tables[name].append(dr.regress(one, outcome=name))
    return {name: judged(tables[name], truth[name]) for name in OUTCOMES}


def main() -> None:
    parser = new_parser(__doc__, "enumerated", seeds=(0,))
    parser.add_argument("--replications", type=int, default=300, help="default: 300")
    parser.add_argument("--rows", type=int, default=2_000, help="rows of a replication (default: 2,000)")
    parser.add_argument("--situations", nargs="+", choices=list(SITUATIONS), default=list(SITUATIONS))
    arguments = parser.parse_args()
    replications = 20 if arguments.quick else arguments.replications
    arguments.out.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        for name in arguments.situations:
            result = replicated(SITUATIONS[name], arguments.rows, replications, seed)
            found += [
                {"situation": name, "seed": seed, "outcome": outcome, "replications": replications} | values
                for outcome, values in result.items()
            ]
            frame = pd.DataFrame(found)
            frame.to_csv(arguments.out / "summary.csv", index=False, float_format="%.4f")
            print(frame.tail(len(OUTCOMES)).to_string(), flush=True)
    save_settings(arguments.out, arguments)


if __name__ == "__main__":
    main()
