"""The command ``dropreg``."""

import argparse
import os
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ._utils import check_writable
from .element import KINDS
from .errors import DataError, DropregError, ModelError

if TYPE_CHECKING:
    import keras

ESTIMATE_HELP = """\
Estimate how much each unit of a trained Keras model is worth.

Runs the model on many random dropout masks, one mask for each forward pass, and regresses the
outcome on the masks. The impact of a unit is how much worse the outcome gets when it is dropped
while others are missing too; positive means that it hurts to lose it. The model is not changed.

Use examples that the model was not trained on. Write them with
  np.savez("heldout.npz", x=x, y=y)      # y: classes 0, 1, ... or one-hot rows

Example
  dropreg estimate model.keras --data heldout.npz --outcome accuracy --rows 200000 --out impact.csv

More rows give smaller standard errors: four times the rows halve them. A run with --record can be
stopped and goes on when the same command is given again.
"""
PRUNE_HELP = """\
Make a trained Keras model smaller: choose in small steps what goes, remove it, merge it into what stays,
and let what stays learn what the whole model predicts. The result is a plain Keras model, which
loads without dropreg and trains on.

Say how much goes by one of
  --fraction 0.8        of the elements
  --params 0.2          down to a fifth of the parameters; or --macs, --bytes, --latency
  --max-loss 0.005      as much as can go while the accuracy on the examples of --test falls by at most
                        half a percentage point, shown at 95 % confidence

Use examples that the model was not trained on, and others for --test. Write them with
  np.savez("heldout.npz", x=x, y=y)      # y: classes 0, 1, ... or one-hot rows

Example
  dropreg prune model.keras --data heldout.npz --fraction 0.5 --test test.npz --out small.keras
"""
DEMO_HELP = """\
The main job on what ships with dropreg: a small CNN and 10,000 Fashion-MNIST images that it was not
trained on. Prints the impact table, writes it as impact.csv with a figure impact.png, and checks it
on the test images: what is left of the accuracy when the units with the largest impact are dropped,
against as many random ones. Takes about half a minute on two cores and needs no network.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code: 0, or 2 after an error that it explains."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        options.run(options)
    except DropregError as error:
        print(f"dropreg: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        goes_on = "; with --record the same command goes on from here" if hasattr(options, "record") else ""
        print(f"dropreg: stopped{goes_on}.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    from . import __version__

    parser = argparse.ArgumentParser(
        prog="dropreg", description="Which parts of a trained network matter, and how sure one can be."
    )
    parser.add_argument("--version", action="version", version=f"dropreg {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    raw = argparse.RawDescriptionHelpFormatter

    estimate = commands.add_parser(
        "estimate", help="impact table of a model", description=ESTIMATE_HELP, formatter_class=raw
    )
    _add_model(estimate)
    estimate.add_argument(
        "--outcome",
        choices=["accuracy", "retained", "loss", "margin", "divergence"],
        default="accuracy",
        help="what is measured (default: accuracy)",
    )
    estimate.add_argument(
        "--rows", type=int, help="masked forward passes (default: 500 for each element, at least 50,000)"
    )
    estimate.add_argument(
        "--rate", type=float, default=0.3, help="probability that an element is dropped (default: 0.3)"
    )
    estimate.add_argument(
        "--forward-only", action="store_true", help="no gradients: for models without, and to compare"
    )
    estimate.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        default=Path("impact.csv"),
        help="table to write, .csv or .parquet (default: impact.csv)",
    )
    estimate.add_argument(
        "--record", metavar="FOLDER", type=Path, help="keep masks and outcomes here; a stopped run goes on"
    )
    estimate.add_argument("--plot", metavar="FILE.png", type=Path, help="draw the table")
    estimate.set_defaults(run=_estimate)

    prune = commands.add_parser("prune", help="a smaller model", description=PRUNE_HELP, formatter_class=raw)
    _add_model(prune)
    amount = prune.add_mutually_exclusive_group(required=True)
    amount.add_argument("--fraction", type=float, help="of the elements that goes")
    for name, unit in (("params", "parameters"), ("macs", "multiply-adds"), ("bytes", "bytes of the file")):
        amount.add_argument(f"--{name}", metavar="FRACTION", type=float, help=f"of the {unit} that stays at most")
    amount.add_argument("--latency", metavar="FRACTION", type=float, help="of the seconds of a forward pass")
    amount.add_argument("--max-loss", metavar="LOSS", type=float, help="accuracy that may be lost, such as 0.005")
    prune.add_argument(
        "--test", metavar="FILE.npz", type=Path, help="other examples: says how well the model does before and after"
    )
    prune.add_argument(
        "--no-distillation", action="store_true", help="merge alone: what stays does not learn from the whole model"
    )
    prune.add_argument(
        "--on-blocked",
        choices=("raise", "keep"),
        default="raise",
        help="what to do where a layer cannot be cut: refuse, or keep all that it holds (default: raise)",
    )
    prune.add_argument(
        "--out",
        metavar="FILE.keras",
        type=Path,
        default=Path("small.keras"),
        help="the smaller model (default: small.keras)",
    )
    prune.set_defaults(run=_prune)

    demo = commands.add_parser(
        "demo", help="the main job on the shipped CNN and images", description=DEMO_HELP, formatter_class=raw
    )
    demo.add_argument(
        "--out",
        metavar="FOLDER",
        type=Path,
        default=Path("dropreg-demo"),
        help="folder for impact.csv and impact.png (default: dropreg-demo)",
    )
    demo.add_argument("--rows", type=int, default=60_000, help="masked forward passes (default: 60,000)")
    demo.add_argument("--seed", type=int, default=0, help="seed of the masks (default: 0)")
    demo.add_argument("--quiet", action="store_true", help="no progress bar")
    demo.set_defaults(run=_demo)
    return parser


def _add_model(command: argparse.ArgumentParser) -> None:
    """Arguments of what works on a user's model."""
    command.add_argument("model", metavar="MODEL.keras", type=Path, help="a saved model")
    command.add_argument(
        "--data", metavar="FILE.npz", type=Path, required=True, help="arrays x and y of held-out examples"
    )
    command.add_argument(
        "--elements",
        nargs="+",
        choices=KINDS,
        default=["neurons"],
        help="what is dropped, one or several of: neurons (Dense units, filters, recurrent units), embeddings, heads, "
        "layers, branches, weights (default: neurons)",
    )
    command.add_argument("--include", nargs="+", metavar="LAYER", help="only these layers")
    command.add_argument("--exclude", nargs="+", metavar="LAYER", default=(), help="all but these layers")
    command.add_argument(
        "--output", metavar="NAME", help="the output that is measured and that y belongs to, of a model with several"
    )
    command.add_argument("--seed", type=int, default=0, help="the same seed gives the same result (default: 0)")
    command.add_argument("--quiet", action="store_true", help="no progress bar")


