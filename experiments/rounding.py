"""How well can a network without gradients be pruned, by forward passes and accuracy alone?

The MLP of each seed with weights rounded to 8 bits (255 levels a kernel) and hidden activations rounded to 16
levels, as integer arithmetic would. Rounding has no gradient: Taylor scores, gates and gradient-assisted annealing
refuse, which settings.json records word by word. For each method that works on forward passes, and each fraction of the
units removed: test accuracy of the network as deletion leaves it (plain), and merged by least squares. No fine-tuning.

Methods: random; magnitude; activation (root mean square); weight x activation; leave one out; greedy; ablation
regression as published (one mask a pass over 1,000 examples); dropout regression (OLS, one shot, 500,000 rows);
annealed (`dropreg.anneal_path` with ``Annealing(gradients=False)``, on the retained accuracy). What is measured is
accuracy, on 5,000 estimation images; the other 5,000 are for merging.

Writes rounding.csv, summary.csv (mean and SD over seeds) and settings.json.

Example: ``python experiments/rounding.py --seeds 0 1 2``
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pandas as pd
from _lib.arguments import new_parser
from _lib.coar import ablation_regression
from _lib.gates import gates
from _lib.models import accuracy, load
from _lib.results import save_settings, summarize
from _lib.selections import Made, annealed, timed

import dropreg as dr

FRACTIONS = (0.5, 0.7, 0.8, 0.9)
LEVELS = 16
"""Of a hidden activation."""
KERNEL_LEVELS = 127
"""On either side of zero."""
STEP = 0.25
"""Between two levels."""
REGRESSION_ROWS = 500_000
GREEDY_ROWS = 2_000_000


@keras.saving.register_keras_serializable("dropreg_experiments")
def rounded_relu(x: Any) -> Any:
    """A rectifier of 16 levels: multiples of a quarter up to 3.75."""
    levels: Any = keras.ops.clip(keras.ops.round(x / STEP), 0, LEVELS - 1)
    return levels * STEP


def rounded(model: Any) -> Any:
    """The model with rounded kernels and hidden activations."""

    def clone(layer: Any) -> Any:
        settings = layer.get_config()
        if settings.get("activation") == "relu":
            settings["activation"] = rounded_relu
        return type(layer).from_config(settings)

    made = keras.models.clone_model(model, clone_function=clone)
    for old, new in zip(model.layers, made.layers, strict=True):
        step = [np.abs(w).max() / KERNEL_LEVELS if w.ndim > 1 else 0.0 for w in old.get_weights()]
        new.set_weights([np.round(w / s) * s if s else w for w, s in zip(old.get_weights(), step, strict=True)])
    return made


def regression(model: Any, data: Any, elements: dr.Elements, rows: int, seed: int) -> dr.ImpactTable:
    """Dropout regression on the accuracy, forward passes only."""
    sampling = dr.Sampling(gradients=False, fidelity=None)
    record = dr.sample(
        *(model, data, elements), rows=rows, outcomes="accuracy", sampling=sampling, seed=seed, progress=False
    )
    return dr.regress(record, outcome="accuracy")


def make(method: str, model: Any, data: Any, elements: dr.Elements, seed: int, fractions: Any, quick: bool) -> Made:
    """One method's selections, seconds and rows."""
    if method == "random":
        return [(dr.Selection.random(elements, fraction, seed=seed), 0.0, 0) for fraction in fractions]
    if method == "annealed, forward":
        return annealed({"gradients": False}, model, data, elements, seed, (fractions, 5 if quick else 50))
    rows = REGRESSION_ROWS // 10 if quick else REGRESSION_ROWS
    measured: dict[str, Any] = {"seed": seed, "outcome": "accuracy"}
    jobs: dict[str, Callable[[], dr.ImpactTable]] = {
        "magnitude": lambda: dr.scorers.magnitude(model, None, elements),
        "activation": lambda: dr.scorers.activation(model, data, elements, moment="rms"),
        "weight x activation": lambda: dr.scorers.weight_activation(model, data, elements),
        "leave one out": lambda: dr.scorers.leave_one_out(model, data, elements, **measured),
        "greedy": lambda: dr.scorers.greedy(model, data, elements, rows=GREEDY_ROWS, **measured),
        "ablation regression": lambda: ablation_regression(model, data, elements, rows=rows, examples=1000, **measured),
        "dropout regression": lambda: regression(model, data, elements, rows, seed),
    }
    table, seconds = timed(jobs[method])
    return [(dr.select(elements, table, fraction=fraction), seconds, dr.scorers.spent(table)) for fraction in fractions]


METHODS = (
    "random",
    "magnitude",
    "activation",
    "weight x activation",
    "leave one out",
    "greedy",
    "ablation regression",
    "dropout regression",
    "annealed, forward",
)


def refusals(model: Any, data: Any, elements: dr.Elements) -> dict[str, str]:
    """What methods that need derivatives say."""
    jobs: dict[str, Callable[[], Any]] = {
        "taylor": lambda: dr.scorers.taylor(model, data, elements),
        "gates": lambda: gates(model, data, elements, fraction=0.5),
        "annealed with gradients": lambda: dr.anneal(model, data, elements, fraction=0.5),
    }
    said = {}
    for name, job in jobs.items():
        try:
            job()
        except dr.errors.DropregError as error:
            said[name] = f"{type(error).__name__}: {error}"
        else:
            raise AssertionError(f"{name} did not refuse a network without derivatives")
    return said


def main() -> None:
    parser = new_parser(__doc__, "rounding")
    arguments = parser.parse_args()
    fractions = FRACTIONS[1:3] if arguments.quick else FRACTIONS
    arguments.out.mkdir(parents=True, exist_ok=True)
    x, y = dr.datasets.fashion_mnist("estimation")
    half = 500 if arguments.quick else 5000
    data, merging = (x[:half], y[:half]), (x[half : 2 * half], y[half : 2 * half])
    test = dr.datasets.fashion_mnist("test")
    rows: list[dict[str, Any]] = []
    said: dict[str, str] = {}
    for seed in arguments.seeds:
        whole = load("mlp", seed)
        model = rounded(whole)
        elements, dense = dr.elements(model), accuracy(model, test)
        said = said or refusals(model, data, elements)
        common = {"model": "mlp, rounded", "seed": seed}
        rows.append(common | {"method": "before rounding", "fraction": 0.0, "plain": accuracy(whole, test)})
        rows.append(common | {"method": "dense", "fraction": 0.0, "plain": dense, "merged": dense})
        for method in METHODS:
            made = make(method, model, data, elements, seed, fractions, arguments.quick)
            for fraction, (selection, seconds, spent_rows) in zip(fractions, made, strict=True):
                plain, merged = dr.remove(model, selection), dr.remove(model, selection, data=merging)
                found = {"plain": accuracy(plain.model, test), "merged": accuracy(merged.model, test)}
                cost = {"params": merged.report.totals().loc["params", "after"], "seconds": seconds, "rows": spent_rows}
                rows.append(common | {"method": method, "fraction": fraction, **found, **cost})
                print(*rows[-1].values(), flush=True)
        pd.DataFrame(rows).to_csv(arguments.out / "rounding.csv", index=False, float_format="%.5f")
    summary = summarize(pd.DataFrame(rows))
    summary.to_csv(arguments.out / "summary.csv", float_format="%.4f")
    save_settings(arguments.out, arguments, refusals=said)
    print(summary.to_string(float_format=lambda value: f"{value:.4f}"))


if __name__ == "__main__":
    main()
