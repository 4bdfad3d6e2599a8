"""Is Optimal Brain Damage worse than random removal, and is the spread of the loss change better?

The shipped MLP and CNN with two more trainings each, their weights (--kinds weights) and their neurons
and filters (neurons). Each scorer says which elements to remove: at random, by magnitude, by optimal
brain damage (the second-order term of the Taylor expansion of the loss), by first and second order
together, by the first order alone, and by the spread (SD over examples) of the loss change that either
order predicts. Second derivatives are Gauss-Newton ones, which are exact for these networks; for weights
they are sketched with two random directions an example, unbiased, whose noise adds to the spread.

- one shot: score once, remove everything at once;
- iterated: score, remove a step, score the kept elements again, and so on;
- iterated, fine-tuned: the same, with --tune-steps steps of Adam on the training images after each
  removal, dropped elements staying dropped. The training images are not part of the repository; see
  train_models.py for where they come from. Without them (--full-set) this mode is left out, and says so.

Removing is masking; every layer keeps its best element. Accuracy and loss are those of the test images.

Writes removal.csv (one line a model, kind, training seed, scorer, mode and fraction; `predicted` is the
sum of the second-order predictions at the original model over what was removed, `measured` the loss change
on the same examples), removal-summary.csv, prediction.csv (random sets of 1 element and more: predicted and
measured change of the mean loss), curvature.csv (MEAN and SD over examples of L'', the second derivative
of the loss with respect to a weight, or to the gate of a unit; a sample of the weights),
curvature-MODEL-KIND.png, prediction-MODEL-KIND.png, removal-MODEL-KIND.png and settings.json. What is done
is kept in --out/runs, so that a run that was stopped resumes.

Example: ``python experiments/study.py``; ``python experiments/study.py --quick --out study-quick``
"""

import argparse
import hashlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from _lib.arguments import new_parser
from _lib.figures import draw_curvature, draw_prediction, draw_removal
from _lib.models import load
from _lib.results import save_settings
from _lib.training import DEBIAN_FOLDER, N_TRAIN, full_training_set
from scipy.special import log_softmax

import dropreg as dr

if TYPE_CHECKING:
    import keras

Mask = npt.NDArray[np.bool_]
Array = npt.NDArray[np.float64]
MODES = ("one shot", "iterated", "iterated, fine-tuned")
RANDOM_DRAWS = 5
N_CLASSES = 10
BATCH = 128
JUDGED_AT_ONCE = 500
LEARNING_RATE = 3e-4
CURVATURE_SAMPLE = 3_000
SKETCH = dr.scorers.GaussNewton(2)
"""Of weights: two random directions an example, because all outputs take a pass over every weight each."""


def scorers_of(kind: str) -> dict[str, dr.scorers.Scorer]:
    """The scorers of the study."""
    second = {"curvature": SKETCH} if kind == "weights" else {}
    return {
        "random": dr.scorers.Scorer(dr.scorers.random, draws=RANDOM_DRAWS),
        "magnitude": dr.scorers.Scorer(dr.scorers.magnitude),
        "OBD": dr.scorers.Scorer(dr.scorers.obd, second),
        "first order, signed": dr.scorers.Scorer(dr.scorers.taylor),
        "first + second order, signed": dr.scorers.Scorer(dr.scorers.taylor, second | {"order": 2}),
        "spread, first order": dr.scorers.Scorer(dr.scorers.spread),
        "spread, first + second order": dr.scorers.Scorer(dr.scorers.spread, second | {"order": 2}),
    }


@dataclass(frozen=True, eq=False)
class Setting:
    """One model, kind of element and training seed.

    Attributes
    ----------
    name, kind : str
    seed : int
    elements : Elements
    data, test, train : (x, y)
        Estimation split, test split, and training images or None.
    rows : int
        Budget of one scoring.
    examples : int
        Examples that predicted and measured changes are compared on.
    """

    name: str
    kind: str
    seed: int
    elements: dr.Elements
    data: Any
    test: Any
    train: Any
    rows: int
    examples: int

    def model(self) -> "keras.Model":
        """A fresh copy, which may be changed."""
        return load(self.name, self.seed)

    def labels(self) -> dict[str, Any]:
        return {"model": self.name, "kind": self.kind, "training": self.seed}


