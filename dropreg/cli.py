"""The command ``dropreg``: impact tables and smaller models, from files to files."""

import argparse
import os
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ._utils import check_writable
from .data import TASKS
from .element import KINDS
from .errors import DataError, DropregError, ModelError
from .network import NAMES

if TYPE_CHECKING:
    import keras

_DATA_HELP = """\
Use examples that the model was not trained on. Write them with
  np.savez("heldout.npz", x=x, y=y)      # y: classes 0, 1, ... or one-hot rows
"""
_ESTIMATE_HELP = f"""\
Estimate the impact of each unit of a trained Keras model.

Runs the model with many random dropout masks, one mask for each forward pass, and regresses the
outcome on the masks. The impact of a unit is how much worse the outcome gets when the unit is removed
while others are missing too; positive means that removing it hurts. The model is not changed.

{_DATA_HELP}
Example
  dropreg estimate model.keras --data heldout.npz --outcome accuracy --rows 100000 --out impact.csv

More rows give smaller standard errors: four times the rows halve them. A run with --record can be
stopped; the same command resumes it.
"""
_PRUNE_HELP = f"""\
Make a trained Keras model smaller: select elements by annealing, remove them, refit the layers that
consumed them by least squares, and distill the original model into the smaller one. The result is a
plain Keras model, which loads without dropreg and can be trained further.

Say how much to remove by one of
  --fraction 0.8        a share of the elements
  --params 0.2          down to a fifth of the parameters; or --macs, --bytes, --latency
  --max-loss 0.005      as much as possible while the accuracy on the examples of --test falls by at
                        most half a percentage point, with 95 % confidence

{_DATA_HELP}
Use other examples for --test.

Example
  dropreg prune model.keras --data heldout.npz --fraction 0.5 --test test.npz --out small.keras
"""
_COMPRESS_HELP = f"""\
Make a trained Keras model take few bytes: remove units, round the weights to few values, distill the
original model into the result, and write one small file. Read it with dropreg.unpack("small.safetensors").

Say how small by one of
  --bytes 0.03          at most 3 % of the bytes of the weights, or a whole number of bytes
  --max-loss 0.005      as small as possible while the accuracy on the examples of --test falls by at
                        most half a percentage point, with 95 % confidence

{_DATA_HELP}
Use other examples for --test.

Example
  dropreg compress model.keras --data heldout.npz --bytes 0.03 --out small.safetensors
"""
_EXPORT_HELP = """\
Write a model as a file of LiteRT (.tflite) or ONNX (.onnx), or as a SavedModel (a path without a suffix).
With --data, the file is run on some of the examples and compared with the model.

Example
  dropreg export small.keras small.tflite --precision int8 --data heldout.npz
"""
_DEMO_HELP = """\
Estimate impacts for a model and data that ship with dropreg: a small CNN and 10,000 Fashion-MNIST
images that it was not trained on. Prints the impact table, and writes it as impact.csv with a figure
impact.png. Then compares the accuracy on the test images after removing the units with the largest
impact, and after removing as many random ones. Takes about half a minute on two cores and needs no network.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, 2 after an error message, 130 after an interruption."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        options.run(options)
    except DropregError as error:
        print(f"dropreg: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        hint = "; with --record the same command resumes from here" if hasattr(options, "record") else ""
        print(f"dropreg: stopped{hint}.", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    from . import __version__

    parser = argparse.ArgumentParser(
        prog="dropreg", description="Which parts of a trained network matter, and how sure one can be."
    )
    parser.add_argument("--version", action="version", version=f"dropreg {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, summary: str, text: str, run: Callable[[argparse.Namespace], None]) -> Any:
        raw = argparse.RawDescriptionHelpFormatter
        added = commands.add_parser(name, help=summary, description=text, formatter_class=raw)
        added.set_defaults(run=run)
        return added

    estimate = command("estimate", "impact table of a model", _ESTIMATE_HELP, _estimate)
    _add_model(estimate)
    estimate.add_argument("--outcome", choices=NAMES, default="loss", help="what is measured (default: loss)")
    estimate.add_argument("--rows", type=int, help="masks (default: 200 an element, at least 20,000)")
    estimate.add_argument("--rate", type=float, default=0.3, help="probability of removing an element (default: 0.3)")
    estimate.add_argument("--forward-only", action="store_true", help="do not use gradients, for models without")
    _add_path(estimate, "--out", "FILE", "table to write, .csv or .parquet", "impact.csv")
    _add_path(estimate, "--record", "FOLDER", "save masks and outcomes here, so that a stopped run can be resumed")
    _add_path(estimate, "--plot", "FILE.png", "figure of the table to write, .png, .svg or .pdf")

    prune = command("prune", "a smaller model", _PRUNE_HELP, _prune)
    _add_model(prune)
    amount = prune.add_mutually_exclusive_group(required=True)
    amount.add_argument("--fraction", type=float, help="share of the elements to remove")
    units = {"params": "parameters", "macs": "multiply-adds", "bytes": "bytes of the file"}
    for name, unit in (units | {"latency": "seconds of a forward pass"}).items():
        amount.add_argument(f"--{name}", metavar="FRACTION", type=float, help=f"largest share of the {unit} to keep")
    amount.add_argument("--max-loss", metavar="LOSS", type=float, help="largest loss of accuracy, such as 0.005")
    _add_path(prune, "--test", "FILE.npz", "other examples, to report the outcomes before and after")
    prune.add_argument("--no-distillation", action="store_true", help="refit by least squares only, without training")
    prune.add_argument(
        "--on-blocked",
        choices=("raise", "keep"),
        default="raise",
        help="for layers that cannot be cut: stop with an error, or keep all their elements (default: raise)",
    )
    _add_path(prune, "--out", "FILE.keras", "smaller model to write", "small.keras")

    compress = command("compress", "a model in few bytes", _COMPRESS_HELP, _compress)
    _add_model(compress, elements=False)
    size = compress.add_mutually_exclusive_group(required=True)
    size.add_argument("--bytes", type=_share_or_bytes, help="most bytes: a share, such as 0.03, or a whole number")
    size.add_argument("--max-loss", metavar="LOSS", type=float, help="largest loss of accuracy, such as 0.005")
    compress.add_argument("--bits", nargs="+", type=int, default=[3, 4], help="bits of the weights (default: 3 4)")
    _add_path(compress, "--test", "FILE.npz", "other examples, to report the outcomes before and after")
    _add_path(compress, "--out", "FILE.safetensors", "file to write", "small.safetensors")

    export = command("export", "a file of LiteRT or ONNX, or a SavedModel", _EXPORT_HELP, _export)
    export.add_argument("model", metavar="MODEL.keras", type=Path, help="a saved model")
    export.add_argument("path", metavar="PATH", type=Path, help="file or folder to write, which must be new")
    _add_path(export, "--data", "FILE.npz", "array x of examples; 'int8' needs some")
    precision_help = "float32, or for .tflite float16, dynamic int8, dynamic int4 or int8 (default: float32)"
    export.add_argument("--precision", default="float32", help=precision_help)

    demo = command("demo", "impacts of the shipped CNN on shipped images", _DEMO_HELP, _demo)
    _add_path(demo, "--out", "FOLDER", "folder for impact.csv and impact.png", "dropreg-demo")
    demo.add_argument(
        "--rows", type=int, default=20_000, help="masks, each as costly as seven forward passes (default: 20,000)"
    )
    _add_common(demo)
    return parser


def _add_path(command: argparse.ArgumentParser, name: str, metavar: str, text: str, default: str | None = None) -> None:
    text = text if default is None else f"{text} (default: {default})"
    command.add_argument(name, metavar=metavar, type=Path, default=default and Path(default), help=text)


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seed", type=int, default=0, help="the same seed gives the same result (default: 0)")
    command.add_argument("--quiet", action="store_true", help="no progress bar (never shown unless on a terminal)")


def _share_or_bytes(text: str) -> float | int:
    return int(text) if text.isdigit() else float(text)


def _add_model(command: argparse.ArgumentParser, *, elements: bool = True) -> None:
    """Add the arguments of commands that take a model of the user's, those about its elements if asked."""
    command.add_argument("model", metavar="MODEL.keras", type=Path, help="a saved model")
    data_help = "arrays x and y of held-out examples, and w, their weights, if they have some"
    command.add_argument("--data", metavar="FILE.npz", type=Path, required=True, help=data_help)
    if elements:
        command.add_argument(
            "--elements",
            nargs="+",
            choices=[kind for kind in KINDS if kind != "activations"],
            default=["neurons"],
            help="kinds of elements to mask, one or several: neurons (Dense units, filters, recurrent units), "
            "embeddings, heads, layers, branches, weights (default: neurons)",
        )
        command.add_argument("--include", nargs="+", metavar="LAYER", help="only these layers")
        command.add_argument("--exclude", nargs="+", metavar="LAYER", default=(), help="all but these layers")
        output_help = "the output to measure, of a model with several; y are its labels"
        command.add_argument("--output", metavar="NAME", help=output_help)
    task_help = "what the outputs are (default: found from y, the last activation and the compiled loss)"
    command.add_argument("--task", choices=TASKS, help=task_help)
    _add_common(command)


