"""Do 95 % intervals cover, and is the false discovery rate controlled?

The network has one hidden layer whose activations are whole numbers, so the distribution of its
output under independent dropout, and with it every impact on loss and accuracy, follows exactly by
adding up distributions; half of the elements are planted to have no impact. Each replication is one
chunk of a long run: masks of its own, the same examples. For intervals about the population that
examples come from (cluster), every replication draws examples of its own from a large pool, and the
truth is that of the pool.

Example: ``python experiments/coverage.py --replications 500``
"""

import copy
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pandas as pd
from _lib.arguments import new_parser
from _lib.results import save_settings
from keras import layers
from scipy import stats
from statsmodels.stats.multitest import multipletests

import dropreg as dr
from dropreg.network import MaskedNetwork
from dropreg.regression import _assisted as assisted
from dropreg.regression import _compression as compression
from dropreg.regression import _ols as regression
from dropreg.regression import _penalized as shrinkage

RATE = 0.3
CASES = {"few": (10, 2_000), "many": (120, 4_000)}
N_EXAMPLES = 40
POOL, DRAWN = 2_000, 100


def network(n_elements: int, seed: int) -> keras.Model:
    """A network with whole-number activations; every second unit has no outgoing weight."""
    rng = np.random.default_rng(seed)
    model = keras.Sequential(
        [keras.Input((8,)), layers.Dense(n_elements, activation="relu", name="units"), layers.Dense(1, name="out")]
    )
    kernel = rng.integers(-1, 2, size=(8, n_elements)).astype(float)
    bias = rng.integers(0, 2, size=n_elements).astype(float)
    outgoing = rng.choice([-2.0, -1.0, 1.0, 2.0], size=(n_elements, 1))
    outgoing[1::2] = 0.0
    model.get_layer("units").set_weights([kernel, bias])
    model.get_layer("out").set_weights([outgoing, np.array([0.5])])
    return model