def score(setting: Setting, model: "keras.Model", scorer: dr.scorers.Scorer, kept: Mask, seed: int) -> dr.ImpactTable:
    """Impacts given what is kept; random and magnitude do not depend on it."""
    more: dict[str, Any] = {}
    if scorer.function not in (dr.scorers.random, dr.scorers.magnitude):
        more = {"rows": setting.rows, "kept": kept}
    return scorer.function(model, setting.data, setting.elements, seed=seed, **scorer.settings, **more)


def remove(elements: dr.Elements, table: dr.ImpactTable, kept: Mask, fraction: float) -> Mask:
    """Of the kept elements, drop those of lowest impact until a fraction of all elements is dropped."""
    impact = np.where(kept, table.impact, table.impact.min() - 1.0)  # dropped elements stay dropped
    return dr.select(elements, impact, fraction=fraction).kept & kept


class Judge:
    """Test accuracy and loss, and the mean loss on the estimation split, of masks of a model that may change."""

    def __init__(self, setting: Setting, model: "keras.Model") -> None:
        import tensorflow as tf

        from dropreg.network import MaskedNetwork

        self.setting, self.n_elements = setting, len(setting.elements)
        self.logits = tf.function(MaskedNetwork(model, setting.elements), reduce_retracing=True)

    def accuracy_and_loss(self, data: Any, kept: Mask) -> tuple[float, float]:
        import tensorflow as tf

        x, y = data
        mask = tf.constant(kept[np.newaxis], tf.float32)
        blocks = range(0, len(y), JUDGED_AT_ONCE)
        logits = np.concatenate([self.logits([tf.constant(x[at : at + JUDGED_AT_ONCE])], mask) for at in blocks])
        loss = -log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(y)), y]
        return float((logits.argmax(axis=1) == y).mean()), float(loss.mean())

    def estimation_loss(self, kept: Mask | None = None) -> float:
        """Mean loss on the estimation examples, of the original model without a mask."""
        x, y = self.setting.data
        kept = np.ones(self.n_elements, bool) if kept is None else kept
        return self.accuracy_and_loss((x[: self.setting.examples], y[: self.setting.examples]), kept)[1]

    def line(self, kept: Mask) -> dict[str, float]:
        accuracy, loss = self.accuracy_and_loss(self.setting.test, kept)
        return {"accuracy": accuracy, "loss": loss, "measured": self.estimation_loss(kept) - self.estimation_loss()}


def fine_tune(model: "keras.Model", elements: dr.Elements, kept: Mask, train: Any, steps: int, seed: int) -> None:
    """Train the weights of what is kept on the cross-entropy; normalization statistics stay."""
    import keras
    import tensorflow as tf

    from dropreg.network import MaskedNetwork

    network, mask = MaskedNetwork(model, elements), tf.constant(kept[np.newaxis], tf.float32)
    variables = model.trainable_variables
    optimizer: Any = keras.optimizers.Adam(LEARNING_RATE)
    optimizer.build(variables)

    @tf.function
    def step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            logits = network([x], mask)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        gradients: Any = tape.gradient(loss, [variable.value for variable in variables])
        optimizer.apply(gradients, variables)

    rng = np.random.default_rng(seed)
    for _ in range(steps):
        batch = rng.integers(0, len(train[1]), BATCH)
        step(tf.constant(train[0][batch]), tf.constant(train[1][batch]))


@cache
def predicted_changes(setting: Setting) -> tuple[Array, Array]:
    """Changes of the mean loss that the first, and the first two orders at the original model predict.

    For each element, on the examples that changes are measured on.
    """
    cost = dr.scorers.GaussNewton().cost(len(setting.elements), N_CLASSES)
    table = dr.scorers.taylor(setting.model(), setting.data, setting.elements, order=2, rows=setting.examples * cost)
    return -table.frame["gradient_mean"].to_numpy(), table.frame["change_mean"].to_numpy()


