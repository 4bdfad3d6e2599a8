"""What the experiment scripts share: their arguments, the shipped model, the settings of a run."""

import argparse
import json
import os
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pandas as pd

import dropreg as dr

if TYPE_CHECKING:
    import keras

RESULTS = Path(__file__).resolve().parent / "results"
THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")


class Shipped(NamedTuple):
    """A shipped model, what can be dropped in it, and the examples it was not trained on."""

    model: "keras.Model"
    elements: dr.Elements
    data: tuple[np.ndarray, np.ndarray]


def load_shipped(name: str) -> Shipped:
    """A shipped model with its neurons and filters, and the estimation split."""
    model = dr.examples.load_model(name)
    return Shipped(model, dr.elements(model), dr.examples.fashion_mnist("estimation"))


def new_parser(description: str | None, name: str, seeds: tuple[int, ...] = (0, 1, 2)) -> argparse.ArgumentParser:
    """A parser with the arguments of every experiment: --seeds, --out, --quick.

    Parameters
    ----------
    description : str or None
        The script's docstring, shown as it is.
    name : str
        Results go to ``experiments/results/NAME`` by default.
    seeds : tuple of int
        Default of --seeds.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    shown = " ".join(map(str, seeds))
    parser.add_argument("--seeds", "--seed", nargs="+", type=int, default=list(seeds), help=f"default: {shown}")
    parser.add_argument(
        "--out", type=Path, default=RESULTS / name, help=f"folder of the results (default: experiments/results/{name})"
    )
    parser.add_argument("--quick", action="store_true", help="a small version in seconds, to try it out")
    return parser


def save_settings(out: Path, arguments: argparse.Namespace, **more: Any) -> None:
    """Write settings.json: the arguments, the versions of what computed, and `more`.

    Folders are left out, as results do not depend on them, and arguments that were not given.
    """
    settings = {
        "arguments": {
            key: value for key, value in vars(arguments).items() if value is not None and not isinstance(value, Path)
        },
        "versions": {
            "dropreg": dr.__version__,
            **{
                package: version(package)
                for package in ("keras", "numpy", "scikit-learn", "scipy", "statsmodels", "tensorflow")
            },
        },
        "cores": os.cpu_count(),
        "threads": {name: os.environ[name] for name in THREADS if name in os.environ},
        **more,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "settings.json").write_text(json.dumps(settings, indent=1) + "\n")


def run_jobs(
    path: Path, columns: list[str], jobs: Iterable[tuple[Any, ...]], measure: Callable[..., pd.DataFrame]
) -> pd.DataFrame:
    """The rows of all jobs, one `measure` each.

    `columns` of the rows say which job they are of. The table is written after each job, and jobs that it holds already
    are not done again.
    """
    frame = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=columns)
    done = set(frame[columns].itertuples(index=False, name=None))
    path.parent.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        if job not in done:
            frame = pd.concat([frame, measure(*job)])
            frame.to_csv(path, index=False, float_format="%.5f")
    return frame


def run_methods(arguments: argparse.Namespace, name: str, measure: Callable[..., pd.DataFrame]) -> pd.DataFrame:
    """`run_jobs` for each model, seed and method of the arguments, and for the whole network ("dense")."""
    jobs = product(arguments.models, arguments.seeds, ["dense", *arguments.methods])
    return run_jobs(arguments.out / f"{name}.csv", ["model", "seed", "method"], jobs, measure)


def save_summary(arguments: argparse.Namespace, frame: pd.DataFrame, values: Sequence[str], n_spread: int) -> None:
    """Write and print summary.csv, means over seeds of the values and SD of the first few, and settings.json."""
    columns = ["model", "method", "fraction", *values]
    groups = frame.reindex(columns=columns).groupby(columns[:3], sort=False)[list(values)]
    summary = groups.mean().join(groups.std()[list(values[:n_spread])].add_suffix("_sd"))
    summary.to_csv(arguments.out / "summary.csv", float_format="%.4f")
    save_settings(arguments.out, arguments)
    print(summary.to_string(float_format=lambda value: f"{value:.4f}"))
