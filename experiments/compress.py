"""How many times smaller does a network get in one call, and at what accuracy?

The shipped networks and those trained with other seeds, compressed without labels on the estimation images to shares
of the bytes of their float32 weights; accuracy on the test images, which nothing else uses. Beside it:

- "int8": kernels rounded to 8 bits, nothing removed;
- "rounding": kernels rounded to 4 and 3 bits on the data, nothing removed, without training;
- "pruning": `dropreg.prune` of .5, .7 and .9 of the units, float32;
- "naive chain": the same rounded to 5, 4 and 3 bits by weight error.

Every model is packed by `dropreg.pack`; bytes are those of the file.

Writes compress.csv, summary.csv (mean and SD over seeds), compress.png and settings.json. What compress.csv holds
already is not computed again.

Example: ``python experiments/compress.py --models mlp cnn --seeds 0``
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from _lib.arguments import new_parser
from _lib.models import accuracy, load
from _lib.results import run_jobs, save_settings

import dropreg as dr

matplotlib.use("Agg")
from matplotlib import pyplot as plt

COLUMNS = ["model", "seed", "method"]
FRACTIONS, BITS = (0.5, 0.7, 0.9), (5, 4, 3)


def packed_bytes(model: Any) -> int:
    with tempfile.TemporaryDirectory() as folder:
        return dr.pack(model, Path(folder) / "model.safetensors").size


def controls(method: str, model: Any, data: Any, seed: int) -> list[tuple[str, Any]]:
    """Models of a control, by their settings."""
    if method == "int8":
        return [("8 bits", dr.quantize(model, dr.Quantized(8)).model)]
    if method == "rounding":
        return [(f"{bits} bits", dr.quantize(model, dr.Quantized(bits), data).model) for bits in (4, 3)]
    found = []
    for fraction in FRACTIONS:
        small = dr.prune(model, data, fraction=fraction, seed=seed, progress=False).model
        found.append((f"{fraction:g} removed", small))
        chain = [(f"{fraction:g} removed, {b} bits", dr.quantize(small, dr.Quantized(b)).model) for b in BITS]
        found += [] if method == "pruning" else chain
    return found


def measure(name: str, seed: int, method: str, arguments: Any) -> pd.DataFrame:
    """Rows of one method: its settings, bytes, and test accuracy."""
    model = load(name, seed)
    x, _ = dr.datasets.fashion_mnist("estimation")
    data, test = (x[: arguments.images], None), dr.datasets.fashion_mnist("test")
    before = 4 * model.count_params()
    rows, start = [], time.perf_counter()
    dense = accuracy(model, test)
    if method.startswith("compress"):
        share = float(method.split()[1])
        recovery = dr.Recovery(epochs=1, distill=1.0) if arguments.quick else None
        small = dr.compress(model, data, bytes=share, bits=tuple(arguments.bits), recovery=recovery, seed=seed)
        row = small.candidates[small.candidates["chosen"]].iloc[0]
        settings = f"{row['fraction']:g} removed, {row['bits']} bits, {row['entropy']:.2f} of entropy"
        found = [(settings, small.model)]
        print(small, flush=True)
    else:
        found = controls(method, model, data, seed)
    seconds = time.perf_counter() - start
    for settings, small in found:
        size = packed_bytes(small)
        row = {
            "model": name,
            "seed": seed,
            "method": method,
            "settings": settings,
            "bytes": size,
            "times": before / size,
        }
        row |= {"accuracy": accuracy(small, test), "dense": dense, "params": small.count_params(), "seconds": seconds}
        rows.append(row)
    frame = pd.DataFrame(rows)
    print(frame.to_string(), flush=True)
    return frame


def plot(frame: pd.DataFrame, path: Path) -> None:
    """Accuracy against bytes, one panel a network."""
    names = list(dict.fromkeys(frame["model"]))
    figure, axes = plt.subplots(1, len(names), figsize=(5 * len(names), 4), squeeze=False)
    for axis, name in zip(axes[0], names, strict=True):
        own = frame[frame["model"] == name]
        own = own.assign(kind=own["method"].str.split().str[0])
        for kind, rows in own.groupby("kind", sort=False):
            means = rows.groupby(["method", "settings"] if kind != "compress" else ["method"])[
                ["bytes", "accuracy"]
            ].mean()
            means = means.sort_values("bytes")
            axis.plot(means["bytes"] / 1000, means["accuracy"], "o-", label=str(kind))
        axis.axhline(own["dense"].mean(), color="grey", lw=0.8)
        axis.set(xscale="log", xlabel="KB", ylabel="test accuracy", title=name)
        axis.set_ylim(own["dense"].mean() - 0.06, own["dense"].mean() + 0.005)
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = new_parser(__doc__, "compress")
    parser.add_argument("--models", nargs="+", default=["mlp", "cnn"], help="default: mlp cnn")
    parser.add_argument("--shares", nargs="+", type=float, default=[0.05, 0.03, 0.02, 0.0165, 0.012])
    parser.add_argument("--bits", nargs="+", type=int, default=[3, 4], help="candidates of compress (default: 3 4)")
    parser.add_argument("--controls", nargs="*", default=["int8", "rounding", "pruning", "naive chain"])
    parser.add_argument("--images", type=int, default=10_000, help="images without labels (default: 10,000)")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.models, arguments.seeds, arguments.shares, arguments.images = ["mlp"], [0], [0.05], 300
        arguments.bits, arguments.controls = [3], ["int8", "rounding"]
    methods = [*arguments.controls, *(f"compress {share:g}" for share in arguments.shares)]
    jobs = [(name, seed, method) for name in arguments.models for seed in arguments.seeds for method in methods]
    arguments.out.mkdir(parents=True, exist_ok=True)
    frame = run_jobs(arguments.out / "compress.csv", COLUMNS, jobs, lambda *job: measure(*job, arguments=arguments))
    kept = frame.assign(settings=frame["settings"].where(~frame["method"].str.startswith("compress"), ""))
    groups = kept.groupby(["model", "method", "settings"], sort=False)[
        ["bytes", "times", "accuracy", "dense", "seconds"]
    ]
    summary = groups.mean().join(groups[["accuracy", "times"]].std().add_suffix("_sd"))
    summary.to_csv(arguments.out / "summary.csv", float_format="%.5g")
    plot(frame, arguments.out / "compress.png")
    save_settings(arguments.out, arguments)
    print(summary.to_string())


if __name__ == "__main__":
    main()