def load_model_file(path: Path) -> "keras.Model":
    """Load a ``.keras`` file; ModelError if it is missing, corrupt, or needs code that is not imported."""
    import keras

    if not path.is_file():
        raise ModelError(f"model file {path}: expected a .keras file, received no such file: check the path.")
    try:
        try:
            model = keras.saving.load_model(path)  # its loss says what the outputs are
        except (OSError, ValueError, TypeError, KeyError, AttributeError):  # of a loss or metric of one's own, say
            model = keras.saving.load_model(path, compile=False)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        is_archive = zipfile.is_zipfile(path) or path.suffix != ".keras"
        reason = str(error).strip().split("\n")[0] if is_archive else "not a complete zip archive"
        raise ModelError(
            f"model file {path}: expected a model saved by Keras 3, received a file that does not load ({reason}): "
            "save it again with model.save('model.keras'). A model with custom layers must be used from Python, where "
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
        task=options.task,
        rows=options.rows,
        sampling=Sampling(design=design, gradients=not options.forward_only),
        seed=options.seed,
        out=options.record,
        progress=False if options.quiet else None,
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
        raise DataError(f"--out must be another file than the model, received {options.out}: choose another.")
    _check_test(options)
    model = load_model_file(options.model)
    found = elements(model, options.elements, include=options.include, exclude=options.exclude)
    names = trace_graph(model).input_names

    def load(path: Path) -> Any:
        x, y, *weights = load_npz(path, names)
        return x, y if options.output is None else {options.output: y}, *weights

    data, test = load(options.data), None if options.test is None else load(options.test)
    if test is not None:
        check_data(model, test, options.task)  # report a mistake before the work
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
        task=options.task,
        seed=options.seed,
        progress=False if options.quiet else None,
    )
    small.model.save(options.out)
    print(small)
    if test is not None:
        print(f"\non the examples of {options.test}")
        print(small.measure(test, task=options.task).to_string(index=False, float_format=lambda value: f"{value:.4f}"))
    print(f"\nwritten: {options.out}")


