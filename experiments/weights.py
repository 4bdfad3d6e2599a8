"""Can impacts of single weights be estimated: time, memory, and honest standard errors?

``table``: every weight of the shipped MLP (266,200 scalars), gradient-assisted and marginal, timed. The
standard errors are checked on weights drawn at random and on those with the largest impacts: the exact
impact of a weight at the design's rate is measured by running the same masks with and without it, many
times, and compared with the interval.

``scaling``: seconds a row and peak memory for networks of 10^4 to 10^7 weights, each in a process of
its own.

Example: ``python experiments/weights.py --parts table scaling``
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from _lib.arguments import new_parser
from _lib.results import save_settings
from keras import layers

import dropreg as dr
from dropreg.data import Prediction, check_data
from dropreg.network import MaskedNetwork

RATE = 0.3
WIDTHS = {10_000: 98, 100_000: 314, 1_000_000: 998, 10_000_000: 3_160}


def measured_impacts(
    model: keras.Model, elements: dr.Elements, chosen: np.ndarray, masks: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Impacts on the loss of the weights `chosen` and their standard errors, by pairs of passes.

    Every weight is dropped and kept under the same masks of all others and on the same examples.
    """
    x, y = dr.datasets.fashion_mnist("estimation")
    examples = check_data(model, (x, y))
    network = MaskedNetwork(model, elements)
    n = len(elements)

    @tf.function
    def effects(batch: Any, labels: Any, mask: Any) -> Any:
        def loss(column: Any, value: float) -> Any:
            here = tf.tensor_scatter_nd_update(mask, [[0, column]], [value])
            outputs = network.suffix(network.prefix([batch]), here)
            prediction = Prediction(outputs, "classes", True)
            return tf.reduce_mean(dr.outcomes.Loss().measure(prediction, labels, prediction))

        return tf.map_fn(lambda c: loss(c, 0.0) - loss(c, 1.0), tf.constant(chosen), fn_output_signature=tf.float32)

    rng = np.random.default_rng(seed)
    found = []
    for _ in range(masks):
        at = rng.integers(0, len(y), 2_000)
        mask = (rng.random((1, n)) >= RATE).astype(np.float32)
        found.append(np.asarray(effects(tf.constant(examples.inputs[0][at]), tf.constant(y[at]), tf.constant(mask))))
    effect = np.array(found, np.float64)
    return effect.mean(axis=0), effect.std(axis=0, ddof=1) / np.sqrt(masks)


def table(arguments: argparse.Namespace) -> None:
    """Full tables of the MLP's weights, and how often their intervals hold what was measured."""
    model, data = dr.datasets.load_model("mlp"), dr.datasets.fashion_mnist("estimation")
    elements = dr.elements(model, "weights")
    rows = min(arguments.rows, 16_384) if arguments.quick else arguments.rows
    times, checks = [], []
    for seed in arguments.seeds:
        start = time.perf_counter()
        assisted = dr.estimate(
            model, data, elements, outcome="loss", rows=rows, sampling=dr.Sampling(flips=0), seed=seed, progress=False
        )
        times.append({"method": assisted.method, "seed": seed, "rows": rows, "seconds": time.perf_counter() - start})
        start = time.perf_counter()
        forward = dr.estimate(
            *(model, data, elements), rows=rows, sampling=dr.Sampling(gradients=False), seed=seed, progress=False
        )
        times.append({"method": forward.method, "seed": seed, "rows": rows, "seconds": time.perf_counter() - start})
        rng = np.random.default_rng(seed)
        n_checked = 40 if arguments.quick else 80
        used = np.flatnonzero(assisted.impact != 0)
        sets = {
            "random": rng.choice(used, n_checked, replace=False),
            "largest": np.argsort(-np.abs(assisted.impact), kind="stable")[:n_checked],
        }
        for name, chosen in sets.items():
            truth, error = measured_impacts(model, elements, chosen, 20 if arguments.quick else 100, seed)
            for found in (assisted, forward):
                off = np.abs(found.impact[chosen] - truth) / np.hypot(found.std_error[chosen], error)
                checks.append(
                    {
                        "method": found.method,
                        "seed": seed,
                        "weights": name,
                        "covered": float((off < 1.96).mean()),
                        "correlation": float(np.corrcoef(found.impact[chosen], truth)[0, 1]),
                        "rms_impact": float(np.sqrt((truth**2).mean())),
                        "rms_error": float(np.sqrt(((found.impact[chosen] - truth) ** 2).mean())),
                        "mean_std_error": float(found.std_error[chosen].mean()),
                        "error_of_truth": float(error.mean()),
                    }
                )
        if seed == arguments.seeds[0]:
            (arguments.out / "summary.txt").write_text(assisted.summary() + "\n")
    pd.DataFrame(times).to_csv(arguments.out / "seconds.csv", index=False, float_format="%.1f")
    frame = pd.DataFrame(checks)
    frame.to_csv(arguments.out / "checks.csv", index=False, float_format="%.4g")
    print(pd.DataFrame(times).to_string(), frame.to_string(), sep="\n", flush=True)


def one_size(n_weights: int, masks: int) -> dict[str, float]:
    """Sample and regress a network of about `n_weights` weights in this process."""
    width = WIDTHS[n_weights]
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((width,)), layers.Dense(width, activation="relu"), layers.Dense(4)])
    rng = np.random.default_rng(0)
    data = rng.normal(size=(256, width)).astype(np.float32), rng.integers(0, 4, 256)
    start = time.perf_counter()
    elements = dr.elements(model, "weights")
    found = time.perf_counter() - start
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    record = dr.sample(
        *(model, data, elements), rows=128 * masks, sampling=dr.Sampling(flips=0, fidelity=None), progress=False
    )
    sampled = time.perf_counter() - start
    start = time.perf_counter()
    impact = dr.regress(record, outcome="loss")
    return {
        "weights": len(elements),
        "rows": 128 * masks,
        "elements_seconds": found,
        "milliseconds_per_mask": sampled / masks * 1000,
        "microseconds_per_row": sampled / masks / 128 * 1e6,
        "regress_seconds": time.perf_counter() - start,
        "memory_before_mb": before,
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "mean_std_error": float(impact.std_error.mean()),
    }


def scaling(arguments: argparse.Namespace) -> None:
    """Every size in a process of its own, so that peak memory is its own."""
    sizes = list(WIDTHS)[: 2 if arguments.quick else None]
    found = []
    for n_weights in sizes:
        masks = 256 if n_weights < 1_000_000 else 64
        command = [sys.executable, str(Path(__file__)), "--one-size", str(n_weights), "--masks", str(masks)]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        found.append(json.loads(result.stdout.strip().split("\n")[-1]))
        print(found[-1], flush=True)
    pd.DataFrame(found).to_csv(arguments.out / "scaling.csv", index=False, float_format="%.5g")


def main() -> None:
    parser = new_parser(__doc__, "weights")
    parser.add_argument("--parts", nargs="+", choices=["table", "scaling"], default=["table", "scaling"])
    parser.add_argument("--rows", type=int, default=131_072, help="rows of each table (default: 131,072)")
    parser.add_argument("--one-size", type=int, choices=list(WIDTHS), help=argparse.SUPPRESS)
    parser.add_argument("--masks", type=int, default=64, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one_size:
        print(json.dumps(one_size(arguments.one_size, arguments.masks)))
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    if "table" in arguments.parts:
        table(arguments)
    if "scaling" in arguments.parts:
        scaling(arguments)
    save_settings(arguments.out, arguments)


if __name__ == "__main__":
    main()
