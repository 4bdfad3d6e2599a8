"""The command-line arguments that every experiment has."""

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

RESULTS = Path(__file__).resolve().parents[1] / "results"


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
