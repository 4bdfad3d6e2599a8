"""Does a limit on the loss hold as often as it says, and how many units does it allow?

A sequence of finished models (annealed for merging, merged by least squares, one for every twentieth of the
units) is measured once on a pool of images, which is taken as the population. Each of --splits draws some
images as the data of a limit and tests the models in order until one fails, as `prune` does. "violations"
is the share of splits in which the last model that passed is truly worse than the limit allows, on the whole
pool; "removed" is the mean share of units removed, "oracle" that of the last model before the first that is
truly worse.

Example: ``python experiments/certified.py --models mlp --splits 300``
"""

from typing import Any

import numpy as np
import pandas as pd
from _lib.arguments import new_parser
from _lib.models import load
from _lib.results import save_settings

import dropreg as dr
from dropreg.data import check_data
from dropreg.graph import trace_graph
from dropreg.network import changes

FRACTIONS = tuple((np.arange(1, 19) / 20).tolist())
SIZES = (300, 600, 1_000, 2_000, 5_000)
LEVEL = 0.95


def losses_of_models(name: str, seed: int, rounds: int | None, limits: dict[str, Any]) -> dict[str, np.ndarray]:
    """Losses of each model and each image of the pool, for each limit: (n_models, n_images)."""
    model = load(name, seed)
    elements = dr.elements(model)
    x, y = dr.datasets.fashion_mnist("estimation")
    data, pool = (x[:4_000], y[:4_000]), dr.datasets.fashion_mnist("test")
    path = dr.anneal_path(
        *(model, data, elements),
        fractions=FRACTIONS,
        ablation="merged",
        annealing=dr.Annealing(rounds=rounds),
        seed=seed,
        progress=False,
    )
    graph = trace_graph(model)
    examples = check_data(graph, pool)
    found: dict[str, list[np.ndarray]] = {name: [] for name in limits}
    for selection in path.selections:
        small = dr.remove(model, selection, data=data)
        for key, limit in limits.items():
            change = changes(graph, small.model, examples, limit.measured)
            found[key].append(-change if limit.measured.greater_is_better else change)
    return {key: np.array(values) for key, values in found.items()}


def simulated(losses: np.ndarray, limit: Any, size: int, splits: int, seed: int) -> dict[str, float]:
    """Violations and removed shares over splits."""
    rng, true = np.random.default_rng([seed, size]), losses.mean(axis=1)
    wrong, removed = [], []
    for _ in range(splits):
        chosen = rng.choice(losses.shape[1], size)  # with replacement: the pool is the population
        last = -1
        for k in range(len(losses)):
            if limit.judged(losses[k, chosen], LEVEL, None).limit > limit.most:
                break
            last = k
        wrong.append(last >= 0 and true[: last + 1].max() > limit.most)
        removed.append(0.0 if last < 0 else FRACTIONS[last])
    worse = np.flatnonzero(true > limit.most)
    count = int(worse[0]) if len(worse) else len(true)
    rate = float(np.mean(wrong))
    return {
        "violations": rate,
        "violations_se": float(np.sqrt(max(rate * (1 - rate), 0.05 * 0.95 / splits) / splits)),
        "removed": float(np.mean(removed)),
        "oracle": FRACTIONS[count - 1] if count else 0.0,
    }


def main() -> None:
    parser = new_parser(__doc__, "certified", seeds=(0,))
    parser.add_argument("--models", nargs="+", default=["mlp"], help="default: mlp")
    parser.add_argument("--splits", type=int, default=300, help="default: 300")
    parser.add_argument("--rounds", type=int, default=10, help="rounds of annealing for each model (default: 10)")
    arguments = parser.parse_args()
    splits, rounds = (20, 2) if arguments.quick else (arguments.splits, arguments.rounds)
    limits = {
        "accuracy .005": dr.AccuracyLimit(0.005, level=LEVEL),
        "accuracy .01": dr.AccuracyLimit(0.01, level=LEVEL),
        "loss .01": dr.OutcomeLimit(0.01, level=LEVEL),
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    found, frame = [], pd.DataFrame()
    for name in arguments.models:
        for seed in arguments.seeds:
            losses = losses_of_models(name, seed, rounds, limits)
            for key, limit in limits.items():
                for size in SIZES:
                    row = {"model": name, "seed": seed, "limit": key, "examples": size, "splits": splits}
                    found.append(row | simulated(losses[key], limit, size, splits, seed))
                frame = pd.DataFrame(found)
                frame.to_csv(arguments.out / "summary.csv", index=False, float_format="%.4f")
            print(frame.to_string(), flush=True)
    save_settings(arguments.out, arguments)


if __name__ == "__main__":
    main()
