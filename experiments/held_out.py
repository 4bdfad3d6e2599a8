"""Do the selections of anneal.py keep their order on images that none of them saw, and by the divergence?

Test accuracies of good selections differ by less than 10,000 images tell apart. For each model, seed, method and
fraction of anneal.csv, the same selection

- plain: after deletion, accuracy on the second half of the estimation images, of which the first chose it;
- merged: merged with one half of these 5,000 images and measured on the other, both ways round;
- whole: the accuracy of the original model on them;
- divergence: merged with all 5,000, the mean Kullback-Leibler divergence from the original model's prediction to the
  smaller one's on the test images, in nats (0 where they agree), whose noise is far below that of the accuracy;
- train, train_divergence, train_whole: this network's accuracy and divergence, and the accuracy of the original, on
  30,000 images that the original model was trained on, which no selection saw: its accuracy there is not that on new
  images, but what a smaller network keeps of it tells selections apart better than fewer images can. They are not part
  of the repository; see ``train_models.py``.

Writes held_out.csv, summary.csv (mean over draws, then mean and SD over seeds) and settings.json. What held_out.csv
holds already is not computed again.

Example: ``python experiments/held_out.py --models vit``
"""

from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _lib.arguments import RESULTS, new_parser
from _lib.models import HALF, Pair, accuracy, divergence, load, predicted, right
from _lib.results import run_jobs, save_settings
from _lib.selections import METHODS, unpacked
from _lib.training import DEBIAN_FOLDER, full_training_set

import dropreg as dr

VALUES = ["plain", "merged", "divergence", "train", "train_divergence"]
WHOLE = ["whole", "train_whole"]
N_TRAINING = 30_000


def measure(name: str, seed: int, method: str, made: pd.DataFrame, training: Pair, *, quick: bool) -> pd.DataFrame:
    """One row for each fraction (and draw)."""
    model = load(name, seed)
    elements = dr.elements(model)
    x, y = (part[HALF:] for part in dr.datasets.fashion_mnist("estimation"))
    middle = HALF // 2
    halves = (x[:middle], y[:middle]), (x[middle:], y[middle:])
    test = dr.datasets.fashion_mnist("test")[0]
    whole, whole_test, whole_train = accuracy(model, (x, y)), predicted(model, test), predicted(model, training[0])
    rows: list[dict[str, Any]] = []
    chosen = made[(made["model"] == name) & (made["seed"] == seed) & (made["method"] == method)]
    for row in chosen.iloc[:1].itertuples() if quick else chosen.itertuples():
        selection = unpacked(str(row.kept), elements)
        found = {"plain": accuracy(dr.remove(model, selection).model, (x, y))}
        crossed = [
            accuracy(dr.remove(model, selection, data=merging).model, measuring)
            for merging, measuring in (halves, halves[::-1])
        ]
        merged = dr.remove(model, selection, data=(x, y)).model
        found |= {"merged": float(np.mean(crossed)), "divergence": divergence(whole_test, predicted(merged, test))}
        train = predicted(merged, training[0])
        found |= {"train": right(train, training[1]), "train_divergence": divergence(whole_train, train)}
        key = {"model": name, "seed": seed, "method": method, "fraction": row.fraction, "draw": row.draw}
        rows.append({**key, **found, "whole": whole, "train_whole": right(whole_train, training[1])})
        print(*rows[-1].values(), flush=True)
    return pd.DataFrame(rows)


def summarize(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and SD over seeds of the mean over draws."""
    by_seed = frame.groupby(["model", "method", "fraction", "seed"], sort=False)[[*VALUES, *WHOLE]].mean()
    groups = by_seed.groupby(["model", "method", "fraction"], sort=False)
    return groups.mean().join(groups[VALUES].std().add_suffix("_sd"))


def main() -> None:
    parser = new_parser(__doc__, "held_out")
    parser.add_argument("--models", nargs="+", choices=("mlp", "cnn", "resnet", "vit"), default=["vit"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="default: all of which there are selections")
    parser.add_argument(
        "--selections", type=Path, default=RESULTS / "anneal" / "anneal.csv", help="anneal.csv with the selections"
    )
    parser.add_argument("--full-set", type=Path, default=DEBIAN_FOLDER, help="folder of the training images")
    arguments = parser.parse_args()
    images, labels = (
        part[: 2_000 if arguments.quick else N_TRAINING] for part in full_training_set(arguments.full_set)
    )
    training = dr.datasets.as_inputs(images), labels.astype(np.int64)
    made = pd.read_csv(arguments.selections).dropna(subset="kept")
    asked = product(arguments.models, arguments.seeds, arguments.methods or METHODS)
    there = set(made[["model", "seed", "method"]].itertuples(index=False, name=None))
    frame = run_jobs(
        arguments.out / "held_out.csv",
        ["model", "seed", "method"],
        [job for job in asked if job in there],
        partial(measure, made=made, training=training, quick=arguments.quick),
    )
    summary = summarize(frame)
    summary.to_csv(arguments.out / "summary.csv", float_format="%.5f")
    save_settings(arguments.out, arguments)
    print(summary.to_string(float_format=lambda value: f"{value:.4f}"))


if __name__ == "__main__":
    main()
