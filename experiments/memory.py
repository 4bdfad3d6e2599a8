"""Does peak memory grow with the number of rows?

The shipped MLP (400 neurons), outcome loss, OLS with HC1 standard errors. Each number of rows runs
in a fresh process, one after the other, which reports its own peak resident memory (ru_maxrss)
before sampling (libraries, model and examples loaded), after sampling and after the regression.

Writes memory.csv (one line a run; megabytes of 10**6 bytes) and settings.json.

Example: ``python experiments/memory.py``; ``python experiments/memory.py --quick --out memory-quick``
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
from _lib.arguments import new_parser
from _lib.models import load_shipped
from _lib.results import save_settings

import dropreg as dr


def peak_megabytes() -> float:
    """Largest resident memory of this process so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def measure(rows: int, seed: int) -> dict[str, float]:
    """Sample and regress in this process: one line of memory.csv."""
    shipped = load_shipped("mlp")
    before, start = peak_megabytes(), time.perf_counter()
    sampling = dr.Sampling(gradients=False)
    record = dr.sample(
        *(shipped.model, shipped.data, shipped.elements), rows=rows, sampling=sampling, seed=seed, progress=False
    )
    sampled, seconds = peak_megabytes(), time.perf_counter() - start
    dr.regress(record, outcome="loss", estimator="ols", covariance="HC1")
    return {
        "rows": rows,
        "seed": seed,
        "before_mb": round(before, 1),
        "after_sampling_mb": round(sampled, 1),
        "peak_mb": round(peak_megabytes(), 1),
        "record_on_disk_mb": round(sum(path.stat().st_size for path in record.folder.iterdir()) / 1e6, 1),
        "sampling_seconds": round(seconds, 1),
        "total_seconds": round(time.perf_counter() - start, 1),
    }


def measure_in_fresh_process(rows: int, seed: int) -> dict[str, float]:
    """The same in a new process; this one has loaded no TensorFlow, whose memory a child could inherit."""
    command = [sys.executable, str(Path(__file__).resolve()), "--measure", str(rows), "--seeds", str(seed)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def parse_arguments() -> argparse.Namespace:
    parser = new_parser(__doc__, "memory", seeds=(0,))
    parser.add_argument("--rows", nargs="+", type=int, default=[10**5, 10**6, 10**7], help="rows of the runs")
    parser.add_argument("--measure", type=int, metavar="ROWS", help="measure this process only and print the line")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rows = [10**4, 10**5]
    return arguments


def main() -> None:
    arguments = parse_arguments()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.seeds[0])))
        return
    lines = []
    for seed in arguments.seeds:
        for rows in arguments.rows:
            lines.append(measure_in_fresh_process(rows, seed))
            print(lines[-1], flush=True)
    save_settings(arguments.out, arguments)
    pd.DataFrame(lines).to_csv(arguments.out / "memory.csv", index=False)


if __name__ == "__main__":
    main()