def load_model_file(path: Path) -> "keras.Model":
    """Load a ``.keras`` file.

    Raises
    ------
    ModelError
        If it is missing, corrupt, or needs code that is not imported.
    """
    import keras

    if not path.is_file():
        raise ModelError(f"model file {path}: expected a .keras file, received no such file: check the path.")
    try:
        model = keras.saving.load_model(path, compile=False)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        is_archive = zipfile.is_zipfile(path) or path.suffix != ".keras"
        reason = str(error).strip().split("\n")[0] if is_archive else "no zip archive, or one that was cut off"
        raise ModelError(
            f"model file {path}: expected a model saved by Keras 3, received one that does not load ({reason}): "
            "save it again with model.save('model.keras'). A model with layers of your own loads in Python, where "
            "they are registered."
        ) from error
    if not isinstance(model, keras.Model):
        raise ModelError(f"model file {path}: expected a keras.Model, received {type(model).__name__}.")
    return model


def _estimate(options: argparse.Namespace) -> None:
    from . import elements, estimate
    from .data import load_npz
    from .graph import trace_graph
    from .network import resolve
    from .sampling import Sampling, default_design

    check_writable("--out", options.out, [".csv", ".parquet"])
    if options.plot:
        check_writable("--plot", options.plot, [".png", ".svg", ".pdf"])
    model = load_model_file(options.model)
    found = elements(model, options.elements, include=options.include, exclude=options.exclude)
    design = default_design(found, options.rate)
    names, labelled = trace_graph(model).input_names, resolve(options.outcome).needs_labels
    data = load_npz(options.data, names, labelled=labelled)
    table = estimate(
        model,
        data,
        found,
        outcome=options.outcome,
        output=options.output,
        rows=options.rows,
        sampling=Sampling(design=design, gradients=not options.forward_only),
        seed=options.seed,
        out=options.record,
        progress=not options.quiet,
    )
    print(table.summary())
    table.to_csv(options.out) if options.out.suffix == ".csv" else table.to_parquet(options.out)
    print(f"\nwritten: {options.out}")
    if options.plot:
        from .reporting import plot_impacts

        plot_impacts(table, options.plot)
        print(f"written: {options.plot}")


