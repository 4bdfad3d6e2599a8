"""Do pairwise interactions find planted redundant pairs of units?

Small untrained networks (6 inputs, 10 or 40 ReLU units, 8 saturating readers, 3 classes; labels are
the network's own decisions) in which unit 7 is made to stand in for unit 2: a copy, a copy scaled by
2 whose readers are scaled by 1/2 (the same function, so the same figures), or a negated copy, whose
activation falls where the other's rises. Each network is drawn anew for each seed. The pair is looked
for among all pairs of units, in the order of ``Interactions.pairs()`` (by z), from 30,000 and from
100,000 forward passes (drop rate 0.3, residuals of OLS), for the loss and for the divergence from the
original model.

For comparison: ``true_rank``, of the interaction enumerated over all masks (10 units only), and
``rank_by_activations``, by the absolute correlation of the units' activations, which needs no masks
(and which a planted linear dependence suits).

Writes pairs.csv (one line a network, number of rows and outcome), summary.csv (fraction found first, median and
worst rank), pairs.png and settings.json.

Example: ``python experiments/pairs.py``; ``python experiments/pairs.py --quick --out pairs-quick``
"""

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from _lib.arguments import new_parser
from _lib.results import save_settings

import dropreg as dr

if TYPE_CHECKING:
    import keras

KINDS = ("copy", "scaled", "negated")
ONE, OTHER = 2, 7
N_INPUTS, N_READERS, N_CLASSES, N_EXAMPLES = 6, 8, 3, 400
FALSE_DISCOVERY_RATE = 0.05
RATE = 0.3
OUTCOMES: tuple[dr.outcomes.Outcome, ...] = (dr.outcomes.Loss(), dr.outcomes.Divergence())
MOST_ENUMERATED = 12


def planted(kind: str, n_units: int, seed: int) -> "tuple[keras.Model, npt.NDArray[np.float32]]":
    """A random network with units 2 and 7 redundant, and its examples."""
    import keras

    rng = np.random.default_rng(seed)
    model = keras.Sequential(
        [
            keras.Input((N_INPUTS,)),
            keras.layers.Dense(n_units, activation="relu", name="units"),
            keras.layers.Dense(N_READERS, activation="tanh", name="read"),
            keras.layers.Dense(N_CLASSES, name="out"),
        ]
    )
    for layer in model.layers:
        layer.set_weights([rng.normal(scale=0.5, size=weight.shape) for weight in layer.get_weights()])
    write, read = model.get_layer("units"), model.get_layer("read")
    kernel, bias = write.get_weights()
    readers, offsets = read.get_weights()
    readers[ONE] = rng.choice([-4.0, 4.0], size=N_READERS)
    bias[ONE] = 3.0 if kind == "negated" else 1.5
    sign, scale = -1.0 if kind == "negated" else 1.0, 2.0 if kind == "scaled" else 1.0
    kernel[:, OTHER], bias[OTHER] = sign * scale * kernel[:, ONE], scale * bias[ONE]
    readers[OTHER] = readers[ONE] / scale
    write.set_weights([kernel, bias])
    read.set_weights([readers, offsets])
    return model, rng.normal(size=(N_EXAMPLES, N_INPUTS)).astype(np.float32)


def rank_by_activations(model: "keras.Model", x: npt.NDArray[np.float32]) -> int:
    """Rank of the planted pair by the absolute correlation of activations; constant units have none."""
    activations = np.asarray(model.get_layer("units")(x), dtype=np.float64)
    centered = activations - activations.mean(axis=0)
    norms = np.linalg.norm(centered, axis=0)
    correlation = np.abs(centered.T @ centered) / np.maximum(np.outer(norms, norms), 1e-12)
    above = np.triu(correlation > correlation[ONE, OTHER] + 1e-6, k=1)
    return 1 + int(above.sum())


def true_ranks(
    model: "keras.Model", x: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], elements: dr.Elements
) -> list[float]:
    """Rank of the planted pair by its enumerated interaction on each outcome; NaN for too many units."""
    import tensorflow as tf

    from dropreg.data import Prediction
    from dropreg.network import MaskedNetwork

    n = len(elements)
    if n > MOST_ENUMERATED:
        return [np.nan] * len(OUTCOMES)
    network, whole = MaskedNetwork(model, elements), Prediction(model(x), "classes", from_logits=True)

    @tf.function
    def mean_outcomes(mask: tf.Tensor) -> list[tf.Tensor]:
        here = Prediction(network([x], tf.tile(mask[tf.newaxis], [len(x), 1])), "classes", from_logits=True)
        return [tf.reduce_mean(outcome.measure(here, tf.constant(labels), whole)) for outcome in OUTCOMES]

    masks = np.array(list(itertools.product([1.0, 0.0], repeat=n)), dtype=np.float32)
    values = np.array([[float(value) for value in mean_outcomes(tf.constant(mask))] for mask in masks])
    dropped = 1.0 - masks.astype(np.float64)
    weights = np.prod(np.where(dropped > 0, RATE, 1.0 - RATE), axis=1)
    centered = (dropped - RATE) / (RATE * (1.0 - RATE))
    ranks = []
    for column in values.T:
        table = centered.T @ (centered * (weights * column)[:, np.newaxis])
        ranks.append(1.0 + float((table[np.triu_indices(n, k=1)] > table[ONE, OTHER]).sum()))
    return ranks


