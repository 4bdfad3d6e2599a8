"""Is the default prune better than squared Taylor in ten steps if both take the same time?

Four ways to remove a fraction of the units, each merged and distilled without labels on the same images:

- "default": `dropreg.prune`;
- "taylor": squared Taylor scores, computed again in ten steps, and the default distillation;
- "taylor, time of default": the same with more epochs of distillation, so that it takes as long as the default;
- "default, time of taylor": `dropreg.prune` with a budget of the minutes that "taylor" took.

Seconds are wall time of one run each, one after the other in one process. Networks are those of the other
experiments, and "mobilenet": MobileNetV2 with ten classes, trained here on --train images of Fashion-MNIST enlarged
to 64 x 64 pixels, which needs the full training set (see train_models.py). Test accuracy is measured on images that
nothing else uses.

Writes equal_time.csv, summary.csv (mean and SD over seeds; "ahead" is the mean difference from "taylor, time of
default", and from "taylor" for "default, time of taylor", with its standard error over test images) and settings.json.

Example: ``python experiments/equal_time.py --models mlp cnn --fractions 0.7 0.9``
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _lib.arguments import new_parser
from _lib.models import load
from _lib.results import save_settings
from _lib.selections import SQUARED
from _lib.training import DEBIAN_FOLDER, fit, full_training_set

import dropreg as dr
from dropreg.pruning import Minutes
from dropreg.recovery import resolve_recovery

STEPS = 10
RIVALS = {"default": "taylor, time of default", "default, time of taylor": "taylor"}


def enlarged(images: np.ndarray) -> np.ndarray:
    """Images of 28 x 28 pixels as (n, 64, 64, 3) in [0, 1]."""
    import keras

    grey = keras.ops.image.resize(np.asarray(images, "float32"), (64, 64), interpolation="bilinear")
    return np.repeat(np.clip(np.asarray(grey), 0.0, 1.0), 3, axis=-1)


def mobilenet(seed: int, n_train: int, epochs: int, folder: Path) -> Any:
    """MobileNetV2 trained on enlarged images."""
    import keras

    keras.utils.set_random_seed(seed)
    x, y = full_training_set(folder)
    build: Any = keras.applications.MobileNetV2
    model = build(weights=None, input_shape=(64, 64, 3), classes=10, classifier_activation=None)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9
    fit(model, enlarged(dr.data.as_inputs(x[:n_train])), y[:n_train].astype("int32"), epochs)
    return model


def right(model: Any, data: Any) -> np.ndarray:
    """Whether each test image is classified correctly."""
    return model.predict(data[0], batch_size=250, verbose=0).argmax(axis=1) == data[1]


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return function(), time.perf_counter() - start


def taylor_selection(model: Any, data: Any, fraction: float, seed: int) -> dr.Selection:
    """Kept elements after ten steps of equal size, each scored under the mask of the one before."""
    elements = dr.elements(model)
    kept = np.ones(len(elements), dtype=bool)
    for part in np.linspace(0, fraction, STEPS + 1)[1:]:
        table = SQUARED.function(model, data, elements, seed=seed, kept=kept, **SQUARED.settings)
        scores = np.where(kept, table.impact, table.impact.min() - 1.0)
        kept = dr.select(elements, scores, fraction=float(part)).kept
    return dr.Selection(elements, kept)


def compared(model: Any, data: Any, test: Any, fraction: float, seed: int) -> list[dict[str, Any]]:
    """One row for each way."""
    usual = resolve_recovery("distill", None, has_data=True, seed=seed)
    assert usual is not None
    default, of_default = timed(lambda: dr.prune(model, data, fraction=fraction, seed=seed, progress=False))
    selection, choosing = timed(lambda: taylor_selection(model, data, fraction, seed))
    settings = default.recovered.settings if default.effort.reduced else usual
    taylor, training = timed(lambda: dr.remove(model, selection, data=data, recovery=settings, progress=False))
    epochs = max(round(settings.epochs * (of_default - choosing) / training), 1)
    longer = replace(settings, epochs=epochs)
    long, again = timed(lambda: dr.remove(model, selection, data=data, recovery=longer, progress=False))
    minutes = (choosing + training) / 60
    short, of_short = timed(
        lambda: dr.prune(model, data, fraction=fraction, seed=seed, budget=Minutes(minutes), progress=False)
    )
    found = {
        "default": (default, of_default),
        "taylor": (taylor, choosing + training),
        "taylor, time of default": (long, choosing + again),
        "default, time of taylor": (short, of_short),
    }
    hits = {name: right(pruned.model, test) for name, (pruned, _) in found.items()}
    rows = []
    for name, (pruned, seconds) in found.items():
        row = {"method": name, "accuracy": hits[name].mean(), "seconds": seconds}
        row |= {"epochs": pruned.recovered.settings.epochs, "params": pruned.model.count_params()}
        row["rounds"] = pruned.effort.rounds if pruned.effort else 0
        if name in RIVALS:
            ahead = hits[name].astype(float) - hits[RIVALS[name]]
            row |= {"ahead": ahead.mean(), "ahead_se": ahead.std(ddof=1) / np.sqrt(len(ahead))}
        rows.append(row)
    return rows


def main() -> None:
    parser = new_parser(__doc__, "equal_time")
    parser.add_argument("--models", nargs="+", default=["mlp", "cnn"], help="default: mlp cnn")
    parser.add_argument("--fractions", nargs="+", type=float, default=[0.7, 0.9], help="default: 0.7 0.9")
    parser.add_argument("--images", type=int, default=5_000, help="images for pruning (default: 5,000)")
    parser.add_argument("--train", type=int, default=20_000, help="training images of mobilenet (default: 20,000)")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of training mobilenet (default: 5)")
    parser.add_argument("--full-set", type=Path, default=DEBIAN_FOLDER, help="folder of the full training set")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.models, arguments.fractions, arguments.images, arguments.seeds = ["mlp"], [0.7], 300, [0]
    estimation, test = dr.datasets.fashion_mnist("estimation"), dr.datasets.fashion_mnist("test")
    path = arguments.out / "equal_time.csv"
    rows = pd.read_csv(path).to_dict("records") if path.exists() else []
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name in arguments.models:
        large = name == "mobilenet"
        prepare = enlarged if large else np.asarray
        data = prepare(estimation[0][: arguments.images]), estimation[1][: arguments.images]
        unseen = prepare(test[0]), test[1]
        for seed in arguments.seeds:
            model = (
                mobilenet(seed, arguments.train, arguments.epochs, arguments.full_set) if large else load(name, seed)
            )
            dense = float(right(model, unseen).mean())
            for fraction in arguments.fractions:
                if any((row["model"], row["seed"], row["fraction"]) == (name, seed, fraction) for row in rows):
                    continue
                case = {"model": name, "seed": seed, "fraction": fraction, "dense": dense}
                rows += [case | row for row in compared(model, data, unseen, fraction, seed)]
                pd.DataFrame(rows).to_csv(path, index=False, float_format="%.5f")
                print(pd.DataFrame(rows[-4:]).to_string(), flush=True)
    groups = pd.DataFrame(rows).groupby(["model", "fraction", "method"], sort=False)
    values = ["accuracy", "seconds", "epochs", "rounds", "params", "ahead", "ahead_se", "dense"]
    summary = groups[values].mean().join(groups[["accuracy", "ahead"]].std().add_suffix("_sd"))
    summary.to_csv(arguments.out / "summary.csv", float_format="%.5f")
    save_settings(arguments.out, arguments)


if __name__ == "__main__":
    main()