def examples(model: keras.Model, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole-number inputs, and labels that agree with the model in four cases of five."""
    rng = np.random.default_rng(seed)
    x = rng.integers(-2, 3, size=(n, 8)).astype(np.float32)
    says = np.asarray(model(x))[:, 0] > 0
    return x, np.where(rng.random(n) < 0.8, says, ~says).astype(np.int64)


def true_impacts(model: keras.Model, data: tuple[np.ndarray, np.ndarray]) -> dict[str, np.ndarray]:
    """Exact impacts: the output is a sum of independent whole numbers, whose distributions are convolved."""
    x, y = data
    outgoing = model.get_layer("out").get_weights()[0][:, 0]
    each = (np.asarray(model.get_layer("units")(x)) * outgoing).round().astype(int)
    reach = int(np.abs(each).sum(axis=1).max()) + 1
    outputs = np.arange(-reach, reach + 1) + 0.5
    impacts = {name: np.zeros(each.shape[1]) for name in ("loss", "accuracy")}
    for adds, label in zip(each, y, strict=True):
        towards = outputs if label else -outputs
        worse = {"loss": np.logaddexp(0.0, -towards), "accuracy": -(towards > 0).astype(float)}
        for j in np.flatnonzero(adds):
            others = np.zeros(len(outputs))
            others[reach] = 1.0
            for value in np.delete(adds, j):
                if value:
                    others = (1 - RATE) * np.roll(others, value) + RATE * others
            for name, values in worse.items():
                impacts[name][j] += (others @ values - np.roll(others, adds[j]) @ values) / len(y)
    return impacts


def fits(record: dr.Record, column: int, outcome: str) -> Iterator[tuple[str, regression.Fit]]:
    """Every estimator that claims standard errors, on one chunk."""
    rows = compression.observations(record)
    design = compression.compress(rows)
    yield "OLS, HC1", regression.ols(design, rows, column, "HC1")
    yield "marginal", regression.marginal(rows, column, np.full(design.n_elements, RATE))
    yield "ridge, posterior", shrinkage.ridge(design, column, "evidence")
    yield ("gradient-assisted, posterior", assisted.assisted(design, column, record.gradient_sums(outcome)))


def within_data(case: str, replications: int, seed: int) -> list[dict[str, Any]]:
    """Replications over masks, the examples fixed; Bernoulli and paired designs."""
    n_elements, rows = CASES[case]
    model = network(n_elements, seed)
    data = examples(model, N_EXAMPLES, seed)
    elements, truth = dr.elements(model), true_impacts(model, data)
    found = []
    for design in (dr.designs.Bernoulli(RATE), dr.designs.Paired(RATE)):
        for outcome, expected in truth.items():
            record = dr.sample(
                *(model, data, elements),
                rows=rows * replications,
                outcomes=outcome,
                sampling=dr.Sampling(design=design, flips=0, fidelity=None, batch_size=rows // 16),
                seed=seed,
                progress=False,
            )
            for k in range(replications):
                one = copy.copy(record)
                one._chunks = [k]
                if isinstance(design, dr.designs.Paired):
                    pairs = compression.observations(one, paired=True)
                    found_here = [("OLS, HC1, pairs", regression.ols(compression.compress(pairs), pairs, 0, "HC1"))]
                else:
                    found_here = list(fits(one, 0, outcome))
                sign = -1.0 if outcome == "accuracy" else 1.0
                found += [judge(case, outcome, mode, k, sign, fit, expected) for mode, fit in found_here]
    return found


def over_population(case: str, replications: int, seed: int) -> list[dict[str, Any]]:
    """Replications over masks and examples; the truth is that of the pool."""
    n_elements, rows = CASES[case]
    model = network(n_elements, seed)
    x, y = examples(model, POOL, seed)
    elements, truth = dr.elements(model), true_impacts(model, (x, y))
    masked, design, found = MaskedNetwork(model, elements), dr.designs.Bernoulli(RATE), []
    whole = np.asarray(model(x))[:, 0]

    def outcomes(output: np.ndarray, label: np.ndarray) -> np.ndarray:
        towards = np.where(label == 1, output, -output)
        return np.stack([np.logaddexp(0.0, -towards), (towards > 0).astype(float)], axis=1)

    for k in range(replications):
        rng = np.random.default_rng([seed, k])
        chosen = rng.integers(0, POOL, size=DRAWN)
        clusters = np.arange(rows) % DRAWN
        at = chosen[clusters]
        masks = design.draw(seed, k, rows, n_elements)
        effects = outcomes(np.asarray(masked([x[at]], masks))[:, 0], y[at]) - outcomes(whole[at], y[at])
        block = compression.RowBlock((~masks).astype(np.float32), effects, clusters)
        again = compression.Rows(lambda block=block: iter([block]))
        compressed = compression.compress(again)
        for column, outcome in enumerate(("loss", "accuracy")):
            for kind in ("cluster", "HC1"):
                fit = regression.ols(compressed, again, column, kind)
                sign = -1.0 if outcome == "accuracy" else 1.0
                mode = f"OLS, {kind}, population"
                found.append(judge(case, outcome, mode, k, sign, fit, truth[outcome]))
    return found


def judge(
    case: str, outcome: str, mode: str, replication: int, sign: float, fit: regression.Fit, truth: np.ndarray
) -> dict[str, Any]:
    """Coverage, discoveries and false discoveries of one replication."""
    error = sign * fit.coefficients - truth
    z = fit.coefficients / fit.std_errors
    rejected = multipletests(2 * stats.t.sf(np.abs(z), fit.df), alpha=0.05, method="fdr_bh")[0]
    half = stats.t.ppf(0.975, fit.df) * fit.std_errors
    null = truth == 0
    return {
        "elements": case,
        "outcome": outcome,
        "mode": mode,
        "replication": replication,
        "coverage": float((np.abs(error) <= half).mean()),
        "coverage_null": float((np.abs(error) <= half)[null].mean()),
        "fdp": float((rejected & null).sum() / max(rejected.sum(), 1)),
        "power": float(rejected[~null].mean()),
        "rms_error": float(np.sqrt((error**2).mean())),
        "mean_std_error": float(fit.std_errors.mean()),
    }


def main() -> None:
    parser = new_parser(__doc__, "coverage", seeds=(0,))
    parser.add_argument("--replications", type=int, default=500, help="default: 500")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), help="default: few many")
    arguments = parser.parse_args()
    replications = 40 if arguments.quick else arguments.replications
    arguments.out.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        for case in arguments.cases:
            found += within_data(case, replications, seed)
            found += over_population(case, replications, seed)
            frame = pd.DataFrame(found)
            values = ["coverage", "coverage_null", "fdp", "power", "rms_error", "mean_std_error"]
            groups = frame.groupby(["elements", "outcome", "mode"], sort=False)
            summary = groups[values].mean()
            summary["coverage_sd"] = groups["coverage"].std()
            summary["replications"] = groups.size()
            summary.to_csv(arguments.out / "summary.csv", float_format="%.4f")
            print(summary.to_string(), flush=True)
    save_settings(arguments.out, arguments)


if __name__ == "__main__":
    main()