def run_network(kind: str, n_units: int, row_counts: list[int], seed: int) -> Iterator[dict[str, Any]]:
    """Lines of pairs.csv, one for each number of rows and outcome."""
    model, x = planted(kind, n_units, seed)
    labels = np.argmax(np.asarray(model(x)), axis=1)
    elements = dr.elements(model, include=["units"])
    truths, by_activations = true_ranks(model, x, labels, elements), rank_by_activations(model, x)
    for rows in row_counts:
        record = dr.sample(
            *(model, (x, labels), elements),
            rows=rows,
            outcomes=OUTCOMES,
            sampling=dr.Sampling(design=dr.designs.Bernoulli(RATE), gradients=False, fidelity=None),
            seed=seed,
            progress=False,
        )
        for outcome, truth in zip(OUTCOMES, truths, strict=True):
            yield {
                "outcome": outcome.name,
                "units": n_units,
                "kind": kind,
                "rows": rows,
                "seed": seed,
                **locate(record, outcome.name),
                "true_rank": truth,
                "rank_by_activations": by_activations,
            }


def locate(record: dr.Record, outcome: str) -> dict[str, Any]:
    """Where the planted pair stands among all pairs."""
    table = dr.regress(record, outcome=outcome, estimator="ols", interactions=True)
    assert table.interactions is not None
    pairs = table.interactions.pairs()
    at = (pairs["element"] == f"units[{ONE}]") & (pairs["other"] == f"units[{OTHER}]")
    place = int(np.flatnonzero(at)[0])
    found = pairs.iloc[place]
    return {
        "pairs": len(pairs),
        "rank": place + 1,
        "rank_by_size": int((pairs["interaction"] > found["interaction"]).sum()) + 1,
        "interaction": found["interaction"],
        "z": found["z"],
        "p_bh": found["p_bh"],
        "significant": bool(found["interaction"] > 0 and found["p_bh"] <= FALSE_DISCOVERY_RATE),
        "first": f"{pairs['element'][0]} {pairs['other'][0]}",
    }


def summarize(runs: pd.DataFrame) -> pd.DataFrame:
    """Fraction of networks in which the planted pair comes first, and its ranks."""
    flags = runs.assign(
        found=runs["rank"] == 1,
        found_by_size=runs["rank_by_size"] == 1,
        truly_first=(runs["true_rank"] == 1).astype(float).where(runs["true_rank"].notna()),
        found_by_activations=runs["rank_by_activations"] == 1,
    )
    groups = flags.groupby(["outcome", "units", "kind", "rows"], sort=False)
    return groups.agg(
        networks=("seed", "size"),
        pairs=("pairs", "first"),
        found_first=("found", "mean"),
        median_rank=("rank", "median"),
        worst_rank=("rank", "max"),
        significant=("significant", "mean"),
        median_z=("z", "median"),
        found_first_by_size=("found_by_size", "mean"),
        truly_first=("truly_first", "mean"),
        found_first_by_activations=("found_by_activations", "mean"),
    ).reset_index()


def draw(runs: pd.DataFrame, path: Path) -> None:
    """Rank of the planted pair in each network, one panel an outcome and number of units."""
    from matplotlib.figure import Figure

    sizes, outcomes = runs["units"].unique(), runs["outcome"].unique()
    figure = Figure(figsize=(5 * len(sizes), 3.6 * len(outcomes)), layout="constrained")
    panels = figure.subplots(len(outcomes), len(sizes), squeeze=False)
    for row, outcome in enumerate(outcomes):
        for column, size in enumerate(sizes):
            here = runs[(runs["units"] == size) & (runs["outcome"] == outcome)]
            axes, n_pairs, labels = panels[row, column], int(here["pairs"].iloc[0]), []
            for number, (_, lines) in enumerate(here.groupby(["kind", "rows"], sort=False)):
                kind, rows = str(lines["kind"].iloc[0]), int(lines["rows"].iloc[0])
                labels.append(f"{kind}\n{rows // 1000}k")
                spread = np.linspace(-0.25, 0.25, len(lines)) if len(lines) > 1 else np.zeros(1)
                axes.plot(number + spread, lines["rank"], "o", markersize=4, color=f"C{KINDS.index(kind)}")
            axes.set_yscale("log")
            axes.set_ylim(0.8, 1.3 * n_pairs)
            axes.set_xticks(range(len(labels)), labels)
            axes.set_ylabel("rank of the planted pair")
            axes.set_title(f"{outcome}, {size} units, {n_pairs} pairs", fontsize="medium")
            axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)


def parse_arguments() -> argparse.Namespace:
    parser = new_parser(__doc__, "pairs", tuple(range(10)))
    parser.add_argument("--units", nargs="+", type=int, default=[10, 40], help="default: 10 40")
    parser.add_argument("--rows", nargs="+", type=int, default=[30_000, 100_000], help="default: 30000 100000")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.units, arguments.rows = arguments.seeds[:2], arguments.units[:1], arguments.rows[:1]
    if min(arguments.units) <= OTHER:
        parser.error(f"--units must be at least {OTHER + 1}, received {min(arguments.units)}.")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    lines = [
        line
        for n_units in arguments.units
        for kind in KINDS
        for seed in arguments.seeds
        for line in run_network(kind, n_units, arguments.rows, seed)
    ]
    runs = pd.DataFrame(lines)
    summary = summarize(runs)
    runs.round(5).to_csv(arguments.out / "pairs.csv", index=False)
    summary.round(4).to_csv(arguments.out / "summary.csv", index=False)
    draw(runs, arguments.out / "pairs.png")
    save_settings(arguments.out, arguments)
    print(summary.to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    sys.exit(main())
