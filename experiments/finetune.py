"""Which selection is best after two epochs of fine-tuning, and does training from scratch do as well?

For each model, seed (a trained network of its own), method and fraction of the units removed: test accuracy of the
smaller network after deletion and after least-squares merging, each before and after two epochs on the 50,000
training images (`dropreg.recover` on the labels: Adam, batches of 128, learning rate .002 falling to 0 along a cosine,
best of none, one and two epochs by the loss on the estimation images). The control ("from scratch") takes the
architecture that the default leaves ("annealed for merging") with fresh weights and trains it as the original was
trained, for as many epochs (8; 16 for the vision transformer). A method that ends in ", distilled" learns from the
original model before the two epochs, as `dropreg.prune` does by default.

Selections are those of ``anneal.py``, from its anneal.csv: made with 5,000 estimation images, merged with the other
5,000. Three disjoint sets: estimation images for selections and the choice of the epoch, training images for
fine-tuning, test images for the figures. A share of the training images could not choose the epoch: the original
networks have learned them by heart, so that no epochs would look best. The training images are not part of the
repository; see ``train_models.py``.

Writes finetune.csv, summary.csv (mean and SD over seeds) and settings.json. What finetune.csv holds already is not
computed again.

Example: ``python experiments/finetune.py --models mlp --seeds 0 1 2``
"""

from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from _lib.arguments import RESULTS, new_parser
from _lib.models import accuracy, load
from _lib.results import run_methods, save_summary
from _lib.selections import IN_STEPS, METHODS, in_steps, unpacked
from _lib.training import DEBIAN_FOLDER, EPOCHS, N_TRAIN, fit, full_training_set

import dropreg as dr

FRACTIONS = (0.5, 0.7, 0.8, 0.9)
COMPARED = (
    "random",
    "spread",
    "taylor, iterated",
    "gates",
    "spread, merged steps",
    "annealed",
    "annealed for merging",
    "from scratch",
)
DEFAULT, CONTROL = "annealed for merging", "from scratch"
TUNING = dr.Recovery(epochs=2, learning_rate=2e-3, decay="cosine", batch_size=128, patience=None)
KINDS = ("plain", "merged")
DISTILLED = ", distilled"
LEARNED = tuple(name + DISTILLED for name in COMPARED if name not in (*IN_STEPS, CONTROL))
VALUES = ("plain", "plain_tuned", "merged", "merged_tuned", "params")


def tuned(model: Any, train: Any, test: Any, seed: int) -> float:
    """Test accuracy after two epochs."""
    keras.utils.set_random_seed(seed)
    validation = dr.datasets.fashion_mnist("estimation")
    return accuracy(dr.recover(model, train, validation=validation, recovery=TUNING).model, test)


def from_scratch(model: Any, epochs: int, train: Any, test: Any, seed: int) -> float:
    """Test accuracy of the control: fresh weights, trained as the original was."""
    keras.utils.set_random_seed(seed)
    fresh = keras.models.clone_model(model)
    fit(fresh, train[0], train[1], epochs)
    return accuracy(fresh, test)


def smaller(name: str, seed: int, method: str, fraction: float, arguments: Any) -> dict[str, Any]:
    """Models after deletion and merged, as far as the method has them."""
    model, merging = load(name, seed), dr.datasets.fashion_mnist("estimation")
    if method in IN_STEPS:
        data = merging[0][:5000], merging[1][:5000]
        return {"merged": in_steps(method, model, data, seed, [fraction])[0][0]}
    recovery = "distill" if method.endswith(DISTILLED) else "none"
    method = method.removesuffix(DISTILLED)
    made = pd.read_csv(arguments.selections).query("model == @name and seed == @seed and method == @method")
    made = made[np.isclose(made["fraction"], fraction)]
    if made.empty:
        raise SystemExit(f"{arguments.selections} has no {method} of {name} {seed} at {fraction}: run anneal.py first.")
    selection = unpacked(made["kept"].iloc[0], dr.elements(model))
    merged = dr.remove(model, selection, data=(merging[0][5000:], merging[1][5000:]), recovery=recovery).model
    if method == DEFAULT or recovery == "distill":
        return {"merged": merged}
    return {"plain": dr.remove(model, selection).model, "merged": merged}


def measure(name: str, seed: int, method: str, arguments: Any, train: Any) -> pd.DataFrame:
    """One row for each fraction."""
    test = dr.datasets.fashion_mnist("test")
    rows: list[dict[str, Any]] = []

    def add(method: str, fraction: float, **found: Any) -> None:
        rows.append({"model": name, "seed": seed, "method": method, "fraction": fraction, **found})
        print(*rows[-1].values(), flush=True)

    if method == "dense":
        model = load(name, seed)
        found = {"plain": accuracy(model, test), "plain_tuned": tuned(model, train, test, seed)}
        add(method, 0.0, **found, params=model.count_params())
        return pd.DataFrame(rows)
    chosen = DEFAULT if method == CONTROL else method
    for fraction in FRACTIONS[1:3] if arguments.quick else FRACTIONS:
        networks = smaller(name, seed, chosen, fraction, arguments)
        found: dict[str, Any] = {}
        if method == CONTROL:
            epochs = 1 if arguments.quick else EPOCHS[name]
            found = {"merged_tuned": from_scratch(networks["merged"], epochs, train, test, seed)}
        else:
            for kind, network in ((k, n) for k, n in networks.items() if k in arguments.kinds):
                found |= {kind: accuracy(network, test), f"{kind}_tuned": tuned(network, train, test, seed)}
        add(method, fraction, **found, params=networks["merged"].count_params())
    return pd.DataFrame(rows)


def main() -> None:
    parser = new_parser(__doc__, "finetune")
    parser.add_argument("--models", nargs="+", choices=("mlp", "cnn", "resnet", "vit"), default=["mlp"])
    parser.add_argument("--methods", nargs="+", choices=(*METHODS, *LEARNED, CONTROL), default=list(COMPARED))
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="plain is after deletion alone")
    parser.add_argument("--full-set", type=Path, default=DEBIAN_FOLDER, help="folder of the training images")
    parser.add_argument(
        "--selections", type=Path, default=RESULTS / "anneal" / "anneal.csv", help="anneal.csv with the selections"
    )
    arguments = parser.parse_args()
    images, labels = full_training_set(arguments.full_set)
    n_train = 2_000 if arguments.quick else N_TRAIN
    train = dr.datasets.as_inputs(images[:n_train]), labels[:n_train].astype(np.int64)
    frame = run_methods(arguments, "finetune", partial(measure, arguments=arguments, train=train))
    save_summary(arguments, frame, VALUES, 4)


if __name__ == "__main__":
    main()
