"""Do 95 % intervals cover where examples have weights, on these examples and on new ones?

A small network with known labels, and weights that differ by class and between examples (log-normal, standard
deviation --spread of their logarithm). "data set": one run on 100 examples, whose chunks are replications.
"population": one run on many examples, each used once, so that every chunk is a sample of new examples, whose
weights are divided by their own mean; the intervals are those by example, and those of leave one out on 200 examples.
The truth of a replication is the mean of all the others. The standard errors of weighted means are those of the mean
of weight times effect; "error_ratio" is their mean square over the variance of the estimates.

Example: ``python experiments/weighted.py --quick``
"""

from typing import Any

import keras
import numpy as np
import pandas as pd
from _lib.arguments import new_parser
from _lib.results import save_settings
from scipy import stats

import dropreg as dr
from dropreg.network import Evaluator, ask_one

BATCH, BATCHES = 32, 16
"""Rows of a batch, and batches of a chunk."""
N_LEFT_OUT = 200


def case(n: int, spread: float, seed: int) -> tuple[keras.Model, Any, dr.Elements]:
    """A network with labels drawn from a sharper version of its own probabilities, and weights."""
    rng = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    hidden = [keras.layers.Dense(5, "relu", name="a"), keras.layers.Dense(4, "tanh", name="b")]
    model = keras.Sequential([keras.Input((4,)), *hidden, keras.layers.Dense(3, name="out")])
    model.set_weights([rng.normal(size=w.shape) * (w.ndim > 1) for w in model.get_weights()])
    x = rng.normal(size=(n, 4)).astype(np.float32)
    y = (1.5 * np.asarray(model(x)) + rng.gumbel(size=(n, 3))).argmax(axis=1)
    w = np.array([0.5, 1.0, 3.0])[y] * rng.lognormal(sigma=spread, size=n)
    return model, (x, y, w), dr.elements(model)


def covered(impacts: Any, errors: Any, df: Any = np.inf) -> dict[str, float]:
    """Coverage of the intervals (replications, elements) of the mean of the other replications."""
    n = len(impacts)
    between = impacts.var(axis=0, ddof=1)
    others = (impacts.sum(axis=0) - impacts) / (n - 1)
    z = np.abs(impacts - others) / np.sqrt(errors**2 + between / (n - 1))
    hits = z < stats.t.ppf(0.975, df)
    return {
        "coverage": hits.mean(),
        "coverage_se": hits.mean(axis=1).std(ddof=1) / np.sqrt(n),
        "least": hits.mean(axis=0).min(),
        "error_ratio": (errors**2).mean() / between.mean(),
    }


def by_chunk(given: Any, outcome: str, n: int, seed: int, covariance: Any) -> list[dict[str, Any]]:
    """Coverage of OLS and of gradients corrected by flips over the chunks of a run."""
    model, (x, y, w), elements = given
    sampling = dr.Sampling(fidelity=None, batch_size=BATCH)
    rows = BATCH * BATCHES
    run = {"rows": rows * n, "outcomes": outcome, "sampling": sampling, "seed": seed, "progress": False}
    record = dr.sample(model, (x, y, w), elements, **run)
    assert record.settings.chunk_rows == rows
    tables: dict[Any, list[dr.ImpactTable]] = {"ols": [], "corrected": []}
    scales = []
    for chunk in range(n):
        one = record.head(chunk + 1)
        one._chunks = [chunk]
        used = one.rows_of_examples()
        scales.append(w.mean() / np.average(w, weights=used) if covariance == "cluster" else 1.0)
        for name, found in tables.items():
            found.append(dr.regress(one, estimator=name, covariance=covariance))
    scale = np.array(scales)[:, np.newaxis]
    lines = []
    for found in tables.values():
        impacts, errors = (scale * np.array([getattr(t, key) for t in found]) for key in ("impact", "std_error"))
        lines.append({"method": found[0].method} | covered(impacts, errors, found[0].uncertainty.df))
    return lines


def left_out(given: Any, outcome: str, n: int, seed: int) -> dict[str, Any]:
    """Coverage of leave one out, on 200 examples each time."""
    model, (x, y, w), elements = given
    question = ask_one(model, (x, y, w), elements, outcome=outcome, task=None, seed=seed)
    evaluator, rows, masks = Evaluator(question), np.arange(n * N_LEFT_OUT), ~np.eye(len(elements), dtype=bool)
    kept = evaluator.values_of_one(np.ones(len(elements), dtype=bool), rows)
    changes = np.array([question.sign * (evaluator.values_of_one(mask, rows) - kept) for mask in masks])
    parts = changes.T.reshape(n, N_LEFT_OUT, len(elements))
    scale = w.mean() / w[rows].reshape(n, -1).mean(axis=1)
    impacts = scale[:, np.newaxis] * parts.mean(axis=1)
    errors = scale[:, np.newaxis] * parts.std(axis=1, ddof=1) / np.sqrt(N_LEFT_OUT)
    return {"method": "leave one out"} | covered(impacts, errors, N_LEFT_OUT - 1)


def main() -> None:
    parser = new_parser(__doc__, "weighted", seeds=(0,))
    parser.add_argument("--replications", type=int, default=200, help="default: 200")
    parser.add_argument("--spread", type=float, default=0.5, help="default: 0.5")
    arguments = parser.parse_args()
    n = 20 if arguments.quick else arguments.replications
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = []
    for seed in arguments.seeds:
        for outcome in ("loss", "accuracy"):
            few = case(100, arguments.spread, seed)
            many = case(max(BATCH * BATCHES, N_LEFT_OUT) * n, arguments.spread, seed)
            for about, covariance, given in (("population", "cluster", many), ("data set", "HC1", few)):
                lines = by_chunk(given, outcome, n, seed, covariance)
                lines += [left_out(given, outcome, n, seed)] if about == "population" else []
                found += [{"seed": seed, "outcome": outcome, "about": about, **line} for line in lines]
                table = pd.DataFrame(found)
                table.to_csv(arguments.out / "weighted.csv", index=False, float_format="%.5g")
                print(table.iloc[-len(lines) :].round(3).to_string(index=False), flush=True)
    save_settings(arguments.out, arguments)


if __name__ == "__main__":
    main()