def removals(
    setting: Setting, name: str, mode: str, seed: int, fractions: list[float], n_steps: int, tune_steps: int
) -> Iterator[dict[str, Any]]:
    """Lines of one scorer, mode and draw."""
    model, scorer = setting.model(), scorers_of(setting.kind)[name]
    judge = Judge(setting, model)
    kept, start, rows = np.ones(len(setting.elements), bool), time.perf_counter(), 0
    change = predicted_changes(setting)[1]
    table = score(setting, model, scorer, kept, seed)
    steps = fractions if mode == "one shot" else schedule(fractions, n_steps)
    for fraction in steps:
        if mode != "one shot" and not kept.all():
            table = score(setting, model, scorer, kept, seed)
        rows += dr.scorers.spent(table) if mode != "one shot" or kept.all() else 0
        kept = remove(setting.elements, table, np.ones_like(kept) if mode == "one shot" else kept, fraction)
        if mode == "iterated, fine-tuned":
            fine_tune(model, setting.elements, kept, setting.train, tune_steps, seed)
        if fraction in fractions:
            line = setting.labels() | {"scorer": name, "mode": mode, "fraction": fraction, "draw": seed}
            more = {"predicted": float(change[~kept].sum()), "rows": rows, "seconds": time.perf_counter() - start}
            yield line | judge.line(kept) | more


def removal_frame(*arguments: Any) -> pd.DataFrame:
    """`removals` as a frame."""
    return pd.DataFrame(removals(*arguments))


def schedule(fractions: list[float], n_steps: int) -> list[float]:
    """Fractions to go through: equal steps up to the largest, and all of `fractions`."""
    steps = np.linspace(0.0, max(fractions), n_steps + 1)[1:].round(6).tolist()
    return sorted({*steps, *fractions})


def predictions(setting: Setting, draws: int) -> pd.DataFrame:
    """Predicted and measured change of the mean loss for random sets of elements."""
    model = setting.model()
    judge, n = Judge(setting, model), len(setting.elements)
    whole = judge.estimation_loss()
    first, second = predicted_changes(setting)
    rng, lines = np.random.default_rng(setting.seed), []
    for size in np.unique(np.logspace(0, np.log10(0.9 * n), 10).round().astype(int)).tolist():
        masks = np.ones((draws, n), bool)
        for mask in masks:
            mask[rng.choice(n, size, replace=False)] = False
        measured = [judge.estimation_loss(mask) - whole for mask in masks]
        lines += [
            setting.labels()
            | {
                "size": size,
                "draw": draw,
                "first_order": float(first[~mask].sum()),
                "second_order": float(second[~mask].sum()),
                "measured": float(change),
            }
            for draw, (mask, change) in enumerate(zip(masks, measured, strict=True))
        ]
    return pd.DataFrame(lines)


def curvature(setting: Setting) -> pd.DataFrame:
    """MEAN and SD over examples of L'' for every element, or a sample of them, with its layer."""
    model = setting.model()
    table = dr.scorers.obd(model, setting.data, setting.elements, rows=3 * setting.rows).frame
    if setting.kind == "weights":  # from masks to weights: h w^2 / w^2
        squares = dr.scorers.magnitude(model, None, setting.elements).impact ** 2
        table = table[squares > 0].assign(
            **{name: table[name] / squares for name in ("curvature_mean", "curvature_sd")}
        )
    sample = table.sample(min(CURVATURE_SAMPLE, len(table)), random_state=0).sort_index()
    return sample[["element", "layer", "curvature_mean", "curvature_sd"]].assign(**setting.labels())


