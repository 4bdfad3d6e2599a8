"""How many masked rows a second are measured, against plain forward passes of the same network?

Plain: the model alone, batch after batch of the estimation images, with and without XLA, at several
batch sizes; the best of them counts. Masked: chunks of a run as `dropreg.sample` measures them, one mask
a row (drawing masks, gathering examples, measuring the loss and all), at several batch sizes. Both take
turns, so that whatever else the machine does meets both; ratios are medians over rounds.

Example: ``python experiments/throughput.py --models mlp cnn vit --rounds 7``
"""

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pandas as pd
import tensorflow as tf
from _lib.arguments import new_parser
from _lib.models import load_shipped
from _lib.results import save_settings

import dropreg as dr
from dropreg.network import ask
from dropreg.sampling._runner import ChunkRunner

BATCHES = {"mlp": (2048, 8192, 16384), "cnn": (64, 128, 512), "vit": (64, 128, 512), "resnet": (64, 128, 512)}
ROWS = {"mlp": 65_536, "cnn": 8_192, "vit": 4_096, "resnet": 8_192}


def plain(model: Any, x: np.ndarray, batch: int, xla: bool, rows: int) -> Callable[[], None]:
    """A function that runs `rows` examples through the model."""
    specs = [tf.TensorSpec([batch, *x.shape[1:]], x.dtype)]
    forward = tf.function(lambda inputs: model(inputs, training=False), input_signature=specs, jit_compile=xla)
    starts = [k % max(len(x) - batch, 1) for k in range(0, rows, batch)]

    def run() -> None:
        for start in starts:
            forward(tf.constant(x[start : start + batch])).numpy()

    return run


def masked(name: str, batch: int, rows: int) -> Callable[[], None]:
    """A function that measures `rows` masked rows as a run does."""
    model, elements, data = load_shipped(name)
    question = ask(model, data, elements, outcome="loss", task=None, kept=None, seed=0)
    runner = ChunkRunner(question, dr.designs.Bernoulli(0.3), (), batch)
    chunks = [(chunk, min(runner.chunk_rows, rows)) for chunk in range(max(rows // runner.chunk_rows, 1))]

    def run() -> None:
        for chunk, masks in runner.draw_ahead(chunks):
            runner.run(chunk, masks)

    return run


def compare(name: str, rounds: int, rows: int) -> pd.DataFrame:
    """Rows a second of every way, alternating, one line a round."""
    model, _, (x, _) = load_shipped(name)
    ways: dict[tuple[str, int, bool], Callable[[], None]] = {}
    for batch in BATCHES[name]:
        ways["masked", batch, False] = masked(name, batch, rows)
        for xla in (False, True):
            ways["plain", min(batch, len(x)), xla] = plain(model, x, min(batch, len(x)), xla, rows)
    for run in ways.values():  # compile
        run()
    found = []
    for round_ in range(rounds):
        for (kind, batch, xla), run in ways.items():
            start = time.perf_counter()
            run()
            rate = rows / (time.perf_counter() - start)
            found.append({"model": name, "round": round_, "way": kind, "batch": batch, "xla": xla, "rows_per_s": rate})
    return pd.DataFrame(found)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Median over rounds of each way's best setting, and of the ratio in each round."""
    keys = ["model", "way", "batch", "xla"]
    medians = frame.groupby(keys)["rows_per_s"].median().reset_index()
    best = medians.loc[medians.groupby(["model", "way"])["rows_per_s"].idxmax()]
    chosen = frame.merge(best[keys], on=keys)
    wide = chosen.pivot(index=["model", "round"], columns="way", values="rows_per_s")
    ratios = (wide["masked"] / wide["plain"]).groupby("model").agg(["median", "min", "max"]).add_prefix("ratio_")
    settings: Any = best.set_index(["model", "way"]).unstack("way")
    settings.columns = [f"{way}_{name}" for name, way in settings.columns]
    return settings.join(ratios)


def main() -> None:
    parser = new_parser(__doc__, "throughput", seeds=(0,))
    parser.add_argument("--models", nargs="+", choices=list(BATCHES), default=["mlp", "cnn", "vit"])
    parser.add_argument("--rounds", type=int, default=7, help="default: 7")
    arguments: argparse.Namespace = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    rounds, part = (2, 4) if arguments.quick else (arguments.rounds, 1)
    frame = pd.concat([compare(name, rounds, ROWS[name] // part) for name in arguments.models])
    frame.to_csv(arguments.out / "throughput.csv", index=False, float_format="%.0f")
    shown = summary(frame)
    shown.to_csv(arguments.out / "summary.csv", float_format="%.3f")
    print(shown.T.to_string())
    save_settings(arguments.out, arguments)


if __name__ == "__main__":
    main()
