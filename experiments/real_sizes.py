"""Are networks of real size pruned within minutes and a few gigabytes?

Networks of keras.applications with random weights and 10 classes, on random images of 64 x 64 pixels
without labels; a default `prune` of half of the units. Random weights give the cost
of pruning, not its quality. Each network runs in a fresh process, one after the other, which reports
seconds of each stage, processor seconds (of all cores), and its peak resident memory (ru_maxrss).

Writes real_sizes.csv (one line a network) and settings.json.

Example: ``python experiments/real_sizes.py``; ``python experiments/real_sizes.py --quick --out real-quick``
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from _lib.arguments import new_parser
from _lib.results import save_settings

NETWORKS = ("MobileNetV2", "ResNet50V2", "DenseNet121")
STAGES = {"decide": "decide", "choose": "anneal", "cut": "merge", "distilled": "distill"}
"""Functions that `prune` calls, and the stages that they are."""


def measure(network: str, n_images: int, pixels: int, budget: int | None, seed: int) -> dict[str, Any]:
    """Prune in this process: one line of real_sizes.csv."""
    import keras
    import numpy as np

    import dropreg as dr
    from dropreg.pruning import _prune

    keras.utils.set_random_seed(seed)
    model = getattr(keras.applications, network)(weights=None, input_shape=(pixels, pixels, 3), classes=10)
    x = np.random.default_rng(seed).normal(size=(n_images, pixels, pixels, 3)).astype("float32")
    seconds = dict.fromkeys(STAGES.values(), 0.0)

    def timed(function: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                seconds[stage] += time.perf_counter() - start

        return run

    for name, stage in STAGES.items():
        setattr(_prune, name, timed(getattr(_prune, name), stage))
    start, used = time.perf_counter(), time.process_time()
    small = dr.prune(model, (x, None), fraction=0.5, budget=budget, seed=seed)
    total, effort = time.perf_counter() - start, small.effort
    assert effort is not None
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "network": network,
        "seed": seed,
        "images": n_images,
        "pixels": pixels,
        "elements": len(small.selection.kept),
        **{f"{stage}_seconds": round(value, 1) for stage, value in seconds.items()},
        "seconds": round(total, 1),
        "processor_seconds": round(time.process_time() - used, 1),
        "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9, 2),
        "params_before": model.count_params(),
        "params_after": small.model.count_params(),
        "rounds": effort.rounds,
        "rows_per_round": effort.rows_per_round,
        "epochs": effort.epochs,
        "examples": effort.examples,
        "said_minutes": effort.minutes,
        "said_gb": effort.gigabytes,
    }


def parse_arguments() -> argparse.Namespace:
    parser = new_parser(__doc__, "real_sizes", seeds=(0,))
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), help="names in keras.applications")
    parser.add_argument("--images", type=int, default=2000, help="images of every network")
    parser.add_argument("--pixels", type=int, default=64, help="width and height of the images")
    parser.add_argument("--budget", type=int, help="row-equivalents; by default that of the library")
    parser.add_argument("--measure", metavar="NETWORK", help="measure this process only and print the line")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.networks, arguments.images, arguments.pixels, arguments.budget = ["MobileNet"], 20, 32, 3000
    return arguments


def main() -> None:
    arguments = parse_arguments()
    given = arguments.images, arguments.pixels, arguments.budget
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, *given, arguments.seeds[0])))
        return
    lines = []
    for seed in arguments.seeds:
        for network in arguments.networks:
            command = [sys.executable, str(Path(__file__).resolve()), "--measure", network, "--seeds", str(seed)]
            command += ["--images", str(given[0]), "--pixels", str(given[1])]
            command += [] if given[2] is None else ["--budget", str(given[2])]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            lines.append(json.loads(done.stdout.splitlines()[-1]))
            print(lines[-1], flush=True)
            save_settings(arguments.out, arguments)
            pd.DataFrame(lines).to_csv(arguments.out / "real_sizes.csv", index=False)


if __name__ == "__main__":
    main()
