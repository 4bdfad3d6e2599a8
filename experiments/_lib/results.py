"""Tables of results: run the missing jobs, summarize over seeds, record the settings."""

import argparse
import json
import os
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

import dropreg as dr

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")


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
    """`run_jobs` for each model, seed and method of the arguments, and for the original model ("dense")."""
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


def summarize(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean and SD over seeds of the mean over draws."""
    values = ["plain", "merged", "params", "seconds", "rows"]
    by_seed = frame.groupby(["model", "method", "fraction", "seed"], sort=False)
    frame = by_seed.mean(numeric_only=True).reindex(columns=values)
    groups = frame.groupby(["model", "method", "fraction"], sort=False)
    columns = {}
    for value in ("plain", "merged"):
        columns |= {value: groups[value].mean(), f"{value}_sd": groups[value].std()}
    columns["params"] = groups["params"].mean()
    return pd.DataFrame({**columns, "seconds": groups["seconds"].mean(), "rows": groups["rows"].mean()})
