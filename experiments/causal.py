"""Which parts of a small causal language model matter, and how many can go?

A GPT-2 of KerasHub (--layers blocks of width --width, bytes as tokens) is trained here on descriptions of Debian
packages (``apt-cache dumpavail``), one description an example; packages of one source are in one part only:
training, data for impacts and pruning, test. Then

1. "impact": impacts of blocks, heads and feed-forward units on the next-token loss, with standard errors;
2. "prune": fractions of the heads, of the feed-forward units and of the blocks are removed by impacts of random masks
   ("impact"), squared Taylor and at random, without and with distillation from the original model; perplexity of the
   bytes of test texts.

Needs KerasHub and Debian. Writes impact_*.csv, prune.csv and settings.json; the trained model is kept in --cache.

Example: ``python experiments/causal.py --fractions 0.3 0.5``
"""

import argparse
import os
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pandas as pd
from _lib.arguments import new_parser
from _lib.descriptions import packages, parts
from _lib.results import run_jobs, save_settings

import dropreg as dr

END = 0
COLUMNS = ["seed", "kind", "fraction", "method"]
KINDS = ("layers", "heads", "neurons")
METHODS = ("impact", "taylor", "random")


def encoded(texts: Any, length: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Bytes of texts as inputs, and the next byte of each position; positions after the end are padding."""
    tokens = np.zeros((len(texts), length + 1), "int32")
    for row, text in enumerate(texts):
        found = np.frombuffer(text.encode()[:length], np.uint8)
        tokens[row, : len(found)] = np.maximum(found, 1)
    is_text = np.cumsum(tokens == END, axis=1) == 0
    mask = np.concatenate([np.ones((len(texts), 1), bool), is_text[:, :-1]], axis=1)[:, 1:]
    return {"token_ids": tokens[:, :-1], "padding_mask": mask.astype("int32")}, tokens[:, 1:]


def build(length: int, n_layers: int, width: int) -> Any:
    """A GPT-2 that gives the logits of the next byte."""
    models: Any = import_module("keras_hub").models
    backbone = models.GPT2Backbone(
        vocabulary_size=256,
        num_layers=n_layers,
        num_heads=width // 32,
        hidden_dim=width,
        intermediate_dim=4 * width,
        max_sequence_length=length,
    )
    return models.GPT2CausalLM(backbone=backbone, preprocessor=None)


def trained(train: Any, arguments: Any, seed: int) -> Any:
    """The language model, trained or from the cache."""
    keras.utils.set_random_seed(seed)
    model = build(arguments.length, arguments.layers, arguments.width)
    path = arguments.cache / f"causal-{seed}.weights.h5"
    if path.exists():
        model.load_weights(path)
        return model
    inputs, labels = train
    steps = arguments.epochs * -(-len(labels) // 32)
    schedule: Any = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=1e-3, warmup_steps=steps // 20)
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=0.01, clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    weights = inputs["padding_mask"].astype("float32")
    model.fit(inputs, labels, sample_weight=weights, batch_size=32, epochs=arguments.epochs, verbose=2)
    arguments.cache.mkdir(parents=True, exist_ok=True)
    model.save_weights(path)
    return model


def perplexity(model: Any, data: Any) -> float:
    """Of a byte, over the positions that are not padding."""
    inputs, labels = data
    total, count = 0.0, 0
    for start in range(0, len(labels), 50):
        part = {name: values[start : start + 50] for name, values in inputs.items()}
        logits = np.asarray(model(part, training=False), np.float64)
        shifted = logits - logits.max(axis=-1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
        own = np.take_along_axis(log_p, labels[start : start + 50][..., np.newaxis], axis=-1)[..., 0]
        counted = part["padding_mask"].astype(bool)
        total -= float(own[counted].sum())
        count += int(counted.sum())
    return float(np.exp(total / count))


def impacts(model: Any, data: Any, kind: str, arguments: Any, seed: int) -> dr.ImpactTable:
    elements = dr.elements(model, kind)  # type: ignore[arg-type]
    sampling = dr.Sampling(fidelity=None)
    return dr.estimate(model, data, elements, rows=arguments.rows, sampling=sampling, seed=seed, progress=False)


def measure(
    seed: int, kind: str, fraction: float, method: str, *, model: Any, splits: Any, tables: Any, arguments: Any
) -> pd.DataFrame:
    """One row of prune.csv."""
    elements = dr.elements(model, kind)  # type: ignore[arg-type]
    data, test = splits["data"], splits["test"]
    if method == "impact":
        scores = tables[kind].impact
    elif method == "taylor":
        scores = dr.scorers.taylor(model, data, elements, statistic="squared", seed=seed).impact
    else:
        scores = np.random.default_rng(seed).random(len(elements))
    selection = dr.select(elements, scores, fraction=fraction, floor=0 if kind == "layers" else 1)
    unlabelled = data[0], None
    merged = dr.remove(model, selection, data=unlabelled)
    recovery = dr.Recovery(epochs=arguments.distill, learning_rate=1e-3, distill=1.0, batch_size=32, seed=seed)
    tuned = dr.recover(merged.model, unlabelled, teacher=model, recovery=recovery, progress=False).model
    row = {"seed": seed, "kind": kind, "fraction": fraction, "method": method, "removed": int((~selection.kept).sum())}
    row |= {"dense": perplexity(model, test), "removed_only": perplexity(merged.model, test)}
    row |= {"distilled": perplexity(tuned, test), "params": tuned.count_params(), "params_before": model.count_params()}
    print(row, flush=True)
    return pd.DataFrame([row])


def parse_arguments() -> argparse.Namespace:
    parser = new_parser(__doc__, "causal", seeds=(0,))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--fractions", nargs="+", type=float, default=[0.2, 0.4, 0.6], help="default: 0.2 0.4 0.6")
    parser.add_argument("--length", type=int, default=48, help="bytes of a text (default: 48)")
    parser.add_argument("--layers", type=int, default=5, help="blocks (default: 5)")
    parser.add_argument("--width", type=int, default=192, help="width (default: 192)")
    parser.add_argument("--train", type=int, default=12_000, help="texts for training (default: 12,000)")
    parser.add_argument("--data", type=int, default=1_500, help="texts for impacts and distillation (default: 1,500)")
    parser.add_argument("--test", type=int, default=1_500, help="test texts (default: 1,500)")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of training (default: 4)")
    parser.add_argument("--rows", type=int, default=3_000, help="rows of a table of impacts (default: 3,000)")
    parser.add_argument("--distill", type=int, default=3, help="epochs of distillation (default: 3)")
    parser.add_argument("--cache", type=Path, default=Path("causal-cache"), help="folder of the trained model")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.train, arguments.data, arguments.test, arguments.epochs = 64, 40, 40, 1
        arguments.layers, arguments.width, arguments.rows, arguments.distill = 2, 32, 128, 1
        arguments.fractions, arguments.methods = [0.5], ["impact"]
    return arguments


def main() -> None:
    arguments = parse_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        frames = parts(packages(), {name: getattr(arguments, name) for name in ("train", "data", "test")}, seed)
        splits = {name: encoded(list(frame["text"]), arguments.length) for name, frame in frames.items()}
        model = trained(splits["train"], arguments, seed)
        print("test perplexity", perplexity(model, splits["test"]), model.count_params(), flush=True)
        tables = {}
        for kind in arguments.kinds:
            tables[kind] = impacts(model, splits["data"], kind, arguments, seed)
            print(tables[kind], flush=True)
            tables[kind].to_frame().to_csv(arguments.out / f"impact_{kind}.csv", index=False, float_format="%.5g")
        jobs = [(seed, k, f, m) for k in arguments.kinds for f in arguments.fractions for m in arguments.methods]
        given = {"model": model, "splits": splits, "tables": tables, "arguments": arguments}
        run_jobs(arguments.out / "prune.csv", COLUMNS, jobs, lambda *job, given=given: measure(*job, **given))
    save_settings(arguments.out, arguments)


if __name__ == "__main__":
    main()
