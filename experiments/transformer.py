"""Which heads, feed-forward units and residual branches of the vision transformer matter?

Gradient-assisted impacts on accuracy and loss, several seeds; how well seeds agree on each kind of
element; and what the test accuracy becomes without the elements of lowest and of highest impact of
each kind.

Example: ``python experiments/transformer.py --rows 60000``
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import pandas as pd
from _lib.arguments import new_parser
from _lib.results import save_settings

import dropreg as dr
from dropreg.network import Evaluator, ask_one
from dropreg.reporting import plot_impacts

KINDS = ("heads", "neurons", "branches")
RATE = 0.1


def accuracy(evaluator: Evaluator, dropped: np.ndarray) -> float:
    """Test accuracy without some elements."""
    kept = ~np.isin(np.arange(evaluator.n_elements), dropped)
    return float(evaluator.means(kept[np.newaxis], np.arange(len(evaluator)))[0])


def without(evaluator: Evaluator, impact: np.ndarray, of_kind: np.ndarray, n: int) -> dict[str, float]:
    """Test accuracy without the n elements of a kind with the lowest, the highest, and random impact."""
    order = of_kind[np.argsort(impact[of_kind], kind="stable")]
    drawn = np.random.default_rng(0).permutation(of_kind)
    return {
        "lowest": accuracy(evaluator, order[:n]),
        "random": accuracy(evaluator, drawn[:n]),
        "highest": accuracy(evaluator, order[::-1][:n]),
    }


def main() -> None:
    parser = new_parser(__doc__, "transformer")
    parser.add_argument("--rows", type=int, default=40_000, help="rows of each seed (default: 40,000)")
    arguments: argparse.Namespace = parser.parse_args()
    rows = 2_000 if arguments.quick else arguments.rows
    arguments.out.mkdir(parents=True, exist_ok=True)
    model, data = dr.datasets.load_model("vit"), dr.datasets.fashion_mnist("estimation")
    elements = dr.elements(model, KINDS)
    print(elements)
    tables = []
    for seed in arguments.seeds:
        record = dr.sample(
            *(model, data, elements),
            rows=rows,
            outcomes=("accuracy", "loss"),
            sampling=dr.Sampling(design=dr.designs.Bernoulli(RATE), flips=0),
            seed=seed,
            progress=False,
        )
        for outcome in ("accuracy", "loss"):
            table = dr.regress(record, outcome=outcome)
            tables.append(table.to_frame().assign(outcome=outcome, seed=seed))
            if seed == arguments.seeds[0]:
                (arguments.out / f"{outcome}.txt").write_text(table.summary() + "\n")
                table.to_csv(arguments.out / f"{outcome}.csv")
                plot_impacts(table, arguments.out / f"{outcome}.png")
                print(table.summary(6), flush=True)
    frame = pd.concat(tables)
    test = dr.datasets.fashion_mnist("test")
    evaluator = Evaluator(ask_one(model, test, elements, outcome="accuracy", task=None, seed=0))
    found = []
    for (outcome, kind), group in frame.groupby(["outcome", "kind"]):
        by_seed = group.pivot(index="element", columns="seed", values="impact")
        agree = by_seed.corr().to_numpy()[np.triu_indices(by_seed.shape[1], 1)]
        first = frame[(frame["outcome"] == outcome) & (frame["seed"] == arguments.seeds[0])]
        of_kind = np.flatnonzero((first["kind"] == kind).to_numpy())
        n = max(len(of_kind) // 4, 1)
        found.append(
            {
                "outcome": outcome,
                "kind": kind,
                "elements": len(of_kind),
                "mean_impact": by_seed.to_numpy().mean(),
                "largest_impact": by_seed.mean(axis=1).max(),
                "correlation_of_seeds": agree.mean() if len(agree) else np.nan,
                "dropped": n,
                **without(evaluator, first["impact"].to_numpy(), of_kind, n),
            }
        )
    summary = pd.DataFrame(found)
    summary.to_csv(arguments.out / "summary.csv", index=False, float_format="%.4g")
    print(summary.to_string())
    save_settings(arguments.out, arguments, whole_test_accuracy=accuracy(evaluator, np.array([], int)))


if __name__ == "__main__":
    main()