def _check_test(options: argparse.Namespace) -> None:
    if options.test is not None and options.test.resolve() == options.data.resolve():
        raise DataError(
            f"--test must be another file than --data, received {options.test} for both: split the examples."
        )
    if options.max_loss is not None and options.test is None:
        raise DataError(
            "--max-loss must have test examples, received none: pass --test FILE.npz with other examples than --data."
        )


def _compress(options: argparse.Namespace) -> None:
    from . import AccuracyLimit, compress, elements
    from .data import check_data, load_npz
    from .graph import trace_graph
    from .network import Evaluator, ask_one

    check_writable("--out", options.out, [".safetensors"])
    _check_test(options)
    model = load_model_file(options.model)
    names = trace_graph(model).input_names
    data, test = (None if path is None else load_npz(path, names) for path in (options.data, options.test))
    if test is not None:
        check_data(model, test, options.task)  # report a mistake before the work
    assert data is not None
    small = compress(
        model,
        data,
        bytes=options.bytes,
        limit=None if options.max_loss is None else AccuracyLimit(options.max_loss, test),
        bits=options.bits,
        task=options.task,
        seed=options.seed,
        progress=False if options.quiet else None,
    )
    small.save(options.out, overwrite=True)
    print(small)
    if test is not None:
        print(f"\non the examples of {options.test}")
        for name, each in (("before", model), ("after", small.model)):
            question = ask_one(each, test, elements(each, "weights"), outcome="accuracy", task=options.task, seed=0)
            print(f"accuracy {name}: {Evaluator(question).original_values().mean():.4f}")
    print(f"\nwritten: {options.out}")


def _export(options: argparse.Namespace) -> None:
    from . import export
    from .data import load_npz
    from .graph import trace_graph

    model = load_model_file(options.model)
    names = trace_graph(model).input_names
    data = None if options.data is None else load_npz(options.data, names, labelled=False)
    print(export(model, options.path, data, precision=options.precision))


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
        progress=False if options.quiet else None,
    )
    print(table.summary(5))
    question = ask_one(model, datasets.fashion_mnist("test"), found, outcome="accuracy", task=None, seed=options.seed)
    n_dropped, masks = len(found) // 10, np.ones((3, len(found)), bool)
    masks[1, np.argsort(-table.impact, kind="stable")[:n_dropped]] = False
    masks[2, np.random.default_rng(options.seed).permutation(len(found))[:n_dropped]] = False
    original, without_largest, without_random = Evaluator(question).means(masks, np.arange(len(question.examples)))
    print(f"\naccuracy on the 10,000 test images, all units kept: {original:.4f}")
    print(f"the {n_dropped} units with the largest impact removed: {without_largest:.4f}")
    print(f"{n_dropped} random units removed: {without_random:.4f}")
    table.to_csv(options.out / "impact.csv")
    plot_impacts(table, options.out / "impact.png")
    print(f"\nwritten: {options.out / 'impact.csv'} and {options.out / 'impact.png'}")