def kept_in(path: Path, make: Any) -> pd.DataFrame:
    """The frame in a CSV file, made and written if it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        frame = make()
        passing = path.with_suffix(".part")
        frame.to_csv(passing, index=False)
        passing.rename(path)
    return pd.read_csv(path)


def run_setting(setting: Setting, arguments: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """All parts of the study for one model, kind and training seed."""
    used = (arguments.fractions, arguments.steps, arguments.tune_steps, setting.rows, arguments.draws, arguments.quick)
    kept = hashlib.sha256(repr(used).encode()).hexdigest()[:8]  # what other settings left is not taken for this run's
    folder = arguments.out / "runs" / f"{setting.name}-{setting.kind}-{setting.seed}-{kept}"
    modes = [mode for mode in MODES if setting.train is not None or mode != "iterated, fine-tuned"]
    frames = []
    for name, scorer in scorers_of(setting.kind).items():
        for mode in modes:
            for draw in range(scorer.draws if mode == "one shot" else 1):
                path = folder / f"{name}, {mode}, {draw}.csv".replace(" ", "_")
                settings = (arguments.fractions, arguments.steps, arguments.tune_steps)
                lines = kept_in(path, partial(removal_frame, setting, name, mode, draw, *settings))
                shown = ", ".join(f"{line.fraction:g}: {line.accuracy:.3f}" for line in lines.itertuples())
                print(f"{setting.labels()} {name}, {mode}: {shown}", flush=True)
                frames.append(lines)
    return {
        "removal": pd.concat(frames, ignore_index=True),
        "prediction": kept_in(folder / "prediction.csv", partial(predictions, setting, arguments.draws)),
        "curvature": kept_in(folder / "curvature.csv", partial(curvature, setting)),
    }


def training_images(arguments: argparse.Namespace) -> Any:
    """The images that the models were trained on, or None (said aloud) if they are not there."""
    try:
        images, labels = full_training_set(arguments.full_set)
    except dr.errors.DataError as error:
        print(f"no fine-tuning: {error}", flush=True)
        return None
    return dr.datasets.as_inputs(images[:N_TRAIN]), labels[:N_TRAIN].astype(np.int64)


def parse_arguments() -> argparse.Namespace:
    parser = new_parser(__doc__, "study")
    parser.add_argument("--models", nargs="+", choices=("mlp", "cnn", "resnet"), default=["mlp", "cnn"])
    parser.add_argument("--kinds", nargs="+", choices=("neurons", "weights"), default=["neurons", "weights"])
    parser.add_argument("--fractions", nargs="+", type=float, default=[0.5, 0.6, 0.7, 0.8, 0.9])
    parser.add_argument("--steps", type=int, default=18, help="removals of an iterated run (default: 18)")
    parser.add_argument("--tune-steps", type=int, default=100, help="batches of 128 after a removal (default: 100)")
    parser.add_argument("--rows", type=int, default=42_000, help="row-equivalents of one scoring (default: 42,000)")
    parser.add_argument("--weight-rows", type=int, default=7_000, help="the same for weights (default: 7,000)")
    parser.add_argument("--draws", type=int, default=30, help="random sets of each size (default: 30)")
    parser.add_argument("--full-set", type=Path, default=DEBIAN_FOLDER, help="folder of the training images")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.seeds, arguments.models, arguments.fractions = arguments.seeds[:1], arguments.models[:1], [0.5, 0.8]
        arguments.steps, arguments.tune_steps, arguments.rows, arguments.draws = 2, 10, 1_050, 3
        arguments.weight_rows = 210
    return arguments


def main() -> None:
    arguments = parse_arguments()
    data, test = dr.datasets.fashion_mnist("estimation"), dr.datasets.fashion_mnist("test")
    if arguments.quick:
        test = test[0][:1_000], test[1][:1_000]
    train = training_images(arguments)
    results = []
    for name in arguments.models:
        for kind in arguments.kinds:
            for seed in arguments.seeds:
                elements = dr.elements(load(name, seed), kind)
                rows = arguments.weight_rows if kind == "weights" else arguments.rows
                examples = 20 if arguments.quick else {"weights": 500, "neurons": 2_000}[kind]
                setting = Setting(name, kind, seed, elements, data, test, train, rows, examples)
                results.append(run_setting(setting, arguments))
    frames = {part: pd.concat([result[part] for result in results], ignore_index=True) for part in results[0]}
    for part, frame in frames.items():
        frame.round(6).to_csv(arguments.out / f"{part}.csv", index=False)
    groups = frames["removal"].groupby(["model", "kind", "mode", "scorer", "fraction"], sort=False)
    values = ["accuracy", "loss", "predicted", "measured"]
    summary = groups[values].agg(["mean", "std"])
    summary.columns = [f"{value}_{statistic}" for value, statistic in summary.columns]
    summary = summary.assign(runs=groups.size()).reset_index()
    summary.round(4).to_csv(arguments.out / "removal-summary.csv", index=False)
    draws = {"removal": draw_removal, "prediction": draw_prediction, "curvature": draw_curvature}
    for name in arguments.models:
        for kind in arguments.kinds:
            for part, draw in draws.items():
                frame = frames[part]
                here = frame[(frame["model"] == name) & (frame["kind"] == kind)]
                draw(here, f"{name}, {kind}", arguments.out / f"{part}-{name}-{kind}.png")
    save_settings(arguments.out, arguments)
    print(summary.to_string(index=False, float_format="%.3f"))


if __name__ == "__main__":
    sys.exit(main())