def _prune(options: argparse.Namespace) -> None:
    from . import AccuracyLimit, Budget, elements, prune
    from .data import check_data, load_npz
    from .graph import trace_graph
    from .pruning import Quantity

    check_writable("--out", options.out, [".keras"])
    if options.out.resolve() == options.model.resolve():
        raise DataError(f"--out must be another file than the model, received {options.out}, which it would replace.")
    if options.test is not None and options.test.resolve() == options.data.resolve():
        raise DataError(
            f"--test must be another file than --data, received {options.test} for both: split the examples."
        )
    if options.max_loss is not None and options.test is None:
        raise DataError(
            "--max-loss must have examples to show it on, received none: pass --test FILE.npz, others than --data."
        )
    model = load_model_file(options.model)
    found = elements(model, options.elements, include=options.include, exclude=options.exclude)
    names = trace_graph(model).input_names

    def load(path: Path) -> Any:
        x, y = load_npz(path, names)
        return x, y if options.output is None else {options.output: y}

    data, test = load(options.data), None if options.test is None else load(options.test)
    if test is not None:
        check_data(model, test)  # a mistake in it is told before the work, not after
    target = None
    for quantity in get_args(Quantity):
        at_most = getattr(options, quantity)
        target = target if at_most is None else Budget(quantity, at_most)
    if options.max_loss is not None:
        target = AccuracyLimit(options.max_loss, test)
    small = prune(
        model,
        data=data,
        fraction=options.fraction,
        target=target,
        elements=found,
        recovery="none" if options.no_distillation else None,
        on_blocked=options.on_blocked,
        seed=options.seed,
        progress=not options.quiet,
    )
    small.model.save(options.out)
    print(small)
    if test is not None:
        print(f"\non the examples of {options.test}")
        print(small.measure(test).to_string(index=False, float_format=lambda value: f"{value:.4f}"))
    print(f"\nwritten: {options.out}")


def _demo(options: argparse.Namespace) -> None:
    import numpy as np

    from . import datasets, elements, estimate
    from .network import Evaluator, ask_one
    from .reporting import plot_impacts

    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"--out must be a folder, received {options.out}, which cannot be made ({error.strerror}): choose another."
        ) from error
    model = datasets.load_model("cnn")
    found = elements(model)
    print(f"{found}\n")
    table = estimate(
        model,
        datasets.fashion_mnist("estimation"),
        found,
        outcome="accuracy",
        rows=options.rows,
        seed=options.seed,
        progress=not options.quiet,
    )
    print(table.summary(5))
    question = ask_one(model, datasets.fashion_mnist("test"), found, outcome="accuracy", task=None, seed=options.seed)
    n_dropped, masks = len(found) // 10, np.ones((3, len(found)), bool)
    masks[1, np.argsort(-table.impact, kind="stable")[:n_dropped]] = False
    masks[2, np.random.default_rng(options.seed).permutation(len(found))[:n_dropped]] = False
    original, without_largest, without_random = Evaluator(question).means(masks, np.arange(len(question.examples)))
    print(f"\naccuracy on the 10,000 test images, nothing dropped: {original:.4f}")
    print(f"the {n_dropped} units with the largest impact dropped: {without_largest:.4f}")
    print(f"{n_dropped} random units dropped: {without_random:.4f}")
    table.to_csv(options.out / "impact.csv")
    plot_impacts(table, options.out / "impact.png")
    print(f"\nwritten: {options.out / 'impact.csv'} and {options.out / 'impact.png'}")


if __name__ == "__main__":
    sys.exit(main())
