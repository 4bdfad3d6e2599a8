"""Two epochs of fine-tuning for every selection, and the same small architectures trained from scratch.

For each model, seed (a trained network of its own), method and fraction of the units removed: test accuracy of the
smaller network after deletion and after least-squares merging, each before and after two epochs on the 50,000
training images (`dropreg.recover` on the labels: Adam, batches of 128, learning rate .0003, best of the two epochs
and none by a tenth of the images that is held out). The control takes the architecture that the default leaves
("annealed for merging") with fresh weights and trains it as the original was trained, for as many epochs (8; 16 for
the vision transformer).

Selections are those of ``anneal.py``: from 5,000 estimation images, merged with the other 5,000. Three disjoint sets:
estimation images for selections, training images for fine-tuning, test images for the figures. The training images are
not part of the repository; see ``train_models.py``.

Writes finetune.csv, summary.csv (mean and SD over seeds) and settings.json.

Example: ``python experiments/finetune.py --models mlp --seeds 0 1 2``
"""

import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from anneal import FRACTIONS, IN_STEPS, METHODS, accuracy, in_steps, load, make
from common import new_parser, save_settings
from train_models import DEBIAN_FOLDER, EPOCHS, N_TRAIN, fit, full_training_set

import dropreg as dr

COMPARED = (
    "random",
    "spread",
    "taylor, iterated",
    "gates",
    "spread, merged steps",
    "annealed",
    "annealed for merging",
)
DEFAULT = "annealed for merging"
CONTROL = "from scratch"
TUNING = dr.Recovery(epochs=2, patience=None, batch_size=128, learning_rate=3e-4)
VALUES = ("plain", "plain_tuned", "merged", "merged_tuned", "params", "seconds")


def tuned(model: Any, train: Any, test: Any, seed: int) -> float:
    """Test accuracy after two epochs."""
    keras.utils.set_random_seed(seed)
    return accuracy(dr.recover(model, train, recovery=TUNING).model, test)


def from_scratch(model: Any, epochs: int, train: Any, test: Any, seed: int) -> dict[str, Any]:
    """The control: fresh weights, trained as the original was."""
    keras.utils.set_random_seed(seed)
    fresh, start = keras.models.clone_model(model), time.perf_counter()
    fit(fresh, train[0], train[1], epochs)
    seconds = time.perf_counter() - start
    return {"merged_tuned": accuracy(fresh, test), "params": fresh.count_params(), "seconds": seconds}


def measure(name: str, seed: int, arguments: Any, train: Any) -> pd.DataFrame:
    """One row for each method and fraction."""
    model = load(name, seed)
    elements = dr.elements(model)
    fractions = FRACTIONS[1:3] if arguments.quick else FRACTIONS
    x, y = dr.examples.fashion_mnist("estimation")
    half = 500 if arguments.quick else 5000
    estimation, merging = (x[:half], y[:half]), (x[half : 2 * half], y[half : 2 * half])
    test = dr.examples.fashion_mnist("test")
    dense = {"plain": accuracy(model, test), "plain_tuned": tuned(model, train, test, seed)}
    rows: list[dict[str, Any]] = [{"method": "dense", "fraction": 0.0, **dense, "params": model.count_params()}]
    for method in arguments.methods:
        if method in IN_STEPS:
            made = in_steps(method, model, estimation, elements, seed, fractions)
            smaller = [(None, small.model, seconds) for small, seconds in made]
        else:
            made = make(method, model, estimation, elements, seed, fractions, 5 if arguments.quick else 50)
            smaller = [(dr.prune(model, s).model, dr.prune(model, s, merging).model, seconds) for s, seconds, _ in made]
        for fraction, (plain, merged, seconds) in zip(fractions, smaller, strict=True):
            row: dict[str, Any] = {"method": method, "fraction": fraction}
            for kind, network in (("plain", plain), ("merged", merged)):
                if network is not None:
                    row |= {kind: accuracy(network, test), f"{kind}_tuned": tuned(network, train, test, seed)}
            rows.append(row | {"params": merged.count_params(), "seconds": seconds})
            print(name, seed, *rows[-1].values(), flush=True)
            if method == DEFAULT:
                epochs = 1 if arguments.quick else EPOCHS[name]
                control = from_scratch(merged, epochs, train, test, seed)
                rows.append({"method": CONTROL, "fraction": fraction, **control})
                print(name, seed, *rows[-1].values(), flush=True)
    return pd.DataFrame(rows).assign(model=name, seed=seed)


def main() -> None:
    parser = new_parser(__doc__, "finetune")
    parser.add_argument("--models", nargs="+", choices=("mlp", "cnn", "resnet", "vit"), default=["mlp"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(COMPARED))
    parser.add_argument("--full-set", type=Path, default=DEBIAN_FOLDER, help="folder of the training images")
    arguments = parser.parse_args()
    images, labels = full_training_set(arguments.full_set)
    n_train = 2_000 if arguments.quick else N_TRAIN
    train = dr.examples.as_inputs(images[:n_train]), labels[:n_train].astype(np.int64)
    arguments.out.mkdir(parents=True, exist_ok=True)
    frames: list[pd.DataFrame] = []
    for name in arguments.models:
        for seed in arguments.seeds:
            frames.append(measure(name, seed, arguments, train))
            pd.concat(frames).to_csv(arguments.out / "finetune.csv", index=False, float_format="%.5f")
    groups = pd.concat(frames).groupby(["model", "method", "fraction"], sort=False)[list(VALUES)]
    summary = groups.mean().join(groups.std()[list(VALUES[:4])], rsuffix="_sd")
    summary.to_csv(arguments.out / "summary.csv", float_format="%.4f")
    save_settings(arguments.out, arguments)
    print(summary.to_string(float_format=lambda value: f"{value:.4f}"))


if __name__ == "__main__":
    main()
