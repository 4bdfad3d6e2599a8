"""How much accuracy does merging restore, without fine-tuning?

For each model, seed (a trained network of its own), selection and fraction of the units removed: test accuracy of
the smaller network without merging, merged by least squares on the inputs of layers ("scores"), and by least squares
with the last layer fitted to the original model's probabilities (the default). Selections: random units; those
of smallest incoming norm; those whose removal changes the loss of single examples least (spread: standard deviation
over examples of the derivative of the loss by the unit's mask at 1). Selections and merging see the estimation
images, without labels but for the spread; accuracy is on the test images. "dense" is the original model. For
comparison: neuron merging as published (Kim et al. 2020, LeNet-300-100 on Fashion-MNIST) brings .668 to .800 at .8.

Example: ``python experiments/merging.py --models mlp --seeds 0 1 2``
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _lib.arguments import new_parser
from _lib.models import load
from _lib.results import save_settings

import dropreg as dr

FRACTIONS = (0.5, 0.7, 0.8, 0.9)
SELECTIONS = ("random", "magnitude", "spread")
MERGES: dict[str, Any] = {
    "none": "none",
    "scores": dr.merging.LeastSquares(predictions=False),
    "least_squares": "least_squares",
}
PUBLISHED = {"none": 0.668, "least_squares": 0.800}


def spread(model: Any, elements: dr.Elements, x: np.ndarray, y: np.ndarray, batch: int = 200) -> np.ndarray:
    """Standard deviation over examples of d(loss)/d(mask) at mask 1, shape (n_elements,)."""
    import tensorflow as tf

    from dropreg.network import MaskedNetwork

    network = MaskedNetwork(model, elements)

    @tf.function(reduce_retracing=True)
    def gradients(images: Any, labels: Any) -> Any:
        masks = tf.ones((tf.shape(images)[0], len(elements)))
        with tf.GradientTape() as tape:
            tape.watch(masks)
            scores = network.suffix(network.prefix([images]), masks)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, scores)
        return tape.gradient(loss, masks)

    parts = [gradients(x[start : start + batch], y[start : start + batch]) for start in range(0, len(y), batch)]
    return np.concatenate(parts).std(axis=0)


def magnitude(model: Any, elements: dr.Elements) -> np.ndarray:
    """Norm of a unit's incoming weights, the largest over the units of an element, shape (n_elements,)."""
    norms = {}
    for layer in model.layers:
        if layer.weights and len(layer.weights[0].shape) > 1:
            kernel = np.asarray(layer.get_weights()[0], np.float64)
            norms[layer.name] = np.sqrt((kernel.reshape(-1, kernel.shape[-1]) ** 2).sum(axis=0))
    return np.array([max(norms[layer][index] for layer, index in tied) for tied in elements.members])


def accuracy(model: Any, x: np.ndarray, y: np.ndarray) -> float:
    return float((model.predict(x, batch_size=500, verbose=0).argmax(axis=1) == y).mean())


def measure(name: str, seed: int, fractions: tuple[float, ...], n_examples: int) -> list[dict[str, Any]]:
    """One row for each selection, fraction and way of merging."""
    model = load(name, seed)
    elements = dr.elements(model)
    x, y = (array[:n_examples] for array in dr.datasets.fashion_mnist("estimation"))
    test = dr.datasets.fashion_mnist("test")
    scores = {
        "random": np.random.default_rng(seed).random(len(elements)),
        "magnitude": magnitude(model, elements),
        "spread": spread(model, elements, x, y),
    }
    rows: list[dict[str, Any]] = [
        {"selection": "all", "fraction": 0.0, "merge": "dense", "accuracy": accuracy(model, *test), "seconds": 0.0}
    ]
    for selection in SELECTIONS:
        for fraction in fractions:
            chosen = dr.select(elements, scores[selection], fraction=fraction)
            for merge, strategy in MERGES.items():
                start = time.perf_counter()
                small = dr.remove(model, chosen, data=(x, y), merge=strategy)
                seconds = time.perf_counter() - start
                rows.append(
                    {
                        "selection": selection,
                        "fraction": fraction,
                        "merge": merge,
                        "accuracy": accuracy(small.model, *test),
                        "params": small.report.totals().loc["params", "after"],
                        "seconds": seconds,
                    }
                )
    print(name, "seed", seed, flush=True)
    return [{"model": name, "seed": seed, **row} for row in rows]


def summarize(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and SD over seeds; one column a way of merging."""
    keys = ["model", "selection", "fraction"]
    columns = {}
    for merge in ("dense", *MERGES):
        groups = frame[frame["merge"] == merge].groupby(keys, sort=False)["accuracy"]
        columns |= {merge: groups.mean(), f"{merge}_sd": groups.std()}
    return pd.DataFrame(columns)


def plot(frame: pd.DataFrame, path: Path) -> None:
    """Accuracy against the fraction removed, one panel a model and selection."""
    from matplotlib.figure import Figure

    pruned = frame[frame["merge"] != "dense"]
    models = list(dict.fromkeys(pruned["model"]))
    figure = Figure(figsize=(4.0 * len(SELECTIONS), 3.4 * len(models)), layout="constrained")
    panels = figure.subplots(len(models), len(SELECTIONS), squeeze=False, sharey=True)
    for row, model in zip(panels, models, strict=True):
        dense = frame.loc[(frame["model"] == model) & (frame["merge"] == "dense"), "accuracy"].mean()
        for axes, selection in zip(row, SELECTIONS, strict=True):
            part = pruned[(pruned["model"] == model) & (pruned["selection"] == selection)]
            for merge in MERGES:
                at = part[part["merge"] == merge].groupby("fraction")["accuracy"].agg(["mean", "std"])
                axes.errorbar(at.index, at["mean"], at["std"].fillna(0), marker="o", label=merge)
            axes.axhline(dense, color="black", linestyle=":")
            axes.set_title(f"{model}, {selection}")
            axes.set_xlabel("fraction of the units removed")
            if model == "mlp":
                axes.plot([0.8], [PUBLISHED["least_squares"]], "k*", label="neuron merging, published")
        row[0].set_ylabel("test accuracy")
    panels[0][0].legend(fontsize="small")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = new_parser(__doc__, "merging")
    parser.add_argument("--models", nargs="+", choices=("mlp", "cnn", "resnet"), default=["mlp", "cnn"])
    arguments: argparse.Namespace = parser.parse_args()
    fractions = FRACTIONS[1:3] if arguments.quick else FRACTIONS
    n_examples = 2000 if arguments.quick else 10_000
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    frame = pd.DataFrame()
    for name in arguments.models:
        for seed in arguments.seeds:
            rows += measure(name, seed, fractions, n_examples)
            frame = pd.DataFrame(rows)
            frame.to_csv(arguments.out / "merging.csv", index=False, float_format="%.5f")
    summary = summarize(frame)
    summary.to_csv(arguments.out / "summary.csv", float_format="%.4f")
    plot(frame, arguments.out / "merging.png")
    save_settings(arguments.out, arguments, published=PUBLISHED)
    print(summary.to_string(float_format=lambda value: f"{value:.4f}"))


if __name__ == "__main__":
    main()
